"""Files: atomic writing, portable names and paths, the home and the cache folder, and archives."""

import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import platformdirs

from bilinear_cli.errors import BilinearError, UsageError, reason_of

# What NumPy and zipfile raise if a file is not an archive of arrays, or is damaged
BROKEN_ZIP = (OSError, ValueError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error)
CACHE_ADVICE = "Set BILINEAR_CACHE to a folder that you can write to."


@contextmanager
def atomic_write(path: Path, replace_folder: bool = False, advice: str = "") -> Iterator[Path]:
    """Yield a temporary path of the same name, and move what was written there to `path`.

    Missing parent folders are made. If anything fails, an existing file or folder stays as it is.

    Raises:
        BilinearError: `path` cannot be written, or is a folder, without `replace_folder`. `advice`
            is a sentence that the message ends with.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name[:50]}-", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            new, replaced = Path(folder) / path.name, Path(folder) / ".replaced"
            yield new
            if replace_folder and path.exists():
                os.replace(path, replaced)
            try:
                os.replace(new, path)
            except BaseException:
                if replaced.exists():
                    os.replace(replaced, path)
                raise
    except BilinearError:  # some are also OSErrors
        raise
    except OSError as error:
        sentences = [f"cannot write {path}: {reason_of(error)}", *filter(None, [advice])]
        raise BilinearError(". ".join(sentences)) from error


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder for a leading `~` or `~user`.

    Without such a user, it stays as it is: the name of a file may begin with `~`, too. The text
    `./~x` always means such a file, so a path is expanded once, where a user gave it.
    """
    text = os.fspath(path)
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError:
        return Path(text)


def expand_user(path: str | os.PathLike[str], name: str = "the path") -> str:
    """Return a path that a user gave, or a name such as `vgg16`, as text with an expanded `~`.

    Raises:
        UsageError: it is no path, is empty, has a NUL, or needs a home folder that is not there.
            The message begins with `name`.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{name} has to be one path or name, and not {type(path).__name__}")
    text = os.fspath(path)
    if not text:
        raise UsageError(f"{name} is empty. Name a file or a folder.")
    if "\0" in text:
        raise UsageError(f"{name} {text!r} has a NUL character. Remove it.")
    if not text.startswith("~"):
        return text
    expanded = str(expand_home(text))
    if expanded.startswith("~") and not Path(text).exists():
        raise UsageError(f"{name} {text!r}: there is no such user or home folder. Check the name.")
    return expanded


def expand_path(path: str | os.PathLike[str], name: str = "the path") -> Path:
    """Return what `expand_user` returns as a `Path`."""
    return Path(expand_user(path, name))


def expand_photo(photo: Any) -> Any:
    """Return a photo; of a path that begins with `~`, what `expand_home` returns."""
    is_path = isinstance(photo, str | os.PathLike)
    return expand_home(photo) if is_path and os.fspath(photo).startswith("~") else photo


def cache_folder() -> Path:
    """Return `$BILINEAR_CACHE`, else the user's cache folder; it may not exist yet.

    It has network weights, and photos that were drawn or unpacked.

    Raises:
        BilinearError: the user has no home folder, or must not read the cache.
    """
    try:
        chosen = os.environ.get("BILINEAR_CACHE") or platformdirs.user_cache_path("bilinear")
        folder = Path(chosen).expanduser()
    except RuntimeError as error:
        raise BilinearError(f"there is no home folder for the cache. {CACHE_ADVICE}") from error
    try:
        (folder / "any").stat()  # asks whether this process may enter the folder
    except FileNotFoundError:
        pass
    except OSError as error:
        reason = reason_of(error)
        raise BilinearError(f"cannot read the cache {folder}: {reason}. {CACHE_ADVICE}") from error
    return folder


def portable_name(name: str) -> str:
    """Return a file name with `-` for each character that a file name must not have on Windows."""
    return re.sub(r'[<>:"/\\|?*]', "-", name)


def relative_path(path: Path, folder: Path) -> str:
    """Return the path from a folder to a file, with `/`; absolute if they share no drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # Windows: they are on different drives
        return path.absolute().as_posix()
