"""The feature file between the two stages (HDF5, version 1; see `docs/feature-file.md`).

A file is written under the name `NAME.h5.partial`: first everything but the features, whose space
is set aside; then, batch by batch, rows, a flush, the count of rows done, a flush. A killed run
therefore leaves a correct prefix. Only a finished file has its final name.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError, one_of, some
from bilinear_cli.features.specs import pooling, row_dtype

FORMAT = "bilinear-features"
FORMAT_VERSION = 1
ROW_COLUMNS = ("photo", "view", "labels", "paths", "sha256", "split", "group")
COPIED_ROWS = 256


def partial_path(path: Path) -> Path:
    """Return where an unfinished `path` is kept."""
    return path.with_name(path.name + ".partial")


def _strings(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return fixed-length UTF-8, which h5py can write in one call."""
    encoded = np.char.encode(np.asarray(values, dtype=str), "utf-8")
    length = max(encoded.dtype.itemsize, 1)
    return encoded.astype(h5py.string_dtype("utf-8", length))


class FeatureWriter:
    """An unfinished feature file, open for writing; a context manager.

    Attributes:
        rows_done: how many rows are in the file for good.
        attributes: the root attributes, name -> value.
    """

    def __init__(self, output: Path) -> None:
        """Open `output`'s partial file, as `create` left it or as a stopped run did.

        Raises:
            FeatureFileError: it is damaged, or another run has it open.
        """
        self.output = output
        self.path = partial_path(output)
        self._file = _open(self.path, "r+")
        try:
            _check_format(self.path, self._file)
            self.attributes = _attributes(self._file)
            self.rows_done = int(self._file["rows_done"][0])
            self.poolings = tuple(self._file["features"])
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "FeatureWriter":
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; what is not flushed does not count."""
        self._file.close()

    def column(self, name: str) -> np.ndarray:
        """Return one of the columns that describe the rows."""
        return _column(self._file, name)

    def check_rows(self) -> None:
        """Compare every row that is done with its checksum.

        Raises:
            FeatureFileError: one differs.
        """
        done = np.arange(self.rows_done)
        for spec in self.poolings:
            _check_rows(self.path, self._file, spec, self._mapped(spec), done)

    def append(self, rows: Mapping[str, np.ndarray], bad: Sequence[int] = ()) -> None:
        """Write the next rows, of every pooling as many, so that they survive a kill.

        Args:
            rows: spec -> array (batch, *row shape) of the stored dtype.
            bad: which of them, counted from the batch's start, stand for no photo; `finish`
                takes them out.
        """
        start = self.rows_done
        stop = start + len(next(iter(rows.values())))
        for spec, values in rows.items():
            self._file[f"features/{spec}"][start:stop] = values
            self._file[f"crc32/{spec}"][start:stop] = [zlib.crc32(row.data) for row in values]
        for row in bad:
            self._file["bad"][start + row] = 1
        self._file.flush()
        self._file["rows_done"][0] = stop
        self._file.flush()
        self.rows_done = stop

    def bad_rows(self) -> np.ndarray:
        """Return the numbers of the rows that `append` was told to be bad."""
        return np.flatnonzero(self._file["bad"][()])

    def finish(self, reasons: Mapping[str, str]) -> None:
        """Mark the file as complete and give it its final name.

        Args:
            reasons: path -> what is wrong with it, for the photos of bad rows.
        """
        keep = np.flatnonzero(self._file["bad"][()] == 0)
        if len(keep) < self.rows_done:
            self._leave_out(keep)
        del self._file["bad"]
        self._file["skipped/paths"] = _strings(list(reasons))
        self._file["skipped/reasons"] = _strings(list(reasons.values()))
        self._file.attrs["complete"] = True
        self._file.close()
        os.replace(self.path, self.output)

    def _mapped(self, spec: str) -> np.ndarray:
        return _mapped(self.path, self._file, spec)

    def _leave_out(self, keep: np.ndarray) -> None:
        """Copy the rows to keep into a new partial file, and go on with that one."""
        copy = self.path.with_name(self.path.name + ".copy")
        columns = {name: self.column(name)[keep] for name in ROW_COLUMNS}
        shapes = {spec: self._file[f"features/{spec}"].shape[1:] for spec in self.poolings}
        names = _column(self._file, "class_names")
        _write_empty(copy, shapes, columns, names, self.attributes)
        with h5py.File(copy, "r+") as new:
            for spec in self.poolings:
                rows = self._mapped(spec)
                for start in range(0, len(keep), COPIED_ROWS):
                    some_rows = keep[start : start + COPIED_ROWS]
                    new[f"features/{spec}"][start : start + len(some_rows)] = rows[some_rows]
                new[f"crc32/{spec}"][:] = self._file[f"crc32/{spec}"][()][keep]
            new["rows_done"][0] = len(keep)
        self._file.close()
        os.replace(copy, self.path)
        self._file = h5py.File(self.path, "r+")
        self.rows_done = len(keep)


def create(
    output: Path,
    shapes: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    attributes: Mapping[str, Any],
) -> FeatureWriter:
    """Begin a feature file: everything but the features, for which space is set aside.

    Args:
        output: the final name; its folder is made.
        shapes: spec -> shape of a row.
        columns: for each of `ROW_COLUMNS` an array with an entry a row.
        class_names: what the labels stand for.
        attributes: root attributes beside format, version, time and `complete`.

    Raises:
        FeatureFileError: the folder cannot be written to, or the disk is too small.
    """
    path = partial_path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_space(output, shapes, len(columns["labels"]))
        new = path.with_name(path.name + ".new")
        _write_empty(new, shapes, columns, class_names, attributes)
        os.replace(new, path)
    except OSError as error:
        raise FeatureFileError(f"cannot write {path}: {_reason(error)}") from error
    return FeatureWriter(output)


def _check_space(output: Path, shapes: Mapping[str, tuple[int, ...]], n_rows: int) -> None:
    wanted = n_rows * sum(row_dtype(s).itemsize * int(np.prod(s)) for s in shapes.values())
    free = shutil.disk_usage(output.parent).free
    if wanted > free:
        raise FeatureFileError(
            f"{output} will have {wanted / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there: "
            "choose another --output or fewer --pooling"
        )


def _write_empty(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str] | np.ndarray,
    attributes: Mapping[str, Any],
) -> None:
    n_rows = len(columns["labels"])
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                **attributes,
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "complete": False,
            }
        )
        for name in ROW_COLUMNS:
            values = np.asarray(columns[name])
            file[name] = values.astype(np.int64) if values.dtype.kind in "iu" else _strings(values)
        file["class_names"] = _strings(class_names)
        file["rows_done"] = np.zeros(1, np.int64)
        file["bad"] = np.zeros(n_rows, np.uint8)
        for spec, shape in shapes.items():
            _set_aside(file, f"features/{spec}", (n_rows, *shape), row_dtype(shape))
            file[f"crc32/{spec}"] = np.zeros(n_rows, np.uint32)
            kind = pooling(spec)
            file[f"features/{spec}"].attrs.update(
                pooling=spec,
                layout=kind.layout,
                normalization=kind.normalization,
                channels=kind.channels(shape),
            )


def _set_aside(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Create a contiguous dataset with its place in the file, but write nothing into it."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype)
    h5py.h5d.create(file.id, name.encode(), kind, space, plist, links)


# Reading ---------------------------------------------------------------------------------


class FeatureFile:
    """A complete feature file, open for reading; a context manager.

    Attributes:
        path: where it is.
        attributes: the root attributes, name -> value.
        shapes: spec -> shape of all its rows, (rows, ...).
        photo, view, labels, paths, sha256, split, group: one entry a row.
        class_names: str, what the labels stand for.
        skipped: path -> reason, of photos that were left out.
    """

    def __init__(self, path: Path, *, allow_partial: bool = False) -> None:
        """Open and check a file.

        Args:
            path: the file.
            allow_partial: also take an unfinished one.

        Raises:
            FeatureFileError: it is missing, incomplete, damaged, of a later version or not ours.
        """
        self.path = path
        if not path.exists() and partial_path(path).exists() and not allow_partial:
            raise FeatureFileError(_unfinished(partial_path(path)))
        self._file = _open(path, "r")
        try:
            _check_format(path, self._file)
            self.attributes = _attributes(self._file)
            if not (self.attributes.get("complete") or allow_partial):
                raise FeatureFileError(_unfinished(path))
            self.shapes = {spec: data.shape for spec, data in self._file["features"].items()}
            for name in (*ROW_COLUMNS, "class_names"):
                setattr(self, name, _column(self._file, name))
            self.rows_done = int(self._file["rows_done"][0])
            self.skipped = _skipped(self._file)
            self._check_columns()
        except BaseException:
            self._file.close()
            raise

    photo: np.ndarray
    view: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray
    split: np.ndarray
    group: np.ndarray
    class_names: np.ndarray

    def __enter__(self) -> "FeatureFile":
        """Return the file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def _check_columns(self) -> None:
        n = len(self.labels)
        lengths = {name: len(getattr(self, name)) for name in ROW_COLUMNS}
        lengths |= {f"features/{spec}": shape[0] for spec, shape in self.shapes.items()}
        odd = [name for name, length in lengths.items() if length != n]
        if odd or not self.shapes:
            raise _damaged(self.path, f"{some(odd) or 'features'} should have {n} rows")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise _damaged(self.path, "labels are outside class_names")
        if not set(self.split) <= {"train", "test"}:
            raise _damaged(self.path, "split has other values than train and test")

    def layout(self, spec: str) -> dict[str, Any]:
        """Return of one pooling its pooling, layout, channels, normalization, and dtype."""
        data = self._file[f"features/{spec}"]
        return _attributes(data) | {"dtype": str(data.dtype)}

    def rows(self, spec: str, which: np.ndarray | None = None) -> np.ndarray:
        """Return all stored rows of a pooling as a read-only array that is mapped, not loaded.

        Args:
            spec: the pooling.
            which: the numbers of the rows whose checksums are compared; all of them if None.

        Raises:
            FeatureFileError: a row is not what was written.
            UsageError: the file has no such pooling.
        """
        one_of(f"pooling in {self.path}", spec, self.shapes)
        data = _mapped(self.path, self._file, spec)
        checked = np.arange(len(data)) if which is None else which
        _check_rows(self.path, self._file, spec, data, checked)
        return data


