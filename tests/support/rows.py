"""Training rows, and the problem of fitting a classifier to them, without a feature file."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilinear_cli.training import gram, losses
from bilinear_cli.training.primal import Batches, LocalPasses
from bilinear_cli.training.problem import AxesProblem, GramProblem, Problem, StreamedProblem
from bilinear_cli.training.rows import Rows

LOSSES = {
    "softmax": losses.cross_entropy,
    "svm": losses.squared_hinge,
    "ridge": losses.squared_error,
}


@dataclass(frozen=True)
class RowsInMemory:
    """As much of a `Reducer` as makes weights."""

    x: np.ndarray

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        return (self.x - mean).T @ alpha


def slices(n: int, size: int) -> list[slice]:
    """Cut n rows or columns into blocks of this size; the last may be smaller."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


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


def make_problem(x: np.ndarray, form: str | None = None) -> Problem:
    """Return the problem of rows x (n, d).

    Args:
        x: the features of all rows.
        form: `kernel`, `columns` or `stream`; by default what `problem.reduce` takes in memory.
    """
    n, d = x.shape
    x = x.astype(np.float32)
    if (form or ("kernel" if n <= d else "columns")) == "kernel":
        inner, mean, square = gram.gram([(slice(0, d), x.copy())], n, d)
        reducer: Any = RowsInMemory(x)
        return GramProblem(inner, mean, square, reducer)
    reduced, axes, mean, square = gram.rotate(lambda: [(slice(0, n), x.copy())], n, d)
    if form == "stream":
        z = x - mean
        variance = np.square(z).sum(axis=0, dtype=np.float64)
        return StreamedProblem(LocalPasses(_in_batches(z, 2)), n, variance, mean, square)
    passes = LocalPasses(_in_batches(reduced.z, 1))
    return AxesProblem(passes, n, reduced.variance, mean, square, axes, reduced)


def _in_batches(z: np.ndarray, n_batches: int) -> Callable[[np.ndarray], Batches]:
    """Return a function: row numbers -> a function that yields these rows in batches."""

    def batches(rows: np.ndarray) -> Batches:
        ends = np.linspace(0, len(rows), n_batches + 1).astype(int)
        slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        return lambda: [(part, z[rows[part]]) for part in slices]

    return batches
