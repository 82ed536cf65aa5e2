"""Sums over the training rows: in this process, or by workers.

A few sums over rows reduce a problem, and any process can compute them. `LocalReducer` computes
them here. With `cluster/reducer.py`, workers compute those of their rows and add them up.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from scipy.linalg.blas import ssyrk

from bilinear_cli.training import gram
from bilinear_cli.training.feature_transform import Features, FeatureTransform
from bilinear_cli.training.gram import Coordinates, Progress
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import LocalPasses, PrimalProblem, array_blocks

log = logging.getLogger(__name__)


class Reducer(Protocol):
    """Sums over the training rows. X is the rows of features minus their mean."""

    def gram(self, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Reduce to inner products, for fewer rows than features.

        Returns:
            X Xᵀ, float32 (n, n); the mean of the rows, float32 (d,); the mean squared norm of the
            rows before centring.

        Raises:
            BilinearError: all rows are equal.
        """

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, float32 (d, k), for α float32 (n, k)."""

    def stream(self, progress: Progress | None) -> PrimalProblem:
        """Return a problem whose fits are passes over X.

        Raises:
            BilinearError: all rows are equal.
        """


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


def log_pass_time(seconds: float) -> None:
    """Log how long a fit takes, from the time of one pass."""
    passes = "each C needs about 10 to 50 passes, the last fit 50 to 500"
    log.info("one pass over the rows takes at least %.1f s: %s", seconds, passes)


@dataclass(frozen=True)
class LocalReducer:
    """Sums over the rows of these indices, in this process; see `Reducer`."""

    features: Features
    indices: np.ndarray

    def gram(self, progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return X Xᵀ, mean and mean square, from one pass; sums are float32, of one triangle."""
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
        return lower.T, mean, mean_square

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, from one pass."""
        weights = np.empty((self.features.d, alpha.shape[1]), np.float32)
        for span, x in replace(self.features, mean=mean).columns(self.indices):
            np.matmul(x.T, alpha, out=weights[span])
        return weights

    def rotate(self, progress: Progress | None = None) -> PrimalProblem:
        """Return a problem of the rows on their principal axes in memory, from three passes.

        Raises:
            BilinearError: all rows are equal.
        """
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
        """Compute mean and sums of squares in two passes; fits read the file again each time."""
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
