"""A complete feature file, and an unfinished one."""

from pathlib import Path

import pytest
from feature_files import (
    ATTRIBUTES,
    CLASS_NAMES,
    SMALL,
    columns_of,
    head,
    parameters_of,
    random_rows,
    write,
)

from bilinear_cli.store import create


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    return write(tmp_path / "x.h5")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Give the final name of a file with 2 of 6 rows."""
    output = tmp_path / "x.h5"
    with create(
        output, SMALL, columns_of(6), CLASS_NAMES, ATTRIBUTES, parameters=parameters_of(SMALL)
    ) as writer:
        writer.append(head(random_rows(SMALL, 6), 0, 2))
    return output
