"""Training rows, and the problem of fitting a classifier to them, without a feature file."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from bilinear_cli.training import gram, losses
from bilinear_cli.training.primal import LocalPasses, array_blocks
from bilinear_cli.training.problem import GramProblem, PrimalProblem, Problem
from bilinear_cli.training.rows import Rows

LOSSES = {
    "softmax": losses.cross_entropy,
    "svm": losses.squared_hinge,
    "ridge": losses.squared_error,
}


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
        return GramProblem(inner, mean, square, lambda mean, alpha: (x - mean).T @ alpha)
    reduced, axes, mean, square = gram.rotate(lambda: [(slice(0, n), x.copy())], n, d)
    if form == "stream":
        z = x - mean
        squares = np.square(z).sum(axis=0, dtype=np.float64)
        halves = LocalPasses(
            lambda indices: [(rows, z[indices[rows]]) for rows in slices(len(indices), n // 2)]
        )
        return PrimalProblem(halves, n, squares, mean, square)
    passes = LocalPasses(partial(array_blocks, reduced.z))
    return PrimalProblem(passes, n, reduced.sum_of_squares, mean, square, axes, reduced)
