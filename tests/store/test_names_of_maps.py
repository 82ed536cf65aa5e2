"""The maps, whose key was `conv5` in older files: either name opens either key."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from store.cases import REPLACE, SMALL, begin, head, random_rows, write
from support.errors import raises

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, FeatureWriter, merge, partial_path

ROWS = random_rows(SMALL, 6)
each_name = pytest.mark.parametrize("name", ["maps", "conv5"])


def make_older(path: Path) -> Path:
    """Give the maps of a file the key that they had."""
    with h5py.File(path, "r+") as file:
        for group in ("features", "crc32"):
            file.move(f"{group}/maps", f"{group}/conv5")
        file["features/conv5"].attrs["pooling"] = "conv5"
    return path


@pytest.fixture(params=["maps", "conv5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a file with either key."""
    path = write(tmp_path / "x.h5")
    return make_older(path) if request.param == "conv5" else path


@each_name
def test_either_name_opens_either_key(path: Path, name: str) -> None:
    with FeatureFile(path) as file:
        assert name in file.shapes
        assert file.shapes[name] == (6, 2, 2, 8)
        assert list(file.shapes).count("maps") == 1
        assert "conv5" not in list(file.shapes)
        assert file.pooling_attributes(name)["pooling"] == "maps"
        assert file.row_dtype(name) == np.float32
        np.testing.assert_array_equal(file.read(name, np.arange(6)), ROWS["maps"])
        file.verify_checksums(name)


@each_name
def test_new_files_have_the_key_maps(tmp_path: Path, name: str) -> None:
    write(tmp_path / "x.h5", {name: (2, 2, 8)}, rows={name: ROWS["maps"]})
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file["features"]) == list(file["crc32"]) == ["maps"]
        assert file["features/maps"].attrs["pooling"] == "maps"


@each_name
def test_an_unfinished_older_file_is_resumed(tmp_path: Path, name: str) -> None:
    output = tmp_path / "x.h5"
    with begin(output) as writer:
        writer.append(head(ROWS, 0, 2))
    make_older(partial_path(output))
    rest = head(ROWS, 2, 6)
    rest[name] = rest.pop("maps")
    with FeatureWriter(output) as writer:
        writer.append(rest)
        writer.finish()
    with FeatureFile(output) as file:
        np.testing.assert_array_equal(file.read("maps", np.arange(6)), ROWS["maps"])


def test_shards_of_either_key_are_one_set(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.h5") for i in (1, 2)]
    for i, path in enumerate(paths, 1):
        with h5py.File(path, "r+") as file:
            file.attrs["shard"] = f"{i}/2"
    make_older(paths[0])
    merge(paths, tmp_path / "x.h5")
    with FeatureFile(tmp_path / "x.h5") as file:
        rows = file.read("conv5", np.arange(12))
        np.testing.assert_array_equal(rows, np.concatenate([ROWS["maps"]] * 2))


def test_a_file_with_both_keys_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        for group in ("features", "crc32"):
            file.copy(f"{group}/maps", f"{group}/conv5")
    with raises(FeatureFileError, path, REPLACE):
        FeatureFile(path)
