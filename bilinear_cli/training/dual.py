"""Linear classifiers from inner products alone: n rows of more than n numbers each.

With K = X Xᵀ the Gram matrix of the centred rows, the optimum is W = Xᵀ α, and all there is to
know of W are α and the scores on the rows, S = K α + b. Nothing of the features' size appears.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import spotrf, spotri

from bilinear_cli.training.lbfgs import minimize
from bilinear_cli.training.losses import Loss, MakeLoss, dot

REBUILD = 300.0  # how far the curvature may be from that of the metric
SMALLEST, LARGEST = 1.0, 1e3  # of c K: less is as good as none, more is too much for float32
JITTER = 1e-4  # keeps rounding from making the metric negative where K is zero
MAX_ITERATIONS = 1000
MOST_ROUNDS = 5
ROUNDING = 10  # tolerances by which the objective may be off before another round


@dataclass(frozen=True)
class DualFit:
    """A linear classifier on the rows that it was fitted on.

    Attributes:
        indices: int (n,), of those rows in the Gram matrix.
        alpha: float32 (n, k), columns of sum zero; the weights are `Xᵀ alpha`.
        scores: float32 (n, k) of the rows.
        intercept: float32 (k,), for rows centred as those of the Gram matrix.
    """

    indices: np.ndarray
    alpha: np.ndarray
    scores: np.ndarray
    intercept: np.ndarray


class Metric(NamedTuple):
    """c, and K (I + c K)⁻¹, see `Dual.regularization_path`."""

    c: float
    matrix: np.ndarray


@dataclass(frozen=True)
class Dual:
    """A Gram matrix, and fits on its rows.

    Attributes:
        gram: float32 (n, n), of rows that are centred.
    """

    gram: np.ndarray

    def regularization_path(
        self,
        indices: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        steps: Sequence[tuple[float, float]],
    ) -> Iterator[DualFit]:
        """Fit along ascending C, each from where the last two point to.

        It is L-BFGS in the metric M = I + c XᵀX of the weights, c being the loss's curvature:
        there the problem is well conditioned. With G = K (I + c K)⁻¹, weights `M⁻¹ Xᵀ β` have
        scores S = G β and coefficients α = β - c S, and are kept as the pair of α and S. The
        penalty is `α · S / 2`, the inner product of two is `α · S' + c S · S'`, and the gradient
        is that pair of `β = α + C E`, E the loss's derivative by the scores: one product of n x n
        by n x k numbers an iteration. The intercept is an axis of G as long as G's axes can be,
        1 / c: α has nothing along it, and so it goes without penalty.

        Args:
            indices: int (n,), of the rows to fit on.
            targets: float32 (n, k), theirs.
            make_loss: of `losses.py`.
            steps: pairs of C, the weight of the losses, ascending by decades, and the tolerance
                of `minimize`.
        """
        loss = make_loss(targets)
        inner = self.gram[np.ix_(indices, indices)]
        means = inner.mean(axis=0, dtype=np.float64).astype(np.float32)
        inner = _centred(inner, means)
        largest = _largest_eigenvalue(inner)
        done: list[DualFit] = []
        metric = Metric(0.0, inner)
        for C, tolerance in steps:
            start = _warm_start(done, loss, C, targets)
            curvature = C * loss(done[-1].scores if done else start[1])[2]
            wanted = float(np.clip(curvature, SMALLEST / largest, LARGEST / largest))
            if not metric.c / REBUILD <= wanted <= metric.c * REBUILD:
                metric = _metric(inner, wanted)
            alpha, scores = _fit(inner, metric, loss, C, start, tolerance)
            intercept = scores.mean(axis=0) - means @ alpha
            done = [*done[-1:], DualFit(indices, alpha, scores, intercept)]
            yield done[-1]

    def scores(self, fit: DualFit, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""
        return self.gram[np.ix_(indices, fit.indices)] @ fit.alpha + fit.intercept


def _centred(gram: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the Gram matrix of the rows less their mean; overwrites it."""
    gram -= means - means.mean() / 2
    gram -= (means - means.mean() / 2)[:, None]
    return gram


def _warm_start(done: Sequence[DualFit], loss: Loss, C: float, targets: np.ndarray) -> np.ndarray:
    """Return the pair of α and scores where to begin: at the last fit, or beyond it.

    Beyond it is as far again as the last decade of C led. Weights of a softmax grow about with
    the logarithm of C where the classes can be separated; those of other losses come to rest.
    """
    if not done:
        return np.zeros((2, *targets.shape), np.float32)
    last, *before = (np.stack([fit.alpha, fit.scores]) for fit in reversed(done))
    starts = [last, *(2 * last - fit for fit in before)]
    return min(starts, key=lambda start: C * loss(start[1])[0] + 0.5 * dot(*start))


def _fit(
    inner: np.ndarray,
    metric: Metric,
    loss: Loss,
    C: float,
    point: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    """Return the pair of α and scores, (2, n, k), at the optimum.

    Rounding draws the two apart, in proportion to the way gone; so the scores are made anew from
    α, and the rest of the way is gone too, as long as that lowers the objective.
    """

    c = metric.c

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, error, _ = loss(point[1])
        gradient = np.empty_like(point)
        beta = np.add(point[0], np.float32(C) * error)
        np.matmul(metric.matrix, beta, out=gradient[1])
        np.subtract(beta, np.float32(c) * gradient[1], out=gradient[0])
        return value_of(point, value), gradient

    def value_of(point: np.ndarray, losses: float) -> float:
        return C * losses + 0.5 * dot(*point)

    def inner_product(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.vdot(a[0], b[1])) + c * float(np.vdot(a[1], b[1]))

    least = value_of(point, loss(point[1])[0])
    for _ in range(MOST_ROUNDS):
        new = minimize(
            objective,
            point,
            tolerance=tolerance,
            max_iterations=MAX_ITERATIONS,
            dot=inner_product,
        )
        thought = value_of(new, loss(new[1])[0])
        new[0] -= new[0].mean(axis=0)
        new[1] = inner @ new[0] + new[1].mean(axis=0)
        value = value_of(new, loss(new[1])[0])
        if not value < least:
            break
        point, least = new, value
        if abs(value - thought) <= ROUNDING * tolerance * thought:
            break
    return point


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """Return it to a hundredth or so; one for a matrix of zeros."""
    vector = np.random.default_rng(0).normal(size=len(gram)).astype(np.float32)
    for _ in range(10):
        vector = gram @ (vector / (np.linalg.norm(vector) or 1))
    return float(np.linalg.norm(vector)) or 1.0


def _metric(gram: np.ndarray, c: float) -> Metric:
    """Return K (I + c K)⁻¹, and 1 / c along the axis of ones, which K has nothing of."""
    n = len(gram)
    system = gram.T * np.float32(c)  # in Fortran's order, as LAPACK wants it
    np.einsum("ii->i", system)[...] += 1
    factor, failed = spotrf(system, lower=1, overwrite_a=1)
    inverse, failed_too = spotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise AssertionError("a Gram matrix has eigenvalues below zero")
    inverse += inverse.T  # spotrf has left zeros above the diagonal, which is there twice now
    inverse *= np.float32(-1 / c)
    diagonal = np.einsum("ii->i", inverse)
    diagonal *= 0.5
    diagonal += np.float32((1 + JITTER) / c)
    inverse += np.float32((1 - JITTER) / (c * n))
    return Metric(c, inverse.T)
