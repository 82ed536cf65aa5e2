"""Linear classifiers by passes over blocks of rows: in memory, from a file, or by workers.

The one objective is a sum over blocks of rows. In memory the rows are on their principal axes.
Beyond memory each evaluation is a pass over the file, or workers sum over their blocks.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import numpy as np

from bilinear_cli.progress import LOG_SECONDS, every
from bilinear_cli.training import feature_transform
from bilinear_cli.training.feature_transform import Block
from bilinear_cli.training.lbfgs import minimize, starting_points
from bilinear_cli.training.losses import MakeLoss, inner_product
from bilinear_cli.training.principal_axes import Coordinates

log = logging.getLogger(__name__)

FINAL_CURVATURE = 0.3  # of a loss at the end of a fit, about, relative to that at its start
VECTORS_BYTES = 1 << 29  # of the pairs that L-BFGS keeps
PAIRS_RANGE = (3, 10)  # fewest and most pairs

LossSums = tuple[float, float, np.ndarray]
Steps = Sequence[tuple[float, float]]  # C, ascending by decades, and the tolerance of `minimize`


@dataclass(frozen=True)
class Linear:
    """A linear map: weights (d, k) and intercept (k,), float32 or float64 as the rows."""

    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, k) of rows (n, d)."""
        return x @ self.weights + self.intercept

    def uncentred(self, mean: np.ndarray) -> "Linear":
        """Return this model of rows minus `mean` as a model of the rows."""
        return Linear(self.weights, self.intercept - mean @ self.weights)


