"""Tests of rows that are damaged, cut short, or not finite, as training meets them."""

import itertools
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from store.cases import READS, SMALL, Read, Shapes, both_sizes, each_read, random_rows, write
from support.errors import raises
from support.feature_files import all_rows, flip_bit, replace_dataset

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, streaming

REPLACE = "bilinear extract --overwrite"  # what repairs a damaged file
each_iterator = pytest.mark.parametrize("method", ["columns", "batches"])


def write_value(
    output: Path, shapes: Shapes, value: float, row: int = 4, bad: tuple[int, ...] = ()
) -> Path:
    """Write a file where `value` is the last number of a row, in every pooling."""
    rows = random_rows(shapes, 6)
    for values in rows.values():
        values[row].flat[-1] = value
    return write(output, shapes, rows=rows, bad=bad)


@each_read
@both_sizes
def test_a_flipped_bit_is_reported_when_its_row_is_read_and_not_otherwise(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str
) -> None:
    path = write(tmp_path / "x.h5", {spec: shapes[spec]})
    flip_bit(path, spec, 3)
    with FeatureFile(path) as file:
        read(file, np.array([5, 0, 4, 2, 1]))
        with raises(FeatureFileError, path, f"features/{spec}", 3, REPLACE):
            read(file, np.array([5, 0, 3, 1]))


def test_columns_come_before_the_checksums_are_known_and_batches_after(complete: Path) -> None:
    flip_bit(complete, "max", 3)
    rows = np.arange(6)
    with FeatureFile(complete) as file:
        for blocks, n_good in (
            (file.columns("max", rows, 3), 3),
            (file.batches("max", rows, 2), 1),
        ):
            assert len(list(itertools.islice(blocks, n_good))) == n_good
            with raises(FeatureFileError, complete, "features/max", 3, REPLACE):
                next(blocks)


@each_read
@both_sizes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.slow
def test_a_number_that_is_not_finite_is_reported_by_row_and_photo(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str, value: float
) -> None:
    """The checksum of the row is right: the row is not damaged."""
    path = write_value(tmp_path / "x.h5", {spec: shapes[spec]}, value)
    with FeatureFile(path) as file:
        read(file, np.array([5, 0, 3, 1, 2]))
        with raises(FeatureFileError, path, f"features/{spec}", 4, "é 4/4.jpg") as caught:
            read(file, np.array([5, 4, 1]))
    assert "--overwrite" not in str(caught.value)


def test_check_accepts_numbers_that_are_not_finite(tmp_path: Path) -> None:
    path = write_value(tmp_path / "x.h5", SMALL, np.nan, bad=(0, 5))  # so rows are copied
    with FeatureFile(path) as file:
        assert file.rows_done == 4
        for spec in SMALL:
            file.check(spec)
            with raises(FeatureFileError, path, f"features/{spec}", 3, "é 4/4.jpg"):
                all_rows(file, spec)


@each_read
@both_sizes
def test_a_number_that_damage_made_infinite_is_reported_as_damage(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str
) -> None:
    path = write(tmp_path / "x.h5", {spec: shapes[spec]})
    with h5py.File(path) as file:
        data = file[f"features/{spec}"]
        offset = data.id.get_offset() + 4 * data[4].nbytes
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 4)
    with (
        FeatureFile(path) as file,
        raises(FeatureFileError, path, f"features/{spec}", 4, REPLACE),
    ):
        read(file, np.array([5, 4, 1]))


@pytest.mark.parametrize("chunk", [10, 20, 1000])
def test_the_bad_row_is_named_however_many_are_converted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    path, rows = write_value(tmp_path / "x.h5", SMALL, np.inf), np.array([5, 3, 4, 1])
    flip_bit(path, "sum", 3)
    with FeatureFile(path) as file:
        with raises(FeatureFileError, path, "features/max", 4, "é 4/4.jpg"):
            file.read("max", rows)
        with raises(FeatureFileError, path, "features/sum", 3, REPLACE):
            file.read("sum", rows[:2])


@each_read
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.slow
def test_a_file_that_is_cut_short_while_it_is_open(
    complete: Path, read: Read, spec: str, share: float
) -> None:
    with h5py.File(complete) as raw:
        data = raw[f"features/{spec}"]
        end = data.id.get_offset() + data.nbytes
    with FeatureFile(complete) as file:
        os.truncate(complete, int(end * share))
        with raises(FeatureFileError, complete, REPLACE):
            read(file, np.array([0, 5, 1]))


@each_iterator
def test_a_file_that_is_cut_short_between_two_blocks(complete: Path, method: str) -> None:
    with FeatureFile(complete) as file:
        blocks = getattr(file, method)("max", np.arange(6), 1)
        next(blocks)
        os.truncate(complete, 0)
        with raises(FeatureFileError, complete, REPLACE):
            list(blocks)


@each_iterator
def test_a_file_too_short_for_its_rows_is_refused_before_memory_is_asked_for(
    complete: Path, method: str
) -> None:
    with FeatureFile(complete) as file:
        os.truncate(complete, 5000)
        with raises(FeatureFileError, complete, REPLACE):
            getattr(file, method)("max", np.arange(6), 4)


@pytest.mark.parametrize("name", ["read", "columns", "batches"])
def test_features_of_another_dtype_are_not_read(complete: Path, name: str) -> None:
    replace_dataset(complete, "features/max", np.zeros((6, 8)))
    with (
        FeatureFile(complete) as file,
        raises(FeatureFileError, complete, "features/max", "float64", REPLACE),
    ):
        READS[name](file, np.arange(6))
