"""Tests of rows as training reads them: in blocks, as float32, one block ahead, past HDF5."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from store.cases import SMALL, Shapes, both_sizes, each_indices, random_rows
from support.errors import raises
from support.feature_files import flip_bit

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, streaming
from bilinear_cli.store.streaming import ahead

MIXED: Shapes = {"avg": (36,), "max": (4096,), "conv5": (4, 4, 256)}  # the first as float32
SOME = np.array([5, 1, 2, 3, 0])
each_iterator = pytest.mark.parametrize("method", ["columns", "batches"])


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
@each_indices
@pytest.mark.parametrize("spec", ["max", "bilinear", "conv5"])
@pytest.mark.slow
def test_rows_and_batches_and_columns_are_the_stored_rows(
    stored: Callable[[Shapes], Path], shapes: Shapes, indices: np.ndarray, spec: str
) -> None:
    expected = random_rows(shapes, 6)[spec][indices]
    with FeatureFile(stored(shapes)) as file:
        rows = file.read(spec, indices)
        assert (rows.dtype, rows.shape) == (np.float32, (len(indices), *shapes[spec]))
        np.testing.assert_array_equal(rows, expected)
        for step in (1, 4, 6, 100):
            if len(indices):
                rows = joined(file.batches(spec, indices, step), len(indices), step, 0)
                np.testing.assert_array_equal(rows, expected)
            else:
                assert list(file.batches(spec, indices, step)) == []
        for pieces in (0.5, 1, 2.5, 8) if spec != "conv5" else ():
            (width,) = shapes[spec]
            step = int(width / pieces)
            rows = joined(file.columns(spec, indices, step), width, step, 1)
            np.testing.assert_array_equal(rows, expected)


@both_sizes
def test_a_reader_may_overwrite_what_it_gets(
    stored: Callable[[Shapes], Path], shapes: Shapes
) -> None:
    rows, path = np.arange(6), stored(shapes)
    before = path.read_bytes()
    with FeatureFile(path) as file:
        for _ in range(2):
            passes = [file.columns("max", rows, 1500), file.batches("conv5", rows, 2)]
            read = [[(x.copy(), x.fill(np.nan))[0] for _, x in blocks] for blocks in passes]
            np.testing.assert_array_equal(np.hstack(read[0]), file.read("max", rows))
            np.testing.assert_array_equal(np.vstack(read[1]), file.read("conv5", rows))
            file.read("max", rows).fill(np.nan)
    assert path.read_bytes() == before


@pytest.mark.parametrize("chunk", [100, 10_000])
@pytest.mark.parametrize("spec", MIXED)
def test_rows_are_converted_a_few_at_once(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, spec: str
) -> None:
    monkeypatch.setattr(streaming, "CHUNK", chunk)
    expected = random_rows(MIXED, 6)[spec][SOME]
    with FeatureFile(mixed) as file:
        np.testing.assert_array_equal(file.read(spec, SOME), expected)
        file.check(spec)
        if spec != "conv5":
            step = expected.shape[1] // 2
            np.testing.assert_array_equal(
                np.hstack([block for _, block in file.columns(spec, SOME, step)]), expected
            )


def test_maps_have_no_columns(mixed: Path) -> None:
    with FeatureFile(mixed) as file, raises(ValueError):
        list(file.columns("conv5", SOME, 4))


def test_no_rows_can_be_read_of_a_file(mixed: Path) -> None:
    with FeatureFile(mixed) as file:
        none = np.arange(0)
        assert file.read_raw("max", none).shape == (0, *file.shapes["max"][1:])
        assert file.read("max", none).shape == (0, *file.shapes["max"][1:])


# How it is read --------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of how many bytes each call of the system reads."""
    sizes: list[int] = []
    preadv = os.preadv

    def count(*args: object) -> int:
        sizes.append(preadv(*args))  # type: ignore[arg-type]
        return sizes[-1]

    monkeypatch.setattr(os, "preadv", count)
    return sizes


def test_a_run_of_rows_is_one_call(mixed: Path, calls: list[int]) -> None:
    with FeatureFile(mixed) as file:
        file.read("max", SOME)
        assert calls == [2 * 4096, 3 * 2 * 4096, 2 * 4096]
        calls.clear()
        list(file.columns("avg", SOME, 36))
        assert calls == [4 * 36, 3 * 4 * 36, 4 * 36]


def test_no_byte_of_other_columns_is_read(mixed: Path, calls: list[int]) -> None:
    with FeatureFile(mixed) as file:
        list(file.columns("avg", SOME, 35))
    assert calls == [4 * 35] * len(SOME) + [4] * len(SOME)


def test_a_call_may_read_less_than_was_asked_for(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: preadv(fd, [to[0][:1001]], at))
    with FeatureFile(mixed) as file:
        np.testing.assert_array_equal(file.read("max", SOME), random_rows(MIXED, 6)["max"][SOME])


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

    blocks = ahead(items())
    assert not prepared
    assert next(blocks) == 0
    assert ready.wait(100)  # the reader does nothing, and yet it is prepared
    assert new_threads() == 1
    blocks.close()  # waits for all that the thread was asked for
    assert prepared == [0, 1]
    assert list(ahead(items())) == [0, 1, 2, 3]
    assert not new_threads()


def test_an_error_in_the_thread_reaches_the_reader_in_its_turn(
    new_threads: Callable[[], int],
) -> None:
    def items() -> Iterator[int]:
        yield 0
        raise FeatureFileError("torn")

    blocks: list[int] = []
    with raises(FeatureFileError, "torn"):
        blocks.extend(ahead(items()))
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
        np.testing.assert_array_equal(first, rows[:, :1] if method == "columns" else rows[:1])
        if not damaged:
            np.testing.assert_array_equal(file.read("max", indices), rows)
            list(getattr(file, method)("max", indices, 1))
            assert not new_threads()


@each_iterator
def test_a_reader_that_meets_damage_leaves_no_thread(
    complete: Path, method: str, new_threads: Callable[[], int]
) -> None:
    flip_bit(complete, "max", 3)
    with FeatureFile(complete) as file:
        with raises(FeatureFileError, complete, "features/max", 3):
            list(getattr(file, method)("max", np.arange(6), 1))
        assert not new_threads()
