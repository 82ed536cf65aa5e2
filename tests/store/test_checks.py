"""Tests of files that are damaged, or a stranger's: each ends in one line."""

import errno
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.cases import REPLACE, SMALL, write
from support.errors import raises
from support.feature_files import flip_bit, replace_dataset, write_features

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, FeatureWriter, partial_path
from bilinear_cli.store.checks import FORMAT_VERSION

# Damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.slow
def test_a_flipped_bit_is_reported_by_row_and_pooling(complete: Path, spec: str) -> None:
    flip_bit(complete, spec, 3)
    with FeatureFile(complete) as file:
        with raises(FeatureFileError, complete, f"features/{spec}", 3, REPLACE):
            file.verify_checksums(spec)
        for other in SMALL.keys() - {spec}:
            file.verify_checksums(other)


def test_only_the_rows_that_are_done_are_checked_in_an_unfinished_file(unfinished: Path) -> None:
    partial = partial_path(unfinished)
    flip_bit(partial, "max", 2)
    with FeatureWriter(unfinished) as writer:
        writer.verify_checksums("max")
    flip_bit(partial, "max", 1)
    with FeatureWriter(unfinished) as writer, raises(FeatureFileError, partial, "features/max", 1):
        writer.verify_checksums("max")


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def write_other(path: Path, **attributes: Any) -> None:
    """Write the HDF5 file of another program."""
    with h5py.File(path, "w") as file:
        file["features/max"] = np.zeros((2, 3))
        file.attrs.update(attributes)


