"""Small feature files, and rows, for the tests of the second stage."""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilinear_cli.classify import gram
from bilinear_cli.classify.columns import Batches, Blocks, Columns
from bilinear_cli.classify.kernel import Kernel
from bilinear_cli.classify.problem import Problem
from bilinear_cli.classify.rows import Rows
from bilinear_cli.features.specs import row_dtype
from bilinear_cli.store import create

WriteFeatures = Callable[..., Path]
MakeRows = Callable[..., Rows]
Pose = Callable[..., Problem]

SETTINGS = {
    "layer": "block5_conv3",
    "image_size": 16,
    "resize": "squash",
    "precision": "float32",
    "batch_size": 4,
    "weights_sha256": "0" * 64,
    "backbone": "vgg16",
}


@pytest.fixture
def write_features() -> WriteFeatures:
    """Return write(path, {spec: rows}, labels, split, ...) -> path of a complete feature file.

    Without them, each row is a photo, and each photo a group.
    """

    def write(
        path: Path,
        rows: Mapping[str, np.ndarray],
        labels: Sequence[int] | np.ndarray,
        split: Sequence[str] | np.ndarray,
        *,
        photo: Sequence[int] | np.ndarray | None = None,
        group: Sequence[str] | np.ndarray | None = None,
        sha256: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        n = len(labels)
        photo = np.arange(n) if photo is None else np.asarray(photo)
        paths = np.array([f"{label}/{i}.png" for label, i in zip(labels, photo, strict=True)])
        digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in photo]
        columns: dict[str, Any] = {
            "photo": photo,
            "view": np.where(np.append(False, photo[1:] == photo[:-1]), "flip", "original"),
            "labels": np.asarray(labels),
            "paths": paths,
            "sha256": np.array(sha256 if sha256 is not None else digests),
            "split": np.asarray(split),
            "group": paths if group is None else np.asarray(group),
        }
        names = class_names or [f"class {i}" for i in range(int(max(labels)) + 1)]
        shapes = {spec: values.shape[1:] for spec, values in rows.items()}
        shown = " ".join(dict.fromkeys(columns["view"]))
        with create(path, shapes, columns, names, SETTINGS | {"views": shown}) as writer:
            stored = {spec: x.astype(row_dtype(x.shape[1:])) for spec, x in rows.items()}
            writer.append(stored)
            writer.finish({})
        return path

    return write


@pytest.fixture
def make_rows() -> MakeRows:
    """Return make(labels, photo=None, group=None) -> Rows, all for training."""

    def make(
        labels: Sequence[int] | np.ndarray,
        photo: np.ndarray | None = None,
        group: np.ndarray | None = None,
    ) -> Rows:
        labels = np.asarray(labels)
        n = len(labels)
        photo = np.arange(n) if photo is None else photo
        paths = np.array([f"{i}.png" for i in photo])
        names = np.array([f"class {i}" for i in range(labels.max() + 1)])
        group = paths if group is None else group
        return Rows(np.arange(n), photo, labels, paths, np.full(n, "train"), group, names)

    return make


@pytest.fixture
def pose() -> Pose:
    """Return pose(x, form=...): the problem of rows (n, d), in one block.

    The form is `kernel`, `columns`, `stream`, or what `problem.pose` would take in memory.
    """

    def posed(x: np.ndarray, form: str | None = None) -> Problem:
        n, d = x.shape
        form = form or ("kernel" if n <= d else "columns")

        def whole(side: int) -> list[tuple[slice, np.ndarray]]:
            return [(slice(0, side), x.astype(np.float32))]

        if form == "kernel":
            inner, mean, square = gram.gram(whole(d), n, d)
            axes = gram.principal(inner)
            centred = x.astype(np.float32) - mean

            def on_features(alpha: np.ndarray) -> np.ndarray:
                return centred.T @ alpha

            return Problem(Kernel(inner), n, mean, square, on_features, lambda: axes, axes.on_rows)
        reduced, axes, mean, square = gram.rotate(lambda: whole(n), n, d)
        z = reduced.z if form == "columns" else x.astype(np.float32) - mean

        def batches(rows: np.ndarray) -> Batches:
            cuts = [0, len(rows) // 3, len(rows)] if form == "stream" else [0, len(rows)]
            pieces = [slice(*ends) for ends in itertools.pairwise(cuts)]
            return lambda: [(piece, z[rows[piece]]) for piece in pieces]

        if form == "columns":
            memory = Columns(Blocks(batches), n, reduced.variance)
            return Problem(memory, n, mean, square, axes.__matmul__, lambda: reduced, lambda w: w)
        stream = Columns(Blocks(batches), n, np.square(z).sum(axis=0, dtype=np.float64))
        return Problem(stream, n, mean, square, lambda w: w)

    return posed
