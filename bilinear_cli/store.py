"""The feature file between the two stages (HDF5, version 1; see `docs/feature-file.md`).

A file is written under the name `NAME.h5.partial`: HDF5 lays out all of it at the start, with the
features' space set aside; from then on batches are written in place, past HDF5, into arrays whose
place is known: rows and checksums, a sync, the count of rows done. A run that is killed, or meets
a full disk, therefore leaves a correct prefix. Only a finished file has its final name.
"""

import json
import os
import shlex
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError, one_of
from bilinear_cli.features.specs import pooling, row_dtype

FORMAT = "bilinear-features"
FORMAT_VERSION = 1
INTEGERS = ("photo", "labels")
ROW_COLUMNS = (*INTEGERS, "view", "paths", "sha256", "split", "group")
SHA256_DIGITS = 64
BLOCK = 64  # rows
CHUNK = 1 << 16  # numbers that fit the cache


def partial_path(path: Path) -> Path:
    """Return where an unfinished `path` is kept."""
    return path.with_name(path.name + ".partial")


# Reading ---------------------------------------------------------------------------------


class FeatureFile:
    """A feature file, open for reading; a context manager.

    Attributes:
        path: where it is.
        attributes: the root attributes, name -> value.
        shapes: spec -> shape of all its rows, (rows, ...).
        photo, view, labels, paths, sha256, split, group: one entry a row. In an unfinished file
            `photo` is `~number`, which is negative, where a row stands for no readable photo.
        class_names: str, what the labels stand for.
        rows_done: how many rows are in the file for good; in a complete file all.
        skipped: path -> reason, of photos that were left out.
    """

    photo: np.ndarray
    view: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray
    split: np.ndarray
    group: np.ndarray

    def __init__(self, path: Path, *, allow_partial: bool = False, mode: str = "r") -> None:
        """Open and check a file, or what an unfinished run left under its partial name.

        Args:
            path: the file.
            allow_partial: also take an unfinished one.
            mode: of `h5py.File`.

        Raises:
            FeatureFileError: it is missing, incomplete, damaged, of a later version, not ours, or
                being written by another run.
        """
        if not path.exists() and partial_path(path).exists():
            path = partial_path(path)
        self.path = path
        self._file = _open(path, mode)
        self._raw = path.open("rb", buffering=0)
        try:
            with _damage(path):
                _check_format(path, self._file)
                self._load()
                if not (self.attributes["complete"] or allow_partial):
                    raise FeatureFileError(self._how_to_finish())
                self._check()
        except BaseException:
            self._close()
            raise

    def _load(self) -> None:
        self.attributes = _attributes(self._file)
        self.shapes = {spec: data.shape for spec, data in self._file["features"].items()}
        for name in ROW_COLUMNS:
            setattr(self, name, _column(self._file, name))
        self.class_names = _column(self._file, "class_names")
        self.rows_done = int(self._file["rows_done"][0])
        skipped = (_column(self._file, f"skipped/{name}") for name in ("paths", "reasons"))
        self.skipped = dict(zip(*skipped, strict=True))

    def _how_to_finish(self) -> str:
        command = json.loads(self.attributes.get("command", "[]"))
        again = f"finish it with {shlex.join(command)}" if command else "run bilinear extract again"
        return f"{self.path} is incomplete, {self.rows_done} of {len(self.paths)} rows: {again}"

    def _check(self) -> None:
        n = len(self.labels)
        shapes = {name: getattr(self, name).shape for name in ROW_COLUMNS}
        shapes |= {f"features/{spec}": shape[:1] for spec, shape in self.shapes.items()}
        shapes |= {f"crc32/{spec}": self._file[f"crc32/{spec}"].shape for spec in self.shapes}
        for name, shape in shapes.items():
            if shape != (n,):
                raise _damaged(self.path, f"{name} should have {n} rows")
        for name in ROW_COLUMNS:
            if getattr(self, name).dtype.kind != ("i" if name in INTEGERS else "U"):
                raise _damaged(self.path, f"{name} has values of the wrong kind")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise _damaged(self.path, "labels are outside class_names")
        if not set(self.split) <= {"train", "test"}:
            raise _damaged(self.path, "split has other values than train and test")
        if not 0 <= self.rows_done <= n or (self.attributes["complete"] and self.rows_done < n):
            raise _damaged(self.path, f"rows_done is {self.rows_done} of {n}")

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        self._file.close()
        self._raw.close()

    def layout(self, spec: str) -> dict[str, Any]:
        """Return of one pooling its pooling, layout, channels, normalization, and dtype."""
        data = self._file[f"features/{spec}"]
        return _attributes(data) | {"dtype": str(data.dtype)}

    def rows(self, spec: str, which: np.ndarray | None = None) -> np.ndarray:
        """Return all stored rows of a pooling as a read-only array that is mapped, not loaded.

        Args:
            spec: the pooling.
            which: the numbers of the rows whose checksums are compared; all that are done if None.

        Raises:
            FeatureFileError: a row is not what was written.
            UsageError: the file has no such pooling.
        """
        one_of(f"pooling in {self.path}", spec, self.shapes)
        with _damage(self.path):
            rows = self._mapped(spec)
        self._check_rows(spec, rows, np.arange(self.rows_done) if which is None else which)
        return rows

    def _mapped(self, spec: str) -> np.ndarray:
        data = self._file[f"features/{spec}"]
        if data.dtype not in (np.float16, np.float32):
            raise _damaged(self.path, f"features/{spec} holds {data.dtype}")
        if data.size == 0:
            return np.empty(data.shape, data.dtype)
        return np.memmap(self.path, data.dtype, "r", data.id.get_offset(), data.shape)

    def row_dtype(self, spec: str) -> np.dtype:
        """Return how the numbers of a pooling are stored: float16 or float32."""
        return self._file[f"features/{spec}"].dtype

    def columns(
        self, spec: str, which: np.ndarray, step: int
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Read rows of vectors, as training does: in blocks of columns, the next one meanwhile.

        Args:
            spec: a pooling of vectors.
            which: int (n,), the rows.
            step: columns in a block, at most.

        Yields:
            (which columns, float32 (n, their number)), in order; the reader may overwrite it.

        Raises:
            FeatureFileError: a checksum differs (after the last block), or a number is none.
        """
        n_columns = self.shapes[spec][1]

        def read() -> Iterator[tuple[slice, np.ndarray]]:
            sums = np.zeros(len(which), np.uint32)
            for start in range(0, n_columns, step):
                places = slice(start, min(start + step, n_columns))
                block = self._read(spec, which, places)
                pairs = zip(block, sums.tolist(), strict=True)
                sums[:] = [zlib.crc32(row, crc) for row, crc in pairs]
                yield places, self._as_float32(spec, which, block)
            self._compare(spec, which, sums)

        return ahead(read())

    def batches(
        self, spec: str, which: np.ndarray, step: int
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Read whole rows in their order, in batches, the next one meanwhile.

        Args:
            spec: a pooling.
            which: int (n,), the rows.
            step: rows in a batch, at most.

        Yields:
            (which of them, float32 (their number, *row shape)); the reader may overwrite it.

        Raises:
            FeatureFileError: a checksum differs, or a number is none.
        """

        starts = range(0, len(which), step)
        places = (slice(start, min(start + step, len(which))) for start in starts)
        return ahead((place, self.read(spec, which[place])) for place in places)

    def read(self, spec: str, which: np.ndarray) -> np.ndarray:
        """Return whole rows, float32 (len(which), *row shape).

        Raises:
            FeatureFileError: a checksum differs, or a number is none.
        """
        block = self._read(spec, which, slice(None))
        self._compare(spec, which, np.array([zlib.crc32(row) for row in block], np.uint32))
        return self._as_float32(spec, which, block)

    def _read(self, spec: str, which: np.ndarray, places: slice) -> np.ndarray:
        """Read columns of rows as they are stored, past HDF5, and not by way of mapped memory.

        Mapped pages would count as memory, and a file that is cut short would be a signal.
        """
        data = self._file[f"features/{spec}"]
        if data.dtype not in (np.float16, np.float32):
            raise _damaged(self.path, f"features/{spec} holds {data.dtype}")
        shape, itemsize = data.shape[1:], data.dtype.itemsize
        first, last, _ = places.indices(shape[0])
        inner = itemsize * int(np.prod(shape[1:]))
        block = np.empty((len(which), last - first, *shape[1:]), data.dtype)
        offsets = which * (inner * shape[0]) + (data.id.get_offset() or 0) + first * inner
        for row, offset in zip(block, offsets.tolist(), strict=True):
            if os.preadv(self._raw.fileno(), [row.data.cast("B")], offset) < row.nbytes:
                raise _damaged(self.path, "it ends too early")
        return block

    def _as_float32(self, spec: str, which: np.ndarray, block: np.ndarray) -> np.ndarray:
        values = as_float32(block)
        if values is None:
            bad = int(which[[not np.isfinite(row).all() for row in block].index(True)])
            raise FeatureFileError(
                f"{self.path}: row {bad} of features/{spec}, of {self.paths[bad]}, holds what is "
                "no number: extract it again, or leave that photo out"
            )
        return values

    def _compare(self, spec: str, which: np.ndarray, sums: np.ndarray) -> None:
        wrong = which[self._file[f"crc32/{spec}"][()][which] != sums]
        if len(wrong):
            raise _damaged(self.path, f"row {wrong[0]} of features/{spec} has another checksum")

    def _check_rows(self, spec: str, rows: np.ndarray, which: np.ndarray) -> None:
        """Compare rows with their checksums, on all cores (zlib lets go of the interpreter)."""
        checksums = self._file[f"crc32/{spec}"][()]

        def wrong(block: np.ndarray) -> list[int]:
            return [i for i in block if zlib.crc32(rows[i].data) != checksums[i]]

        blocks = [which[start : start + BLOCK] for start in range(0, len(which), BLOCK)]
        with ThreadPoolExecutor() as pool:
            for row in (row for found in pool.map(wrong, blocks) for row in found):
                raise _damaged(self.path, f"row {row} of features/{spec} has another checksum")


def as_float32(stored: np.ndarray) -> np.ndarray | None:
    """Return finite float16 or float32 numbers as float32, exactly; None if one is not finite.

    Faster ways to turn halves into singles multiply numbers that are below the smallest normal
    one, which TensorFlow's threads take for zero; NumPy's does not.

    Args:
        stored: any shape, of at least one axis; C order.
    """
    if stored.dtype == np.float32:
        return stored if np.isfinite(stored).all() else None
    values = np.empty(stored.shape, np.float32)
    halves, singles = stored.reshape(-1), values.reshape(-1)
    for start in range(0, len(halves), CHUNK):
        chunk = slice(start, start + CHUNK)
        if np.any(halves[chunk].view(np.int16) & 0x7C00 == 0x7C00):
            return None
        singles[chunk] = halves[chunk]
    return values


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator does; it prepares the next one in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


# Writing ---------------------------------------------------------------------------------


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

    def append(self, rows: Mapping[str, np.ndarray], bad: Sequence[int] = ()) -> None:
        """Write the next rows, of every pooling as many, so that they survive a kill.

        Args:
            rows: spec -> array (batch, *row shape) of the stored dtype.
            bad: which of them, counted from the batch's start, stand for no readable photo;
                `finish` takes them out.

        Raises:
            FeatureFileError: the disk is full or fails; the earlier rows are kept.
        """
        start, n = self.rows_done, len(next(iter(rows.values())))
        photo = self.photo[start : start + n]
        shapes = {spec: (len(photo), *shape[1:]) for spec, shape in self.shapes.items()}
        if {spec: values.shape for spec, values in rows.items()} != shapes:
            raise ValueError(f"rows do not fit: the file wants {shapes}")
        photo[photo < 0] = ~photo[photo < 0]  # of a batch that was killed before it was done
        photo[list(bad)] = ~photo[list(bad)]
        with self._in_place() as raw:
            for spec, values in rows.items():
                values = self._put(raw, f"features/{spec}", start, values)
                self._put(raw, f"crc32/{spec}", start, [zlib.crc32(row.data) for row in values])
            self._put(raw, "photo", start, photo)
            raw.flush()
            os.fsync(raw.fileno())
            self._put(raw, "rows_done", 0, [start + n])
        self.rows_done = start + n

    def set_sha256(self, sha256: Sequence[str]) -> None:
        """Note other bytes of photos, an entry a row; for photos whose rows are still to come."""
        with self._in_place() as raw:
            self._put(raw, "sha256", 0, sha256)
        self.sha256 = np.array(sha256)

    @contextmanager
    def _in_place(self) -> Iterator[BinaryIO]:
        """Give the file as bytes, for HDF5 on a full disk loses rows without a word."""
        with _writing(self.path, kept=True), self.path.open("r+b") as raw:
            yield raw

    def _put(self, raw: BinaryIO, name: str, start: int, values: Any) -> np.ndarray:
        """Write `values` from row `start` of a dataset on; return them as written."""
        data = self._file[name]
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
                self._replace_by_copy(keep, reasons or {})
            else:
                self._file.attrs.modify("complete", True)  # in place: nothing moves
            self._file.close()
            with self.path.open("rb") as raw:
                os.fsync(raw.fileno())
            os.replace(self.path, self.output)

    def _replace_by_copy(self, keep: np.ndarray, reasons: Mapping[str, str]) -> None:
        """Put a complete file with the rows to keep under the partial name."""
        columns = {name: getattr(self, name)[keep] for name in ROW_COLUMNS}
        shapes = {spec: shape[1:] for spec, shape in self.shapes.items()}
        rows = {spec: self.rows(spec) for spec in self.shapes}
        try:
            with create(
                self.path, shapes, columns, self.class_names, self.attributes, reasons
            ) as copy:
                for start in range(0, len(keep), BLOCK):
                    block = keep[start : start + BLOCK]
                    copy.append({spec: values[block] for spec, values in rows.items()})
                copy.finish()
        finally:
            partial_path(self.path).unlink(missing_ok=True)


def create(
    output: Path,
    shapes: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str] | np.ndarray,
    attributes: Mapping[str, Any],
    skipped: Mapping[str, str] | None = None,
) -> FeatureWriter:
    """Begin a feature file, in place of an unfinished one: everything but the features.

    Args:
        output: the final name; its folder is made.
        shapes: spec -> shape of a row.
        columns: for each of `ROW_COLUMNS` an array with an entry a row.
        class_names: what the labels stand for.
        attributes: root attributes beside format, version, time and `complete`.
        skipped: path -> reason, of photos that have no rows.

    Raises:
        FeatureFileError: the folder cannot be written to, the disk is too small, or another run
            is writing that file.
    """
    path = partial_path(output)
    new = path.with_name(path.name + ".new")
    with _writing(path):
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_free(path)
        _check_space(path, shapes, columns)
        try:
            with h5py.File(new, "w") as file:
                _lay_out(file, shapes, columns, class_names, attributes, skipped or {})
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
    return FeatureWriter(output)


