"""A complete feature file, an unfinished one, and files that are only read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from store.cases import SMALL, Shapes, begin, head, random_rows, write


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    return write(tmp_path / "x.h5")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Return the final name of a file with 2 of 6 rows."""
    output = tmp_path / "x.h5"
    with begin(output) as writer:
        writer.append(head(random_rows(SMALL, 6), 0, 2))
    return output


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shapes], Path]:
    """Return a function: shapes -> a complete file, written once and never changed by a test."""
    folder = tmp_path_factory.mktemp("stored")

    def file_of(shapes: Shapes) -> Path:
        path = folder / f"{len(shapes)}-{shapes['max'][0]}.h5"
        return path if path.exists() else write(path, shapes)

    return file_of
