"""Tests of writing a feature file, with bad rows, faults of the disk, and other runs."""

import errno
import fcntl
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from store.cases import (
    LARGE,
    SMALL,
    Shapes,
    begin,
    columns_of,
    head,
    holding,
    random_rows,
    write,
)
from support.errors import raises
from support.feature_files import all_rows, flip_bit

from bilinear_cli.errors import FeatureFileError, InUseError
from bilinear_cli.store import FeatureFile, FeatureWriter, partial_path, writing
from bilinear_cli.store.sparse_file import SparseFile


def test_features_are_contiguous_and_unfiltered_and_the_rest_is_plain_hdf5(complete: Path) -> None:
    with h5py.File(complete) as file:
        assert file.id.get_create_plist().get_version()[0] == 0  # superblock: no consistency flag
        for spec in SMALL:
            data = file[f"features/{spec}"]
            assert data.chunks is data.compression is None
            assert data.id.get_create_plist().get_nfilters() == 0
            assert data.id.get_storage_size() == data.nbytes
            assert file[f"crc32/{spec}"].dtype == np.uint32
        assert file["rows_done"].dtype == file["photo"].dtype == file["labels"].dtype == np.int64
        for name in ("view", "paths", "sha256", "split", "group", "class_names"):
            assert h5py.check_string_dtype(file[name].dtype).encoding == "utf-8"


def test_only_a_finished_file_has_the_final_name(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    with begin(output, n=2) as writer:
        writer.append(random_rows(SMALL, 2))
        assert [path.name for path in tmp_path.iterdir()] == ["x.h5.partial"]
        writer.finish()
    assert list(tmp_path.iterdir()) == [output]


def test_a_writer_appends_after_the_rows_that_are_done(unfinished: Path) -> None:
    rows = random_rows(SMALL, 6)
    with FeatureWriter(unfinished) as writer:
        assert writer.rows_done == 2
        np.testing.assert_array_equal(all_rows(writer, "maps"), rows["maps"][:2])
        writer.append(head(rows, 2, 6))
        writer.finish()
    with FeatureFile(unfinished) as file:
        for spec in SMALL:
            np.testing.assert_array_equal(all_rows(file, spec), rows[spec])


def test_a_file_is_not_finished_before_its_rows_are(unfinished: Path) -> None:
    with FeatureWriter(unfinished) as writer, raises(ValueError, 2, 6):
        writer.finish()
    assert not unfinished.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max": np.zeros((2, 8), np.float32)},
        random_rows(SMALL, 5),
        random_rows(SMALL | {"max": (9,)}, 2),
        random_rows(SMALL, 2) | {"sum": np.zeros((1, 8), np.float32)},
    ],
    ids=["a pooling is missing", "beyond the end", "too long", "of unequal number"],
)
def test_rows_that_do_not_fit_overwrite_nothing(
    unfinished: Path, wrong: dict[str, np.ndarray]
) -> None:
    before = partial_path(unfinished).read_bytes()
    with FeatureWriter(unfinished) as writer, raises(ValueError, "max", 8):
        writer.append(wrong)
    assert partial_path(unfinished).read_bytes() == before


# Rows that stand for no readable photo: `finish` leaves them out ---------------------------


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
        for sums in (f"crc32/{spec}" for spec in SMALL):
            np.testing.assert_array_equal(file[sums], original[sums][()][keep])


def test_many_rows_are_left_out_over_several_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "COPY_BATCH_SIZE", 2)
    with FeatureFile(write(tmp_path / "x.h5", n=11, bad=[0, 5])) as file:
        assert list(file.photo) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        expected = random_rows(SMALL, 11)["max"][file.photo]
        np.testing.assert_array_equal(all_rows(file, "max"), expected)


def test_all_rows_may_be_bad(tmp_path: Path) -> None:
    with FeatureFile(write(tmp_path / "x.h5", n=2, bad=[0, 1])) as file:
        assert all_rows(file, "maps").shape == (0, 2, 2, 8)
        assert len(file.skipped) == 2


