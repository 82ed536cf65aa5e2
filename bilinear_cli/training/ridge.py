"""Ridge regression on one factorisation: every C and every fold in closed form.

It minimises `C * (sum of (score - target)²) / 2 + ||W||² / 2` with a free intercept, which is
ridge regression with alpha = 1 / C.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import LinAlgError, lstsq, solve

from bilinear_cli.training import losses
from bilinear_cli.training.estimator import Training, Trials
from bilinear_cli.training.gram import Coordinates
from bilinear_cli.training.linear import Cs_to_try, LinearEstimator
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.tuning import Tuning


class Ridge(LinearEstimator):
    """Ridge regression on signs: in closed form, or along a path where the rows are streamed."""

    def __init__(self) -> None:
        """Take the loss, for the path."""
        super().__init__(losses.squared_error)

    def trials(
        self, training: Training, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Score the validation rows at one C after another."""
        coordinates = training.reduced.coordinates
        if coordinates is None:
            yield from super().trials(training, val_folds, smoothing)
            return
        scores = out_of_fold(coordinates, training.targets(smoothing), val_folds)
        for C in Cs_to_try(training):
            yield {"C": C}, scores(C)

    def fit(self, training: Training, choice: Tuning) -> Model:
        """Fit on all rows."""
        coordinates = training.reduced.coordinates
        if coordinates is None:
            return super().fit(training, choice)
        assert choice.C
        on_axes = fit_ridge(coordinates, training.targets(choice.label_smoothing), choice.C)
        linear = training.reduced.from_axes(on_axes)
        return Model(linear, None, training.transforms, training.rows.class_names)


def fit_ridge(reduced: Coordinates, targets: np.ndarray, C: float) -> Linear:
    """Fit on all rows; weights (r, k) are on the principal axes.

    Args:
        reduced: the rows, on their principal axes.
        targets: float32 (n, k).
        C: the weight of the squares.
    """
    mean = targets.mean(axis=0)
    centred = (targets - mean).astype(reduced.z.dtype)
    weights = (reduced.z.T @ centred) / (reduced.sum_of_squares + 1 / C)[:, None]
    return Linear(weights.astype(np.float32), mean)


def out_of_fold(
    reduced: Coordinates, targets: np.ndarray, val_folds: Sequence[np.ndarray]
) -> Callable[[float], np.ndarray]:
    """Make C -> each row's scores by the fit on the other folds, float32 (n, k); no fit is made.

    With H the matrix that maps targets to fitted scores, and R = I - H, a fold F left out is
    predicted as `Y_F - (R_FF)⁻¹ (R Y)_F`: the formula of one row left out, for blocks (see Hastie,
    Tibshirani, Friedman, "The Elements of Statistical Learning", 2009, section 7.10). On the
    principal axes R is diagonal, `1 / (1 + C variance)`, and so is had without cancellation.

    Args:
        reduced: the rows, on their principal axes.
        targets: float32 (n, k).
        val_folds: indices of the validation rows of each fold.
    """
    n, dtype = len(targets), reduced.z.dtype
    u = reduced.z / np.sqrt(reduced.sum_of_squares).astype(dtype)
    centred = (targets - targets.mean(axis=0)).astype(dtype)
    along = u.T @ centred
    spans_all = len(reduced.sum_of_squares) == n - 1
    rest = centred - u @ along  # what no axis has a part in, and no fit touches
    folds = [(fold, u[fold]) for fold in val_folds]

    def scores(C: float) -> np.ndarray:
        left = (1 / (1 + C * reduced.sum_of_squares)).astype(dtype)
        found = np.empty(targets.shape, np.float32)
        for fold, axes in folds:
            half = axes * np.sqrt(left)
            inner = half @ half.T  # NumPy takes BLAS's symmetric product for this
            residual = axes @ (left[:, None] * along)
            if not spans_all:
                inner += np.eye(len(fold), dtype=dtype) - dtype.type(1 / n) - axes @ axes.T
                residual += rest[fold]
            try:
                missing = solve(inner, residual, assume_a="pos", check_finite=False)
            except LinAlgError:  # at a C so high that rounding is all there is
                missing = lstsq(inner, residual, check_finite=False)[0]
            found[fold] = targets[fold] - missing
        return found

    return scores
