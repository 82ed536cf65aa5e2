"""Tests of files that are damaged, or a stranger's: each ends in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from feature_files import MAKE_AGAIN, SMALL, change, flip, refused, write

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, FeatureWriter, partial_path

# Damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SMALL)
def test_a_flipped_bit_is_found_by_row_and_pooling(complete: Path, spec: str) -> None:
    flip(complete, spec, 3)
    with FeatureFile(complete) as file:
        with pytest.raises(FeatureFileError) as caught:
            file.check(spec)
        file.read(spec, np.array([5, 0, 1]))  # others were asked for
        with pytest.raises(FeatureFileError, match="row 3 "):
            file.read(spec, np.array([5, 3]))
        for other in SMALL.keys() - {spec}:
            file.check(other)
    expected = f"{complete} is damaged: row 3 of features/{spec} has another checksum{MAKE_AGAIN}"
    assert str(caught.value) == expected


def test_a_flipped_bit_of_an_unfinished_file_counts_among_the_done_rows_alone(
    unfinished: Path,
) -> None:
    flip(partial_path(unfinished), "max", 2)
    with FeatureWriter(unfinished) as writer:
        writer.check("max")
    flip(partial_path(unfinished), "max", 1)
    with FeatureWriter(unfinished) as writer, pytest.raises(FeatureFileError, match="row 1 of"):
        writer.check("max")


def test_a_missing_file(tmp_path: Path) -> None:
    expected = f"there is no feature file {tmp_path / 'x.h5'}: make one with bilinear extract"
    assert refused(tmp_path / "x.h5") == expected


def test_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"cannot open {tmp_path}: Is a directory"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no HDF5 at all" * 99])
def test_a_file_that_is_not_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert refused(path) == f"{path} is not an HDF5 file: make one with bilinear extract"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file(complete: Path, share: float) -> None:
    with complete.open("r+b") as raw:
        raw.truncate(int(complete.stat().st_size * share))
    line = refused(complete)
    assert line.startswith(f"{complete} is damaged: ")
    assert "truncated file" in line
    assert line.endswith(MAKE_AGAIN)


@pytest.mark.parametrize("name", [None, "keras", 7])
def test_hdf5_of_somebody_else(tmp_path: Path, name: Any) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["features/max"] = np.zeros((2, 3))
        if name is not None:
            file.attrs["format"] = name
    assert refused(path) == f"{path} was not made by bilinear extract"


def test_a_later_version(complete: Path) -> None:
    with h5py.File(complete, "r+") as file:
        file.attrs["format_version"] = 2
    assert refused(complete) == (
        f"{complete} has version 2 of the format, and 1 is the latest known here: update bilinear"
    )


@pytest.mark.parametrize("name", ["format_version", "complete"])
def test_a_missing_attribute(complete: Path, name: str) -> None:
    with h5py.File(complete, "r+") as file:
        del file.attrs[name]
    line = refused(complete)
    assert line.startswith(f"{complete} is damaged: ")
    assert name in line


def test_an_incomplete_file_says_how_to_finish_it(unfinished: Path) -> None:
    partial = partial_path(unfinished)
    expected = (
        f"{partial} is incomplete, 2 of 6 rows: finish it with "
        "bilinear extract --data 'my birds' -o x.h5"
    )
    assert refused(unfinished) == refused(partial) == expected
    with h5py.File(partial, "r+") as file:
        del file.attrs["command"]
    assert refused(unfinished).endswith("is incomplete, 2 of 6 rows: run bilinear extract again")
    for path in (unfinished, partial):
        with FeatureFile(path, allow_partial=True) as opened:
            assert (opened.path, opened.rows_done) == (partial, 2)
            assert opened.attributes["complete"] is False


WRONG_COLUMNS = [
    ("labels", np.arange(5) % 2, "photo should have 5 rows"),
    ("paths", np.array([b"a"] * 7), "paths should have 6 rows"),
    ("photo", np.zeros((6, 1), np.int64), "photo should have 6 rows"),
    ("features/max", np.zeros((5, 8), np.float32), "features/max should have 6 rows"),
    ("crc32/max", np.zeros(5, np.uint32), "crc32/max should have 6 rows"),
    ("labels", np.zeros(6), "labels has values of the wrong kind"),
    ("split", np.zeros(6, np.int64), "split has values of the wrong kind"),
    ("labels", np.array([0, 1, 2, 0, 1, 0]), "labels are outside class_names"),
    ("labels", np.array([0, 1, -1, 0, 1, 0]), "labels are outside class_names"),
    ("split", np.array([b"train"] * 5 + [b"val"]), "split has other values than train and test"),
    ("rows_done", np.array([5]), "rows_done is 5 of 6"),
    ("rows_done", np.array([7]), "rows_done is 7 of 6"),
    ("rows_done", np.array([-1]), "rows_done is -1 of 6"),
]


@pytest.mark.parametrize(("name", "values", "what"), WRONG_COLUMNS)
def test_columns_that_cannot_be_meant(
    complete: Path, name: str, values: np.ndarray, what: str
) -> None:
    change(complete, name, values)
    assert refused(complete) == f"{complete} is damaged: {what}{MAKE_AGAIN}"


MALFORMED: dict[str, tuple[str, str, Any]] = {
    "text that is not UTF-8": ("paths", "paths", np.array([b"\xff"] * 6)),
    "a table for a column": ("group", "group", np.array([[b"a"] * 6])),
    "one number for a column": ("labels", "labels", np.int64(1)),
    "no count in rows_done": ("rows_done", "rows_done", np.zeros(0, np.int64)),
    "a count that is complex": ("rows_done", "rows_done", np.array([6 + 1j])),
    "rows of no triangle": ("features/bilinear", "features/bilinear", np.zeros((6, 37), "f4")),
    "rows of no numbers": ("features/max", "features/max", np.zeros((6, 0), "f4")),
    "text of any length": ("group", "group", np.array(["a"] * 6, h5py.string_dtype())),
    "a dataset for a group": ("crc32", "crc32", np.zeros(6)),
    "a group for a dataset": ("photo", "photo/x", np.zeros(6)),
    "skipped without reasons": ("skipped/paths", "skipped/paths", np.array([b"a"])),
    "one number for rows": ("features/max", "features/max", np.float32(1)),
    "a dataset for all features": ("features", "features", np.zeros(6)),
    "no features": ("features", "other", np.zeros(6)),
}


@pytest.mark.parametrize(("gone", "name", "values"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_end_in_one_line(complete: Path, gone: str, name: str, values: Any) -> None:
    with h5py.File(complete, "r+") as file:
        del file[gone]
        file[name] = values
    assert refused(complete).startswith(f"{complete} is damaged: ")


@pytest.mark.parametrize("dtype", [np.float64, np.int16, ">f4"])
def test_features_of_another_kind(complete: Path, dtype: Any) -> None:
    change(complete, "features/max", np.zeros((6, 8), dtype))
    with FeatureFile(complete) as file, pytest.raises(FeatureFileError, match="max holds"):
        file.check("max")


# A stranger's file is data, nothing more -------------------------------------------------


def external_link(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("other.h5", f"/{name}")


def soft_link(file: h5py.File, name: str) -> None:
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, name: str) -> None:
    old = h5py.File("other.h5")[name]
    size = old.dtype.itemsize * old.size
    file.create_dataset(name, old.shape, old.dtype, external=[("other.h5", 0, size)])


def virtual_dataset(file: h5py.File, name: str) -> None:
    old = h5py.File("other.h5")[name]
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource("other.h5", name, old.shape)
    file.create_virtual_dataset(name, layout)


def chunks(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=h5py.File("other.h5")[name][()], chunks=True)


def compressed(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=h5py.File("other.h5")[name][()], compression="gzip")


def never_written(file: h5py.File, name: str) -> None:
    old = h5py.File("other.h5")[name]
    file.create_dataset(name, old.shape, old.dtype)


DATASETS = ["features/max", "crc32/max", "paths", "class_names", "rows_done", "skipped/reasons"]
TRICKS = [external_storage, virtual_dataset, chunks, compressed, never_written]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file to spoil beside a whole one, other.h5, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.h5", {"max": (8,)}, bad=[1])
    shutil.copy(path, "other.h5")
    return path


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", DATASETS)
def test_what_is_not_one_run_of_bytes_in_the_file_is_refused(
    pair: Path, name: str, trick: Callable[[h5py.File, str], None]
) -> None:
    with h5py.File(pair, "r+") as file:
        del file[name]
        trick(file, name)
    what = f"{name} is missing or is not plain data"
    assert refused(pair) == f"{pair} is damaged: {what}{MAKE_AGAIN}"


@pytest.mark.parametrize("name", [*DATASETS, "features", "crc32", "skipped"])
@pytest.mark.parametrize("trick", [external_link, soft_link])
def test_links_are_refused(pair: Path, name: str, trick: Callable[[h5py.File, str], None]) -> None:
    with h5py.File(pair, "r+") as file:
        if trick is external_link:
            del file[name]
        trick(file, name)
    assert refused(pair).startswith(f"{pair} is damaged: {name}")
