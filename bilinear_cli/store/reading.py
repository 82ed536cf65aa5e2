"""A feature file, open for reading: what it says of its rows, and the rows themselves."""

import json
import operator
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError, validate_choice
from bilinear_cli.poolings.registry import (
    SpecDict,
    canonical_spec,
    get_pooling,
    is_known_pooling,
    parameter_channels,
)
from bilinear_cli.recipe import Recipe
from bilinear_cli.store.checks import (
    INTEGERS,
    PARTIAL,
    ROW_COLUMNS,
    attributes,
    check_format,
    column,
    damage,
    damaged,
    open_hdf5,
    parameters,
)
from bilinear_cli.store.streaming import StoredRows, prefetch


def partial_path(path: Path) -> Path:
    """Return where an unfinished `path` is kept."""
    return path.with_name(path.name + PARTIAL)


@dataclass(frozen=True)
class Header:
    """What a feature file says beside its features.

    Attributes:
        columns: for each of `ROW_COLUMNS` an array with an entry a row.
        class_names: what the labels stand for.
        attributes: root attributes; format, version, time and `complete` are set by `create`.
        skipped: path -> reason, of photos that have no rows.
        parameters: what the poolings took beside the maps, name -> array.
    """

    columns: Mapping[str, np.ndarray]
    class_names: Sequence[str] | np.ndarray
    attributes: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)


