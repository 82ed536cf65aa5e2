"""Tests of rows that stand for no readable photo: they are taken out in the end."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from feature_files import (
    ATTRIBUTES,
    CLASS_NAMES,
    SMALL,
    columns_of,
    every,
    flip,
    head,
    parameters_of,
    random_rows,
    write,
)

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, FeatureWriter, create, writing


def test_bad_rows_are_left_out_and_the_others_keep_bytes_order_and_checksums(
    tmp_path: Path,
) -> None:
    keep = [0, 2, 3, 5]
    whole, thinned = write(tmp_path / "whole.h5"), write(tmp_path / "x.h5", bad=[1, 4])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.h5", "x.h5"]
    with FeatureFile(thinned) as file, FeatureFile(whole) as other:
        for name, values in columns_of(6).items():
            np.testing.assert_array_equal(getattr(file, name), values[keep])
        assert file.skipped == {"é 1/1.jpg": "no photo", "é 4/4.jpg": "no photo"}
        assert file.rows_done == 4
        for spec in SMALL:
            np.testing.assert_array_equal(every(file, spec), every(other, spec)[keep])
        assert file.attributes == other.attributes | {"created": file.attributes["created"]}
    with h5py.File(thinned) as raw, h5py.File(whole) as other_raw:
        for spec in SMALL:
            np.testing.assert_array_equal(
                raw[f"crc32/{spec}"][()], other_raw[f"crc32/{spec}"][()][keep]
            )


def test_many_rows_are_left_out_over_several_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BLOCK", 2)
    with FeatureFile(write(tmp_path / "x.h5", n=11, bad=[0, 5])) as file:
        assert list(file.photo) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        expected = random_rows(SMALL, 11)["max"][file.photo]
        np.testing.assert_array_equal(every(file, "max"), expected)


def test_all_rows_may_be_bad(tmp_path: Path) -> None:
    with FeatureFile(write(tmp_path / "x.h5", n=2, bad=[0, 1])) as file:
        assert every(file, "max").shape == (0, 8)
        assert len(file.skipped) == 2


def test_bad_rows_of_a_batch_that_was_not_done_may_be_good_the_next_time(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = head(random_rows(SMALL, 6), 2, 6)

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with FeatureWriter(unfinished) as writer, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)  # all is written but the count
        with pytest.raises(KeyboardInterrupt):
            writer.append(rows, bad=[0, 3])
    with FeatureWriter(unfinished) as writer:
        assert (writer.rows_done, list(writer.photo)) == (2, [0, 1, ~2, 3, 4, ~5])
        writer.append(rows, bad=[1])
        writer.finish({"é 3/3.jpg": "no photo"})
    with FeatureFile(unfinished) as file:
        assert list(file.photo) == [0, 1, 2, 4, 5]


def test_rows_that_rotted_are_not_copied_with_a_new_checksum(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    with create(
        output, SMALL, columns_of(6), CLASS_NAMES, ATTRIBUTES, parameters=parameters_of(SMALL)
    ) as writer:
        writer.append(random_rows(SMALL, 6), bad=[1])
        flip(writer.path, "max", 3)
        with pytest.raises(FeatureFileError, match="row 3 of features/max"):
            writer.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5.partial"]


def test_a_run_killed_between_leaving_out_and_renaming_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.h5"
    replace = os.replace

    def killed(old: Path, new: Path) -> None:
        if new == output:
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(output, bad=[2])
    with FeatureWriter(output) as writer:
        assert writer.rows_done == len(writer.photo) == 5
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    with FeatureFile(output) as file:
        assert list(file.skipped) == ["é 2/2.jpg"]