def _mapped(path: Path, file: h5py.File, spec: str) -> np.ndarray:
    data = file[f"features/{spec}"]
    if data.shape[0] == 0:
        return np.empty(data.shape, data.dtype)
    offset = data.id.get_offset()
    if offset is None or data.dtype not in (np.float16, np.float32):
        raise _damaged(path, f"features/{spec} is not a contiguous float array")
    return np.memmap(path, data.dtype, "r", offset, data.shape)


def _check_rows(
    path: Path, file: h5py.File, spec: str, data: np.ndarray, which: np.ndarray
) -> None:
    """Compare rows with their checksums, on all cores (zlib lets go of the interpreter)."""
    checksums = file[f"crc32/{spec}"][()]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda row: zlib.crc32(data[row].data), which, chunksize=16)
        for row, checksum in zip(which, found, strict=True):
            if checksum != checksums[row]:
                raise _damaged(path, f"row {row} of features/{spec} has another checksum")


def _open(path: Path, mode: str) -> h5py.File:
    if path.is_dir() or not path.exists():
        raise FeatureFileError(f"there is no feature file {path}: make one with bilinear extract")
    if not h5py.is_hdf5(path):
        raise FeatureFileError(f"{path} is not an HDF5 file: make one with bilinear extract")
    try:
        return h5py.File(path, mode)
    except BlockingIOError as error:
        raise FeatureFileError(f"{path} is open in another run: wait for it or end it") from error
    except OSError as error:
        raise FeatureFileError(f"cannot open {path}: {_reason(error)}") from error


