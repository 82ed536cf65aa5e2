"""Tests of rows as training reads them: in blocks, as float32, one block ahead, past HDF5."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from feature_files import SMALL, Shapes, both_sizes, flip, random_rows, some_rows, write

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, streaming
from bilinear_cli.store.streaming import ahead

MIXED: Shapes = {"avg": (36,), "max": (4096,), "conv5": (4, 4, 256)}  # the first as float32
SOME = np.array([5, 1, 2, 3, 0])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write(tmp_path / "x.h5", MIXED)


# What is written comes back --------------------------------------------------------------


def joined(
    blocks: Iterator[tuple[slice, np.ndarray]], length: int, step: int, axis: int
) -> np.ndarray:
    """Return blocks as one array; each begins where the one before it ends, and is float32."""
    found = list(blocks)
    starts = range(0, length, step)
    assert [place for place, _ in found] == [slice(i, min(i + step, length)) for i in starts]
    for place, block in found:
        assert block.dtype == np.float32
        assert block.flags.writeable
        assert block.shape[axis] == place.stop - place.start
    return np.concatenate([block for _, block in found], axis)


@both_sizes
@some_rows
@pytest.mark.parametrize("pieces", [0.5, 1, 2.5, 8])
@pytest.mark.parametrize("spec", ["max", "bilinear"])
def test_columns_are_those_of_the_stored_rows(
    tmp_path: Path, shapes: Shapes, which: np.ndarray, pieces: float, spec: str
) -> None:
    (width,) = shapes[spec]
    step = int(width / pieces)
    with FeatureFile(write(tmp_path / "x.h5", {spec: (width,)})) as file:
        found = joined(file.columns(spec, which, step), width, step, 1)
    np.testing.assert_array_equal(found, random_rows({spec: (width,)}, 6)[spec][which])


@both_sizes
@some_rows
@pytest.mark.parametrize("step", [1, 4, 6, 100])
@pytest.mark.parametrize("spec", ["max", "conv5"])
def test_batches_are_the_stored_rows(
    tmp_path: Path, shapes: Shapes, which: np.ndarray, step: int, spec: str
) -> None:
    one = {spec: shapes[spec]}
    with FeatureFile(write(tmp_path / "x.h5", one)) as file:
        if len(which):
            found = joined(file.batches(spec, which, step), len(which), step, 0)
            np.testing.assert_array_equal(found, random_rows(one, 6)[spec][which])
        else:
            assert list(file.batches(spec, which, step)) == []


@both_sizes
@some_rows
@pytest.mark.parametrize("spec", ["max", "bilinear", "conv5"])
def test_rows_that_are_read_are_the_stored_ones(
    tmp_path: Path, shapes: Shapes, which: np.ndarray, spec: str
) -> None:
    one = {spec: shapes[spec]}
    with FeatureFile(write(tmp_path / "x.h5", one)) as file:
        found = file.read(spec, which)
        assert (found.dtype, found.shape) == (np.float32, (len(which), *shapes[spec]))
        np.testing.assert_array_equal(found, random_rows(one, 6)[spec][which])


@both_sizes
def test_what_is_read_may_be_overwritten(tmp_path: Path, shapes: Shapes) -> None:
    rows = np.arange(6)
    path = write(tmp_path / "x.h5", {spec: shapes[spec] for spec in ("max", "conv5")})
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
def test_rows_are_taken_a_few_at_once(
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


def test_columns_are_those_of_vectors(mixed: Path) -> None:
    with FeatureFile(mixed) as file, pytest.raises(ValueError, match="unpack"):
        list(file.columns("conv5", SOME, 4))


# How it is read --------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list of how many bytes each call brings."""
    found: list[int] = []
    preadv = os.preadv

    def noted(*args: object) -> int:
        found.append(preadv(*args))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(os, "preadv", noted)
    return found


def test_a_run_of_rows_is_one_call(mixed: Path, calls: list[int]) -> None:
    with FeatureFile(mixed) as file:
        file.read("max", SOME)
        assert calls == [2 * 4096, 3 * 2 * 4096, 2 * 4096]
        calls.clear()
        list(file.columns("avg", SOME, 36))
        assert calls == [4 * 36, 3 * 4 * 36, 4 * 36]


def test_of_other_columns_not_a_byte_is_read(mixed: Path, calls: list[int]) -> None:
    with FeatureFile(mixed) as file:
        list(file.columns("avg", SOME, 35))
    assert calls == [4 * 35] * len(SOME) + [4] * len(SOME)


def test_a_call_may_bring_less_than_was_asked_for(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: preadv(fd, [to[0][:1001]], at))
    with FeatureFile(mixed) as file:
        np.testing.assert_array_equal(file.read("max", SOME), random_rows(MIXED, 6)["max"][SOME])


def test_the_file_is_not_mapped_and_closed_in_the_end(mixed: Path) -> None:
    def is_open() -> bool:
        return any(entry.resolve() == mixed for entry in Path("/proc/self/fd").iterdir())

    with FeatureFile(mixed) as file:
        rows = file.read("max", SOME)
        assert str(mixed) not in Path("/proc/self/maps").read_text()
        assert is_open()
    assert not is_open()
    assert rows.base is None


# One block ahead -------------------------------------------------------------------------


def test_the_next_block_is_prepared_meanwhile_and_no_other() -> None:
    made: list[int] = []
    ready = threading.Event()

    def items() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            if i == 1:
                ready.set()
            yield i

    before = set(threading.enumerate())
    blocks = ahead(items())
    assert not made
    assert next(blocks) == 0
    assert ready.wait(10)  # the reader does nothing, and yet it is made
    time.sleep(0.05)
    assert made == [0, 1]
    assert len(set(threading.enumerate()) - before) == 1
    assert list(blocks) == [1, 2, 3]
    assert set(threading.enumerate()) == before


def test_what_the_thread_raises_reaches_the_reader_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise FeatureFileError("torn")

    before, seen = set(threading.enumerate()), []
    with pytest.raises(FeatureFileError, match="torn"):
        seen.extend(ahead(items()))
    assert seen == [0]
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("by", ["columns", "batches"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_reader_that_stops_early_leaves_no_thread(complete: Path, by: str, damaged: bool) -> None:
    """What the thread has met by then, being ahead, is nobody's concern."""
    every, before = np.arange(6), threading.enumerate()
    rows = random_rows(SMALL, 6)["max"]
    with FeatureFile(complete) as file:
        blocks = getattr(file, by)("max", every, 1)
        _, first = next(blocks)
        assert len(threading.enumerate()) == len(before) + 1
        if damaged:
            os.truncate(complete, 0)
        blocks.close()
        assert threading.enumerate() == before
        np.testing.assert_array_equal(first, rows[:, :1] if by == "columns" else rows[:1])
        if not damaged:
            np.testing.assert_array_equal(file.read("max", every), rows)
            list(getattr(file, by)("max", every, 1))
            assert threading.enumerate() == before


@pytest.mark.parametrize("by", ["columns", "batches"])
def test_a_reader_that_meets_damage_leaves_no_thread(complete: Path, by: str) -> None:
    before = threading.enumerate()
    flip(complete, "max", 3)
    with FeatureFile(complete) as file:
        with pytest.raises(FeatureFileError):
            list(getattr(file, by)("max", np.arange(6), 1))
        assert threading.enumerate() == before


def test_of_no_rows_there_is_nothing_to_read(mixed: Path) -> None:
    with FeatureFile(mixed) as file:
        none = np.arange(0)
        assert file.read_raw("max", none).shape == (0, *file.shapes["max"][1:])
        assert file.read("max", none).shape == (0, *file.shapes["max"][1:])