def changed(change: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    def change_file(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return change_file


def with_box(box: np.ndarray) -> Callable[[Path], None]:
    return changed(lambda file: file.create_dataset("box", data=box))


DAMAGE: dict[str, tuple[Callable[[Path], Any], tuple]] = {
    "no file": (Path.unlink, ("bilinear extract",)),
    "a folder": (lambda x: (x.unlink(), x.mkdir()), (os.strerror(errno.EISDIR),)),
    "no bytes": (lambda x: x.write_bytes(b""), ("HDF5", "bilinear extract")),
    "no HDF5": (lambda x: x.write_bytes(b"PK\3\4 no HDF5" * 99), ("HDF5", "bilinear extract")),
    "a tenth": (lambda x: cut(x, 0.1), (REPLACE,)),
    "a half": (lambda x: cut(x, 0.5), (REPLACE,)),
    "nearly all": (lambda x: cut(x, 0.999), (REPLACE,)),
    "no format": (write_other, ("bilinear extract",)),
    "another format": (lambda x: write_other(x, format="keras"), ("bilinear extract",)),
    "a number for a format": (lambda x: write_other(x, format=7), ("bilinear extract",)),
    "a later version": (
        changed(lambda file: file.attrs.update(format_version=37)),
        (37, FORMAT_VERSION),
    ),
    "no version": (
        changed(lambda file: file.attrs.pop("format_version")),
        ("format_version", REPLACE),
    ),
    "no `complete`": (changed(lambda file: file.attrs.pop("complete")), ("complete", REPLACE)),
    "no features": (changed(lambda file: file.pop("features")), (REPLACE,)),
    "a group for a dataset": (
        changed(lambda file: (file.pop("photo"), file.create_group("photo"))),
        (REPLACE,),
    ),
    "a box of three numbers": (with_box(np.zeros((6, 3))), ("box", REPLACE)),
    "too few boxes": (with_box(np.zeros((5, 4))), ("box", REPLACE)),
    "a box of no number": (with_box(np.full((6, 4), np.nan)), ("box", REPLACE)),
    "a box of integers": (with_box(np.zeros((6, 4), int)), ("box", REPLACE)),
}


@pytest.mark.parametrize(("damage", "facts"), DAMAGE.values(), ids=DAMAGE)
def test_invalid_files_are_refused(
    complete: Path, damage: Callable[[Path], Any], facts: tuple
) -> None:
    damage(complete)
    with raises(FeatureFileError, complete, *facts):
        FeatureFile(complete)


def test_the_error_of_an_incomplete_file_names_the_command_that_finishes_it(
    unfinished: Path,
) -> None:
    partial = partial_path(unfinished)
    command = "bilinear extract --data 'my birds' -o x.h5"
    for path in (unfinished, partial):
        with raises(FeatureFileError, partial, 2, 6, command):
            FeatureFile(path)
        with FeatureFile(path, allow_partial=True) as opened:
            assert (opened.path, opened.rows_done) == (partial, 2)
            assert opened.attributes["complete"] is False
    with h5py.File(partial, "r+") as file:
        del file.attrs["command"]
    with raises(FeatureFileError, partial, 2, 6, "bilinear extract"):
        FeatureFile(unfinished)


WRONG_COLUMNS: list[tuple[str, np.ndarray, tuple]] = [
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
    ("rows_done", np.zeros(0, np.int64), ()),
    ("rows_done", np.array([6 + 1j]), ()),
    ("paths", np.array([b"\xff"] * 6), ()),
    ("group", np.array([[b"a"] * 6]), ()),
    ("group", np.array(["a"] * 6, h5py.string_dtype()), ()),  # of any length
    ("labels", np.int64(1), ()),
    ("features/bilinear", np.zeros((6, 37), np.float32), ()),  # no triangle
    ("features/max", np.zeros((6, 0), np.float32), ()),
    ("features/max", np.float32(1), ()),
    ("features", np.zeros(6), ()),
    ("crc32", np.zeros(6), ()),
    ("skipped/paths", np.array([b"a"]), ()),  # without reasons
]


@pytest.mark.parametrize(("name", "values", "facts"), WRONG_COLUMNS)
@pytest.mark.slow
def test_wrong_columns(complete: Path, name: str, values: np.ndarray, facts: tuple) -> None:
    replace_dataset(complete, name, values)
    with raises(FeatureFileError, complete, *facts, REPLACE):
        FeatureFile(complete)


# A stranger's file is data, nothing more -------------------------------------------------

OTHER = "other.h5"  # a good file, in the current folder


def external_link(file: h5py.File, name: str, _: Any) -> None:
    file[name] = h5py.ExternalLink(OTHER, f"/{name}")


def soft_link(file: h5py.File, name: str, _: Any) -> None:
    file[name] = h5py.SoftLink("/elsewhere")


def external_storage(file: h5py.File, name: str, old: h5py.Dataset) -> None:
    file.create_dataset(name, old.shape, old.dtype, external=[(OTHER, 0, old.nbytes)])


def virtual_dataset(file: h5py.File, name: str, old: h5py.Dataset) -> None:
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[...] = h5py.VirtualSource(OTHER, name, old.shape)
    file.create_virtual_dataset(name, layout)


def chunks(file: h5py.File, name: str, old: h5py.Dataset) -> None:
    file.create_dataset(name, data=old[()], chunks=True)


def compressed(file: h5py.File, name: str, old: h5py.Dataset) -> None:
    file.create_dataset(name, data=old[()], compression="gzip")


def never_written(file: h5py.File, name: str, old: h5py.Dataset) -> None:
    file.create_dataset(name, old.shape, old.dtype)


DATASETS = ["features/max", "crc32/max", "paths", "class_names", "rows_done", "skipped/reasons"]
GROUPS = ["features", "crc32", "skipped"]
LINKS = [external_link, soft_link]
REPLACED = [external_storage, virtual_dataset, chunks, compressed, never_written]
DISGUISES = [*product(REPLACED + LINKS, DATASETS), *product(LINKS, GROUPS)]


@pytest.mark.parametrize(("disguise", "name"), DISGUISES)
@pytest.mark.slow
def test_data_that_is_not_contiguous_in_the_file_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disguise: Callable[[h5py.File, str, Any], None],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.h5", {"max": (8,)}, bad=[1])
    shutil.copy(path, OTHER)
    with h5py.File(path, "r+") as file:
        file.move(name, "elsewhere")
        disguise(file, name, file["elsewhere"])
    with raises(FeatureFileError, path, name, REPLACE):
        FeatureFile(path)


def test_the_views_of_a_photo_are_in_consecutive_rows(tmp_path: Path) -> None:
    rows, views = {"max": np.ones((4, 3))}, ["original", "flip"] * 2
    path = tmp_path / "x.h5"
    with raises(FeatureFileError, path):
        write_features(path, rows, [0, 1, 1, 0], ["train"] * 4, photo=[0, 1, 1, 0], view=views)
