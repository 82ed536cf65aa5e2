"""What makes a feature file: batch by batch, so that a run may be killed at any moment.

A file is written under the name `NAME.h5.partial`: HDF5 lays out all of it at the start, with the
features' space set aside; from then on batches are written in place, past HDF5: rows and checksums,
a sync, the count of rows done. A run that is killed, or meets a full disk, therefore leaves a
correct prefix. Only a finished file has its final name.
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

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.poolings.registry import SpecDict, get_pooling, storage_dtype
from bilinear_cli.store.checks import (
    FORMAT,
    FORMAT_VERSION,
    INTEGERS,
    ROW_COLUMNS,
    parameter_sha256,
    reason,
)
from bilinear_cli.store.lock import in_use
from bilinear_cli.store.reading import FeatureFile, Header, partial_path

SHA256_DIGITS = 64
BLOCK = 64  # rows that are copied at a time


class FeatureWriter(FeatureFile):
    """An unfinished feature file, open for writing by one process; a context manager.

    Attributes:
        output: the final name; `path` is the partial one.
    """

    def __init__(self, output: Path) -> None:
        """Open `output`'s partial file, as `create` left it or as a stopped run did.

        Raises:
            FeatureFileError: it is damaged, or another run has it open.
        """
        self.output = output
        super().__init__(partial_path(output), allow_partial=True, mode="r+")
        self.sha256 = self.sha256.astype(f"U{SHA256_DIGITS}")  # those to come may be empty

    def append(
        self,
        rows: Mapping[str, np.ndarray],
        bad: Sequence[int] = (),
        sha256: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Write the next rows, of every pooling as many, so that they survive a kill.

        Args:
            rows: spec -> array (batch, *row shape) of the stored dtype.
            bad: which of them, counted from the batch's start, stand for no readable photo;
                `finish` takes them out.
            sha256: of each row's photo; None if it is in the file already.

        Raises:
            FeatureFileError: the disk is full or fails; the earlier rows are kept.
        """
        rows, start, n = SpecDict(rows), self.rows_done, len(next(iter(rows.values())))
        photo = self.photo[start : start + n]
        shapes = {spec: (len(photo), *shape[1:]) for spec, shape in self.shapes.items()}
        if {spec: values.shape for spec, values in rows.items()} != shapes:
            raise ValueError(f"rows do not fit: the file wants {shapes}")
        photo[photo < 0] = ~photo[photo < 0]  # of a batch that was killed before it was done
        photo[list(bad)] = ~photo[list(bad)]
        with self._in_place() as raw:
            for spec, values in rows.items():
                values = self._put(raw, self._of("features", spec), start, values)
                checksums = [zlib.crc32(row.data) for row in values]
                self._put(raw, self._of("crc32", spec), start, checksums)
            self._put(raw, self._file["photo"], start, photo)
            if sha256 is not None:
                written = self._put(raw, self._file["sha256"], start, sha256)
                self.sha256[start : start + n] = written.astype(str)
            raw.flush()
            os.fsync(raw.fileno())
            self._put(raw, self._file["rows_done"], 0, [start + n])
        self.rows_done = start + n

    @contextmanager
    def _in_place(self) -> Iterator[BinaryIO]:
        """Give the file as bytes, for HDF5 on a full disk loses rows without a word."""
        with _writing(self.path, kept=True), self.path.open("r+b") as raw:
            yield raw

    def _put(self, raw: BinaryIO, data: h5py.Dataset, start: int, values: Any) -> np.ndarray:
        """Write `values` from row `start` of a dataset on; return them as written."""
        values = np.ascontiguousarray(values, data.dtype)
        row_bytes = data.dtype.itemsize * int(np.prod(data.shape[1:]))
        raw.seek(data.id.get_offset() + start * row_bytes)
        raw.write(values.data)
        return values

    def finish(self, reasons: Mapping[str, str] | None = None) -> None:
        """Mark the file as complete and give it its final name.

        Args:
            reasons: path -> what is wrong with it, for the photos of bad rows, which are left out.

        Raises:
            FeatureFileError: the disk is full or fails; the rows are kept.
        """
        if self.rows_done < len(self.photo):
            raise ValueError(f"{self.rows_done} of {len(self.photo)} rows are done")
        with _writing(self.path, kept=True):
            keep = np.flatnonzero(self.photo >= 0)
            if len(keep) < len(self.photo):
                try:
                    self._replace_by_copy(keep, reasons or {})
                except FeatureFileError as error:
                    raise FeatureFileError(f"{error}; all rows are kept, run again then") from error
            else:
                self._file.attrs.modify("complete", True)  # in place: nothing moves
            self._file.close()
            with self.path.open("rb") as raw:
                os.fsync(raw.fileno())
            os.replace(self.path, self.output)

    def _replace_by_copy(self, keep: np.ndarray, reasons: Mapping[str, str]) -> None:
        """Put a complete file with the rows to keep under the partial name."""
        header = self.header()
        kept = {name: values[keep] for name, values in header.columns.items()}
        header = replace(header, columns=kept, skipped=reasons)
        shapes = {spec: shape[1:] for spec, shape in self.shapes.items()}
        rows = {spec: self._stored(spec) for spec in self.shapes}
        try:
            with create(self.path, shapes, header) as copy:
                for start in range(0, len(keep), BLOCK):
                    block = keep[start : start + BLOCK]
                    copy.append({spec: stored.read_raw(block) for spec, stored in rows.items()})
                copy.finish()
        finally:
            partial_path(self.path).unlink(missing_ok=True)


