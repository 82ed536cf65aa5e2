"""The problem to solve: the training rows, reduced to what fits the memory.

There are three forms with the same optimum. `GramProblem`: fewer rows than features, from inner
products. `PrimalProblem` in memory: fewer features than rows, on principal axes. `PrimalProblem`
from the file or by workers: rows that fit neither way, in one pass after another.

A few sums over rows reduce a problem. `LocalReducer` computes them in this process. With
`cluster/reducer.py`, workers compute those of their rows and add them up.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from scipy.linalg.blas import ssyrk

from bilinear_cli.errors import validate_choice
from bilinear_cli.files import free_memory
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, gram
from bilinear_cli.training.dual import GramProblem
from bilinear_cli.training.feature_transform import Features, FeatureTransform
from bilinear_cli.training.gram import Coordinates, Progress
from bilinear_cli.training.lbfgs import MEMORY
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import VECTORS_BYTES, LocalPasses, PrimalProblem, array_blocks

log = logging.getLogger(__name__)

SOLVERS = ("auto", "gram", "stream")
MEMORY_FRACTION = 0.7  # of the free memory

Problem = GramProblem | PrimalProblem


class Reducer(Protocol):
    """Reduces the training rows by sums over them; raises BilinearError if all rows are equal."""

    def gram(self, progress: Progress | None) -> GramProblem:
        """Return the problem of the rows' inner products, for fewer rows than features."""

    def stream(self, progress: Progress | None) -> PrimalProblem:
        """Return a problem whose fits are passes over the rows."""


