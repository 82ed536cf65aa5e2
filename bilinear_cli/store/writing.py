"""Write a feature file batch by batch, so that a run can be killed at any moment.

HDF5 lays out the whole file `NAME.h5.partial` first and reserves the space of the features. Each
batch is then written in place, past HDF5: rows and checksums, a sync, the number of rows done. A
killed run or a full disk therefore leaves the correct rows of all earlier batches. Only a finished
file gets its final name.
"""

import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from bilinear_cli.errors import BilinearError, FeatureFileError, InUseError, Progress, reason_of
from bilinear_cli.poolings.registry import SpecDict, get_pooling, storage_dtype
from bilinear_cli.store import checks
from bilinear_cli.store.checks import INTEGER_COLUMNS, ROW_COLUMNS, partial_path
from bilinear_cli.store.reading import FeatureFile, Header

SHA256_DIGITS = 64
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
        with _write_errors(self.path, kept=True), self.path.open("r+b") as raw:
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

        `reasons` are path -> why the photo is unreadable.

        Raises:
            FeatureFileError: the disk is full or fails; the rows are kept.
        """
        if self.rows_done < len(self.photo):
            raise ValueError(f"{self.rows_done} of {len(self.photo)} rows are done")
        with _write_errors(self.path, kept=True):
            indices = np.flatnonzero(self.photo >= 0)
            if len(indices) < len(self.photo):
                header = self.header()
                columns = {name: values[indices] for name, values in header.row_columns.items()}
                header = replace(header, row_columns=columns, skipped=reasons or {})
                try:
                    copy_rows(self, indices, self.path, header)
                except FeatureFileError as error:
                    raise FeatureFileError(f"{error} All rows are kept: run again.") from error
            else:
                self._file.attrs.modify("complete", True)  # in place, so that nothing moves
            self._file.close()
            with self.path.open("rb") as raw:
                os.fsync(raw.fileno())
            os.replace(self.path, self.output)


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
    rows = {spec: file._stored(spec) for spec in file.shapes}
    writer = create(output, {spec: shape[1:] for spec, shape in file.shapes.items()}, header)
    try:
        with writer:
            for start in range(0, len(indices), COPY_BATCH_SIZE):
                block = indices[start : start + COPY_BATCH_SIZE]
                writer.append({spec: stored.read_stored(block) for spec, stored in rows.items()})
                if progress:
                    progress(writer.rows_done, len(indices))
            writer.finish()
    finally:
        partial_path(output).unlink(missing_ok=True)


def create(output: Path, shapes: Mapping[str, tuple[int, ...]], header: Header) -> FeatureWriter:
    """Create an unfinished feature file and its folder; replace an earlier unfinished file.

    `shapes` are spec -> shape of a row.

    Raises:
        FeatureFileError: `output` cannot be written, or the disk has too little space.
        InUseError: another run is writing the file.
    """
    path, shapes = partial_path(output), SpecDict(shapes)
    new = path.with_name(path.name + ".new")
    with _write_errors(path):
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_not_in_use(path)
        _check_space(path, shapes, header.row_columns)
        try:
            with h5py.File(new, "w") as file:
                file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
                file.attrs.update(header.attributes)
                file.attrs.update(format=checks.FORMAT, complete=False)
                file.attrs["format_version"] = checks.FORMAT_VERSION
                _lay_out(file, shapes, header)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    return FeatureWriter(output)


def _check_not_in_use(path: Path) -> None:
    """Raise an InUseError if another run has the partial file open."""
    try:
        checks.open_hdf5(path, "r+").close()
    except FeatureFileError as error:  # a missing or damaged file will be replaced
        if isinstance(error, InUseError):
            raise


def _check_space(
    path: Path, shapes: Mapping[str, tuple[int, ...]], columns: Mapping[str, np.ndarray]
) -> None:
    row_bytes = sum(storage_dtype(s).itemsize * int(np.prod(s)) for s in shapes.values())
    needed = len(columns["labels"]) * row_bytes + sum(c.nbytes for c in columns.values())
    replaced = path.stat().st_blocks * 512 if path.exists() else 0  # blocks in use, not the length
    free = shutil.disk_usage(path.parent).free + replaced
    if needed > free:
        raise FeatureFileError(
            f"{path} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free. Free some "
            "space, or choose another --output or fewer --pooling."
        )


def _lay_out(file: h5py.File, shapes: Mapping[str, tuple[int, ...]], header: Header) -> None:
    """Write the columns and parameters, and reserve the space of the features."""
    columns, parameters = header.row_columns, header.parameters
    n_rows = len(columns["labels"])
    datasets = {name: np.asarray(columns[name], np.int64) for name in INTEGER_COLUMNS}
    datasets |= {n: _encode(columns[n]) for n in ROW_COLUMNS if n not in INTEGER_COLUMNS}
    datasets["sha256"] = _encode(columns["sha256"], SHA256_DIGITS)
    datasets["class_names"] = _encode(header.class_names)
    datasets["skipped/paths"] = _encode(list(header.skipped))
    datasets["skipped/reasons"] = _encode(list(header.skipped.values()))
    datasets["rows_done"] = np.zeros(1, np.int64)
    datasets |= {f"crc32/{spec}": np.zeros(n_rows, np.uint32) for spec in shapes}
    datasets |= {f"parameters/{name}": array for name, array in parameters.items()}
    # h5py ignores errors when it closes a dataset by itself, so all stay open until the flush
    data = [file.create_dataset(name, data=values) for name, values in datasets.items()]
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    for spec, shape in shapes.items():
        name, dtype, pooling = f"features/{spec}", storage_dtype(shape), get_pooling(spec)
        data.append(file.create_dataset(name, (n_rows, *shape), dtype, dcpl=contiguous))
        data[-1].attrs.update(
            pooling=spec,
            layout=pooling.layout,
            normalization=pooling.normalization,
            channels=pooling.n_channels(shape, parameters),
        )
    for name, array in parameters.items():
        file[f"parameters/{name}"].attrs["sha256"] = checks.parameter_sha256(array)
    file.flush()


def _encode(values: Sequence[str] | np.ndarray, min_length: int = 1) -> np.ndarray:
    """Return fixed-length UTF-8, which h5py writes in one call."""
    encoded = np.char.encode(np.asarray(values, dtype=str), "utf-8")
    length = max(encoded.dtype.itemsize, min_length)
    return encoded.astype(h5py.string_dtype("utf-8", length))


@contextmanager
def _write_errors(path: Path, *, kept: bool = False) -> Iterator[None]:
    """Turn an error of the disk into a FeatureFileError; HDF5 raises some as RuntimeError."""
    try:
        yield
    except BilinearError:
        raise
    except (OSError, RuntimeError) as error:
        advice = " The rows written so far are kept. Free some space and run again." if kept else ""
        where = getattr(error, "filename", None) or path
        raise FeatureFileError(f"cannot write {where}: {reason_of(error)}.{advice}") from error