class FeatureFile:
    """A feature file, open for reading; a context manager.

    Attributes:
        path: where it is.
        files: likewise; of several files that are read as one, all.
        attributes: the root attributes, name -> value.
        shapes: spec -> shape of all its rows, (rows, ...). Aliases of a pooling open it too,
            whatever its key in the file is.
        photo, view, labels, paths, sha256, split, group: one entry a row. In an unfinished file
            `photo` is `~number`, which is negative, where a row stands for no readable photo.
        class_names: str, what the labels stand for.
        rows_done: how many rows are in the file for good; in a complete file all.
        skipped: path -> reason, of photos that were left out.
        parameters: what the poolings took beside the maps, name -> array; see
            `poolings/parameters.py`.
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
        self.path, self.files = path, [path]
        self._file = open_hdf5(path, mode)
        self._raw = path.open("rb", buffering=0)
        try:
            with damage(path):
                check_format(path, self._file)
                self._load()
                if not (self.attributes["complete"] or allow_partial):
                    raise FeatureFileError(self._how_to_finish())
                self._check()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        self.attributes = attributes(self._file)
        self._keys = SpecDict({spec: spec for spec in self._file["features"]})
        if len(self._keys) < len(self._file["features"]):
            raise ValueError("features have one pooling under two names")
        self.shapes = SpecDict({s: self._of("features", s).shape for s in self._keys})
        for name in ROW_COLUMNS:
            setattr(self, name, column(self._file, name))
        self.class_names = column(self._file, "class_names")
        self.parameters = parameters(self._file)
        self.rows_done = operator.index(self._file["rows_done"][0])  # a TypeError if no integer
        skipped = (column(self._file, f"skipped/{name}") for name in ("paths", "reasons"))
        self.skipped = dict(zip(*skipped, strict=True))

    def _how_to_finish(self) -> str:
        command = json.loads(self.attributes.get("command", "[]"))
        again = f"finish it with {shlex.join(command)}" if command else "run bilinear extract again"
        return f"{self.path} is incomplete, {self.rows_done} of {len(self.paths)} rows: {again}"

    def _check(self) -> None:
        """Raise unless what there is for each row is there for each, and is of the right kind."""
        n = len(self.labels)
        shapes = {name: getattr(self, name).shape for name in ROW_COLUMNS}
        shapes |= {f"features/{spec}": shape[:1] for spec, shape in self.shapes.items()}
        shapes |= {f"crc32/{spec}": self._of("crc32", spec).shape for spec in self.shapes}
        for name, shape in shapes.items():
            if shape != (n,):
                raise damaged(self.path, f"{name} should have {n} rows")
        for name in ROW_COLUMNS:
            if getattr(self, name).dtype.kind != ("i" if name in INTEGERS else "U"):
                raise damaged(self.path, f"{name} has values of the wrong kind")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise damaged(self.path, "labels are outside class_names")
        if not set(self.split) <= {"train", "test"}:
            raise damaged(self.path, "split has other values than train and test")
        if not 0 <= self.rows_done <= n or (self.attributes["complete"] and self.rows_done < n):
            raise damaged(self.path, f"rows_done is {self.rows_done} of {n}")
        self._check_views()
        maps = {parameter_channels(name, array) for name, array in self.parameters.items()}
        for spec, (_, *shape) in self.shapes.items():
            kind = get_pooling(spec) if is_known_pooling(spec) else None
            if not (kind.fits(tuple(shape)) if kind else all(shape)):
                raise damaged(self.path, f"features/{spec} has rows of {shape} numbers")
            maps |= {shape[-1]} if kind and kind.rank > 1 else set()
        if len(several := sorted(n for n in maps if n)) > 1:
            raise damaged(self.path, f"its poolings are of maps of {several} channels")

    def _check_views(self) -> None:
        names = self._view_names()
        whole = not (len(self.view) % len(names) or self.rows_done % len(names))
        if not (whole and (self.view.reshape(-1, len(names)) == names).all()):
            raise damaged(self.path, f"its rows are not the views of photos, {' '.join(names)}")
        if np.diff(self.photo.reshape(-1, len(names))).any():
            raise damaged(self.path, "the views of a photo do not stand together")

    def _view_names(self) -> list[str]:
        return str(self.attributes.get("views", "original")).split() or ["original"]

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()

    def layout(self, spec: str) -> dict[str, Any]:
        """Return of one pooling its pooling, layout, channels, normalization, and dtype."""
        with damage(self.path):
            data = self._of("features", spec)
            return attributes(data) | {"pooling": canonical_spec(spec), "dtype": str(data.dtype)}

    def row_dtype(self, spec: str) -> np.dtype:
        """Return how the numbers of a pooling are stored: float16 or float32."""
        return self._of("features", spec).dtype

    @property
    def n_views(self) -> int:
        """How many rows a photo has."""
        return len(self._view_names())

    @cached_property
    def recipe(self) -> Recipe:
        """What decided the file's numbers.

        Raises:
            FeatureFileError: the file does not say it.
        """
        with damage(self.path):
            return Recipe.from_attributes(self.attributes, tuple(self.shapes))

    def header(self) -> Header:
        """Return what the file says beside its features."""
        columns = {name: getattr(self, name) for name in ROW_COLUMNS}
        return Header(columns, self.class_names, self.attributes, self.skipped, self.parameters)

    def comparable_attributes(self) -> dict[str, Any]:
        """Return the root attributes and the poolings, for `recipe.differences`."""
        return {**self.attributes, "poolings": " ".join(sorted(self.shapes))}

    # The rows ----------------------------------------------------------------------------

    def columns(
        self, spec: str, which: np.ndarray, step: int
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Read rows of vectors, as training does: in blocks of columns, the next one meanwhile.

        Args:
            spec: a pooling of vectors.
            which: int64 (n,), the rows' numbers.
            step: columns in a block, at most.

        Yields:
            (which columns, float32 (n, their number)), in order; the reader may overwrite it.

        Raises:
            FeatureFileError: a row is not what was written, which shows after the last block, or
                holds NaN or infinity, which shows at once.
            UsageError: the file has no such pooling.
        """
        return prefetch(self._stored(spec).columns(which, step))

    def batches(
        self, spec: str, which: np.ndarray, step: int
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Read whole rows in the order asked for, in batches, the next one meanwhile.

        Args:
            spec: a pooling.
            which: int64 (n,), the rows' numbers.
            step: rows in a batch, at most.

        Yields:
            (slice of `which`, float32 (its length, *row shape)); the reader may overwrite it.

        Raises:
            FeatureFileError: a row is not what was written, or holds NaN or infinity.
            UsageError: the file has no such pooling.
        """
        return prefetch(self._stored(spec).batches(which, step))

    def read(self, spec: str, which: np.ndarray) -> np.ndarray:
        """Return whole rows, float32 (len(which), *row shape); raise as `batches` does."""
        return self._stored(spec).read(which)

    def read_raw(self, spec: str, which: np.ndarray) -> np.ndarray:
        """Return whole rows as they are stored, compared with their checksums.

        Raises:
            FeatureFileError: a row is not what was written.
            UsageError: the file has no such pooling.
        """
        return self._stored(spec).read_raw(which)

    def check(self, spec: str) -> None:
        """Compare all rows that are done with their checksums.

        Raises:
            FeatureFileError: a row is not what was written.
            UsageError: the file has no such pooling.
        """
        self._stored(spec).check(np.arange(self.rows_done))

    def _stored(self, spec: str) -> StoredRows:
        self._validate_spec(spec)
        with damage(self.path):
            checksums = self._of("crc32", spec)[()]
            return StoredRows([self._rows_of(spec)], checksums, self.paths)

    def _validate_spec(self, spec: str) -> None:
        validate_choice(f"pooling in {self.path}", spec, self.shapes)

    def _rows_of(self, spec: str) -> tuple[Path, BinaryIO, h5py.Dataset]:
        return self.path, self._raw, self._of("features", spec)

    def _of(self, group: str, spec: str) -> h5py.Dataset:
        """Return what a group of datasets has of a pooling."""
        return self._file[f"{group}/{self._keys[spec]}"]
