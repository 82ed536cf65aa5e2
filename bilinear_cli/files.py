"""Atomic writing: a file is complete, or it does not exist."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bilinear_cli.errors import BilinearError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name, and move what was written there to `path`.

    Missing folders are made. If the block raises, an existing file at `path` stays as it is.

    Raises:
        BilinearError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name[:50]}-", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder) / path.name
            os.replace(Path(folder) / path.name, path)
    except OSError as error:
        raise BilinearError(f"cannot write {path}: {error.strerror or error}") from error
