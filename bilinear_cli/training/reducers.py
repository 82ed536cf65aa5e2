"""Sums over the training rows: here, in passes over the file, or by workers.

A problem is reduced with a few sums, and they may be taken anywhere: `LocalReducer` takes them in
this process; `cluster/reducer.py` lets workers take those of their rows, and adds them up.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, gram
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Batches, LocalPasses, Passes

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class Reducer(Protocol):
    """Sums over the training rows, as a classifier sees them; X is those less their mean."""

    def gram(self, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return X Xᵀ, the rows' mean and their mean square, as `gram.gram` does."""

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, float32 (d, k), of α float32 (n, k)."""

    def stream(self, progress: Progress | None) -> "StreamStatistics":
        """Return what fitting by passes over X starts from."""


@dataclass(frozen=True)
class StreamStatistics:
    """What fitting by passes over the training rows starts from.

    Attributes:
        passes: over the rows less their mean.
        mean: float32 (d,), theirs.
        variance: float64 (d,), the sum of squares of each column of those less their mean.
        mean_square: their mean squared norm before that.
    """

    passes: Passes
    mean: np.ndarray
    variance: np.ndarray
    mean_square: float

    @classmethod
    def of_sums(
        cls, passes: Passes, mean: np.ndarray, variance: np.ndarray, squares: float, n: int
    ) -> "StreamStatistics":
        """Take the sum of the squared norms of n rows.

        Raises:
            BilinearError: all rows are the same.
        """
        gram.check_not_constant(variance.sum(), squares)
        return cls(passes, mean, variance, squares / n)


class Workers(Protocol):
    """Who takes sums elsewhere; see `cluster/reducer.py`."""

    n: int

    def over(self, transforms: Sequence[FeatureTransform], indices: np.ndarray) -> Reducer:
        """Return sums over rows of these indices."""

    def scores(self, model: Model, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of these indices."""


@dataclass(frozen=True)
class Reading:
    """How the training rows are read.

    Attributes:
        progress: told (done, in all) of what is read.
        workers: who takes the sums over rows, if not this process.
    """

    progress: Progress | None = None
    workers: Workers | None = None


LOCAL = Reading()


def log_pass_time(seconds: float) -> None:
    """Say how long a fit takes, from the time of one pass."""
    log.info(
        "a pass takes at least %.1f s; a C takes some 10 to 50 of them, the last fit 50 to 500",
        seconds,
    )


@dataclass(frozen=True)
class LocalReducer:
    """Sums over rows of a file, taken in this process; see `Reducer`.

    Attributes:
        file: the features.
        transforms: what of them, normalised how.
        indices: the rows' indices.
    """

    file: FeatureFile
    transforms: Sequence[FeatureTransform]
    indices: np.ndarray

    def gram(self, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return X Xᵀ, the rows' mean and their mean square."""
        d = sum(transform.n_features for transform in self.transforms)
        columns = feature_transform.column_blocks(self.transforms, self.file, self.indices)
        return gram.gram(columns, len(self.indices), d, progress)

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α."""
        return gram.primal_weights(
            feature_transform.column_blocks(self.transforms, self.file, self.indices), mean, alpha
        )

    def stream(self, progress: Progress | None) -> StreamStatistics:
        """Take means and variances in two passes; fits read the file again and again."""
        n, d = len(self.indices), sum(transform.n_features for transform in self.transforms)
        mean, variance, squares = np.zeros(d), np.zeros(d), 0.0
        for span, block in feature_transform.row_blocks(self.transforms, self.file, self.indices):
            mean += block.sum(axis=0, dtype=np.float64) / n
            squares += float(np.einsum("ij,ij->i", block, block).sum(dtype=np.float64))
            if progress:
                progress(span.stop, 2 * n)
        middle, began = mean.astype(np.float32), time.perf_counter()
        batches = partial(self._centred, middle)
        for span, block in batches(np.arange(n))():
            variance += np.einsum("ij,ij->j", block, block)
            if progress:
                progress(n + span.stop, 2 * n)
        log_pass_time(time.perf_counter() - began)
        return StreamStatistics.of_sums(LocalPasses(batches), middle, variance, squares, n)

    def _centred(self, mean: np.ndarray, indices: np.ndarray) -> Batches:
        def batches() -> Iterator[tuple[slice, np.ndarray]]:
            for places, block in feature_transform.row_blocks(
                self.transforms, self.file, self.indices[indices]
            ):
                block -= mean
                yield places, block

        return batches