def _check_free(path: Path) -> None:
    """Raise if another run is writing the file that is to be replaced."""
    try:
        h5py.File(path, "r+").close()
    except BlockingIOError as error:
        raise _in_use(path) from error
    except OSError:
        pass  # there is none, or a damaged one


def _check_space(
    path: Path, shapes: Mapping[str, tuple[int, ...]], columns: Mapping[str, np.ndarray]
) -> None:
    row_bytes = sum(row_dtype(s).itemsize * int(np.prod(s)) for s in shapes.values())
    wanted = len(columns["labels"]) * row_bytes + sum(c.nbytes for c in columns.values())
    free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    if wanted > free:
        raise FeatureFileError(
            f"{path} will have {wanted / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there: "
            "make room, or choose another --output or fewer --pooling"
        )


def _lay_out(
    file: h5py.File,
    shapes: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str] | np.ndarray,
    attributes: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> None:
    n_rows = len(columns["labels"])
    file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    file.attrs.update(attributes)
    file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, complete=False)
    small = {name: np.asarray(columns[name], np.int64) for name in INTEGERS}
    small |= {name: _strings(columns[name]) for name in ROW_COLUMNS if name not in INTEGERS}
    small["sha256"] = _strings(columns["sha256"], SHA256_DIGITS)
    small["class_names"] = _strings(class_names)
    small["skipped/paths"] = _strings(list(skipped))
    small["skipped/reasons"] = _strings(list(skipped.values()))
    small["rows_done"] = np.zeros(1, np.int64)
    small |= {f"crc32/{spec}": np.zeros(n_rows, np.uint32) for spec in shapes}
    # all stay open until the flush: of a dataset that h5py closes itself, it passes over errors
    data = [file.create_dataset(name, data=values) for name, values in small.items()]
    for spec, shape in shapes.items():
        kind = pooling(spec)
        data.append(_set_aside(file, f"features/{spec}", (n_rows, *shape)))
        data[-1].attrs.update(
            pooling=spec,
            layout=kind.layout,
            normalization=kind.normalization,
            channels=kind.channels(shape),
        )
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
    return file.create_dataset(name, shape, row_dtype(shape[1:]), dcpl=plist)


