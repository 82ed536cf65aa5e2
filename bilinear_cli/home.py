"""The home folder of the user: `~` in paths, and the cache."""

import os
from pathlib import Path
from typing import Any

import platformdirs

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.messages import reason_of

CACHE_ADVICE = "Set BILINEAR_CACHE to a folder that you can write to."


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder for a leading `~` or `~user`.

    Without such a user, it stays as it is: the name of a file may begin with `~`, too. The text
    `./~x` always means such a file, so a path is expanded once, where a user gave it.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(text)
    first, *rest = Path(text).parts
    try:
        home = Path(first).expanduser()
    except RuntimeError:
        return Path(text)
    is_home = first == "~" or home.is_dir()  # Windows takes any word for the name of a user
    return home.joinpath(*rest) if is_home else Path(text)


def expand_spec(path: str | os.PathLike[str], name: str = "the path") -> str:
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
    """Return what `expand_spec` returns as a `Path`."""
    return Path(expand_spec(path, name))


def expand_photo(photo: Any) -> Any:
    """Return a photo; of a path that begins with `~`, what `expand_home` returns.

    Raises:
        UsageError: it is an empty path.
    """
    if not isinstance(photo, str | os.PathLike):
        return photo
    if not (text := os.fspath(photo)):
        raise UsageError("a photo is an empty path. Name a file.")
    return expand_home(photo) if text.startswith("~") else photo


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