def _check_format(path: Path, file: h5py.File) -> None:
    """Raise unless the file is ours, of a version known here, and holds nothing but data."""
    if file.attrs.get("format") != FORMAT:
        raise FeatureFileError(f"{path} was not made by bilinear extract")
    version = int(file.attrs.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise FeatureFileError(
            f"{path} has version {version} of the format, and {FORMAT_VERSION} is the latest known "
            "here: update with pip install -U bilinear-cli"
        )
    specs = list(file["features"]) if isinstance(_member(file, "features"), h5py.Group) else []
    names = [*ROW_COLUMNS, "class_names", "rows_done"]
    names += [f"{group}/{spec}" for spec in specs for group in ("features", "crc32")]
    for name in names:
        data = _member(file, name)
        if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
            raise _damaged(path, f"{name} is missing or is not plain data")


def _member(file: h5py.File, name: str) -> h5py.Dataset | h5py.Group | None:
    """Return what is at `name` if every link on the way is a hard one, within the file."""
    walked = ""
    for part in name.split("/"):
        walked = f"{walked}/{part}"
        if not isinstance(file.get(walked, getlink=True), h5py.HardLink):
            return None
    return file[name]


def _column(file: h5py.File, name: str) -> np.ndarray:
    data = file[name]
    if h5py.check_string_dtype(data.dtype):
        return np.array([text.decode() for text in data[()].tolist()], dtype=str)
    return data[()]


def _skipped(file: h5py.File) -> dict[str, str]:
    if "skipped" not in file:
        return {}
    columns = (_column(file, f"skipped/{name}") for name in ("paths", "reasons"))
    return dict(zip(*columns, strict=True))


def _attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return attributes as plain Python values."""
    values = {name: item.attrs[name] for name in item.attrs}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _unfinished(path: Path) -> str:
    with _open(path, "r") as file:
        _check_format(path, file)
        done, rows = int(file["rows_done"][0]), len(file["labels"])
        command = json.loads(file.attrs.get("command", "[]"))
    again = f": finish it with {' '.join(command)}" if command else ": run bilinear extract again"
    return f"{path} is incomplete, {done} of {rows} rows{again}"


def _damaged(path: Path, what: str) -> FeatureFileError:
    return FeatureFileError(f"{path} is damaged: {what}; make it again with bilinear extract")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
