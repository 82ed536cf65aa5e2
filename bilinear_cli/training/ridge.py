"""Ridge regression on one factorisation: every C and every fold in closed form.

It minimises `C * (sum of (score - target)²) / 2 + ||W||² / 2` with a free intercept, which is
ridge regression with alpha = 1 / C.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import LinAlgError, lstsq, solve

from bilinear_cli.training.columns import Linear
from bilinear_cli.training.gram import Coordinates


def fit_ridge(reduced: Coordinates, targets: np.ndarray, C: float) -> Linear:
    """Fit on all rows; weights (r, k) are on the principal axes.

    Args:
        reduced: the rows, on their principal axes.
        targets: float32 (n, k).
        C: the weight of the squares.
    """
    mean = targets.mean(axis=0)
    centred = (targets - mean).astype(reduced.z.dtype)
    weights = (reduced.z.T @ centred) / (reduced.variance + 1 / C)[:, None]
    return Linear(weights.astype(np.float32), mean)


def out_of_fold(
    reduced: Coordinates, targets: np.ndarray, held_out: Sequence[np.ndarray]
) -> Callable[[float], np.ndarray]:
    """Make C -> each row's scores by the fit on the other folds, float32 (n, k); no fit is made.

    With H the matrix that maps targets to fitted scores, and R = I - H, a fold F left out is
    predicted as `Y_F - (R_FF)⁻¹ (R Y)_F`: the formula of one row left out, for blocks (see Hastie,
    Tibshirani, Friedman, "The Elements of Statistical Learning", 2009, section 7.10). On the
    principal axes R is diagonal, `1 / (1 + C variance)`, and so is had without cancellation.

    Args:
        reduced: the rows, on their principal axes.
        targets: float32 (n, k).
        held_out: the folds: row numbers.
    """
    n, dtype = len(targets), reduced.z.dtype
    u = reduced.z / np.sqrt(reduced.variance).astype(dtype)
    centred = (targets - targets.mean(axis=0)).astype(dtype)
    along = u.T @ centred
    spans_all = len(reduced.variance) == n - 1
    rest = centred - u @ along  # what no axis has a part in, and no fit touches
    folds = [(fold, u[fold]) for fold in held_out]

    def scores(C: float) -> np.ndarray:
        left = (1 / (1 + C * reduced.variance)).astype(dtype)
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
