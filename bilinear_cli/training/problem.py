"""What is to be solved: the training rows, reduced to what fits the memory there is.

Three forms, with the same optimum. `GramProblem`: fewer rows than numbers, from inner products.
`AxesProblem`: fewer numbers than rows, on their principal axes in memory. `StreamedProblem`: from
the file, pass by pass, whatever fits neither way.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import numpy as np

from bilinear_cli.errors import validate_choice
from bilinear_cli.memory import free_memory
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, gram
from bilinear_cli.training.dual import Dual, DualFit
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.gram import Coordinates
from bilinear_cli.training.lbfgs import MEMORY
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.primal import VECTORS_BYTES, Batches, Linear, LocalPasses, Primal
from bilinear_cli.training.reducers import LOCAL, LocalReducer, Reading, Reducer

log = logging.getLogger(__name__)

SOLVERS = ("auto", "gram", "stream")
SHARE_OF_MEMORY = 0.7


class Problem(Protocol):
    """The training rows less their mean, as something to fit on. A fit is of the form's own type.

    Attributes:
        solver: `gram` or `stream`.
    """

    solver: ClassVar[str]

    @property
    def mean_square(self) -> float:
        """The mean squared norm of the rows before centring, the natural unit of 1 / C."""

    def regularization_path(
        self,
        indices: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        steps: Sequence[tuple[float, float]],
    ) -> Iterator[Any]:
        """Fit on rows along ascending C; `steps` are pairs of C and the tolerance."""

    def scores(self, fit: Any, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""

    def linear(self, fit: Any) -> Linear:
        """Return a fit on all rows as a model of the features, not centred."""

    def coordinates(self) -> Coordinates | None:
        """Return the rows on their principal axes, or None where they are streamed."""

    def from_axes(self, on_axes: Linear) -> Linear:
        """Return a model of the rows on their principal axes as one of the features."""


@dataclass(frozen=True)
class GramProblem(Dual):
    """Rows by their inner products; see `Problem`.

    Attributes:
        mean: float32 (d,), of the rows.
        mean_square: see `Problem`.
        reducer: makes weights.
    """

    mean: np.ndarray
    mean_square: float
    reducer: Reducer
    solver: ClassVar[str] = "gram"

    def linear(self, fit: DualFit) -> Linear:
        """Return the model, in one more pass over the features."""
        return self._linear(fit.alpha, fit.intercept)

    def coordinates(self) -> Coordinates:
        """Return the rows on their principal axes, from one factorisation."""
        return self._coordinates

    def from_axes(self, on_axes: Linear) -> Linear:
        """Return the model, in one more pass over the features."""
        return self._linear(self._coordinates.on_rows(on_axes.weights), on_axes.intercept)

    @cached_property
    def _coordinates(self) -> Coordinates:
        return gram.principal(self.gram)

    def _linear(self, alpha: np.ndarray, intercept: np.ndarray) -> Linear:
        return uncentred(self.reducer.weights(self.mean, alpha), intercept, self.mean)


@dataclass(frozen=True)
class AxesProblem(Primal):
    """Rows on their principal axes, in memory; see `Problem`.

    Attributes:
        mean: float32 (d,), of the rows.
        mean_square: see `Problem`.
        axes: float32 (d, r).
        on_axes: the rows.
    """

    mean: np.ndarray
    mean_square: float
    axes: np.ndarray
    on_axes: Coordinates
    solver: ClassVar[str] = "gram"

    def linear(self, fit: Linear) -> Linear:
        """Return the model."""
        return uncentred(self.axes @ fit.weights, fit.intercept, self.mean)

    def coordinates(self) -> Coordinates:
        """Return the rows."""
        return self.on_axes

    def from_axes(self, on_axes: Linear) -> Linear:
        """Return the model."""
        return self.linear(on_axes)


@dataclass(frozen=True)
class StreamedProblem(Primal):
    """Rows that each step of a fit reads anew; see `Problem`.

    Attributes:
        mean: float32 (d,), of the rows.
        mean_square: see `Problem`.
    """

    mean: np.ndarray
    mean_square: float
    solver: ClassVar[str] = "stream"

    def linear(self, fit: Linear) -> Linear:
        """Return the model."""
        return uncentred(fit.weights, fit.intercept, self.mean)

    def coordinates(self) -> None:
        """Return None: the rows are not in memory."""

    def from_axes(self, on_axes: Linear) -> Linear:
        """Raise AssertionError: there are no axes."""
        raise AssertionError("streamed rows are not on principal axes")


def uncentred(weights: np.ndarray, intercept: np.ndarray, mean: np.ndarray) -> Linear:
    """Return a model of centred features as one of the features as they are."""
    return Linear(weights, intercept - mean @ weights)


def choose_solver(solver: str, n: int, d: int, k: int) -> str:
    """Return `gram` or `stream`: the one asked for, or the first if the memory there is allows it.

    Args:
        solver: one of `SOLVERS`.
        n: training rows.
        d: numbers a row.
        k: classes.

    Raises:
        UsageError: there is no such solver.
    """
    validate_choice("solver", solver, SOLVERS)
    needed, free = bytes_needed(n, d, k), free_memory()
    chosen = solver
    if solver == "auto":
        chosen = "gram" if needed <= SHARE_OF_MEMORY * free else "stream"
    what = f"{n:,} rows of {d:,} numbers"
    sizes = f"{needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB of memory that are free"
    if chosen == "gram":
        log.info("%s, reduced in memory: about %s", what, sizes)
    else:
        why = "as asked for" if solver == "stream" else f"reduced, they would take {sizes}"
        log.info("%s, streamed, each step a pass over the file: %s", what, why)
    return chosen


def bytes_needed(n: int, d: int, k: int) -> int:
    """Return about how many bytes the reduced problem takes at its most, folds included."""
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
        transforms: what of them, normalised how.
        indices: of the training rows.
        solver: `gram` or `stream`.
        reading: how they are read. Rows of fewer numbers than there are of them are reduced here
            even if there are workers: they are few numbers.

    Raises:
        BilinearError: all rows are the same.
        FeatureFileError: the file is damaged, or holds what is no number.
    """
    n, d = len(indices), sum(transform.n_features for transform in transforms)
    workers, progress = reading.workers, reading.progress
    here = LocalReducer(file, transforms, indices)
    reducer: Reducer = workers.over(transforms, indices) if workers else here
    if solver == "stream":
        stream = reducer.stream(progress)
        return StreamedProblem(stream.passes, n, stream.variance, stream.mean, stream.mean_square)
    if n <= d:
        return GramProblem(*reducer.gram(progress), reducer)
    if workers:
        log.info("%d numbers a row are few: they are reduced here, not by the workers", d)
    batches = partial(feature_transform.row_blocks, transforms, file, indices)
    z, axes, mean, square = gram.rotate(batches, n, d, progress)
    passes = LocalPasses(partial(_in_memory, z.z))
    return AxesProblem(passes, n, z.variance, mean, square, axes, z)


def _in_memory(z: np.ndarray, indices: np.ndarray) -> Batches:
    """Return passes over rows that are in memory; of some of them, a few are copied at a time."""
    if len(indices) == len(z):
        return lambda: [(slice(0, len(z)), z)]
    step = max(1, feature_transform.BLOCK_BYTES // (4 * z.shape[1]))
    starts = range(0, len(indices), step)
    return lambda: (
        (slice(i, min(i + step, len(indices))), z[indices[i : i + step]]) for i in starts
    )