def test_bad_rows_of_an_interrupted_batch_may_be_good_the_next_time(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = head(random_rows(SMALL, 6), 2, 6)
    with FeatureWriter(unfinished) as writer, monkeypatch.context() as patch:
        # All is written but the count.
        patch.setattr(os, "fsync", Mock(side_effect=KeyboardInterrupt))
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


# Faults of the disk, and other runs ------------------------------------------------------


def test_a_disk_too_small_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Mock(free=10**8))
    output = tmp_path / "x.h5"
    with raises(FeatureFileError, output, "200.0 MB", "100.0 MB", "--output", "--pooling"):
        begin(output, {"max": (10**8,)}, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x.h5"
    begin(output).close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Mock(free=1000))
    with begin(output) as writer:
        assert writer.rows_done == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "x.h5"
    with raises(FeatureFileError, output.parent, os.strerror(errno.EEXIST)):
        write(output)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "a long message\nof HDF5")
    monkeypatch.setattr(os, "replace", Mock(side_effect=denied))
    with raises(FeatureFileError, tmp_path / "x.h5", os.strerror(errno.EACCES)):
        write(tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond size bytes, as on a full disk.

    It ends within the test: pytest's own output may go to a file that is already larger.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("spec", ["max", "maps"])
def test_a_disk_that_fills_up_loses_no_row_and_the_run_can_be_resumed(
    tmp_path: Path, spec: str
) -> None:
    shapes: Shapes = {spec: LARGE[spec]}
    rows, output = random_rows(shapes, 6), tmp_path / "x.h5"
    with begin(output, shapes) as writer:
        with h5py.File(writer.path) as file:
            offset = file[f"features/{spec}"].id.get_offset()
        writer.append(head(rows, 0, 2))
        with (
            file_size_limit(offset + 2 * 8192 + 100),
            raises(FeatureFileError, writer.path, os.strerror(errno.EFBIG)),
        ):
            writer.append(head(rows, 2, 4))
    with FeatureWriter(output) as writer:
        assert writer.rows_done == 2
        writer.verify_checksums(spec)
        writer.append(head(rows, 2, 6))
        writer.finish()
    with FeatureFile(output) as file:
        np.testing.assert_array_equal(all_rows(file, spec), rows[spec])


def test_a_file_above_the_limit_is_refused_with_its_size_before_its_first_row(
    tmp_path: Path,
) -> None:
    output = tmp_path / "x.h5"
    write(output)
    size = output.stat().st_size
    with (
        file_size_limit(size - 1),
        raises(FeatureFileError, partial_path(output), f"{size:,} bytes", "ulimit -f"),
    ):
        write(output)
    assert list(tmp_path.iterdir()) == [output]


def test_a_limit_when_only_the_mark_of_completion_is_missing(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    with begin(output) as writer:
        writer.append(random_rows(SMALL, 6))
        with file_size_limit(100), raises(FeatureFileError, writer.path, "ulimit -f"):
            writer.finish()
        writer.finish()
    assert list(tmp_path.iterdir()) == [output]


def test_a_sparse_file_is_like_one_on_the_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "disk").open("w+b") as disk:
        sparse = SparseFile()
        for _ in range(100):
            position, data = int(rng.integers(50)), rng.bytes(int(rng.integers(1, 20)))
            for file in (disk, sparse):
                file.seek(position)
                file.write(data)
            position, size = rng.integers(40, size=2).tolist()
            for file in (disk, sparse):
                file.seek(position)
                assert file.tell() == position
            assert sparse.read(size) == disk.read(size)
        for file in (disk, sparse):
            file.truncate(30)
            file.truncate(90)
        assert sparse.seek(0, os.SEEK_END) == disk.seek(0, os.SEEK_END) == 90
    sparse.save(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "disk").read_bytes()


def test_a_disk_that_is_full_while_bad_rows_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, append = tmp_path / "x.h5", FeatureWriter.append

    def full(writer: FeatureWriter, *args: Any) -> None:
        if writer.path.name.endswith(".partial.partial"):
            raise OSError(errno.ENOSPC, "")
        append(writer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", full)
        with raises(FeatureFileError, output, os.strerror(errno.ENOSPC)):
            write(output, bad=[0])
    assert list(tmp_path.iterdir()) == [partial_path(output)]
    with FeatureWriter(output) as writer:
        writer.finish({})
    with FeatureFile(output) as file:
        assert len(all_rows(file, "max")) == 5


def test_a_copy_without_bad_rows_that_is_in_use_can_be_waited_for(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    copy = partial_path(partial_path(output))
    h5py.File(copy, "w").close()
    with copy.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with raises(InUseError, partial_path(output)):
            write(output, bad=[0])
    with FeatureWriter(output) as writer:
        writer.finish()


@pytest.mark.slow
def test_a_file_that_another_process_writes(unfinished: Path) -> None:
    opened_twice = "with FeatureWriter(path) as writer:\n    writer.path.open('r+b').close()"
    with holding(unfinished, opened_twice) as holder:
        for use in (FeatureFile, FeatureWriter, write):
            with raises(InUseError, unfinished):
                use(unfinished)
        holder.communicate()
    assert holder.returncode == 0
    with FeatureWriter(unfinished) as writer:
        assert writer.rows_done == 2


def test_a_damaged_partial_file_can_be_replaced(tmp_path: Path) -> None:
    partial_path(tmp_path / "x.h5").write_bytes(b"")
    output = write(tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == [output]
