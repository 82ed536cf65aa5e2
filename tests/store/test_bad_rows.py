"""Tests of rows that stand for no readable photo: `finish` leaves them out."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from store.cases import SMALL, begin, columns_of, head, random_rows, write
from support.errors import raises
from support.feature_files import all_rows, flip_bit

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, FeatureWriter, writing


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_bad_rows_are_left_out_and_the_others_keep_bytes_order_and_checksums(
    tmp_path: Path,
) -> None:
    keep = [0, 2, 3, 5]
    paths = [write(tmp_path / "all.h5"), write(tmp_path / "x.h5", bad=[1, 4])]
    assert sorted(tmp_path.iterdir()) == paths
    with FeatureFile(paths[0]) as original, FeatureFile(paths[1]) as file:
        for name, values in columns_of(6).items():
            np.testing.assert_array_equal(getattr(file, name), values[keep])
        assert file.skipped == {"é 1/1.jpg": "no photo", "é 4/4.jpg": "no photo"}
        assert file.rows_done == 4
        for spec in SMALL:
            np.testing.assert_array_equal(all_rows(file, spec), all_rows(original, spec)[keep])
        assert file.attributes == original.attributes | {"created": file.attributes["created"]}
    with h5py.File(paths[0]) as original, h5py.File(paths[1]) as file:
        for spec in SMALL:
            np.testing.assert_array_equal(
                file[f"crc32/{spec}"][()], original[f"crc32/{spec}"][()][keep]
            )


def test_many_rows_are_left_out_over_several_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BLOCK", 2)
    with FeatureFile(write(tmp_path / "x.h5", n=11, bad=[0, 5])) as file:
        assert list(file.photo) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        expected = random_rows(SMALL, 11)["max"][file.photo]
        np.testing.assert_array_equal(all_rows(file, "max"), expected)


def test_all_rows_may_be_bad(tmp_path: Path) -> None:
    with FeatureFile(write(tmp_path / "x.h5", n=2, bad=[0, 1])) as file:
        assert all_rows(file, "max").shape == (0, 8)
        assert len(file.skipped) == 2


def test_bad_rows_of_an_interrupted_batch_may_be_good_the_next_time(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = head(random_rows(SMALL, 6), 2, 6)
    with FeatureWriter(unfinished) as writer, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)  # all is written but the count
        with pytest.raises(KeyboardInterrupt):
            writer.append(rows, bad=[0, 3])
    with FeatureWriter(unfinished) as writer:
        assert (writer.rows_done, list(writer.photo)) == (2, [0, 1, ~2, 3, 4, ~5])
        writer.append(rows, bad=[1])
        writer.finish({"é 3/3.jpg": "no photo"})
    with FeatureFile(unfinished) as file:
        assert list(file.photo) == [0, 1, 2, 4, 5]


def test_damaged_rows_are_not_copied_with_a_new_checksum(tmp_path: Path) -> None:
    with begin(tmp_path / "x.h5") as writer:
        writer.append(random_rows(SMALL, 6), bad=[1])
        flip_bit(writer.path, "max", 3)
        with raises(FeatureFileError, writer.path, "features/max", 3):
            writer.finish({})
    assert list(tmp_path.iterdir()) == [writer.path]


def test_a_run_killed_between_copying_and_renaming_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.h5"
    replace = os.replace

    def kill(old: Path, new: Path) -> None:
        if new == output:
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            write(output, bad=[2])
    with FeatureWriter(output) as writer:
        assert writer.rows_done == len(writer.photo) == 5
        writer.finish()
    assert list(tmp_path.iterdir()) == [output]
    with FeatureFile(output) as file:
        assert list(file.skipped) == ["é 2/2.jpg"]
