"""Linear classifiers: softmax and SVM along a path of ascending C, ridge in closed form.

Ridge minimises `C * (sum of (score - target)²) / 2 + ||W||² / 2` with a free intercept, which is
ridge regression with alpha = 1 / C. One factorisation serves every C and every fold.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import LinAlgError, eigh, lstsq, solve

from bilinear_cli.training import losses
from bilinear_cli.training.estimator import Estimator, TrainingData, Trials
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.principal_axes import Coordinates
from bilinear_cli.training.tuning import Tuning, grid, warm_start_Cs

# A fit ends when a step lowers the objective by less than this share of it. For folds, in float32,
# the objective is then within about a thousandth of its optimum.
FOLD_TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
TOLERANCE = {np.dtype(np.float32): 1e-7, np.dtype(np.float64): 1e-20}
MAX_BLOCK = 4096  # rows of a fold whose square matrix is solved


@dataclass(frozen=True)
class LinearEstimator(Estimator):
    """A linear classifier that minimises one of `losses.py`, at one C after another."""

    make_loss: MakeLoss

    def trials(
        self, data: TrainingData, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Fit each fold along the path."""
        problem, targets = data.reduced, data.targets(smoothing)
        C_option = data.options.C
        Cs = grid(problem.mean_squared_norm) if C_option is None else warm_start_Cs(C_option)
        steps = [(C, FOLD_TOLERANCE[targets.dtype]) for C in Cs]
        paths = [
            problem.regularization_path(indices, targets[indices], self.make_loss, steps)
            for indices in (np.setdiff1d(data.indices, fold) for fold in val_folds)
        ]
        for C, fits in zip(Cs, zip(*paths, strict=True), strict=True):
            if C_option not in (None, C):
                continue
            scores = np.empty_like(targets)
            for fold, solution in zip(val_folds, fits, strict=True):
                scores[fold] = problem.scores(solution, fold)
            yield {"C": C}, scores

    def refit(
        self, data: TrainingData, tuning: Tuning, train: np.ndarray, indices: np.ndarray
    ) -> np.ndarray:
        """Fit as precisely as a fold, at once at the chosen C."""
        assert tuning.C
        problem, targets = data.reduced, data.targets(tuning.label_smoothing)
        steps = [(tuning.C, FOLD_TOLERANCE[targets.dtype])]
        path = problem.regularization_path(train, targets[train], self.make_loss, steps)
        return problem.scores(next(path), indices)

    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        """Fit all rows along a path that ends at the chosen C."""
        assert tuning.C
        *smaller, C = warm_start_Cs(tuning.C)
        problem, targets = data.reduced, data.targets(tuning.label_smoothing)
        tolerance, last_tolerance = FOLD_TOLERANCE[targets.dtype], TOLERANCE[targets.dtype]
        steps = [*((smaller_C, tolerance) for smaller_C in smaller), (C, last_tolerance)]
        path = problem.regularization_path(data.indices, targets, self.make_loss, steps)
        (last,) = deque(path, maxlen=1)
        return Model(problem.to_linear(last), None, data.transforms, data.rows.class_names)


