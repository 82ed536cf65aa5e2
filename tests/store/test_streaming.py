"""Tests of rows as training reads them: in blocks, as float32, one block ahead, past HDF5."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.cases import (
    READS,
    REPLACE,
    SMALL,
    Read,
    Shapes,
    both_sizes,
    each_read,
    random_rows,
    write,
)
from support.errors import raises
from support.feature_files import all_rows, flip_bit, replace_dataset

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, streaming
from bilinear_cli.store.streaming import prefetch, to_float32

MIXED: Shapes = {"avg": (36,), "max": (4096,), "maps": (4, 4, 256)}  # the first as float32
SOME = np.array([5, 1, 2, 3, 0])
each_iterator = pytest.mark.parametrize("method", ["column_blocks", "batches"])


@pytest.fixture
def mixed(stored: Callable[[Shapes], Path]) -> Path:
    return stored(MIXED)


@pytest.fixture
def new_threads() -> Callable[[], int]:
    """Return a function that counts the threads that the test has started and that still run."""
    before = set(threading.enumerate())
    return lambda: len(set(threading.enumerate()) - before)


# What is written comes back --------------------------------------------------------------


def joined(
    blocks: Iterator[tuple[slice, np.ndarray]], length: int, step: int, axis: int
) -> np.ndarray:
    """Return blocks as one array; each begins where the one before it ends, and is float32."""
    pairs = list(blocks)
    starts = range(0, length, step)
    assert [place for place, _ in pairs] == [slice(i, min(i + step, length)) for i in starts]
    for place, block in pairs:
        assert block.dtype == np.float32
        assert block.flags.writeable
        assert block.shape[axis] == place.stop - place.start
    return np.concatenate([block for _, block in pairs], axis)


@both_sizes
@pytest.mark.parametrize("chosen", [range(6), range(5, -1, -1), [4, 0, 3], [2, 2, 5, 2], []])
@pytest.mark.parametrize("spec", ["max", "bilinear", "maps"])
@pytest.mark.slow
def test_rows_and_batches_and_columns_are_the_stored_rows(
    stored: Callable[[Shapes], Path], shapes: Shapes, chosen: Sequence[int], spec: str
) -> None:
    indices = np.array(chosen, int)
    expected = random_rows(shapes, 6)[spec][indices]
    with FeatureFile(stored(shapes)) as file:
        rows = file.read(spec, indices)
        assert (rows.dtype, rows.shape) == (np.float32, (len(indices), *shapes[spec]))
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(file.read_stored(spec, indices), expected, strict=True)
        for step in (1, 4, 6, 100):
            if len(indices):
                rows = joined(file.batches(spec, indices, step), len(indices), step, 0)
                np.testing.assert_array_equal(rows, expected)
            else:
                assert list(file.batches(spec, indices, step)) == []
        for pieces in (0.5, 1, 2.5, 8) if spec != "maps" else ():
            (width,) = shapes[spec]
            step = int(width / pieces)
            rows = joined(file.column_blocks(spec, indices, step), width, step, 1)
            np.testing.assert_array_equal(rows, expected)


@both_sizes
def test_a_reader_may_overwrite_its_blocks(
    stored: Callable[[Shapes], Path], shapes: Shapes
) -> None:
    rows, path = np.arange(6), stored(shapes)
    before = path.read_bytes()
    with FeatureFile(path) as file:
        for _ in range(2):
            passes = [file.column_blocks("max", rows, 1500), file.batches("maps", rows, 2)]
            read = [[(x.copy(), x.fill(np.nan))[0] for _, x in blocks] for blocks in passes]
            np.testing.assert_array_equal(np.hstack(read[0]), file.read("max", rows))
            np.testing.assert_array_equal(np.vstack(read[1]), file.read("maps", rows))
            file.read("max", rows).fill(np.nan)
    assert path.read_bytes() == before


@pytest.mark.parametrize("chunk", [100, 10_000])
@pytest.mark.parametrize("spec", MIXED)
def test_rows_are_converted_in_chunks(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, spec: str
) -> None:
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    expected = random_rows(MIXED, 6)[spec][SOME]
    with FeatureFile(mixed) as file:
        np.testing.assert_array_equal(file.read(spec, SOME), expected)
        file.verify_checksums(spec)
        if spec != "maps":
            blocks = [block for _, block in file.column_blocks(spec, SOME, expected.shape[1] // 2)]
            np.testing.assert_array_equal(np.hstack(blocks), expected)


def test_maps_have_no_columns(mixed: Path) -> None:
    with FeatureFile(mixed) as file, raises(ValueError):
        list(file.column_blocks("maps", SOME, 4))


# How it is read --------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of how many bytes each call of the system reads."""
    sizes: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *x: sizes.append(n := preadv(*x)) or n)
    return sizes