class Workers(Protocol):
    """Processes that compute sums over rows and scores; see `cluster/reducer.py`."""

    n: int

    def over(self, transforms: Sequence[FeatureTransform], indices: np.ndarray) -> Reducer:
        """Return sums over rows of these indices."""

    def scores(self, model: Model, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of these indices."""


@dataclass(frozen=True)
class Reading:
    """How to read the training rows.

    Attributes:
        progress: called with (done, total) while rows are read.
        workers: compute the sums over rows; None: this process does.
    """

    progress: Progress | None = None
    workers: Workers | None = None


LOCAL = Reading()


# The choice of a solver ------------------------------------------------------------------


def choose_solver(solver: str, n: int, d: int, k: int) -> str:
    """Return `gram` or `stream`: for `auto`, `gram` if the reduced problem fits the free memory.

    Args:
        solver: one of `SOLVERS`.
        n: number of training rows.
        d: number of features.
        k: number of classes.

    Raises:
        UsageError: the solver is unknown.
    """
    validate_choice("solver", solver, SOLVERS)
    needed, free = bytes_needed(n, d, k), free_memory()
    chosen = solver
    if solver == "auto":
        chosen = "gram" if needed <= MEMORY_FRACTION * free else "stream"
    sizes = f"{needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB of free memory"
    if chosen == "gram":
        log.info("solver gram: %s rows of %s features need about %s", f"{n:,}", f"{d:,}", sizes)
    else:
        reason = "--solver stream" if solver == "stream" else f"the solver gram would need {sizes}"
        rows = f"{n:,} rows of {d:,} features"
        log.info("solver stream: each step reads %s from the file (%s)", rows, reason)
    return chosen


def bytes_needed(n: int, d: int, k: int) -> int:
    """Return about how many bytes the reduced problem takes at its peak, folds included."""
    blocks, scores = 4 * feature_transform.BLOCK_BYTES, 4 * n * k
    if n <= d:  # a Gram matrix, two matrices for each of five folds; points are pairs of scores
        return blocks + 4 * n * n + 5 * 2 * 4 * int(0.8 * n) ** 2 + 2 * 2 * MEMORY * scores
    eigenvectors = 3 * 8 * d * d
    return blocks + max(eigenvectors, 4 * n * d + VECTORS_BYTES + 4 * scores)


def reduce(
    file: FeatureFile,
    transforms: Sequence[FeatureTransform],
    indices: np.ndarray,
    solver: str,
    reading: Reading = LOCAL,
) -> Problem:
    """Read the training rows and reduce them.

    Args:
        file: the features.
        transforms: fitted, of the poolings side by side.
        indices: of the training rows.
        solver: `gram` or `stream`.
        reading: how to read them. Rows with fewer features than there are rows are small, so this
            process reduces them even if there are workers.

    Raises:
        BilinearError: all rows are equal.
        FeatureFileError: the file is damaged, or has a value that is not finite.
    """
    workers, progress = reading.workers, reading.progress
    local = LocalReducer(Features(file, transforms), indices)
    reducer: Reducer = workers.over(transforms, indices) if workers else local
    if solver == "stream":
        return reducer.stream(progress)
    if len(indices) <= local.features.d:
        return reducer.gram(progress)
    if workers:
        small = "rows of %d features are small: this process reduces them, not the workers"
        log.info(small, local.features.d)
    return local.rotate(progress)


# Sums in this process --------------------------------------------------------------------


def log_pass_time(seconds: float) -> None:
    """Log how long a fit takes, from the time of one pass."""
    passes = "each C needs about 10 to 50 passes, the last fit 50 to 500"
    log.info("one pass over the rows takes at least %.1f s: %s", seconds, passes)


@dataclass(frozen=True)
class LocalReducer:
    """Sums over the rows of these indices in this process; X is the rows minus their mean."""

    features: Features
    indices: np.ndarray

    def gram(self, progress: Progress | None = None) -> GramProblem:
        """Sum X Xᵀ over blocks of columns in one pass, in float32, one triangle of it."""
        n, d = len(self.indices), self.features.d
        mean = np.empty(d, np.float32)
        lower = np.zeros((n, n), np.float32, order="F")
        for span, x in gram.track(self.features.columns(self.indices), progress, d):
            mean[span] = x.mean(axis=0)  # in float32: the intercept absorbs the rounding
            x -= mean[span]
            lower = ssyrk(1, x.T, beta=1, c=lower, trans=1, lower=1, overwrite_c=1)
        diagonal = np.einsum("ii->i", lower)
        spread = diagonal.mean(dtype=np.float64)
        mean_square = float(spread + np.square(mean, dtype=np.float64).sum())
        gram.check_not_constant(spread, mean_square)
        lower += lower.T
        diagonal *= 0.5
        return GramProblem(lower.T, mean, mean_square, self.weights)

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, float32 (d, k), for α float32 (n, k), from one pass."""
        weights = np.empty((self.features.d, alpha.shape[1]), np.float32)
        for span, x in replace(self.features, mean=mean).columns(self.indices):
            np.matmul(x.T, alpha, out=weights[span])
        return weights

    def rotate(self, progress: Progress | None = None) -> PrimalProblem:
        """Rotate rows of few features to their principal axes, in memory, in three passes."""
        n, d = len(self.indices), self.features.d
        mean, squares = self._mean(progress, 3)
        centred, covariance = replace(self.features, mean=mean), np.zeros((d, d))
        for _, x in gram.track(centred.rows(self.indices), progress, 3 * n, n):
            covariance += x.T @ x
        gram.check_not_constant(np.trace(covariance), squares)
        eigenvalues, axes = gram.eigenvectors(covariance)
        axes = axes.astype(np.float32)
        z = np.empty((n, len(eigenvalues)), np.float32)
        for rows, x in gram.track(centred.rows(self.indices), progress, 3 * n, 2 * n):
            z[rows] = x @ axes
        passes, coordinates = LocalPasses(partial(array_blocks, z)), Coordinates(z, eigenvalues)
        return PrimalProblem(passes, n, eigenvalues, mean, squares / n, axes, coordinates)

    def stream(self, progress: Progress | None = None) -> PrimalProblem:
        """Sum rows and squares in two passes; fits read the file again each time."""
        n = len(self.indices)
        mean, squares = self._mean(progress, 2)
        centred, start_time = replace(self.features, mean=mean), time.perf_counter()
        rows = gram.track(centred.rows(self.indices), progress, 2 * n, n)
        column_squares = gram.column_squares(rows, centred.d)
        log_pass_time(time.perf_counter() - start_time)
        gram.check_not_constant(column_squares.sum(), squares)
        passes = LocalPasses(lambda chosen: centred.rows(self.indices[chosen]))
        return PrimalProblem(passes, n, column_squares, mean, squares / n)

    def _mean(self, progress: Progress | None, n_passes: int) -> tuple[np.ndarray, float]:
        """Return the mean of the rows and the sum of their squares, from the first pass."""
        n, rows = len(self.indices), self.features.rows(self.indices)
        total, squares = gram.row_sums(gram.track(rows, progress, n_passes * n), self.features.d)
        return (total / n).astype(np.float32), squares
