"""Linear classifiers by passes over rows: in memory, or from a file of any length.

One objective, summed over blocks of rows. Where the rows have fewer numbers than there are of
them, they are one block in memory, on their principal axes; where neither that nor a Gram matrix
fits the memory there is, each evaluation is a pass over the file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bilinear_cli.classify.lbfgs import minimize
from bilinear_cli.classify.losses import MakeLoss, dot

CURVATURE_AT_END = 0.3  # of a loss at the end of a fit, about, in terms of that at its start
MAX_ITERATIONS = 1000
VECTORS_BYTES = 1 << 29  # of what L-BFGS remembers
LEAST_MEMORY, MOST_MEMORY = 3, 10

Batches = Callable[[], Iterable[tuple[slice, np.ndarray]]]


@dataclass(frozen=True)
class Linear:
    """A linear map: float32 weights (d, k) and intercept (k,)."""

    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, k) of rows (n, d)."""
        return x @ self.weights + self.intercept


class Columns:
    """The problem of fitting on rows, d numbers each, that are centred.

    Attributes:
        batches: which rows -> a function that starts a pass over them: (slice of which, float32
            (its length, d)).
        n: how many rows there are.
        variance: float64 (d,), the sum of squares of each column over all rows.
    """

    def __init__(
        self, batches: Callable[[np.ndarray], Batches], n: int, variance: np.ndarray
    ) -> None:
        """Take rows."""
        self.batches = batches
        self.n = n
        self.variance = variance

    def path(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        steps: Sequence[tuple[float, float]],
    ) -> Iterator[Linear]:
        """Fit along ascending C, each from where the last two point to.

        L-BFGS works on weights scaled by the roots of the objective's estimated curvature, which
        on principal axes takes most of the spread of eigenvalues away.

        Args:
            rows: int (n,), which to fit on.
            targets: float32 (n, k), theirs.
            make_loss: of `losses.py`.
            steps: pairs of C, the weight of the losses, ascending by decades, and the tolerance
                of `minimize`.
        """
        batches = self.batches(rows)
        (n, k), d = targets.shape, len(self.variance)
        variance = np.append(self.variance * n / self.n, n)
        penalised = np.append(np.ones(d), 0)
        room = VECTORS_BYTES // (2 * 4 * (d + 1) * k)
        done: list[Linear] = []
        for C, tolerance in steps:
            starts = _starts(done, d, k)
            values = [objective(fit, batches, targets, make_loss, C) for fit in starts]
            first = starts[int(np.argmin([value for value, *_ in values]))]
            curvature = values[0][3]
            bend = penalised + CURVATURE_AT_END * C * curvature * variance
            scale = (1 / np.sqrt(bend + 1e-30)).astype(np.float32)[:, None]

            def scaled(
                u: np.ndarray, C: float = C, scale: np.ndarray = scale
            ) -> tuple[float, np.ndarray]:
                model = Linear(u[:-1] * scale[:-1], u[-1] * scale[-1])
                value, weights, intercept, _ = objective(model, batches, targets, make_loss, C)
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

    def coefficients(self, fit: Linear) -> Linear:
        """Return the weights (d, k) and the intercept (k,)."""
        return fit

    def scores(self, fit: Linear, rows: np.ndarray) -> np.ndarray:
        """Return scores (len(rows), k) of rows."""
        return np.concatenate([fit(x) for _, x in self.batches(rows)()])


def objective(
    model: Linear, batches: Batches, targets: np.ndarray, make_loss: MakeLoss, C: float
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Return `C * losses + ||W||² / 2`, its gradients, and the losses' mean second derivative.

    Args:
        model: W (d, k) and the intercept.
        batches: starts a pass over the rows.
        targets: float32 (n, k).
        make_loss: of `losses.py`.
        C: the weight of the losses.

    Returns:
        The value, the gradients by weights and by intercept, and the mean second derivative of
        the losses by the scores.
    """
    value, curvature = 0.0, 0.0
    by_weights, by_intercept = np.zeros_like(model.weights), np.zeros_like(model.intercept)
    for rows, x in batches():
        loss, error, second = make_loss(targets[rows])(model(x))
        value += loss
        curvature += second * len(x) / len(targets)
        by_weights += x.T @ error
        by_intercept += error.sum(axis=0)
    C32 = np.float32(C)
    by_weights *= C32
    by_weights += model.weights
    return (
        C * value + 0.5 * dot(model.weights, model.weights),
        by_weights,
        C32 * by_intercept,
        curvature,
    )


def _starts(done: Sequence[Linear], d: int, k: int) -> list[Linear]:
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