@contextmanager
def _writing(path: Path, *, kept: bool = False) -> Iterator[None]:
    """Turn a fault of the disk into one line; HDF5 reports some as `RuntimeError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        note = "; what is done is kept: make room and run again" if kept else ""
        where = getattr(error, "filename", None) or path
        raise FeatureFileError(f"cannot write {where}: {_reason(error)}{note}") from error


# Files that may be anything --------------------------------------------------------------


def _open(path: Path, mode: str) -> h5py.File:
    try:
        return h5py.File(path, mode)
    except BlockingIOError as error:
        raise _in_use(path) from error
    except FileNotFoundError as error:
        raise FeatureFileError(
            f"there is no feature file {path}: make one with bilinear extract"
        ) from error
    except OSError as error:
        if error.errno:
            raise FeatureFileError(f"cannot open {path}: {_reason(error)}") from error
        if not h5py.is_hdf5(path):
            raise FeatureFileError(
                f"{path} is not an HDF5 file: make one with bilinear extract"
            ) from error
        raise _damaged(path, _reason(error)) from error


def _check_format(path: Path, file: h5py.File) -> None:
    """Raise unless the file is ours, of a version known here, and holds nothing but data."""
    if str(file.attrs.get("format")) != FORMAT:
        raise FeatureFileError(f"{path} was not made by bilinear extract")
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        raise FeatureFileError(
            f"{path} has version {version} of the format, and {FORMAT_VERSION} is the latest known "
            "here: update bilinear"
        )
    features = _member(file, "features")
    specs = list(features) if isinstance(features, h5py.Group) else []
    if not specs:
        raise _damaged(path, "features are missing")
    names = [*ROW_COLUMNS, "class_names", "rows_done", "skipped/paths", "skipped/reasons"]
    names += [f"{group}/{spec}" for spec in specs for group in ("features", "crc32")]
    for name in names:
        if not _is_plain(_member(file, name)):
            raise _damaged(path, f"{name} is missing or is not plain data")


def _member(file: h5py.File, name: str) -> h5py.Dataset | h5py.Group | None:
    """Return what is at `name` if every link on the way is a hard one, within the file."""
    walked = ""
    for part in name.split("/"):
        walked = f"{walked}/{part}"
        if not isinstance(file.get(walked, getlink=True), h5py.HardLink):
            return None
    return file[name]


def _is_plain(data: h5py.Dataset | h5py.Group | None) -> bool:
    """Say whether it is one run of bytes in this file: not chunked, external, virtual, unwritten.

    Those have no offset; nor has a dataset without elements, which does no harm.
    """
    return isinstance(data, h5py.Dataset) and (data.size == 0 or data.id.get_offset() is not None)


def _column(file: h5py.File, name: str) -> np.ndarray:
    data = file[name]
    if h5py.check_string_dtype(data.dtype):
        return np.array([text.decode() for text in data[()].tolist()], dtype=str)
    return data[()]


def _attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return attributes as plain Python values."""
    values = {name: item.attrs[name] for name in item.attrs}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever h5py and NumPy raise on a malformed file into one line."""
    try:
        yield
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, _reason(error)) from error


def _damaged(path: Path, what: str) -> FeatureFileError:
    return FeatureFileError(
        f"{path} is damaged: {what}; make it again with bilinear extract --overwrite"
    )


def _in_use(path: Path) -> FeatureFileError:
    return FeatureFileError(f"{path} is open in another run: wait for it or end it")


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())