class Ridge(LinearEstimator):
    """Ridge regression on targets 1 and -1; along a path of C if the rows are streamed."""

    def trials(
        self, data: TrainingData, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Score the validation rows at each C, without a fit."""
        problem, C_option = data.reduced, data.options.C
        if problem.coordinates is None:
            yield from super().trials(data, val_folds, smoothing)
            return
        large = max(map(len, val_folds)) > max(MAX_BLOCK, problem.coordinates.z.shape[1])
        path = fits_on_other_folds if large else out_of_fold
        scores = path(problem.coordinates, data.targets(smoothing), val_folds)
        for C in grid(problem.mean_squared_norm) if C_option is None else [C_option]:
            yield {"C": C}, scores(C)

    refit = Estimator.refit  # a trial is no fit

    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        """Solve for all rows."""
        problem, targets = data.reduced, data.targets(tuning.label_smoothing)
        if problem.coordinates is None:
            return super().fit(data, tuning)
        assert tuning.C
        linear = problem.linear_from_axes(fit_ridge(problem.coordinates, targets, tuning.C))
        return Model(linear, None, data.transforms, data.rows.class_names)


softmax = partial(LinearEstimator, losses.cross_entropy)  # multinomial logistic regression
svm = partial(LinearEstimator, losses.squared_hinge)  # one support vector machine for each class
ridge = partial(Ridge, losses.squared_error)


def fit_ridge(coordinates: Coordinates, targets: np.ndarray, C: float) -> Linear:
    """Return the fit on all rows, with weights (r, k) on the principal axes."""
    z, mean = coordinates.z, np.average(targets, axis=0, weights=coordinates.sample_weight)
    centred = coordinates.weighted((targets - mean).astype(z.dtype))
    weights = (z.T @ centred) / (coordinates.sum_of_squares + 1 / C)[:, None]
    return Linear(weights.astype(targets.dtype), mean.astype(targets.dtype))


def out_of_fold(
    coordinates: Coordinates, targets: np.ndarray, val_folds: Sequence[np.ndarray]
) -> Callable[[float], np.ndarray]:
    """Return a function: C -> scores (n, k) of each row by the fit on the other folds.

    H is the matrix that maps targets Y to fitted scores, and R = I - H. Then the scores of a fold
    F that is left out are `Y_F - (R_FF)⁻¹ (R Y)_F`: the leave-one-out formula, for blocks (see
    Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", 2009, section 7.10). On
    the principal axes R is diagonal, `1 / (1 + C sum_of_squares)`, free of cancellation. If rows
    have weights, all this holds for rows and targets times the square roots of the weights.

    Each fold is the indices of its validation rows.
    """
    n, dtype = len(targets), coordinates.z.dtype
    sample_weight = np.ones(n) if coordinates.sample_weight is None else coordinates.sample_weight
    roots = np.sqrt(sample_weight).astype(dtype)[:, None]
    u = coordinates.z / np.sqrt(coordinates.sum_of_squares).astype(dtype)
    u *= roots  # orthonormal columns
    mean = np.average(targets, axis=0, weights=coordinates.sample_weight)
    centred = (targets - mean).astype(dtype) * roots
    projected = u.T @ centred
    orthogonal = centred - u @ projected  # to all axes, so no fit changes it
    spans_all = len(coordinates.sum_of_squares) == n - 1
    folds = [(fold, u[fold]) for fold in val_folds]
    share = dtype.type(1 / sample_weight.sum())  # of a row in the mean

    def scores(C: float) -> np.ndarray:
        diagonal = (1 / (1 + C * coordinates.sum_of_squares)).astype(dtype)  # of R on the axes
        scores = np.empty_like(targets)
        for fold, axes in folds:
            root = axes * np.sqrt(diagonal)
            matrix = root @ root.T  # NumPy uses BLAS's symmetric product here
            residuals = axes @ (diagonal[:, None] * projected)
            if not spans_all:
                intercepts = share * (roots[fold] @ roots[fold].T)
                matrix += np.eye(len(fold), dtype=dtype) - intercepts - axes @ axes.T
                residuals += orthogonal[fold]
            scores[fold] = targets[fold] - _solve(matrix, residuals) / roots[fold]
        return scores

    return scores


def _solve(matrix: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return `matrix⁻¹ residuals` for a positive definite matrix."""
    try:
        return solve(matrix, residuals, assume_a="pos", check_finite=False)
    except LinAlgError:  # C is so high that only rounding is left
        return lstsq(matrix, residuals, check_finite=False)[0]


def fits_on_other_folds(
    coordinates: Coordinates, targets: np.ndarray, val_folds: Sequence[np.ndarray]
) -> Callable[[float], np.ndarray]:
    """Do as `out_of_fold`, by the normal equations of each fold, for fewer axes than rows in it."""
    z, total = coordinates.z.astype(np.float64), np.diag(coordinates.sum_of_squares)
    ones = np.ones((len(z), 1))
    weight, moments = coordinates.weighted(ones), z.T @ coordinates.weighted(targets)
    folds = []
    for fold in val_folds:
        weighted_z, weighted_targets = z[fold] * weight[fold], targets[fold] * weight[fold]
        rest = weight.sum() - weight[fold].sum()
        mean = -weighted_z.sum(axis=0) / rest  # of the other rows: the mean of all rows is zero
        target_mean = ((targets * weight).sum(axis=0) - weighted_targets.sum(axis=0)) / rest
        products = total - z[fold].T @ weighted_z - rest * np.outer(mean, mean)
        cross = moments - z[fold].T @ weighted_targets - rest * np.outer(mean, target_mean)
        values, vectors = eigh(products)
        folds.append((fold, (z[fold] - mean) @ vectors, values, vectors.T @ cross, target_mean))

    def scores(C: float) -> np.ndarray:
        scores = np.empty_like(targets)
        for fold, rotated, values, cross, target_mean in folds:
            scores[fold] = rotated @ (cross / (values + 1 / C)[:, None]) + target_mean
        return scores

    return scores
