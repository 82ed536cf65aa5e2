"""Tests of files that are damaged, or a stranger's: each ends in one line."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.cases import SMALL, write
from support.errors import assert_names, raises
from support.feature_files import error_of_opening, flip_bit, replace_dataset

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, FeatureWriter, partial_path
from bilinear_cli.store.checks import FORMAT_VERSION

REPLACE = "bilinear extract --overwrite"  # what repairs a damaged file

# Damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.slow
def test_a_flipped_bit_is_reported_by_row_and_pooling(complete: Path, spec: str) -> None:
    flip_bit(complete, spec, 3)
    with FeatureFile(complete) as file:
        with raises(FeatureFileError, complete, f"features/{spec}", 3, REPLACE):
            file.check(spec)
        file.read(spec, np.array([5, 0, 1]))  # without row 3
        with raises(FeatureFileError, complete, f"features/{spec}", 3):
            file.read(spec, np.array([5, 3]))
        for other in SMALL.keys() - {spec}:
            file.check(other)


def test_only_the_rows_that_are_done_are_checked_in_an_unfinished_file(unfinished: Path) -> None:
    partial = partial_path(unfinished)
    flip_bit(partial, "max", 2)
    with FeatureWriter(unfinished) as writer:
        writer.check("max")
    flip_bit(partial, "max", 1)
    with FeatureWriter(unfinished) as writer, raises(FeatureFileError, partial, "features/max", 1):
        writer.check("max")


def test_a_missing_file(tmp_path: Path) -> None:
    assert_names(error_of_opening(tmp_path / "x.h5"), tmp_path / "x.h5", "bilinear extract")


def test_a_folder(tmp_path: Path) -> None:
    assert_names(error_of_opening(tmp_path), tmp_path, os.strerror(errno.EISDIR))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no HDF5 at all" * 99])
def test_a_file_that_is_not_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert_names(error_of_opening(path), path, "HDF5", "bilinear extract")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file(complete: Path, share: float) -> None:
    os.truncate(complete, int(complete.stat().st_size * share))
    assert_names(error_of_opening(complete), complete, REPLACE)


@pytest.mark.parametrize("name", [None, "keras", 7])
def test_an_hdf5_file_of_another_program(tmp_path: Path, name: Any) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["features/max"] = np.zeros((2, 3))
        if name is not None:
            file.attrs["format"] = name
    assert_names(error_of_opening(path), path, "bilinear extract")


def test_a_later_version(complete: Path) -> None:
    with h5py.File(complete, "r+") as file:
        file.attrs["format_version"] = 37
    assert_names(error_of_opening(complete), complete, 37, FORMAT_VERSION)


@pytest.mark.parametrize("name", ["format_version", "complete"])
def test_an_absent_attribute(complete: Path, name: str) -> None:
    with h5py.File(complete, "r+") as file:
        del file.attrs[name]
    assert_names(error_of_opening(complete), complete, name, REPLACE)


def test_the_error_of_an_incomplete_file_names_the_command_that_finishes_it(
    unfinished: Path,
) -> None:
    partial = partial_path(unfinished)
    for path in (unfinished, partial):
        command = "bilinear extract --data 'my birds' -o x.h5"
        assert_names(error_of_opening(path), partial, 2, 6, command)
        with FeatureFile(path, allow_partial=True) as opened:
            assert (opened.path, opened.rows_done) == (partial, 2)
            assert opened.attributes["complete"] is False
    with h5py.File(partial, "r+") as file:
        del file.attrs["command"]
    assert_names(error_of_opening(unfinished), partial, 2, 6, "bilinear extract")


WRONG_COLUMNS: list[tuple[str, np.ndarray, tuple[str | int, ...]]] = [
    ("labels", np.arange(5) % 2, ("photo", 5)),
    ("paths", np.array([b"a"] * 7), ("paths", 6)),
    ("photo", np.zeros((6, 1), np.int64), ("photo", 6)),
    ("features/max", np.zeros((5, 8), np.float32), ("features/max", 6)),
    ("crc32/max", np.zeros(5, np.uint32), ("crc32/max", 6)),
    ("labels", np.zeros(6), ("labels",)),
    ("split", np.zeros(6, np.int64), ("split",)),
    ("labels", np.array([0, 1, 2, 0, 1, 0]), ("labels", "class_names")),
    ("labels", np.array([0, 1, -1, 0, 1, 0]), ("labels", "class_names")),
    ("split", np.array([b"train"] * 5 + [b"val"]), ("split", "train", "test")),
    ("rows_done", np.array([5]), ("rows_done", 5, 6)),
    ("rows_done", np.array([7]), ("rows_done", 7, 6)),
    ("rows_done", np.array([-1]), ("rows_done", -1, 6)),
]


@pytest.mark.parametrize(("name", "values", "facts"), WRONG_COLUMNS)
@pytest.mark.slow
def test_wrong_columns(
    complete: Path, name: str, values: np.ndarray, facts: tuple[str | int, ...]
) -> None:
    replace_dataset(complete, name, values)
    assert_names(error_of_opening(complete), complete, *facts, REPLACE)


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


@pytest.mark.parametrize(("removed", "name", "values"), MALFORMED.values(), ids=MALFORMED)
@pytest.mark.slow
def test_malformed_files(complete: Path, removed: str, name: str, values: Any) -> None:
    with h5py.File(complete, "r+") as file:
        del file[removed]
        file[name] = values
    assert_names(error_of_opening(complete), complete, REPLACE)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, ">f4"])
def test_features_of_another_dtype(complete: Path, dtype: Any) -> None:
    replace_dataset(complete, "features/max", np.zeros((6, 8), dtype))
    with (
        FeatureFile(complete) as file,
        raises(FeatureFileError, complete, "features/max", np.dtype(dtype), REPLACE),
    ):
        file.check("max")


# A stranger's file is data, nothing more -------------------------------------------------

OTHER = "other.h5"  # a good file, in the current folder


def good(name: str) -> np.ndarray:
    with h5py.File(OTHER) as file:
        return file[name][()]


def external_link(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(OTHER, f"/{name}")


def soft_link(file: h5py.File, name: str) -> None:
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, name: str) -> None:
    old = good(name)
    del file[name]
    file.create_dataset(name, old.shape, old.dtype, external=[(OTHER, 0, old.nbytes)])


def virtual_dataset(file: h5py.File, name: str) -> None:
    old = good(name)
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource(OTHER, name, old.shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def chunks(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, data=good(name), chunks=True)


def compressed(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, data=good(name), compression="gzip")


def never_written(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, good(name).shape, good(name).dtype)


DATASETS = ["features/max", "crc32/max", "paths", "class_names", "rows_done", "skipped/reasons"]
GROUPS = ["features", "crc32", "skipped"]
LINKS = [external_link, soft_link]
DISGUISES = [
    (disguise, name)
    for disguise in (
        *(external_storage, virtual_dataset, chunks, compressed, never_written),
        *LINKS,
    )
    for name in [*DATASETS, *(GROUPS if disguise in LINKS else [])]
]


@pytest.mark.parametrize(("disguise", "name"), DISGUISES)
@pytest.mark.slow
def test_anything_but_one_run_of_bytes_in_the_file_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disguise: Callable[[h5py.File, str], None],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.h5", {"max": (8,)}, bad=[1])
    shutil.copy(path, OTHER)
    with h5py.File(path, "r+") as file:
        disguise(file, name)
    assert_names(error_of_opening(path), path, name, REPLACE)
