"""Rows as training reads them: read past HDF5, compared with checksums, converted to float32.

Files are not mapped into memory: mapped pages count as memory of the process, and a file that is
cut short while it is read would raise a signal instead of an error.
"""

import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store.checks import damaged_file_error

CHUNK = 1 << 17  # numbers that fit the cache, as stored and as float32 together
SMALLEST_FLOAT32 = np.uint32(1).view(np.float32)  # 2^-149, without arithmetic
FLOAT16_SCALE = np.float32(2.0**112)
POSITION_LOCK = threading.Lock()

RowBlock = tuple[slice, np.ndarray]
T = TypeVar("T")


class StoredRows:
    """The rows of one pooling in one or several files, one contiguous dataset in each."""

    def __init__(
        self,
        files: Sequence[tuple[Path, FileIO, h5py.Dataset]],
        checksums: np.ndarray,  # uint32 (rows,), CRC-32
        photos: np.ndarray,  # str (rows,), the paths of photos, for messages
    ) -> None:
        """Locate the rows in datasets of one dtype and row shape.

        Raises:
            FeatureFileError: the dtype is not float16 or float32, or a file is too short.
        """
        _, _, data = files[0]
        self._shape, self._dtype, self._name = data.shape[1:], data.dtype, data.name.strip("/")
        self._checksums, self._photos = checksums, photos
        self._row_bytes = self._dtype.itemsize * prod(self._shape)
        self._files = [(path, raw) for path, raw, _ in files]
        starts = [data.id.get_offset() or 0 for *_, data in files]  # None if it is empty
        for (path, raw, data), start in zip(files, starts, strict=True):
            if data.dtype not in (np.float16, np.float32):
                raise damaged_file_error(path, f"{self._name} holds {data.dtype}")
            if start + data.nbytes > os.fstat(raw.fileno()).st_size:  # checked before allocation
                raise damaged_file_error(path, "it ends too early")
        self._starts, lengths = np.array(starts), [len(data) for *_, data in files]
        self._file_index = np.repeat(np.arange(len(files)), lengths)
        self._row_in_file = np.concatenate([np.arange(n) for n in lengths])

    def column_blocks(self, indices: np.ndarray, block_width: int) -> Iterator[RowBlock]:
        """Yield blocks of columns; the checksums are carried from block to block."""
        (width,) = self._shape
        checksums = [0] * len(indices)
        for first_column in range(0, width, block_width):
            columns = slice(first_column, min(first_column + block_width, width))
            block = np.empty((len(indices), columns.stop - first_column), np.float32)
            self._fill_float32(block, indices, first_column, checksums)
            yield columns, block
        self._verify(indices, checksums)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return rows as float32."""
        rows, checksums = np.empty((len(indices), *self._shape), np.float32), [0] * len(indices)
        self._fill_float32(rows, indices, 0, checksums)
        self._verify(indices, checksums)
        return rows

    def read_stored(self, indices: np.ndarray) -> np.ndarray:
        """Return rows in the stored dtype, finite or not."""
        rows = np.empty((len(indices), *self._shape), self._dtype)
        self._verify(indices, self._fill_stored(rows, indices, 0, [0] * len(indices)))
        return rows

    def verify_checksums(self, indices: np.ndarray) -> None:
        """Compare rows with their checksums, finite or not."""
        step = _rows_in_chunk(self._shape)
        for start in range(0, len(indices), step):
            self.read_stored(indices[start : start + step])

    def _fill_float32(
        self, rows: np.ndarray, indices: np.ndarray, first_column: int, checksums: list[int]
    ) -> None:
        """Fill float32 `rows` (n, ...) from `first_column` on, in chunks that stay in the cache.

        `checksums` are the checksums of the columns before, and are updated in place.
        """
        step = _rows_in_chunk(rows.shape[1:])
        halves = np.empty((step, *rows.shape[1:]), np.float16)
        for start in range(0, len(indices), step):
            chunk = slice(start, start + step)
            stored = rows[chunk] if self._dtype == np.float32 else halves[: len(rows[chunk])]
            checksums[chunk] = self._fill_stored(
                stored, indices[chunk], first_column, checksums[chunk]
            )
            if not to_float32(stored, rows[chunk]):
                raise self._not_finite_error(stored, indices[chunk])

    def _fill_stored(
        self, stored: np.ndarray, indices: np.ndarray, first_column: int, checksums: list[int]
    ) -> list[int]:
        """Fill `stored` from `first_column` on; return the continued `checksums`."""
        if not len(indices):
            return []
        content = stored.reshape(-1).view(np.uint8).data
        size = prod(stored.shape[1:]) * stored.itemsize
        file_index, row = self._file_index[indices], self._row_in_file[indices]
        first_byte = first_column * self._dtype.itemsize
        offsets = self._starts[file_index] + row * self._row_bytes + first_byte
        bounds: list[int] | range = range(len(indices) + 1)
        if size == self._row_bytes:  # consecutive rows are then consecutive bytes
            breaks = (np.diff(row) != 1) | (np.diff(file_index) != 0)
            bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(indices)]
        for start, stop in pairwise(bounds):
            rows = content[start * size : stop * size]
            self._read_bytes(rows, file_index[start], int(offsets[start]))
        row_bytes = (content[i * size : (i + 1) * size] for i in range(len(indices)))
        return [*map(zlib.crc32, row_bytes, checksums)]

    def _read_bytes(self, content: memoryview, file_index: int, offset: int) -> None:
        """Read bytes. One call may return fewer bytes; no bytes are the end of the file."""
        path, raw = self._files[file_index]
        while content:
            n = _read_at(raw, content, offset)
            if not n:
                raise damaged_file_error(path, "it ends too early")
            content, offset = content[n:], offset + n

    def _verify(self, indices: np.ndarray, checksums: list[int]) -> None:
        """Raise for the first row whose checksum differs."""
        wrong = indices[self._checksums[indices] != np.array(checksums, np.uint32)]
        if len(wrong):
            path, row = self._locate(wrong[0])
            raise damaged_file_error(path, f"row {row} of {self._name} has another checksum")

    def _locate(self, index: int) -> tuple[Path, int]:
        """Return the file of a row, and the index of the row in that file."""
        return self._files[self._file_index[index]][0], int(self._row_in_file[index])

    def _not_finite_error(self, stored: np.ndarray, indices: np.ndarray) -> FeatureFileError:
        bad = indices[[not np.isfinite(row).all() for row in stored]][:1]
        self.read_stored(bad)  # raises if the row is damaged, which is the better message
        path, row = self._locate(bad[0])
        return FeatureFileError(
            f"{path}: row {row} of {self._name}, of the photo {self._photos[bad[0]]}, holds NaN or "
            "infinity. Extract it again, or leave that photo out."
        )


def _read_at(raw: FileIO, content: memoryview, offset: int) -> int:
    """Read bytes from an offset on, in any thread; return their number."""
    if hasattr(os, "preadv"):
        return os.preadv(raw.fileno(), [content], offset)
    with POSITION_LOCK:  # Windows: all threads share the position of the file
        raw.seek(offset)
        return raw.readinto(content)


def _rows_in_chunk(shape: tuple[int, ...]) -> int:
    return max(1, CHUNK // max(1, prod(shape)))


def to_float32(stored: np.ndarray, out: np.ndarray) -> bool:
    """Convert float16 numbers to float32, exactly; return whether all are finite.

    NumPy converts halves one by one, which takes several times as long. Here the exponent and the
    fraction of a half move to their places in a single, which gives the number times 2^-112. For
    halves below 2^-14 that product is subnormal. Threads that flush subnormal numbers to zero, as
    those of TensorFlow do, use NumPy's conversion. Float32 `stored`, which is `out` itself, needs
    no conversion. The arrays have one shape and are not empty.
    """
    if stored.dtype == np.float32:
        return bool(np.isfinite(stored).all())
    # as signed and as unsigned integers, infinity and NaN are above the finite numbers
    if stored.view(np.int16).max() >= 0x7C00 or stored.view(np.uint16).max() >= 0xFC00:
        return False
    if SMALLEST_FLOAT32 * FLOAT16_SCALE == 0:
        np.copyto(out, stored)
        return True
    bits = out.view(np.int32)
    bits[...] = stored.view(np.int16)  # the sign fills the upper half
    bits <<= 13
    bits &= -0x70000001  # 0x8FFFFFFF: keep one copy of the sign
    out *= FLOAT16_SCALE
    return True


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator, while a thread prepares only the next item."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, items, None)
        while (item := future.result()) is not None:
            future = thread.submit(next, items, None)
            yield item
