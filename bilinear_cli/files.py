"""Files: atomic writing, the cache folder, and damaged archives."""

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import platformdirs

from bilinear_cli.errors import BilinearError, reason_of

# What NumPy and zipfile raise if a file is not an archive of arrays, or is damaged
BROKEN_ZIP = (OSError, ValueError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error)


@contextmanager
def atomic_write(path: Path, replace_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path of the same name, and move what was written there to `path`.

    Missing parent folders are made. If anything fails, an existing file or folder stays as it is.

    Raises:
        BilinearError: `path` cannot be written, or is a folder, without `replace_folder`.
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
        raise BilinearError(f"cannot write {path}: {reason_of(error)}") from error


def cache_folder() -> Path:
    """Return `$BILINEAR_CACHE`, else the user's cache folder; it may not exist yet.

    It has network weights, and photos that were drawn or unpacked.
    """
    return Path(os.environ.get("BILINEAR_CACHE") or platformdirs.user_cache_path("bilinear"))
