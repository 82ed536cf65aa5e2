"""Rows as training reads them: past HDF5, compared with their checksums, as float32.

They do not come by way of mapped memory: its pages count as the process's own, and a file that is
cut short under its reader would be a signal instead of an error.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeVar

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store.checks import damaged

CHUNK = 1 << 17  # numbers that fit the cache, as stored and as float32 together
LEAST, SCALE = np.uint32(1).view(np.float32), np.float32(2.0**112)  # 2^-149, without arithmetic

T = TypeVar("T")


class StoredRows:
    """The rows of one pooling, one run of bytes in each file; see `FeatureFile` for its methods.

    Attributes:
        shape: of a row.
        dtype: how its numbers are stored, float16 or float32.
    """

    def __init__(
        self,
        files: Sequence[tuple[Path, BinaryIO, h5py.Dataset]],
        checksums: np.ndarray,
        photos: np.ndarray,
    ) -> None:
        """Find the rows of a dataset, or of several, one after the other.

        Args:
            files: for each its path, for messages; the file, open for reading, unbuffered; and the
                rows in it, alike in all but their number, which are not kept.
            checksums: uint32, CRC-32 of each row.
            photos: str, the path of each row's photo, for messages.

        Raises:
            FeatureFileError: the numbers are of another kind, or a file is too short for them.
        """
        _, _, data = files[0]
        self.shape, self.dtype, self._name = data.shape[1:], data.dtype, data.name.strip("/")
        self._checksums, self._photos = checksums, photos
        self._row_bytes = self.dtype.itemsize * prod(self.shape)
        self._files = [(path, raw) for path, raw, _ in files]
        starts = [data.id.get_offset() or 0 for *_, data in files]  # without elements there is none
        for (path, raw, data), start in zip(files, starts, strict=True):
            if data.dtype not in (np.float16, np.float32):
                raise damaged(path, f"{self._name} holds {data.dtype}")
            if start + data.nbytes > os.fstat(raw.fileno()).st_size:
                raise damaged(path, "it ends too early")  # before memory is asked for
        self._ends = np.cumsum([len(data) for *_, data in files])
        rows_before = np.array([0, *self._ends[:-1]])
        self._row_0 = np.array(starts) - rows_before * self._row_bytes  # where it would be

    def columns(self, which: np.ndarray, step: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield blocks of columns; the checksums are carried from block to block."""
        (width,) = self.shape
        sums = [0] * len(which)
        for first in range(0, width, step):
            places = slice(first, min(first + step, width))
            block = np.empty((len(which), places.stop - first), np.float32)
            self._load(block, which, first, sums)
            yield places, block
        self._compare(which, sums)

    def batches(self, which: np.ndarray, step: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield batches of rows."""
        for start in range(0, len(which), step):
            batch = slice(start, min(start + step, len(which)))
            yield batch, self.read(which[batch])

    def read(self, which: np.ndarray) -> np.ndarray:
        """Return rows as float32."""
        rows, sums = np.empty((len(which), *self.shape), np.float32), [0] * len(which)
        self._load(rows, which, 0, sums)
        self._compare(which, sums)
        return rows

    def read_raw(self, which: np.ndarray) -> np.ndarray:
        """Return rows as they are stored, whatever their numbers are."""
        rows = np.empty((len(which), *self.shape), self.dtype)
        self._compare(which, self._fetch(rows, which, 0, [0] * len(which)))
        return rows

    def check(self, which: np.ndarray) -> None:
        """Compare rows with their checksums, whatever their numbers are."""
        step = _rows_at_once(self.shape)
        for start in range(0, len(which), step):
            self.read_raw(which[start : start + step])

    def _load(self, rows: np.ndarray, which: np.ndarray, first: int, sums: list[int]) -> None:
        """Fill float32 `rows` from column `first` on; a few at once, so that they stay in cache.

        Args:
            rows: (n, ...), what to fill.
            which: (n,), their numbers.
            first: the column.
            sums: n checksums of what comes before; carried on.
        """
        step = _rows_at_once(rows.shape[1:])
        halves = np.empty((step, *rows.shape[1:]), np.float16)
        for start in range(0, len(which), step):
            few = slice(start, start + step)
            stored = rows[few] if self.dtype == np.float32 else halves[: len(rows[few])]
            sums[few] = self._fetch(stored, which[few], first, sums[few])
            if as_float32(stored, rows[few]) is None:
                raise self._not_finite(stored, which[few])

    def _fetch(
        self, stored: np.ndarray, which: np.ndarray, first: int, sums: list[int]
    ) -> list[int]:
        """Fill `stored` from column `first` on, and return the checksums carried on from `sums`."""
        if not len(which):
            return []
        content = stored.reshape(-1).view(np.uint8).data
        size = prod(stored.shape[1:]) * stored.itemsize
        file = self._file_of(which)
        places = self._row_0[file] + first * self.dtype.itemsize + which * self._row_bytes
        ends: list[int] | range = range(len(which) + 1)
        if size == self._row_bytes:  # then a run of rows is one run of bytes
            breaks = (np.diff(which) != 1) | (np.diff(file) != 0)
            ends = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(which)]
        for start, stop in pairwise(ends):
            self._fill(content[start * size : stop * size], file[start], int(places[start]))
        return [zlib.crc32(content[i * size : (i + 1) * size], crc) for i, crc in enumerate(sums)]

    def _file_of(self, which: np.ndarray) -> np.ndarray:
        """Return the number of the file that each row is in."""
        return np.searchsorted(self._ends, which, side="right")

    def _fill(self, content: memoryview, file: int, place: int) -> None:
        """Read bytes. A call may bring fewer than asked for, but none only at the file's end."""
        path, raw = self._files[file]
        while content:
            n = os.preadv(raw.fileno(), [content], place)
            if not n:
                raise damaged(path, "it ends too early")
            content, place = content[n:], place + n

    def _compare(self, which: np.ndarray, sums: list[int]) -> None:
        wrong = which[self._checksums[which] != np.array(sums, np.uint32)]
        if len(wrong):
            path, row = self._place_of(wrong[0])
            raise damaged(path, f"row {row} of {self._name} has another checksum")

    def _place_of(self, row: int) -> tuple[Path, int]:
        """Return the file that a row is in, and its number there."""
        file = int(self._file_of(np.array(row)))
        return self._files[file][0], row - (int(self._ends[file - 1]) if file else 0)

    def _not_finite(self, stored: np.ndarray, which: np.ndarray) -> FeatureFileError:
        bad = which[[not np.isfinite(row).all() for row in stored]][:1]
        self.check(bad)  # if the row is damaged, that is what there is to say
        path, row = self._place_of(bad[0])
        return FeatureFileError(
            f"{path}: row {row} of {self._name}, of {self._photos[bad[0]]}, holds what is "
            "no number: extract it again, or leave that photo out"
        )


def _rows_at_once(shape: tuple[int, ...]) -> int:
    return max(1, CHUNK // max(1, prod(shape)))


def as_float32(stored: np.ndarray, out: np.ndarray | None = None) -> np.ndarray | None:
    """Return finite float16 or float32 numbers as float32, exactly; None if one is not finite.

    NumPy converts halves one by one, and takes ten times as long. Here a half's exponent and
    fraction are moved to where a single has its own, which makes the number times 2^-112. Of a
    half below 2^-14 that is less than the smallest normal single, and some threads, as those of
    TensorFlow, take it for zero; they do it NumPy's way.

    Args:
        stored: any shape of at least one axis, C order.
        out: float32, of that shape and order: where halves go to.
    """
    if stored.dtype == np.float32:
        return stored if np.isfinite(stored).all() else None
    out = np.empty(stored.shape, np.float32) if out is None else out
    halves, singles = stored.reshape(-1), out.reshape(-1)
    convert = _move_bits if LEAST * SCALE else np.copyto
    for start in range(0, len(halves), CHUNK):
        half = halves[start : start + CHUNK]
        # as integers of either kind, infinity and NaN come after the finite numbers of their sign
        if half.view(np.int16).max() >= 0x7C00 or half.view(np.uint16).max() >= 0xFC00:
            return None
        convert(singles[start : start + CHUNK], half)
    return out


def _move_bits(single: np.ndarray, half: np.ndarray) -> None:
    bits = single.view(np.int32)
    bits[...] = half.view(np.int16)  # the sign fills the upper half
    bits <<= 13
    bits &= -0x70000001  # 0x8FFFFFFF: of the sign's copies one is left
    single *= SCALE


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator does, while a thread prepares the next item, and only that one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
