"""Shapes, rows and ways of reading that are special to the tests of `bilinear_cli.store`."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import start_python
from support.feature_files import begin_features

from bilinear_cli.poolings.registry import POOLINGS, storage_dtype
from bilinear_cli.store import FeatureFile, FeatureWriter

Shapes = dict[str, tuple[int, ...]]
Read = Callable[[FeatureFile, np.ndarray], Any]


def shapes_of(dense: int, triangle: int, maps: tuple[int, int, int]) -> Shapes:
    """Return the shape of a row of every pooling."""
    shapes: Shapes = {f"compact:{dense}": (dense,)}
    for spec in POOLINGS.keys() - {"compact"}:
        layout = POOLINGS[spec].layout
        shapes[spec] = (triangle,) if layout == "upper-triangle" else (dense,)
    return dict(sorted(shapes.items())) | {"maps": maps}


SMALL = shapes_of(8, 8 * 9 // 2, (2, 2, 8))  # stored as float32
LARGE = shapes_of(4096, 91 * 92 // 2, (4, 4, 256))  # stored as float16
CLASS_NAMES = ["wren", "Haubenmeise é"]
COMMAND = ["bilinear", "extract", "--data", "my birds", "-o", "x.h5"]
ATTRIBUTES = {"backbone": "vgg16", "image_size": 224, "command": json.dumps(COMMAND)}
REPLACE = "bilinear extract --overwrite"  # repairs a damaged file
both_sizes = pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["float32", "float16"])


# How training reads.
READS: dict[str, Read] = {
    "read": lambda file, rows: file.read("max", rows),
    "batches": lambda file, rows: list(file.batches("max", rows, 2)),
    "columns": lambda file, rows: list(file.column_blocks("max", rows, file.shapes["max"][1] // 3)),
    "maps": lambda file, rows: file.read("maps", rows),
    "batches of maps": lambda file, rows: list(file.batches("maps", rows, 2)),
}
each_read = pytest.mark.parametrize(
    ("read", "spec"),
    [(read, "maps" if "maps" in name else "max") for name, read in READS.items()],
    ids=READS,
)

# What another process runs, after a line that begins with `with`.
HOLD = """
import sys
from pathlib import Path
from bilinear_cli.store import FeatureWriter
from bilinear_cli.store.lock import locked
path = Path(sys.argv[1])
{}
    print(flush=True)
    sys.stdin.read()
"""


def parameters_of(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the parameters of the poolings with these specs."""
    sizes = [spec.partition(":")[2] for spec in shapes if ":" in spec]
    if not sizes:
        return {}
    (size,) = sizes
    channels = shapes["maps"][-1]
    numbers = np.arange(2 * channels).reshape(2, channels)
    return {f"hash-{size}": numbers % int(size), f"sign-{size}": np.where(numbers % 3, 1, -1)}


def columns_of(n: int) -> dict[str, np.ndarray]:
    """Return the columns of n rows, each value different where it can be."""
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
    """Return n rows of each pooling, in the stored dtype."""
    rng = np.random.default_rng(n)
    return {spec: rng.normal(size=(n, *s)).astype(storage_dtype(s)) for spec, s in shapes.items()}


def begin(output: Path, shapes: Shapes = SMALL, n: int = 6) -> FeatureWriter:
    """Begin a file of n rows."""
    return begin_features(
        output,
        shapes,
        class_names=CLASS_NAMES,
        attributes=ATTRIBUTES,
        parameters=parameters_of(shapes),
        **columns_of(n),
    )


def write(
    output: Path,
    shapes: Shapes = SMALL,
    n: int = 6,
    *,
    rows: dict[str, np.ndarray] | None = None,
    bad: Sequence[int] = (),
) -> Path:
    """Write a complete file of n rows, `random_rows` by default, in one batch."""
    with begin(output, shapes, n) as writer:
        writer.append(random_rows(shapes, n) if rows is None else rows, bad)
        writer.finish({writer.paths[i]: "no photo" for i in bad})
    return output


def head(rows: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {spec: values[start:stop] for spec, values in rows.items()}


@contextmanager
def holding(path: Path, code: str) -> Iterator[subprocess.Popen]:
    """Run a `with` statement on `path` in another process, until its input ends."""
    pipe = subprocess.PIPE
    with start_python(HOLD.format(code), path, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
