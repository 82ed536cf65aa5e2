"""Linear classifiers: softmax and SVM along a path of ascending C, ridge in closed form.

Ridge minimises `C * (sum of (score - target)²) / 2 + ||W||² / 2` with a free intercept, which is
ridge regression with alpha = 1 / C. One factorisation serves every C and every fold.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import LinAlgError, lstsq, solve

from bilinear_cli.training import losses
from bilinear_cli.training.estimator import Estimator, TrainingData, Trials
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.principal_axes import Coordinates
from bilinear_cli.training.tuning import Tuning, grid, warm_start_Cs

FOLD_TOLERANCE = 1e-4  # leaves the objective within about a thousandth of its optimum
TOLERANCE = 1e-7


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
        steps = [(C, FOLD_TOLERANCE) for C in Cs]
        paths = [
            problem.regularization_path(indices, targets[indices], self.make_loss, steps)
            for indices in (np.setdiff1d(data.indices, fold) for fold in val_folds)
        ]
        for C, fits in zip(Cs, zip(*paths, strict=True), strict=True):
            if C_option not in (None, C):
                continue
            scores = np.empty(targets.shape, np.float32)
            for fold, solution in zip(val_folds, fits, strict=True):
                scores[fold] = problem.scores(solution, fold)
            yield {"C": C}, scores

    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        """Fit all rows along a path that ends at the chosen C."""
        assert tuning.C
        *smaller, C = warm_start_Cs(tuning.C)
        steps = [*((smaller_C, FOLD_TOLERANCE) for smaller_C in smaller), (C, TOLERANCE)]
        problem, targets = data.reduced, data.targets(tuning.label_smoothing)
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
        scores = out_of_fold(problem.coordinates, data.targets(smoothing), val_folds)
        for C in grid(problem.mean_squared_norm) if C_option is None else [C_option]:
            yield {"C": C}, scores(C)

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
    z, mean = coordinates.z, targets.mean(axis=0)
    centred = (targets - mean).astype(z.dtype)
    weights = (z.T @ centred) / (coordinates.sum_of_squares + 1 / C)[:, None]
    return Linear(weights.astype(np.float32), mean)


def out_of_fold(
    coordinates: Coordinates, targets: np.ndarray, val_folds: Sequence[np.ndarray]
) -> Callable[[float], np.ndarray]:
    """Return a function: C -> scores of each row by the fit on the other folds, float32 (n, k).

    H is the matrix that maps targets Y to fitted scores, and R = I - H. Then the scores of a fold
    F that is left out are `Y_F - (R_FF)⁻¹ (R Y)_F`: the leave-one-out formula, for blocks (see
    Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", 2009, section 7.10). On
    the principal axes R is diagonal, `1 / (1 + C sum_of_squares)`, free of cancellation.

    Each fold is the indices of its validation rows.
    """
    n, dtype = len(targets), coordinates.z.dtype
    u = coordinates.z / np.sqrt(coordinates.sum_of_squares).astype(dtype)  # orthonormal columns
    centred = (targets - targets.mean(axis=0)).astype(dtype)
    projected = u.T @ centred
    orthogonal = centred - u @ projected  # to all axes, so no fit changes it
    spans_all = len(coordinates.sum_of_squares) == n - 1
    folds = [(fold, u[fold]) for fold in val_folds]

    def scores(C: float) -> np.ndarray:
        diagonal = (1 / (1 + C * coordinates.sum_of_squares)).astype(dtype)  # of R on the axes
        scores = np.empty(targets.shape, np.float32)
        for fold, axes in folds:
            root = axes * np.sqrt(diagonal)
            matrix = root @ root.T  # NumPy uses BLAS's symmetric product here
            residuals = axes @ (diagonal[:, None] * projected)
            if not spans_all:
                matrix += np.eye(len(fold), dtype=dtype) - dtype.type(1 / n) - axes @ axes.T
                residuals += orthogonal[fold]
            try:
                errors = solve(matrix, residuals, assume_a="pos", check_finite=False)
            except LinAlgError:  # C is so high that only rounding is left
                errors = lstsq(matrix, residuals, check_finite=False)[0]
            scores[fold] = targets[fold] - errors
        return scores

    return scores
