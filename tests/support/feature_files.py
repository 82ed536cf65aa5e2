"""Functions that write feature files, damage them, and read all that they hold."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bilinear_cli.poolings.registry import storage_dtype
from bilinear_cli.store import FeatureFile, FeatureWriter, Header, create

ATTRIBUTES = {
    "layer": "block5_conv3",
    "image_size": 16,
    "resize": "squash",
    "precision": "float32",
    "batch_size": 4,
    "weights_sha256": "0" * 64,
    "backbone": "vgg16",
}


def begin_features(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    labels: Sequence[int] | np.ndarray,
    split: Sequence[str] | np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    attributes: Mapping[str, Any] | None = None,
    parameters: Mapping[str, np.ndarray] | None = None,
    **columns: Sequence[Any] | np.ndarray,
) -> FeatureWriter:
    """Create a feature file without rows, and return its writer.

    Args:
        shapes: spec -> shape of a row.
        class_names: default: `class 0`, `class 1`, ...
        attributes: root attributes in addition to `ATTRIBUTES`.
        parameters: parameters of the poolings.
        columns: `photo`, `view`, `paths`, `sha256` and `group`, (n,). By default, each row is a
            photo and each photo is a group. A second row of a photo is its `flip`.
    """
    photo = np.asarray(columns.get("photo", range(len(labels))))
    paths = np.array([f"{label}/{i}.png" for label, i in zip(labels, photo, strict=True)])
    all_columns = {
        "photo": photo,
        "view": np.where(np.append(False, photo[1:] == photo[:-1]), "flip", "original"),
        "labels": np.asarray(labels),
        "paths": paths,
        "sha256": np.array([hashlib.sha256(str(i).encode()).hexdigest() for i in photo]),
        "split": np.asarray(split),
        "group": paths,
    }
    all_columns |= {name: np.asarray(values) for name, values in columns.items()}
    class_names = class_names or [f"class {i}" for i in range(max(labels) + 1)]
    views = " ".join(dict.fromkeys(all_columns["view"]))
    root = ATTRIBUTES | {"views": views} | (attributes or {})
    header = Header(all_columns, class_names, root, parameters=parameters or {})
    return create(path, shapes, header)


def write_features(
    path: Path,
    rows: Mapping[str, np.ndarray],
    labels: Sequence[int] | np.ndarray,
    split: Sequence[str] | np.ndarray,
    **options: Any,
) -> Path:
    """Write a complete feature file, and return its path.

    `rows` is spec -> array (n, ...), stored in the dtype that the program chooses. `options` are
    those of `begin_features`.
    """
    shapes = {spec: x.shape[1:] for spec, x in rows.items()}
    with begin_features(path, shapes, labels, split, **options) as writer:
        writer.append({spec: x.astype(storage_dtype(x.shape[1:])) for spec, x in rows.items()})
        writer.finish({})
    return path


def flip_bit(path: Path, spec: str, row: int) -> None:
    """Change one bit of a stored row."""
    with h5py.File(path) as file:
        data = file[f"features/{spec}"]
        offset = data.id.get_offset() + row * data.nbytes // len(data) + 5
    contents = bytearray(path.read_bytes())
    contents[offset] ^= 16
    path.write_bytes(contents)


def replace_dataset(path: Path, name: str, values: Any) -> None:
    """Replace a dataset by other values."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values


def contents(path: Path, without: Sequence[str] = ("created",)) -> dict[str, Any]:
    """Return every byte of a feature file, except these attributes."""
    items: dict[str, Any] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            items[name] = (item.dtype.str, item.shape, item[()].tobytes(), dict(item.attrs))

    with h5py.File(path) as file:
        file.visititems(add)
        return items | {key: value for key, value in file.attrs.items() if key not in without}


def all_rows(file: FeatureFile, spec: str) -> np.ndarray:
    """Return all rows of a file, float32."""
    return file.read(spec, np.arange(file.rows_done))
