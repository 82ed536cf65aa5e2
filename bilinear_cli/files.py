"""Files that are there whole, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bilinear_cli.errors import BilinearError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write a file of its name to; in the end it takes its place.

    Folders that are missing are made. If writing ends early, what was at `path` before stays.

    Raises:
        BilinearError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name[:50]}-", dir=path.parent, ignore_cleanup_errors=True
        ) as beside:
            yield Path(beside) / path.name
            os.replace(Path(beside) / path.name, path)
    except OSError as error:
        raise BilinearError(f"cannot write {path}: {error.strerror or error}") from error
