"""Write a feature file batch by batch, so that a run can be killed at any moment.

HDF5 lays out the whole file `NAME.h5.partial` first, in memory, with a place for all features. Each
batch is then written in place, past HDF5: rows and checksums, a sync, the number of rows done. A
killed run or a full disk therefore leaves the correct rows of all earlier batches. Only a finished
file gets its final name.
"""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError, InUseError
from bilinear_cli.poolings.registry import SpecDict
from bilinear_cli.progress import Progress
from bilinear_cli.store import checks
from bilinear_cli.store.checks import partial_path, rows_kept, write_errors
from bilinear_cli.store.layout import SHA256_DIGITS, Header, check_space, draft_path, lay_out
from bilinear_cli.store.reading import FeatureFile

COPY_BATCH_SIZE = 64  # rows that are copied at a time


class FeatureWriter(FeatureFile):
    """An unfinished feature file, open for writing by one process; a context manager."""

    def __init__(self, output: Path) -> None:
        """Open the partial file, new or from an earlier run, that becomes `output`.

        Raises:
            FeatureFileError: the file is damaged, or another run has it open.
        """
        self.output = output
        super().__init__(partial_path(output), allow_partial=True, mode="r+")
        self.sha256 = self.sha256.astype(f"U{SHA256_DIGITS}")  # empty entries are filled later

    def append(
        self,
        rows: Mapping[str, np.ndarray],
        bad: Sequence[int] = (),
        sha256: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Write the next rows of every pooling, so that they survive a kill.

        Args:
            rows: spec -> array (batch, *row shape) of the stored dtype.
            bad: indices in the batch of rows of unreadable photos; `finish` leaves them out.
            sha256: (batch,), of each row's photo; None if the file has them already.

        Raises:
            FeatureFileError: the disk is full or fails; the earlier rows are kept.
        """
        rows, start, n = SpecDict(rows), self.rows_done, len(next(iter(rows.values())))
        photo = self.photo[start : start + n]
        shapes = {spec: (len(photo), *shape[1:]) for spec, shape in self.shapes.items()}
        if {spec: values.shape for spec, values in rows.items()} != shapes:
            raise ValueError(f"rows should have the shapes {shapes}")
        photo[photo < 0] = ~photo[photo < 0]  # marked by a run that was killed in this batch
        photo[list(bad)] = ~photo[list(bad)]
        # HDF5 loses rows on a full disk without an error, so the file is written as bytes
        with write_errors(self.path, kept=True), self.path.open("r+b") as raw:
            for spec, values in rows.items():
                values = _put(raw, self._dataset("features", spec), start, values)
                checksums = [zlib.crc32(row.data) for row in values]
                _put(raw, self._dataset("crc32", spec), start, checksums)
            _put(raw, self._file["photo"], start, photo)
            if sha256 is not None:
                written = _put(raw, self._file["sha256"], start, sha256)
                self.sha256[start : start + n] = written.astype(str)
            raw.flush()
            os.fsync(raw.fileno())
            _put(raw, self._file["rows_done"], 0, [start + n])
        self.rows_done = start + n

    def finish(self, reasons: Mapping[str, str] | None = None) -> None:
        """Leave out the rows of unreadable photos, mark the file as complete, and rename it.

        All rows are put into the order of their photos. `reasons` are path -> why the photo is
        unreadable.

        Raises:
            FeatureFileError: the disk is full or fails; the rows are kept.
        """
        if self.rows_done < len(self.photo):
            raise ValueError(f"{self.rows_done} of {len(self.photo)} rows are done")
        with write_errors(self.path, kept=True):
            order = np.argsort(self.photo, kind="stable")
            indices = order[self.photo[order] >= 0]
            if np.array_equal(indices, np.arange(len(self.photo))):
                self._complete()
                return
            header = self.header()
            columns = {name: values[indices] for name, values in header.row_columns.items()}
            header = replace(header, row_columns=columns, skipped=reasons or {})
            with (
                rows_kept(),
                write_errors(self.path),
                _copied_rows(self, indices, self.path, header) as copy,
            ):
                self.close()  # the copy replaces this file
                copy._complete()
            _sync_and_rename(self.path, self.output)

    def _complete(self) -> None:
        """Mark the file as complete, close it and rename it."""
        _check_last_byte(self.path)
        self._file.attrs.modify("complete", True)  # in place, so that nothing moves
        self.close()  # Windows renames no open file
        _sync_and_rename(self.path, self.output)


def _check_last_byte(path: Path) -> None:
    """Raise an OSError if a limit (`ulimit -f`) forbids to write a file, since HDF5 would crash."""
    with path.open("r+b") as raw:
        raw.seek(-1, os.SEEK_END)
        last = raw.read(1)
        raw.seek(-1, os.SEEK_END)
        raw.write(last)


def _put(raw: BinaryIO, data: h5py.Dataset, start: int, values: Any) -> np.ndarray:
    """Write `values` to a dataset from row `start` on; return them as written."""
    values = np.ascontiguousarray(values, data.dtype)
    row_bytes = data.dtype.itemsize * int(np.prod(data.shape[1:]))
    raw.seek(data.id.get_offset() + start * row_bytes)
    raw.write(values.data)
    return values


def copy_rows(
    file: FeatureFile,
    indices: np.ndarray,
    output: Path,
    header: Header,
    progress: Progress | None = None,
) -> None:
    """Write rows of a file to a new, complete file; leave no partial file after an error."""
    with (
        write_errors(output),
        _copied_rows(file, indices, output, header, progress) as writer,
    ):
        writer._complete()


def restart(writer: FeatureWriter, indices: np.ndarray, header: Header) -> FeatureWriter:
    """Replace an unfinished file by one with another header, which begins with rows of the old one.

    `indices` are of these rows. A run that is killed leaves the old file or the new one.

    Raises:
        FeatureFileError: the disk is full or fails; the rows are kept.
    """
    with (
        write_errors(writer.path, kept=True),
        rows_kept(),
        _copied_rows(writer, indices, writer.path, header) as copy,
    ):
        copy.close()
        writer.close()
        _sync_and_rename(copy.path, writer.path)
    return FeatureWriter(writer.output)


@contextmanager
def _copied_rows(
    file: FeatureFile,
    indices: np.ndarray,
    output: Path,
    header: Header,
    progress: Progress | None = None,
) -> Iterator[FeatureWriter]:
    """Copy rows of a file to the start of a partial file, which is removed in the end."""
    rows = {spec: file._stored(spec) for spec in file.shapes}
    shapes = {spec: shape[1:] for spec, shape in file.shapes.items()}
    writer = create(output, shapes, header, n_rows=len(indices))
    try:
        with writer:
            for start in range(0, len(indices), COPY_BATCH_SIZE):
                block = indices[start : start + COPY_BATCH_SIZE]
                writer.append({spec: stored.read_stored(block) for spec, stored in rows.items()})
                if progress:
                    progress(writer.rows_done, len(indices))
            yield writer
    finally:
        partial_path(output).unlink(missing_ok=True)


def remove_leftovers(output: Path) -> None:
    """Remove the drafts of files that a killed run left; the caller has the lock of `output`."""
    partial = partial_path(output)
    copy = partial_path(partial)
    for path in (draft_path(partial), copy, draft_path(copy)):
        path.unlink(missing_ok=True)


def create(
    output: Path,
    shapes: Mapping[str, tuple[int, ...]],
    header: Header,
    n_rows: int | None = None,
) -> FeatureWriter:
    """Create an unfinished feature file and its folder; replace an earlier unfinished file.

    Args:
        output: the file under its final name.
        shapes: spec -> shape of a row.
        header: see `Header`.
        n_rows: number of rows that need space on the disk now; None for all rows.

    Raises:
        FeatureFileError: `output` cannot be written, or the disk has too little space.
        InUseError: another run is writing the file.
    """
    path, shapes = partial_path(output), SpecDict(shapes)
    with write_errors(path):
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_not_in_use(path)
        check_space(path, shapes, header.row_columns, n_rows)
        lay_out(path, shapes, header)
    return FeatureWriter(output)


def _check_not_in_use(path: Path) -> None:
    """Raise an InUseError if another run has the partial file open."""
    try:
        checks.open_hdf5(path, "r+").close()
    except FeatureFileError as error:  # a missing or damaged file will be replaced
        if isinstance(error, InUseError):
            raise


def _sync_and_rename(path: Path, output: Path) -> None:
    with path.open("r+b") as raw:  # Windows syncs only files that are open for writing
        os.fsync(raw.fileno())
    os.replace(path, output)
