"""Linear classifiers from inner products alone, for rows of more features than there are rows.

With K = X Xᵀ the Gram matrix of the centred rows, the optimum is W = Xᵀ α. The dual coefficients α
and the scores of the rows, S = K α + b, determine W. Nothing has the size of the features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs

from bilinear_cli.training.lbfgs import minimize, starting_points
from bilinear_cli.training.losses import Loss, MakeLoss, inner_product
from bilinear_cli.training.primal import Linear, Steps
from bilinear_cli.training.principal_axes import Coordinates, eigenvectors, rank_tolerance

MAX_RATIO = 300.0  # of the curvatures of the loss and of the preconditioner
MIN_CK, MAX_CK = 1.0, 1e3  # of c K: less has no effect, more is too much for float32
JITTER = 1e-4  # keeps rounding from making the preconditioner negative where K is zero
JITTER_FLOAT64 = 1e-12
MAX_ROUNDS = 5
ROUNDING = 10  # tolerances by which rounding may change the objective without another round


@dataclass(frozen=True)
class DualSolution:
    """A linear classifier fitted on rows of a Gram matrix."""

    indices: np.ndarray  # int (n,), of these rows
    dual_coef: np.ndarray  # (n, k), columns of sum zero; the weights are `Xᵀ dual_coef`
    intercept: np.ndarray  # (k,), for centred rows


class Preconditioner(NamedTuple):
    """c, and K (I + c K)⁻¹, see `GramProblem.regularization_path`."""

    c: float
    matrix: np.ndarray


@dataclass(frozen=True)
class GramProblem:
    """The inner products of centred rows X, and fits from them."""

    gram: np.ndarray  # float32 or float64 (n, n), `X Xᵀ`
    mean: np.ndarray  # (d,), of the rows
    mean_squared_norm: float  # of the rows before centring; the natural unit of 1 / C
    # (mean, dual coefficients α (n, k)) -> `Xᵀ α`, (d, k), in one pass over the features
    primal_weights: Callable[[np.ndarray, np.ndarray], np.ndarray]
    sample_weight: np.ndarray | None = None  # (n,), of the rows, above zero; also in the mean
    solver: ClassVar[str] = "gram"

    @cached_property
    def coordinates(self) -> Coordinates:
        """The rows on their principal axes, from one factorisation."""
        gram, tolerance = self.gram.astype(np.float64), rank_tolerance(self.gram.dtype)
        if self.sample_weight is None:
            eigenvalues, vectors = eigenvectors(gram, tolerance)
            vectors *= np.sqrt(eigenvalues)
            return Coordinates(vectors, eigenvalues)
        root = np.sqrt(self.sample_weight.astype(np.float64))[:, None]
        eigenvalues, vectors = eigenvectors(gram * root * root.T, tolerance)
        return Coordinates(vectors * np.sqrt(eigenvalues) / root, eigenvalues, self.sample_weight)

    def regularization_path(
        self, indices: np.ndarray, targets: np.ndarray, make_loss: MakeLoss, steps: Steps
    ) -> Iterator[DualSolution]:
        """Fit along ascending C, each fit from the last one or from the last two extrapolated.

        L-BFGS uses the inner product M = I + c XᵀX of weights, with c the curvature of the loss:
        with it the problem is well conditioned. With G = K (I + c K)⁻¹, weights `M⁻¹ Xᵀ β` have
        scores S = G β and coefficients α = β - c S. They are kept as the pair of α and S. The
        penalty is `α · S / 2`, the inner product of two pairs is `α · S' + c S · S'`, and the
        gradient is the pair of `β = α + C E`, with E the derivative of the loss by the scores: one
        product of n x n by n x k numbers per iteration. The intercept is an axis of G with the
        largest possible eigenvalue, 1 / c: α has no component there, so it is not penalised.

        The fits are on rows of these indices, int (n,), with these targets, (n, k), of the Gram
        matrix's type.
        """
        sample_weight = None if self.sample_weight is None else self.sample_weight[indices]
        loss = make_loss(targets, sample_weight)
        inner = self.gram[np.ix_(indices, indices)]
        means = inner.mean(axis=0, dtype=np.float64).astype(inner.dtype)
        shift = means - means.mean() / 2
        inner -= shift
        inner -= shift[:, None]  # now of the rows minus their own mean
        largest = _largest_eigenvalue(inner)
        preconditioner = Preconditioner(0.0, inner)
        solutions: list[np.ndarray] = []
        for C, tolerance in steps:
            candidates = starting_points(solutions, (2, *targets.shape), targets.dtype)
            curvature = C * loss(candidates[0][1])[2]
            wanted = float(np.clip(curvature, MIN_CK / largest, MAX_CK / largest))
            if not preconditioner.c / MAX_RATIO <= wanted <= preconditioner.c * MAX_RATIO:
                preconditioner = _precondition(inner, wanted)
            start = min(candidates, key=lambda point: _objective(point, loss, C))
            point = _fit(inner, preconditioner, loss, C, start, tolerance)
            solutions = [*solutions[-1:], point]
            dual_coef, scores = point
            yield DualSolution(indices, dual_coef, scores.mean(axis=0) - means @ dual_coef)

    def scores(self, solution: DualSolution, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""
        products = self.gram[np.ix_(indices, solution.indices)]
        return products @ solution.dual_coef + solution.intercept

    def to_linear(self, solution: DualSolution) -> Linear:
        """Return a fit on all rows as a model of the features."""
        weights = self.primal_weights(self.mean, solution.dual_coef)
        return Linear(weights, solution.intercept).uncentred(self.mean)

    def linear_from_axes(self, on_axes: Linear) -> Linear:
        """Return a model of the `coordinates` as a model of the features."""
        weights = self.primal_weights(self.mean, self.coordinates.dual_coef(on_axes.weights))
        return Linear(weights, on_axes.intercept).uncentred(self.mean)


def _objective(point: np.ndarray, loss: Loss, C: float) -> float:
    """Return `C * losses + ||W||² / 2` of the pair of α and scores."""
    return C * loss(point[1])[0] + 0.5 * inner_product(*point)


def _fit(
    gram: np.ndarray,
    preconditioner: Preconditioner,
    loss: Loss,
    C: float,
    point: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    """Return the pair of α and scores, (2, n, k), at the optimum.

    Rounding separates the two, in proportion to the distance from the start. So the scores are
    computed again from α, and L-BFGS continues from there as long as this lowers the objective.
    """
    c = preconditioner.c

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        value, error, _ = loss(point[1])
        gradient = np.empty_like(point)
        beta = np.add(point[0], C * error)
        np.matmul(preconditioner.matrix, beta, out=gradient[1])
        np.subtract(beta, c * gradient[1], out=gradient[0])
        # near zero, rounding separates the pair, and the product would fall without end
        return max(0.0, C * value + 0.5 * inner_product(*point)), gradient

    def pair_product(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.vdot(a[0], b[1])) + c * float(np.vdot(a[1], b[1]))

    lowest = _objective(point, loss, C)
    for _ in range(MAX_ROUNDS):
        new = minimize(value_and_gradient, point, tolerance=tolerance, dot=pair_product)
        before_rounding = _objective(new, loss, C)
        new[0] -= new[0].mean(axis=0)
        new[1] = gram @ new[0] + new[1].mean(axis=0)
        value = _objective(new, loss, C)
        if not value < lowest:
            break
        point, lowest = new, value
        if abs(value - before_rounding) <= ROUNDING * tolerance * before_rounding:
            break
    return point


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """Return the largest eigenvalue to about a hundredth; one for a matrix of zeros."""
    vector = np.random.default_rng(0).normal(size=len(gram)).astype(gram.dtype)
    for _ in range(10):
        vector = gram @ (vector / (np.linalg.norm(vector) or 1))
    return float(np.linalg.norm(vector)) or 1.0


def _precondition(gram: np.ndarray, c: float) -> Preconditioner:
    """Return K (I + c K)⁻¹, with 1 / c along the axis of ones, where K is zero."""
    n, jitter = len(gram), JITTER if gram.dtype == np.float32 else JITTER_FLOAT64
    system = gram.T * c  # in Fortran's order, as LAPACK needs it
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (system,))
    np.einsum("ii->i", system)[...] += 1
    factor, failed = potrf(system, lower=1, overwrite_a=1)
    inverse, inverse_failed = potri(factor, lower=1, overwrite_c=1)
    if failed or inverse_failed:
        raise AssertionError("a Gram matrix has eigenvalues below zero")
    inverse += inverse.T  # potrf leaves zeros above the diagonal; the diagonal is doubled now
    inverse *= -1 / c
    diagonal = np.einsum("ii->i", inverse)
    diagonal *= 0.5
    diagonal += (1 + jitter) / c
    inverse += (1 - jitter) / (c * n)
    return Preconditioner(c, inverse.T)
