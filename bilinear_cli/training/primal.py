"""Linear classifiers by passes over rows: in memory, from a file of any length, or by workers.

One objective, summed over blocks of rows. Where the rows have fewer numbers than there are of
them, they are one block in memory, on their principal axes; where neither that nor a Gram matrix
fits the memory there is, each evaluation is a pass over the file, or workers take the sums of
their blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bilinear_cli.training.lbfgs import minimize
from bilinear_cli.training.losses import MakeLoss, dot

CURVATURE_AT_END = 0.3  # of a loss at the end of a fit, about, in terms of that at its start
MAX_ITERATIONS = 1000
VECTORS_BYTES = 1 << 29  # of what L-BFGS remembers
LEAST_MEMORY, MOST_MEMORY = 3, 10

Block = tuple[slice, np.ndarray]
Batches = Callable[[], Iterable[Block]]
LossSums = tuple[float, float, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Linear:
    """A linear map: float32 weights (d, k) and intercept (k,)."""

    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, k) of rows (n, d)."""
        return x @ self.weights + self.intercept


class Passes(Protocol):
    """Passes over rows, d numbers each, that are centred, wherever they are."""

    def losses(
        self, indices: np.ndarray, targets: np.ndarray, make_loss: MakeLoss
    ) -> Callable[[Linear], LossSums]:
        """Return model -> the sums over these rows, as `loss_sums` takes them."""

    def scores(self, model: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""


def loss_sums(
    model: Linear, blocks: Iterable[Block], targets: np.ndarray, make_loss: MakeLoss
) -> LossSums:
    """Return the losses of rows, their second derivative and their gradients, summed.

    Args:
        model: W (d, k) and the intercept.
        blocks: the rows.
        targets: float32 (n, k).
        make_loss: of `losses.py`.

    Returns:
        The losses, their second derivative by the scores (its mean over the classes), and the
        gradients by weights and by intercept: sums, so that those of all rows are those of some
        and those of the others.
    """
    loss, curvature = 0.0, 0.0
    by_weights, by_intercept = np.zeros_like(model.weights), np.zeros_like(model.intercept)
    for rows, x in blocks:
        value, error, second = make_loss(targets[rows])(model(x))
        loss += value
        curvature += second * len(x)
        by_weights += x.T @ error
        by_intercept += error.sum(axis=0)
    return loss, curvature, by_weights, by_intercept


class LocalPasses:
    """Passes over rows that this process holds or reads."""

    def __init__(self, batches: Callable[[np.ndarray], Batches]) -> None:
        """Take rows.

        Args:
            batches: indices -> a function that starts a pass over these rows: (slice of the
                indices, float32 (its length, d)).
        """
        self.batches = batches

    def losses(
        self, indices: np.ndarray, targets: np.ndarray, make_loss: MakeLoss
    ) -> Callable[[Linear], LossSums]:
        """Return model -> the sums over these rows."""
        batches = self.batches(indices)
        return lambda model: loss_sums(model, batches(), targets, make_loss)

    def scores(self, model: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""
        return np.concatenate([model(x) for _, x in self.batches(indices)()])


@dataclass(frozen=True)
class Primal:
    """Rows, d numbers each, that are centred, and fits on them.

    Attributes:
        passes: over the rows.
        n: how many there are.
        variance: float64 (d,), the sum of squares of each column over all rows.
    """

    passes: Passes
    n: int
    variance: np.ndarray

    def regularization_path(
        self,
        indices: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        steps: Sequence[tuple[float, float]],
    ) -> Iterator[Linear]:
        """Fit along ascending C, each from where the last two point to.

        L-BFGS works on weights scaled by the roots of the objective's estimated curvature, which
        on principal axes takes most of the spread of eigenvalues away.

        Args:
            indices: int (n,), of the rows to fit on.
            targets: float32 (n, k), theirs.
            make_loss: of `losses.py`.
            steps: pairs of C, the weight of the losses, ascending by decades, and the tolerance
                of `minimize`.
        """
        losses = self.passes.losses(indices, targets, make_loss)
        (n, k), d = targets.shape, len(self.variance)
        variance = np.append(self.variance * n / self.n, n)
        penalised = np.append(np.ones(d), 0)
        room = VECTORS_BYTES // (2 * 4 * (d + 1) * k)
        done: list[Linear] = []
        for C, tolerance in steps:
            starts = _warm_starts(done, d, k)
            values = [objective(fit, losses, n, C) for fit in starts]
            first = starts[int(np.argmin([value for value, *_ in values]))]
            curvature = values[0][3]
            bend = penalised + CURVATURE_AT_END * C * curvature * variance
            scale = (1 / np.sqrt(bend + 1e-30)).astype(np.float32)[:, None]

            def scaled(
                u: np.ndarray, C: float = C, scale: np.ndarray = scale
            ) -> tuple[float, np.ndarray]:
                model = Linear(u[:-1] * scale[:-1], u[-1] * scale[-1])
                value, weights, intercept, _ = objective(model, losses, n, C)
                return value, np.vstack([weights, intercept]) * scale

            u = minimize(
                scaled,
                np.vstack([first.weights, first.intercept]) / scale,
                tolerance=tolerance,
                max_iterations=MAX_ITERATIONS,
                memory=int(np.clip(room, LEAST_MEMORY, MOST_MEMORY)),
            )
            u *= scale
            done = [*done[-1:], Linear(u[:-1], u[-1])]
            yield done[-1]

    def scores(self, fit: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""
        return self.passes.scores(fit, indices)


def objective(
    model: Linear, losses: Callable[[Linear], LossSums], n: int, C: float
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Return `C * losses + ||W||² / 2`, its gradients, and the losses' mean second derivative.

    Args:
        model: W (d, k) and the intercept.
        losses: model -> the sums over all rows; the arrays may be overwritten.
        n: how many rows those are.
        C: the weight of the losses.

    Returns:
        The value, the gradients by weights and by intercept, and the mean second derivative of
        the losses by the scores.
    """
    loss, curvature, by_weights, by_intercept = losses(model)
    C32 = np.float32(C)
    by_weights *= C32
    by_weights += model.weights
    return (
        C * loss + 0.5 * dot(model.weights, model.weights),
        by_weights,
        C32 * by_intercept,
        curvature / n,
    )


def _warm_starts(done: Sequence[Linear], d: int, k: int) -> list[Linear]:
    """Return where one may begin: at the last fit, or as far again as the last decade of C led.

    Weights of a softmax grow about with the logarithm of C where the classes can be separated;
    those of other losses come to rest.
    """
    if not done:
        return [Linear(np.zeros((d, k), np.float32), np.zeros(k, np.float32))]
    last, *before = reversed(done)
    ahead = [
        Linear(2 * last.weights - fit.weights, 2 * last.intercept - fit.intercept) for fit in before
    ]
    return [last, *ahead]
