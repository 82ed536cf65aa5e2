"""Ridge regression on one factorisation: every C and every fold in closed form.

It minimises `C * (sum of (score - target)²) / 2 + ||W||² / 2` with a free intercept, which is
ridge regression with alpha = 1 / C.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve

from bilinear_cli.classify.columns import Linear
from bilinear_cli.classify.gram import Coordinates


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
    reduced: Coordinates, targets: np.ndarray, held_out: Sequence[np.ndarray], C: float
) -> np.ndarray:
    """Return each row's scores by the fit on the other folds, float32 (n, k), without such a fit.

    With H the matrix that maps targets to fitted scores, and R = I - H, a fold F left out is
    predicted as `Y_F - (R_FF)⁻¹ (R Y)_F`: the formula of one row left out, for blocks (see Hastie,
    Tibshirani, Friedman, "The Elements of Statistical Learning", 2009, section 7.10). On the
    principal axes H is diagonal, and so is R, which is summed up directly where it is tiny.

    Args:
        reduced: the rows, on their principal axes.
        targets: float32 (n, k).
        held_out: the folds: row numbers.
        C: the weight of the squares.
    """
    n, k = targets.shape
    dtype = reduced.z.dtype
    u = reduced.z / np.sqrt(reduced.variance).astype(dtype)
    left = 1 / (1 + C * reduced.variance)  # of an axis, after the fit
    spans_all = len(reduced.variance) == n - 1
    centred = (targets - targets.mean(axis=0)).astype(dtype)
    along = u.T @ centred
    rest = 0 if spans_all else centred - u @ along
    residual = u @ (left[:, None] * along).astype(dtype) + rest
    scores = np.empty((n, k), np.float32)
    for fold in held_out:
        half = u[fold] * np.sqrt(left).astype(dtype)
        inner = half @ half.T  # NumPy takes BLAS's symmetric product for this
        if not spans_all:
            inner += np.eye(len(fold), dtype=dtype) - dtype.type(1 / n) - u[fold] @ u[fold].T
        missing = solve(inner, residual[fold], assume_a="pos", check_finite=False)
        scores[fold] = targets[fold] - missing
    return scores
