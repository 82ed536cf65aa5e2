"""Tests of rows that are damaged, cut short, or no numbers, as training meets them."""

import itertools
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from feature_files import (
    ATTRIBUTES,
    CLASS_NAMES,
    MAKE_AGAIN,
    SMALL,
    WAYS,
    Read,
    Shapes,
    both_sizes,
    change,
    columns_of,
    each_way,
    every,
    flip,
    parameters_of,
    random_rows,
    write,
)

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, create, streaming


@each_way
@both_sizes
def test_a_flipped_bit_is_found_in_a_row_that_is_read_and_in_no_other(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str
) -> None:
    path = write(tmp_path / "x.h5", {spec: shapes[spec]})
    flip(path, spec, 3)
    with FeatureFile(path) as file:
        read(file, np.array([5, 0, 4, 2, 1]))
        with pytest.raises(FeatureFileError) as caught:
            read(file, np.array([5, 0, 3, 1]))
    line = f"{path} is damaged: row 3 of features/{spec} has another checksum{MAKE_AGAIN}"
    assert str(caught.value) == line


def test_columns_come_before_the_checksums_are_known_and_batches_after(complete: Path) -> None:
    flip(complete, "max", 3)
    rows = np.arange(6)
    with FeatureFile(complete) as file:
        for blocks, n_good in (
            (file.columns("max", rows, 3), 3),
            (file.batches("max", rows, 2), 1),
        ):
            assert len(list(itertools.islice(blocks, n_good))) == n_good
            with pytest.raises(FeatureFileError, match="row 3 of features/max has another"):
                next(blocks)


@each_way
@both_sizes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_found_by_row_and_photo(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str, value: float
) -> None:
    """Its checksum is right: it was extracted so."""
    output, rows = tmp_path / "x.h5", random_rows({spec: shapes[spec]}, 6)
    rows[spec][4].flat[-1] = value
    with create(
        output,
        {spec: shapes[spec]},
        columns_of(6),
        CLASS_NAMES,
        ATTRIBUTES,
        parameters=parameters_of(shapes),
    ) as writer:
        writer.append(rows)
        writer.finish()
    with FeatureFile(output) as file:
        read(file, np.array([5, 0, 3, 1, 2]))
        with pytest.raises(FeatureFileError) as caught:
            read(file, np.array([5, 4, 1]))
    assert str(caught.value) == (
        f"{output}: row 4 of features/{spec}, of é 4/4.jpg, holds what is no number: extract it "
        "again, or leave that photo out"
    )


def spoilt(output: Path, value: float, bad: list[int]) -> Path:
    """Write a file whose row 4 has a value as its last number, in every pooling."""
    rows = random_rows(SMALL, 6)
    for values in rows.values():
        values[4].flat[-1] = value
    with create(
        output, SMALL, columns_of(6), CLASS_NAMES, ATTRIBUTES, parameters=parameters_of(SMALL)
    ) as writer:
        writer.append(rows, bad)
        writer.finish({})
    return output


def test_checksums_do_not_ask_for_numbers(tmp_path: Path) -> None:
    with FeatureFile(spoilt(tmp_path / "x.h5", np.nan, [0, 5])) as file:  # so rows were copied
        assert file.rows_done == 4
        for spec in SMALL:
            file.check(spec)
            with pytest.raises(FeatureFileError, match=r"row 3 .* é 4/4\.jpg"):
                every(file, spec)


@each_way
@both_sizes
def test_what_became_no_number_by_damage_is_damage(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str
) -> None:
    path = write(tmp_path / "x.h5", {spec: shapes[spec]})
    with h5py.File(path) as file:
        data = file[f"features/{spec}"]
        place = data.id.get_offset() + 4 * data[4].nbytes
    with path.open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff" * 4)
    with FeatureFile(path) as file, pytest.raises(FeatureFileError) as caught:
        read(file, np.array([5, 4, 1]))
    line = f"{path} is damaged: row 4 of features/{spec} has another checksum{MAKE_AGAIN}"
    assert str(caught.value) == line


@pytest.mark.parametrize("chunk", [10, 20, 1000])
def test_the_bad_row_is_named_however_many_are_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    path, rows = spoilt(tmp_path / "x.h5", np.inf, []), np.array([5, 3, 4, 1])
    flip(path, "sum", 3)
    with FeatureFile(path) as file:
        with pytest.raises(FeatureFileError, match=r"row 4 of features/max, of é 4/4\.jpg"):
            file.read("max", rows)
        with pytest.raises(FeatureFileError, match="row 3 of features/sum has another"):
            file.read("sum", rows[:2])


@each_way
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short_while_it_is_open(
    complete: Path, read: Read, spec: str, share: float
) -> None:
    with h5py.File(complete) as raw:
        data = raw[f"features/{spec}"]
        end = data.id.get_offset() + data.nbytes
    with FeatureFile(complete) as file:
        os.truncate(complete, int(end * share))
        with pytest.raises(FeatureFileError) as caught:
            read(file, np.array([0, 5, 1]))
    assert str(caught.value) == f"{complete} is damaged: it ends too early{MAKE_AGAIN}"


@pytest.mark.parametrize("by", ["columns", "batches"])
def test_a_file_that_is_cut_short_between_two_blocks(complete: Path, by: str) -> None:
    with FeatureFile(complete) as file:
        blocks = getattr(file, by)("max", np.arange(6), 1)
        next(blocks)
        os.truncate(complete, 0)
        with pytest.raises(FeatureFileError, match="it ends too early"):
            list(blocks)


@pytest.mark.parametrize("method", ["columns", "batches"])
def test_a_file_too_short_for_its_rows_is_refused_before_memory_is_asked_for(
    complete: Path, method: str
) -> None:
    with FeatureFile(complete) as file:
        os.truncate(complete, 5000)
        with pytest.raises(FeatureFileError, match="it ends too early"):
            getattr(file, method)("max", np.arange(6), 4)


def test_features_of_another_kind_are_not_read(complete: Path) -> None:
    change(complete, "features/max", np.zeros((6, 8)))
    with FeatureFile(complete) as file:
        for read in (WAYS["read"], WAYS["columns"], WAYS["batches"]):
            with pytest.raises(FeatureFileError, match="features/max holds float64"):
                read(file, np.arange(6))