def create(output: Path, shapes: Mapping[str, tuple[int, ...]], header: Header) -> FeatureWriter:
    """Begin a feature file, in place of an unfinished one: everything but the features.

    Args:
        output: the final name; its folder is made.
        shapes: spec -> shape of a row.
        header: what the file says beside its features.

    Raises:
        FeatureFileError: no right to write there, no room, or another run is writing that file.
    """
    path, shapes = partial_path(output), SpecDict(shapes)
    new = path.with_name(path.name + ".new")
    with _writing(path):
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_free(output)
        _check_space(path, shapes, header.columns)
        try:
            with h5py.File(new, "w") as file:
                file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
                file.attrs.update(header.attributes)
                file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, complete=False)
                _lay_out(file, shapes, header)
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    return FeatureWriter(output)


def _check_free(output: Path) -> None:
    """Raise if another run is writing the file that is to be replaced."""
    try:
        h5py.File(partial_path(output), "r+").close()
    except BlockingIOError as error:
        raise in_use(output) from error
    except OSError:
        pass  # there is none, or a damaged one


def _check_space(
    path: Path, shapes: Mapping[str, tuple[int, ...]], columns: Mapping[str, np.ndarray]
) -> None:
    row_bytes = sum(storage_dtype(s).itemsize * int(np.prod(s)) for s in shapes.values())
    wanted = len(columns["labels"]) * row_bytes + sum(c.nbytes for c in columns.values())
    replaced = path.stat().st_blocks * 512 if path.exists() else 0  # what it really takes
    free = shutil.disk_usage(path.parent).free + replaced
    if wanted > free:
        raise FeatureFileError(
            f"{path} will have {wanted / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there: "
            "make room, or choose another --output or fewer --pooling"
        )


def _lay_out(file: h5py.File, shapes: Mapping[str, tuple[int, ...]], header: Header) -> None:
    columns, parameters = header.columns, header.parameters
    n_rows = len(columns["labels"])
    small = {name: np.asarray(columns[name], np.int64) for name in INTEGERS}
    small |= {name: _strings(columns[name]) for name in ROW_COLUMNS if name not in INTEGERS}
    small["sha256"] = _strings(columns["sha256"], SHA256_DIGITS)
    small["class_names"] = _strings(header.class_names)
    small["skipped/paths"] = _strings(list(header.skipped))
    small["skipped/reasons"] = _strings(list(header.skipped.values()))
    small["rows_done"] = np.zeros(1, np.int64)
    small |= {f"crc32/{spec}": np.zeros(n_rows, np.uint32) for spec in shapes}
    small |= {f"parameters/{name}": array for name, array in parameters.items()}
    # all stay open until the flush: of a dataset that h5py closes itself, it passes over errors
    data = [file.create_dataset(name, data=values) for name, values in small.items()]
    for spec, shape in shapes.items():
        kind = get_pooling(spec)
        data.append(_set_aside(file, f"features/{spec}", (n_rows, *shape)))
        data[-1].attrs.update(
            pooling=spec,
            layout=kind.layout,
            normalization=kind.normalization,
            channels=kind.channels(shape, parameters),
        )
    for name, array in parameters.items():
        file[f"parameters/{name}"].attrs["sha256"] = parameter_sha256(array)
    file.flush()


def _strings(values: Sequence[str] | np.ndarray, at_least: int = 1) -> np.ndarray:
    """Return fixed-length UTF-8, which h5py can write in one call."""
    encoded = np.char.encode(np.asarray(values, dtype=str), "utf-8")
    length = max(encoded.dtype.itemsize, at_least)
    return encoded.astype(h5py.string_dtype("utf-8", length))


def _set_aside(file: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """Create a contiguous dataset with its place in the file, but write nothing into it."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset(name, shape, storage_dtype(shape[1:]), dcpl=plist)


@contextmanager
def _writing(path: Path, *, kept: bool = False) -> Iterator[None]:
    """Turn a fault of the disk into one line; HDF5 reports some as `RuntimeError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        note = "; what is done is kept: make room and run again" if kept else ""
        where = getattr(error, "filename", None) or path
        raise FeatureFileError(f"cannot write {where}: {reason(error)}{note}") from error
