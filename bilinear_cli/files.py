"""Files: atomic writing, portable names and paths, and what a broken archive raises."""

import hashlib
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import reason_of

# What NumPy and zipfile raise if a file is not an archive of arrays, or is damaged
BROKEN_ZIP = (OSError, ValueError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error)


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
        with _temporary_folder(path) as folder:
            new, replaced = folder / path.name, folder / ".replaced"
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
        hint = f". {advice}" if advice else ""
        raise BilinearError(f"cannot write {path}: {reason_of(error)}{hint}") from error


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path`, and remove it in the end.

    A folder of `tempfile` is private. On Windows, what was written there would stay private after
    it is moved, so that other users of a shared folder could not read it.
    """
    folder = path.with_name(f".{path.name[:50]}-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal; raise an OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def portable_name(name: str) -> str:
    """Return a file name with `-` for each character that a file name must not have on Windows."""
    return re.sub(r'[<>:"/\\|?*]', "-", name)


def relative_path(path: Path, folder: Path) -> str:
    """Return the path from a folder to a file, with `/`; absolute if they share no drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # Windows: they are on different drives
        return path.absolute().as_posix()
