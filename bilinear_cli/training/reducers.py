"""Sums over the training rows: in this process, or by workers.

A few sums over rows reduce a problem, and any process can compute them. `LocalReducer` computes
them here. With `cluster/reducer.py`, workers compute those of their rows and add them up.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from bilinear_cli.training import gram
from bilinear_cli.training.feature_transform import Features, FeatureTransform
from bilinear_cli.training.gram import Progress
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import LocalPasses, PrimalProblem

log = logging.getLogger(__name__)


class Reducer(Protocol):
    """Sums over the training rows. X is the rows of features minus their mean."""

    def gram(self, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return X Xᵀ, the mean of the rows and their mean square, as `gram.gram` does."""

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
    log.info(
        "one pass over the rows takes at least %.1f s. "
        "Each C needs about 10 to 50 passes, and the last fit 50 to 500.",
        seconds,
    )


@dataclass(frozen=True)
class LocalReducer:
    """Sums over the rows of these indices, in this process; see `Reducer`."""

    features: Features
    indices: np.ndarray

    def gram(self, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return `gram.gram`, from one pass."""
        columns = self.features.columns(self.indices)
        return gram.gram(columns, len(self.indices), self.features.d, progress)

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, from one pass."""
        centred = replace(self.features, mean=mean)
        return gram.primal_weights(centred.columns(self.indices), centred.d, alpha)

    def stream(self, progress: Progress | None) -> PrimalProblem:
        """Compute mean and sums of squares in two passes; fits read the file again each time."""
        n, d = len(self.indices), self.features.d
        rows = gram.track(self.features.rows(self.indices), progress, 2 * n)
        total, squares = gram.row_sums(rows, d)
        mean, start_time = (total / n).astype(np.float32), time.perf_counter()
        centred = replace(self.features, mean=mean)
        rows = gram.track(centred.rows(self.indices), progress, 2 * n, n)
        column_squares = gram.column_squares(rows, d)
        log_pass_time(time.perf_counter() - start_time)
        gram.check_not_constant(column_squares.sum(), squares)
        passes = LocalPasses(lambda chosen: centred.rows(self.indices[chosen]))
        return PrimalProblem(passes, n, column_squares, mean, squares / n)