class Passes(Protocol):
    """Passes over centred rows (n, d), in this process or by workers."""

    def losses(
        self,
        indices: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        sample_weight: np.ndarray | None = None,
    ) -> Callable[[Linear], LossSums]:
        """Return a function: model -> `loss_sums` of these rows; the caller may overwrite them."""

    def scores(self, model: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""


def loss_sums(
    model: Linear,
    blocks: Iterable[Block],
    targets: np.ndarray,
    make_loss: MakeLoss,
    sample_weight: np.ndarray | None = None,
) -> LossSums:
    """Return sums over n rows (n, d); those of two sets of rows add up to those of both.

    Returns:
        The losses; their second derivative by the scores, a mean over the classes; their gradient,
        (d + 1, k): by the weights, and in the last row by the intercept.
    """
    loss, curvature = 0.0, 0.0
    gradient = np.zeros((len(model.weights) + 1, len(model.intercept)), model.weights.dtype)
    for rows, x in blocks:
        row_weight = None if sample_weight is None else sample_weight[rows]
        value, error, second_derivative = make_loss(targets[rows], row_weight)(model(x))
        loss += value
        curvature += second_derivative * len(x)
        gradient[:-1] += x.T @ error
        gradient[-1] += error.sum(axis=0)
    return loss, curvature, gradient


def array_blocks(x: np.ndarray, indices: np.ndarray) -> Iterator[Block]:
    """Yield rows of an array: all of them at once, or copies of some in blocks."""
    if np.array_equal(indices, np.arange(len(x))):
        yield slice(0, len(x)), x
        return
    step = max(1, feature_transform.BLOCK_BYTES // (x.itemsize * x.shape[1]))
    for start in range(0, len(indices), step):
        rows = slice(start, min(start + step, len(indices)))
        yield rows, x[indices[rows]]


@dataclass(frozen=True)
class LocalPasses:
    """Passes over rows in this process; `blocks` maps indices to the blocks of these rows."""

    blocks: Callable[[np.ndarray], Iterable[Block]]

    def losses(
        self,
        indices: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        sample_weight: np.ndarray | None = None,
    ) -> Callable[[Linear], LossSums]:
        """Return a function that makes one pass at each call."""
        return lambda model: loss_sums(
            model, self.blocks(indices), targets, make_loss, sample_weight
        )

    def scores(self, model: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores from one pass."""
        return np.concatenate([model(x) for _, x in self.blocks(indices)])


@dataclass(frozen=True)
class PrimalProblem:
    """Centred rows and fits by passes over them; its methods are those of `GramProblem`."""

    passes: Passes  # over the rows, (n, d), or (n, r) on their principal axes
    n: float  # number of rows, or the sum of their weights
    sum_of_squares: np.ndarray  # float64, of each column of the rows, as often as `n` counts them
    mean: np.ndarray  # (d,), of the features
    mean_squared_norm: float  # of the rows before centring; the natural unit of 1 / C
    axes: np.ndarray | None = None  # (d, r), the principal axes; None for features
    coordinates: Coordinates | None = None  # the rows on their principal axes
    sample_weight: np.ndarray | None = None  # (number of rows,), above zero

    @property
    def solver(self) -> str:
        """`gram` for rows reduced in memory, `stream` for rows that each step reads again."""
        return "stream" if self.axes is None else "gram"

    def regularization_path(
        self, indices: np.ndarray, targets: np.ndarray, make_loss: MakeLoss, steps: Steps
    ) -> Iterator[Linear]:
        """Fit along ascending C; see `GramProblem`.

        L-BFGS works on weights scaled by the square roots of the objective's estimated curvature.
        On principal axes this removes most of the spread of the eigenvalues.
        """
        sample_weight = None if self.sample_weight is None else self.sample_weight[indices]
        losses = self.passes.losses(indices, targets, make_loss, sample_weight)
        losses = _log_passes(losses) if self.solver == "stream" else losses
        (n, k), d = targets.shape, len(self.sum_of_squares)
        squares = np.append(self.sum_of_squares * n / self.n, n)
        penalised = np.append(np.ones(d), 0)
        affordable = VECTORS_BYTES // (2 * targets.itemsize * (d + 1) * k)
        n_pairs = int(np.clip(affordable, *PAIRS_RANGE))
        solutions: list[np.ndarray] = []
        for C, tolerance in steps:
            candidates = starting_points(solutions, (d + 1, k), targets.dtype)
            values = [objective(point, losses, C) for point in candidates]
            start = candidates[int(np.argmin([value for value, *_ in values]))]
            curvature = values[0][2] / n
            diagonal = penalised + FINAL_CURVATURE * C * curvature * squares
            scale = (1 / np.sqrt(diagonal + 1e-30)).astype(targets.dtype)[:, None]

            def scaled(
                u: np.ndarray, C: float = C, scale: np.ndarray = scale
            ) -> tuple[float, np.ndarray]:
                value, gradient, _ = objective(u * scale, losses, C)
                return value, gradient * scale

            point = scale * minimize(scaled, start / scale, tolerance=tolerance, n_pairs=n_pairs)
            solutions = [*solutions[-1:], point]
            yield Linear(point[:-1], point[-1])

    def scores(self, solution: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""
        return self.passes.scores(solution, indices)

    def to_linear(self, solution: Linear) -> Linear:
        """Return a fit as a model of the features."""
        weights = solution.weights if self.axes is None else self.axes @ solution.weights
        return Linear(weights, solution.intercept).uncentred(self.mean)

    linear_from_axes = to_linear  # a model of the `coordinates` is a solution


def _log_passes(losses: Callable[[Linear], LossSums]) -> Callable[[Linear], LossSums]:
    """Return `losses` that logs every few seconds how many passes it has made."""
    is_due, n_passes = every(LOG_SECONDS), count(1)

    def logged(model: Linear) -> LossSums:
        sums, n = losses(model), next(n_passes)
        if is_due():
            log.info("the solver has made %d passes over the rows", n)
        return sums

    return logged


def objective(
    point: np.ndarray, losses: Callable[[Linear], LossSums], C: float
) -> tuple[float, np.ndarray, float]:
    """Return `C * losses + ||W||² / 2`, its gradient, and the sum of the second derivatives.

    The point, (d + 1, k), is the weights W, and in the last row the intercept.
    """
    weights = point[:-1]
    loss, curvature, gradient = losses(Linear(weights, point[-1]))
    gradient *= C
    gradient[:-1] += weights
    return C * loss + 0.5 * inner_product(weights, weights), gradient, curvature
