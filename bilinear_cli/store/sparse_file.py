"""A file in memory, in which HDF5 lays out a new feature file.

If the operating system refuses a write, HDF5 loses the reason and may crash the process, for
example beyond `ulimit -f`. So HDF5 writes here, and Python writes the bytes to the disk.
"""

import io
import os
from pathlib import Path
from typing import Any


class SparseFile(io.RawIOBase):
    """A file that keeps the bytes that were written; those between are zero and take no memory."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, bytes]] = []  # in the order of writing, as (start, bytes)
        self._position = 0
        self.length = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset from the start, the position or the end."""
        self._position = offset + (0, self._position, self.length)[whence]
        return self._position

    def write(self, data: Any, /) -> int:
        """Write bytes, also beyond the end."""
        self._blocks.append((self._position, bytes(data)))
        self._position += len(data)
        self.length = max(self.length, self._position)
        return len(data)

    def readinto(self, buffer: Any, /) -> int:
        """Read as many bytes as the buffer has, or as there are before the end."""
        start = self._position
        view = memoryview(buffer)[: max(0, self.length - start)]
        view[:] = bytes(len(view))
        for offset, data in self._blocks:
            first, last = max(start, offset), min(start + len(view), offset + len(data))
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length; bytes beyond it are lost."""
        length = self._position if size is None else size
        self._blocks = [(x, data[: length - x]) for x, data in self._blocks if x < length]
        self.length = length
        return length

    def save(self, path: Path) -> None:
        """Write the file to the disk, where its zeros take no space if the file system can do so.

        Raises:
            OSError: the system refuses it; a length beyond a limit before anything is written.
        """
        with path.open("wb") as raw:
            raw.truncate(self.length)
            for offset, data in self._blocks:
                raw.seek(offset)
                raw.write(data)
