"""The photos of the tests of extraction."""

from pathlib import Path

import pytest
from support.photos import class_folders

from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set


@pytest.fixture
def birds(tmp_path: Path) -> PhotoSet:
    """Return a set of 11 photos, which are three batches of 3 and one of 2."""
    return load_photo_set(str(class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "features" / "birds.h5"
