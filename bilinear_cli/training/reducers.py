"""The problem to solve: the training rows, reduced to what fits the memory.

There are three forms with the same optimum. `GramProblem`: fewer rows than features, from inner
products. `PrimalProblem` in memory: fewer features than rows, on principal axes. `PrimalProblem`
from the file or by workers: rows that fit neither way, in one pass after another.

A few sums over rows reduce a problem. `LocalReducer` computes them in this process. In
`cluster/reducer.py`, workers do; they add the sums up, and send a Gram matrix in tiles.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from scipy.linalg import get_blas_funcs

from bilinear_cli.machine import free_memory
from bilinear_cli.progress import Progress
from bilinear_cli.training import feature_transform, primal, principal_axes
from bilinear_cli.training.dual import GramProblem
from bilinear_cli.training.feature_transform import Features, with_progress
from bilinear_cli.training.lbfgs import N_PAIRS
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import SOLVERS
from bilinear_cli.training.primal import Passes, PrimalProblem
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)

MEMORY_FRACTION = 0.7  # of the free memory

Problem = GramProblem | PrimalProblem


def choose_solver(solver: str, n: int, d: int, k: int, itemsize: int = 4) -> str:
    """Return `gram` or `stream`: for `auto`, `gram` if the reduced problem fits the free memory.

    It is a problem of n training rows, d features of `itemsize` bytes, and k classes.

    Raises:
        UsageError: the solver is none of `SOLVERS`.
    """
    validate_choice("solver", solver, SOLVERS)
    needed, free = bytes_needed(n, d, k, itemsize), free_memory()
    resolved = solver
    if solver == "auto":
        resolved = "gram" if needed <= MEMORY_FRACTION * free else "stream"
    sizes = f"{needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB of free memory"
    if resolved == "gram":
        log.info("solver gram: %s rows of %s features need about %s", f"{n:,}", f"{d:,}", sizes)
    else:
        reason = "--solver stream" if solver == "stream" else f"the solver gram would need {sizes}"
        rows = f"{n:,} rows of {d:,} features"
        log.info("solver stream: each step is a pass over %s (%s)", rows, reason)
    return resolved


def bytes_needed(n: int, d: int, k: int, itemsize: int = 4) -> int:
    """Return about how many bytes the reduced problem takes at its peak, folds included."""
    blocks, scores = 4 * feature_transform.BLOCK_BYTES, itemsize * n * k
    if n <= d:  # a Gram matrix, two matrices for each of five folds; points are pairs of scores
        matrices = n * n + 5 * 2 * int(0.8 * n) ** 2
        return blocks + itemsize * matrices + 2 * 2 * N_PAIRS * scores
    eigenvectors = 3 * 8 * d * d
    return blocks + max(eigenvectors, itemsize * n * d + primal.VECTORS_BYTES + 4 * scores)


@dataclass(frozen=True)
class LocalReducer:
    """Reduces the training rows by sums over them, in this process.

    Its methods raise a BilinearError if all rows are equal, and a FeatureFileError if the file is
    damaged or has a value that is not finite.
    """

    features: Features
    indices: np.ndarray  # of the training rows; X is their features minus the mean
    progress: Progress | None = None  # called with (done, total)
    # float64 (n,), above zero: how often each row counts, also in the mean; None for once
    sample_weight: np.ndarray | None = None

    @property
    def total_weight(self) -> float:
        """The number of rows, or the sum of their weights."""
        n = len(self.indices)
        return n if self.sample_weight is None else float(self.sample_weight.sum())

    def reduce(self, solver: str) -> Problem:
        """Return the problem for the solver `gram` or `stream`."""
        if solver == "stream":
            return self.reduce_to_stream()
        few_rows = len(self.indices) <= self.features.n_features
        return self.reduce_to_gram() if few_rows else self.reduce_to_axes()

    def reduce_to_gram(self) -> GramProblem:
        """Sum X Xᵀ over blocks of columns in one pass, in the rows' type, one triangle of it."""
        n, d = len(self.indices), self.features.n_features
        dtype, weights = self.features.dtype, self.sample_weight
        mean, lower = np.empty(d, dtype), np.zeros((n, n), dtype, order="F")
        syrk = get_blas_funcs("syrk", (lower,))
        for span, x in with_progress(self.features.columns(self.indices), self.progress, d):
            # in float32: the intercept absorbs the rounding
            mean[span] = np.average(x, axis=0, weights=weights)
            x -= mean[span]
            lower = syrk(1, x.T, beta=1, c=lower, trans=1, lower=1, overwrite_c=1)
        diagonal = np.einsum("ii->i", lower)
        spread = np.average(diagonal.astype(np.float64), weights=weights)
        mean_squared_norm = float(spread + np.square(mean, dtype=np.float64).sum())
        self._check_not_constant(spread, mean_squared_norm)
        lower += lower.T
        diagonal *= 0.5
        return GramProblem(lower.T, mean, mean_squared_norm, self.weights, weights)

    def weights(self, mean: np.ndarray, dual_coef: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, (d, k), for α (n, k) of the rows' type, from one pass."""
        weights = np.empty((self.features.n_features, dual_coef.shape[1]), dual_coef.dtype)
        for span, x in replace(self.features, mean=mean).columns(self.indices):
            np.matmul(x.T, dual_coef, out=weights[span])
        return weights

    def reduce_to_axes(self) -> PrimalProblem:
        """Rotate rows of few features to their principal axes, in memory, in three passes."""
        n, d, dtype = len(self.indices), self.features.n_features, self.features.dtype
        weights, total = self.sample_weight, self.total_weight
        mean, squares = self._mean(3)
        centred, covariance = replace(self.features, mean=mean), np.zeros((d, d))
        for rows, x in with_progress(centred.rows(self.indices), self.progress, 3 * n, n):
            if weights is not None:
                x *= np.sqrt(weights[rows])[:, None]
            covariance += x.T @ x
        self._check_not_constant(np.trace(covariance), squares)
        tolerance = principal_axes.rank_tolerance(dtype)
        eigenvalues, axes = principal_axes.eigenvectors(covariance, tolerance)
        axes = axes.astype(dtype)
        z = np.empty((n, len(eigenvalues)), dtype)
        for rows, x in with_progress(centred.rows(self.indices), self.progress, 3 * n, 2 * n):
            z[rows] = x @ axes
        passes = primal.LocalPasses(partial(primal.array_blocks, z))
        coordinates = principal_axes.Coordinates(z, eigenvalues, weights)
        reduced = (eigenvalues, mean, squares / total, axes, coordinates, weights)
        return PrimalProblem(passes, total, *reduced)

    def reduce_to_stream(self) -> PrimalProblem:
        """Sum rows and squares in two passes; fits read the file again each time."""
        n = len(self.indices)
        mean, squares = self._mean(2)
        centred = replace(self.features, mean=mean)
        rows = with_progress(centred.rows(self.indices), self.progress, 2 * n, n)
        passes = primal.LocalPasses(lambda selected: centred.rows(self.indices[selected]))
        sums = partial(principal_axes.column_squares, rows, centred.n_features)
        return self.streamed(passes, mean, squares, sums)

    def streamed(
        self, passes: Passes, mean: np.ndarray, squares: float, sums: Callable[[], np.ndarray]
    ) -> PrimalProblem:
        """Return a problem; `sums`, of the columns' squares, is one pass, whose time is logged."""
        n, start_time = len(self.indices), time.perf_counter()
        sum_of_squares = sums()
        seconds = time.perf_counter() - start_time
        passes_needed = "each C needs about 10 to 50 passes, the last fit 50 to 500"
        log.info("one pass over the rows takes at least %.1f s: %s", seconds, passes_needed)
        mean_squared_norm = squares / self.total_weight
        self._check_not_constant(sum_of_squares.sum() / n, mean_squared_norm)
        weights = self.sample_weight
        return PrimalProblem(
            passes, n, sum_of_squares, mean, mean_squared_norm, sample_weight=weights
        )

    def _mean(self, n_passes: int) -> tuple[np.ndarray, float]:
        """Return the mean of the rows and the sum of their squares, from the first pass."""
        n, rows = len(self.indices), self.features.rows(self.indices)
        rows = with_progress(rows, self.progress, n_passes * n)
        sums = principal_axes.row_sums(rows, self.features.n_features, self.sample_weight)
        return (sums[0] / self.total_weight).astype(self.features.dtype), sums[1]

    def _check_not_constant(self, spread: float, squares: float) -> None:
        """Raise BilinearError if centring leaves nothing of the rows' squared norms."""
        tolerance = principal_axes.rank_tolerance(self.features.dtype)
        principal_axes.check_not_constant(spread, squares, tolerance)


class Workers(Protocol):
    """Processes that compute sums over rows and scores; see `cluster/reducer.py`."""

    n_workers: int

    def reducer(
        self,
        features: Features,
        indices: np.ndarray,
        progress: Progress | None,
        sample_weight: np.ndarray | None = None,
    ) -> LocalReducer:
        """Return a reducer whose sums over many features are those of the workers."""

    def scores(self, model: Model, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of these indices."""
