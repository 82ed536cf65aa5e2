"""Training rows, their features, and the problem of a fit, without a feature file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilinear_cli.training import losses
from bilinear_cli.training.array_features import ArrayFeatures
from bilinear_cli.training.reducers import LocalReducer, Problem
from bilinear_cli.training.rows import Rows

LOSSES = {
    "softmax": losses.cross_entropy,
    "svm": losses.squared_hinge,
    "ridge": losses.squared_error,
}


def class_maps(labels: np.ndarray, channels: int) -> np.ndarray:
    """Return maps (n, 3, 3, channels) of classes that overlap."""
    rng = np.random.default_rng(0)
    centres = rng.gamma(2, 1, (labels.max() + 1, channels))
    noise = 1.5 * rng.normal(size=(len(labels), 3, 3, channels))
    return np.abs(centres[labels][:, None, None] + noise)


def pooled(maps: np.ndarray) -> dict[str, np.ndarray]:
    """Return max, sum and bilinear of maps (n, height, width, channels), with NumPy alone."""
    x = maps.reshape(len(maps), -1, maps.shape[-1])
    i, j = np.triu_indices(x.shape[2])
    upper = np.sqrt(x.transpose(0, 2, 1) @ x)[:, i, j] * np.where(i == j, 1, np.sqrt(2))
    bilinear = upper / np.linalg.norm(upper, axis=1, keepdims=True)
    return {"max": x.max(axis=1), "sum": x.sum(axis=1), "bilinear": bilinear}


def make_reducer(
    x: np.ndarray, size: int = 1000, sample_weight: np.ndarray | None = None
) -> LocalReducer:
    """Return the reducer of all rows of an array, read in blocks of `size` rows or columns."""
    features: Any = ArrayFeatures(x.astype(np.float32), size)
    return LocalReducer(features, np.arange(len(x)), sample_weight=sample_weight)


def make_rows(
    labels: Sequence[int] | np.ndarray,
    *,
    photo: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> Rows:
    """Return training rows. By default each row is a photo, and each photo a group."""
    labels = np.asarray(labels)
    n = len(labels)
    photo = np.arange(n) if photo is None else photo
    paths = np.array([f"{i}.png" for i in photo])
    names = np.array([f"class {i}" for i in range(labels.max() + 1)])
    group = paths if group is None else group
    return Rows(np.arange(n), photo, labels, paths, np.full(n, "train"), group, names)


def make_problem(
    x: np.ndarray, form: str | None = None, sample_weight: np.ndarray | None = None
) -> Problem:
    """Return the problem of rows x (n, d), by default in the form that `reduce` takes in memory."""
    n, d = x.shape
    reducer = make_reducer(x, n // 2, sample_weight)
    methods = {
        "kernel": reducer.reduce_to_gram,
        "columns": reducer.reduce_to_axes,
        "stream": reducer.reduce_to_stream,
    }
    return methods[form or ("kernel" if n <= d else "columns")]()
