"""Feature files for the tests of `bilinear_cli.store`, and what spoils them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.features.specs import POOLINGS
from bilinear_cli.store import FeatureFile, create

Shapes = dict[str, tuple[int, ...]]


def shapes_of(dense: int, triangle: int, maps: tuple[int, int, int]) -> Shapes:
    """Return a shape for a row of every pooling there is."""
    shapes: Shapes = {f"compact:{dense}": (dense,)}
    for spec in POOLINGS.keys() - {"compact"}:
        layout = POOLINGS[spec].layout
        shapes[spec] = (triangle,) if layout == "upper-triangle" else (dense,)
    return dict(sorted(shapes.items())) | {"conv5": maps}


def parameters_of(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return what the poolings took beside the maps."""
    sizes = [spec.partition(":")[2] for spec in shapes if ":" in spec]
    if not sizes:
        return {}
    (size,) = sizes
    channels = shapes["conv5"][-1] if "conv5" in shapes else 8
    numbers = np.arange(2 * channels).reshape(2, channels)
    return {f"hash-{size}": numbers % int(size), f"sign-{size}": np.where(numbers % 3, 1, -1)}


SMALL = shapes_of(8, 8 * 9 // 2, (2, 2, 8))
LARGE = shapes_of(4096, 91 * 92 // 2, (4, 4, 256))
CLASS_NAMES = ["wren", "Haubenmeise é"]
COMMAND = ["bilinear", "extract", "--data", "my birds", "-o", "x.h5"]
ATTRIBUTES = {"backbone": "vgg16", "image_size": 224, "command": json.dumps(COMMAND)}
MAKE_AGAIN = "; make it again with bilinear extract --overwrite"

# How training reads.
Read = Callable[[FeatureFile, np.ndarray], Any]
WHICH: dict[str, list[int]] = {
    "all": [0, 1, 2, 3, 4, 5],
    "backwards": [5, 4, 3, 2, 1, 0],
    "some": [4, 0, 3],
    "again": [2, 2, 5, 2],
    "none": [],
}
WAYS: dict[str, Read] = {
    "read": lambda file, which: file.read("max", which),
    "batches": lambda file, which: list(file.batches("max", which, 2)),
    "columns": lambda file, which: list(file.columns("max", which, file.shapes["max"][1] // 3)),
    "maps": lambda file, which: file.read("conv5", which),
    "batches of maps": lambda file, which: list(file.batches("conv5", which, 2)),
}
each_way = pytest.mark.parametrize(
    ("read", "spec"),
    [(read, "conv5" if "maps" in name else "max") for name, read in WAYS.items()],
    ids=WAYS,
)
some_rows = pytest.mark.parametrize("which", [np.array(w, int) for w in WHICH.values()], ids=WHICH)
both_sizes = pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["float32", "float16"])


def columns_of(n: int) -> dict[str, np.ndarray]:
    """Return what describes n rows, each value different where it can be."""
    return {
        "photo": np.arange(n),
        "view": np.full(n, "original"),
        "labels": np.arange(n) % 2,
        "paths": np.array([f"é {i}/{i}.jpg" for i in range(n)]),
        "sha256": np.array([f"{i:064x}" for i in range(n)]),
        "split": np.array([("train", "test")[i // 2 % 2] for i in range(n)]),
        "group": np.array([f"nest {i // 2}" for i in range(n)]),
    }


def random_rows(shapes: Shapes, n: int) -> dict[str, np.ndarray]:
    """Return n rows of each pooling, as they are stored."""
    rng = np.random.default_rng(n)
    dtypes = {spec: np.float32 if np.prod(s) < 4096 else np.float16 for spec, s in shapes.items()}
    return {spec: rng.normal(size=(n, *s)).astype(dtypes[spec]) for spec, s in shapes.items()}


def write(output: Path, shapes: Shapes = SMALL, n: int = 6, bad: list[int] | None = None) -> Path:
    """Write a complete file of n random rows in one batch."""
    with create(
        output, shapes, columns_of(n), CLASS_NAMES, ATTRIBUTES, parameters=parameters_of(shapes)
    ) as writer:
        if n:
            writer.append(random_rows(shapes, n), bad or [])
        writer.finish({writer.paths[i]: "no photo" for i in bad or []})
    return output


def head(rows: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {spec: values[start:stop] for spec, values in rows.items()}


def change(path: Path, name: str, values: Any) -> None:
    """Put other values in the place of a dataset."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values


def refused(path: Path, **options: bool) -> str:
    """Return the one line that opening `path` ends with."""
    with pytest.raises(FeatureFileError) as caught:
        FeatureFile(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flip(path: Path, spec: str, row: int) -> None:
    """Change one bit of a stored row."""
    with h5py.File(path) as file:
        data = file[f"features/{spec}"]
        place = data.id.get_offset() + row * data.nbytes // len(data) + 5
    with path.open("r+b") as raw:
        raw.seek(place)
        byte = raw.read(1)[0]
        raw.seek(place)
        raw.write(bytes([byte ^ 16]))


def every(file: FeatureFile, spec: str) -> np.ndarray:
    """Return all rows that are done, as float32."""
    return file.read(spec, np.arange(file.rows_done))
