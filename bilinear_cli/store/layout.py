"""The layout of a new feature file: its columns, its parameters, and the space of its features."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.messages import reason_of
from bilinear_cli.poolings.registry import get_pooling, storage_dtype
from bilinear_cli.store import checks
from bilinear_cli.store.checks import BOX, INTEGER_COLUMNS, ROW_COLUMNS
from bilinear_cli.store.sparse_file import SparseFile

SHA256_DIGITS = 64


@dataclass(frozen=True)
class Header:
    """The contents of a feature file beside its features.

    Attributes:
        row_columns: for each of `ROW_COLUMNS`, and perhaps for `BOX`, an array with one entry for
            each row.
        class_names: the names of the classes; labels are indices into them.
        attributes: root attributes; `create` sets the format, version, time and `complete`.
        skipped: path -> reason, of photos without rows.
        parameters: of the poolings, name -> array; see `poolings/parameters.py`.
    """

    row_columns: Mapping[str, np.ndarray]
    class_names: Sequence[str] | np.ndarray
    attributes: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)


def check_space(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, np.ndarray],
    n_rows: int | None,
) -> None:
    """Raise a FeatureFileError if the disk has too little space for `n_rows`; None for all rows."""
    row_bytes = sum(storage_dtype(s).itemsize * int(np.prod(s)) for s in shapes.values())
    n_rows = len(columns["labels"]) if n_rows is None else n_rows
    needed = n_rows * row_bytes + sum(c.nbytes for c in columns.values())
    free = shutil.disk_usage(path.parent).free + _used_bytes(path)
    if needed > free:
        raise FeatureFileError(
            f"{path} needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free. Free some "
            "space, or choose another --output or fewer --pooling."
        )


def _used_bytes(path: Path) -> int:
    """Return the bytes that a file takes on the disk, without its holes; 0 if there is no file."""
    if not path.exists():
        return 0
    status = path.stat()
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


def draft_path(path: Path) -> Path:
    """Return the path under which `lay_out` writes a file first."""
    return path.with_name(path.name + ".new")


def lay_out(path: Path, shapes: Mapping[str, tuple[int, ...]], header: Header) -> None:
    """Write a new file without rows: what the header states, and places for the features.

    A run that is killed leaves no file, or the whole file.

    Raises:
        FeatureFileError: the disk or a limit refuses the file; the message states its size.
    """
    draft, new = SparseFile(), draft_path(path)
    with h5py.File(draft, "w") as file:
        file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        file.attrs.update(header.attributes)
        file.attrs.update(format=checks.FORMAT, complete=False)
        file.attrs["format_version"] = checks.FORMAT_VERSION
        _write_datasets(file, shapes, header)
    try:
        draft.save(new)
        os.replace(new, path)
    except OSError as error:
        size = f"{draft.length:,} bytes"
        raise FeatureFileError(f"cannot write {path} of {size}: {reason_of(error)}.") from error
    finally:
        new.unlink(missing_ok=True)


def _write_datasets(file: h5py.File, shapes: Mapping[str, tuple[int, ...]], header: Header) -> None:
    """Write the columns and parameters, and reserve the space of the features."""
    columns, parameters = header.row_columns, header.parameters
    n_rows = len(columns["labels"])
    datasets = {name: np.asarray(columns[name], np.int64) for name in INTEGER_COLUMNS}
    datasets |= {n: _encode(columns[n]) for n in ROW_COLUMNS if n not in INTEGER_COLUMNS}
    if BOX in columns:
        datasets[BOX] = np.asarray(columns[BOX], np.float64)
    datasets["sha256"] = _encode(columns["sha256"], SHA256_DIGITS)
    datasets["class_names"] = _encode(header.class_names)
    datasets["skipped/paths"] = _encode(list(header.skipped))
    datasets["skipped/reasons"] = _encode(list(header.skipped.values()))
    datasets["rows_done"] = np.zeros(1, np.int64)
    datasets |= {f"crc32/{spec}": np.zeros(n_rows, np.uint32) for spec in shapes}
    datasets |= {f"parameters/{name}": array for name, array in parameters.items()}
    for name, values in datasets.items():
        file.create_dataset(name, data=values)
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    for spec, shape in shapes.items():
        name, dtype, pooling = f"features/{spec}", storage_dtype(shape), get_pooling(spec)
        data = file.create_dataset(name, (n_rows, *shape), dtype, dcpl=contiguous)
        data.attrs.update(
            pooling=spec,
            layout=pooling.layout,
            normalization=pooling.normalization,
            channels=pooling.n_channels(shape, parameters),
        )
    for name, array in parameters.items():
        file[f"parameters/{name}"].attrs["sha256"] = checks.parameter_sha256(array)


def _encode(values: Sequence[str] | np.ndarray, min_length: int = 1) -> np.ndarray:
    """Return fixed-length UTF-8, which h5py writes in one call."""
    encoded = np.char.encode(np.asarray(values, dtype=str), "utf-8")
    length = max(encoded.dtype.itemsize, min_length)
    return encoded.astype(h5py.string_dtype("utf-8", length))