def test_a_run_of_rows_is_one_call(mixed: Path, calls: list[int]) -> None:
    with FeatureFile(mixed) as file:
        file.read("max", SOME)
        assert calls == [2 * 4096, 3 * 2 * 4096, 2 * 4096]
        calls.clear()
        list(file.column_blocks("avg", SOME, 36))
        assert calls == [4 * 36, 3 * 4 * 36, 4 * 36]


def test_no_byte_of_other_columns_is_read(mixed: Path, calls: list[int]) -> None:
    with FeatureFile(mixed) as file:
        list(file.column_blocks("avg", SOME, 35))
    assert calls == [4 * 35] * len(SOME) + [4] * len(SOME)


def test_a_call_may_read_fewer_bytes_than_requested(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: preadv(fd, [to[0][:1001]], at))
    with FeatureFile(mixed) as file:
        np.testing.assert_array_equal(file.read("max", SOME), random_rows(MIXED, 6)["max"][SOME])


def test_threads_share_a_file_where_reading_moves_its_position(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: Windows has no `preadv`."""
    monkeypatch.delattr(os, "preadv")
    expected = random_rows(MIXED, 6)["max"][SOME]
    with FeatureFile(mixed) as file, ThreadPoolExecutor(4) as threads:
        for rows in threads.map(lambda _: file.read("max", SOME), range(200)):
            np.testing.assert_array_equal(rows, expected)


def test_the_file_is_not_mapped_and_is_closed_in_the_end(mixed: Path) -> None:
    def is_open() -> bool:
        return any(entry.resolve() == mixed for entry in Path("/proc/self/fd").iterdir())

    with FeatureFile(mixed) as file:
        rows = file.read("max", SOME)
        assert str(mixed) not in Path("/proc/self/maps").read_text()
        assert is_open()
    assert not is_open()
    assert rows.base is None


# One block ahead -------------------------------------------------------------------------


def test_the_next_block_and_no_other_is_prepared_meanwhile(new_threads: Callable[[], int]) -> None:
    prepared: list[int] = []
    ready = threading.Event()

    def items() -> Iterator[int]:
        for i in range(4):
            prepared.append(i)
            if i == 1:
                ready.set()
            yield i

    blocks = prefetch(items())
    assert not prepared
    assert next(blocks) == 0
    assert ready.wait(100)  # the reader does nothing, and yet it is prepared
    assert new_threads() == 1
    blocks.close()  # waits for the thread
    assert prepared == [0, 1]
    assert list(prefetch(items())) == [0, 1, 2, 3]
    assert not new_threads()


def test_an_error_in_the_thread_reaches_the_reader_in_its_turn(
    new_threads: Callable[[], int],
) -> None:
    def items() -> Iterator[int]:
        yield 0
        raise FeatureFileError("torn")

    blocks: list[int] = []
    with raises(FeatureFileError, "torn"):
        blocks.extend(prefetch(items()))
    assert blocks == [0]
    assert not new_threads()


@each_iterator
@pytest.mark.parametrize("damaged", [False, True])
def test_a_reader_that_stops_early_leaves_no_thread(
    complete: Path, method: str, damaged: bool, new_threads: Callable[[], int]
) -> None:
    """Damage in the block ahead is not reported."""
    indices, rows = np.arange(6), random_rows(SMALL, 6)["max"]
    with FeatureFile(complete) as file:
        blocks = getattr(file, method)("max", indices, 1)
        _, first = next(blocks)
        assert new_threads() == 1
        if damaged:
            os.truncate(complete, 0)
        blocks.close()
        assert not new_threads()
        np.testing.assert_array_equal(first, rows[:, :1] if method == "column_blocks" else rows[:1])
        if not damaged:
            np.testing.assert_array_equal(file.read("max", indices), rows)
            list(getattr(file, method)("max", indices, 1))
            assert not new_threads()


# The conversion to float32 ---------------------------------------------------------------

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = HALVES[np.isfinite(HALVES)]
SINGLES = np.array(
    [0, -0.0, 1, -1, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 2**-149, 1 / 3],
    np.float32,
)


def converted(stored: np.ndarray) -> np.ndarray | None:
    """Return numbers as float32; None if they are refused."""
    out = stored if stored.dtype == np.float32 else np.full(stored.shape, np.nan, np.float32)
    return out if to_float32(stored, out) else None


@pytest.mark.parametrize("shape", [(-1,), (31, -1), (2, 31, 4, -1)])
@pytest.mark.parametrize("numbers", [FINITE, np.resize(SINGLES, 248)], ids=["halves", "singles"])
def test_finite_numbers_become_the_same_singles_bit_for_bit(
    numbers: np.ndarray, shape: tuple[int, ...]
) -> None:
    stored = numbers.reshape(shape)
    expected = stored.astype(np.float32).view(np.uint32)
    result = converted(stored)
    assert result is not None
    np.testing.assert_array_equal(result.view(np.uint32), expected)


def test_numbers_that_are_not_finite_are_refused() -> None:
    for bad in HALVES[~np.isfinite(HALVES)]:
        for position in (0, 4, -1):
            stored = np.zeros((3, 5), np.float16)
            stored.flat[position] = bad
            assert converted(stored) is None
            assert converted(stored.astype(np.float32)) is None


@pytest.mark.slow
def test_halves_below_the_smallest_normal_single_survive_tensorflows_threads() -> None:
    """TensorFlow's threads take operands that small for zero."""
    import tensorflow as tf

    halves = np.arange(1, 1024, dtype=np.int16).view(np.float16)
    (singles,) = tf.data.Dataset.from_generator(
        lambda: iter([converted(halves)]), output_signature=tf.TensorSpec((1023,), tf.float32)
    )
    np.testing.assert_array_equal(singles.numpy(), np.arange(1, 1024) * 2.0**-24)


# Rows that are damaged, cut short, or not finite ------------------------------------------


def write_value(output: Path, shapes: Shapes, value: float, bad: Sequence[int] = ()) -> Path:
    """Write a file where `value` is the last number of row 4, in every pooling."""
    rows = random_rows(shapes, 6)
    for values in rows.values():
        values[4].flat[-1] = value
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


def test_columns_come_before_the_checksums_are_known_and_batches_after(
    complete: Path, new_threads: Callable[[], int]
) -> None:
    flip_bit(complete, "max", 3)
    rows = np.arange(6)
    with FeatureFile(complete) as file:
        columns, batches = file.column_blocks("max", rows, 3), file.batches("max", rows, 2)
        for blocks, n_good in ((columns, 3), (batches, 1)):
            assert len(list(itertools.islice(blocks, n_good))) == n_good
            with raises(FeatureFileError, complete, "features/max", 3, REPLACE):
                next(blocks)
            assert not new_threads()


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
            file.verify_checksums(spec)
            with raises(FeatureFileError, path, f"features/{spec}", 3, "é 4/4.jpg"):
                all_rows(file, spec)


@each_read
@both_sizes
def test_a_number_that_damage_made_infinite_is_reported_as_damage(
    tmp_path: Path, shapes: Shapes, read: Read, spec: str
) -> None:
    path = write(tmp_path / "x.h5", {spec: shapes[spec]})
    with h5py.File(path, "r+") as file:
        file[f"features/{spec}"][4] = np.inf
    facts = (path, f"features/{spec}", 4, REPLACE)
    with FeatureFile(path) as file, raises(FeatureFileError, *facts):
        read(file, np.array([5, 4, 1]))


@pytest.mark.parametrize("chunk", [10, 20, 1000])
def test_the_bad_row_is_named_however_large_a_chunk_is(
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
def test_a_file_too_short_for_its_rows_is_refused_before_memory_is_allocated(
    complete: Path, method: str
) -> None:
    with FeatureFile(complete) as file:
        os.truncate(complete, 5000)
        with raises(FeatureFileError, complete, REPLACE):
            getattr(file, method)("max", np.arange(6), 4)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, ">f4"])
@pytest.mark.parametrize("name", ["read", "columns", "batches", "check"])
def test_features_of_another_dtype_are_refused(complete: Path, name: str, dtype: Any) -> None:
    replace_dataset(complete, "features/max", np.zeros((6, 8), dtype))
    use = READS.get(name, lambda file, _: file.verify_checksums("max"))
    facts = (complete, "features/max", np.dtype(dtype), REPLACE)
    with FeatureFile(complete) as file, raises(FeatureFileError, *facts):
        use(file, np.arange(6))
