"""A feature file, open for reading: its attributes, its columns, and its rows."""

import operator
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.photos.photo_set import entry_keys
from bilinear_cli.poolings import registry
from bilinear_cli.poolings.registry import SpecDict
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import checks
from bilinear_cli.store.checks import BOX, ROW_COLUMNS, partial_path, read_errors
from bilinear_cli.store.consistency import check_consistency
from bilinear_cli.store.layout import Header
from bilinear_cli.store.streaming import RowBlock, StoredRows, prefetch
from bilinear_cli.validation import validate_choice


class FeatureFile:
    """A feature file, open for reading; a context manager.

    Attributes:
        files: the path, or the paths of all shards that are read as one file.
        attributes, class_names, skipped, parameters: see `Header`.
        shapes: spec -> shape of all its rows, (rows, ...). An alias of a pooling is a key too.
        photo, view, labels, paths, sha256, split, group: one entry for each row. In an unfinished
            file, `photo` is `~index`, which is negative, for a row of an unreadable photo.
        box: float64 (rows, 4), x, y, width and height of the part of the photo, before the margin;
            zeros for a whole photo. None if the file has whole photos only.
        rows_done: number of rows that are written; all rows in a complete file.
    """

    photo: np.ndarray
    view: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    sha256: np.ndarray
    split: np.ndarray
    group: np.ndarray
    box: np.ndarray | None
    _shards: "Sequence[FeatureFile]" = ()  # of `Shards`

    def __init__(self, path: Path, *, allow_partial: bool = False, mode: str = "r") -> None:
        """Open and check a file, or the unfinished file under its partial name.

        Raises:
            FeatureFileError: the file is missing, damaged, of a later version, not a feature file,
                another run is writing it, or it is incomplete without `allow_partial`.
        """
        if not path.exists() and partial_path(path).exists():
            path = partial_path(path)
        self.path, self.files = path, [path]
        with ExitStack() as on_error, read_errors(path):
            self._file = on_error.enter_context(checks.open_hdf5(path, mode))
            self._raw = on_error.enter_context(path.open("rb", buffering=0))
            checks.check_format(path, self._file)
            self._load()
            if not (self.attributes["complete"] or allow_partial):
                raise checks.incomplete_error(
                    path, self.attributes, self.rows_done, len(self.paths)
                )
            check_consistency(self)
            on_error.pop_all()

    def _load(self) -> None:
        self.attributes = checks.read_attributes(self._file)
        self._keys = SpecDict({spec: spec for spec in self._file["features"]})
        if len(self._keys) < len(self._file["features"]):
            raise ValueError("features have one pooling under two names")
        self.shapes = SpecDict({s: self._dataset("features", s).shape for s in self._keys})
        for name in ROW_COLUMNS:
            setattr(self, name, checks.read_column(self._file, name))
        self.box = checks.read_column(self._file, BOX) if BOX in self._file else None
        self.class_names = checks.read_column(self._file, "class_names")
        self.parameters = checks.read_parameters(self._file)
        self.rows_done = operator.index(self._file["rows_done"][0])  # TypeError if no integer
        skipped = (checks.read_column(self._file, f"skipped/{x}") for x in ("paths", "reasons"))
        self.skipped = dict(zip(*skipped, strict=True))

    def _view_names(self) -> list[str]:
        return str(self.attributes.get("views", "original")).split() or ["original"]

    def __repr__(self) -> str:
        """Return the path, and how much the file has."""
        return (
            f"<FeatureFile {self.path}: {self.rows_done} rows of {len(self.class_names)} classes, "
            f"poolings {', '.join(self.poolings)}>"
        )

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        for file in self._shards or [self]:
            file._file.close()
            file._raw.close()

    def pooling_attributes(self, spec: str) -> dict[str, Any]:
        """Return the pooling, layout, channels, normalization and dtype of the rows of a spec."""
        with read_errors(self.path):
            data = self._dataset("features", spec)
            return checks.read_attributes(data) | {
                "pooling": registry.canonical_spec(spec),
                "dtype": str(data.dtype),
            }

    def row_dtype(self, spec: str) -> np.dtype:
        """Return the dtype in which rows are stored: float16 or float32."""
        return self._dataset("features", spec).dtype

    @property
    def n_views(self) -> int:
        """Number of rows of each photo."""
        return len(self._view_names())

    @property
    def photos_done(self) -> int:
        """Number of photos whose rows are all written."""
        return self.rows_done // self.n_views

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that made the file; raises a FeatureFileError if attributes are invalid."""
        with read_errors(self.path):
            return Recipe.from_attributes(self.attributes, tuple(self.shapes))

    def header(self) -> Header:
        """Return the contents of the file beside its features."""
        columns = {name: getattr(self, name) for name in ROW_COLUMNS}
        columns |= {} if self.box is None else {BOX: self.box}
        return Header(columns, self.class_names, self.attributes, self.skipped, self.parameters)

    @property
    def keys(self) -> np.ndarray:
        """The photo of each row, with its box if it has one, str (rows,)."""
        return entry_keys(self.paths, self.box)

    def comparable_attributes(self) -> dict[str, Any]:
        """Return the root attributes and the poolings, for `recipe.differences`."""
        return {**self.attributes, "poolings": " ".join(sorted(self.shapes))}

    # Arrays, for a notebook ------------------------------------------------------------------

    @property
    def poolings(self) -> list[str]:
        """The specs of the stored poolings."""
        return list(self.shapes)

    def X(self, pooling: str, split: str | None = None) -> np.ndarray:
        """Return the rows of a pooling, float32 (n, d), in the order of `paths`.

            X, y = features.X("bilinear", "train"), features.y("train")

        Args:
            pooling: a spec, or several with `+`, which are concatenated.
            split: `train`, `test`, or None for all rows.

        Raises:
            FeatureFileError: a row is damaged.
            UsageError: the file has no such pooling, or there is no such split.
        """
        indices = self._indices(split)
        specs = registry.split_specs(pooling)
        parts = [self.read(spec, indices).reshape(len(indices), -1) for spec in specs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def y(self, split: str | None = None) -> np.ndarray:
        """Return the class names of the rows of a split, str (n,); None for all rows."""
        return self.class_names[self.labels[self._indices(split)]]

    def to_frame(self, split: str | None = None) -> Any:
        """Return path, class name, split, group and view of the rows as a pandas DataFrame."""
        import pandas as pd

        names, indices = ("paths", "split", "group", "view"), self._indices(split)
        columns = {name: getattr(self, name)[indices] for name in names}
        return pd.DataFrame({"y": self.y(split), **columns})

    def _indices(self, split: str | None) -> np.ndarray:
        """Return the indices of the rows of a split."""
        if split is None:
            return np.arange(self.rows_done)
        validate_choice("split", split, ("train", "test"))
        return np.flatnonzero(self.split[: self.rows_done] == split)

    # The rows; `indices` are int64 (n,), in any order --------------------------------------

    def column_blocks(self, spec: str, indices: np.ndarray, block_width: int) -> Iterator[RowBlock]:
        """Read vectors in blocks of at most `block_width` columns; a thread reads one block ahead.

        Yields:
            (slice of columns, float32 (n, its length)), in order. The caller may overwrite a block.

        It raises as `batches` does; a wrong checksum is known only after the last block.
        """
        return prefetch(self._stored(spec).column_blocks(indices, block_width))

    def batches(self, spec: str, indices: np.ndarray, batch_size: int) -> Iterator[RowBlock]:
        """Read batches of at most `batch_size` whole rows; a thread reads one batch ahead.

        Yields:
            (slice of `indices`, float32 (its length, *row shape)). The caller may overwrite it.

        Raises:
            FeatureFileError: a row of the batch differs from its checksum, or is not finite.
            UsageError: the file has no such pooling.
        """
        rows, n = self._stored(spec), len(indices)
        batches = (slice(i, min(i + batch_size, n)) for i in range(0, n, batch_size))
        return prefetch((batch, rows.read(indices[batch])) for batch in batches)

    def read(self, spec: str, indices: np.ndarray) -> np.ndarray:
        """Return whole rows, float32 (n, *row shape); raise as `batches` does."""
        return self._stored(spec).read(indices)

    def read_stored(self, spec: str, indices: np.ndarray) -> np.ndarray:
        """Return whole rows in the stored dtype, finite or not; raise as `batches` does."""
        return self._stored(spec).read_stored(indices)

    def verify_checksums(self, spec: str) -> None:
        """Compare all rows that are done with their checksums; raise as `batches` does."""
        self._stored(spec).verify_checksums(np.arange(self.rows_done))

    def _stored(self, spec: str) -> StoredRows:
        validate_choice(f"pooling in {self.path}", spec, self.shapes)
        if not self._file:
            raise FeatureFileError(f"{self.path} is closed. Open it again.")
        files, checksums = [], []
        for file in self._shards or [self]:
            with read_errors(file.path):
                files.append((file.path, file._raw, file._dataset("features", spec)))
                checksums.append(file._dataset("crc32", spec)[()])
        return StoredRows(files, np.concatenate(checksums), self.paths)

    def _dataset(self, group: str, spec: str) -> h5py.Dataset:
        """Return the dataset of a pooling in a group."""
        return self._file[f"{group}/{self._keys[spec]}"]
