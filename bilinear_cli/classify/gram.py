"""The reduction: a problem in d numbers a row as the same problem in at most min(n, d).

An L2-penalised linear model with a free intercept sees its features only through the inner
products of the centred rows. So the training rows X (n, d), centred, are replaced by coordinates
Z (n, r) in an orthonormal basis of their span, Z Zᵀ = X Xᵀ, and every fit on Z has the optimum of
the same fit on X. The basis is that of the principal axes: Zᵀ Z is diagonal, which solvers use.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from bilinear_cli.errors import BilinearError

Blocks = Iterator[tuple[slice, np.ndarray]]
RANK_TOLERANCE = 1e-7  # of the largest eigenvalue; what is smaller is rounding


@dataclass(frozen=True)
class Coordinates:
    """The training rows, centred, in an orthonormal basis of their span.

    Attributes:
        z: float32 (n, r).
        variance: float64 (r,), the sum of squares of each column of `z`, descending.
        basis: float64 (n, r): weights in this basis, w (r, k), are `Xᵀ (basis @ w)` on the
            features.
        mean_square: the mean squared norm of the rows before they were centred.
    """

    z: np.ndarray
    variance: np.ndarray
    basis: np.ndarray
    mean_square: float


def coordinates(
    blocks: Blocks, n: int, d: int, progress: Callable[[int, int], None] | None = None
) -> Coordinates:
    """Reduce the training rows.

    Args:
        blocks: (which columns, float32 (n, their number)), in order.
        n: rows.
        d: columns.
        progress: told (columns done, d).

    Raises:
        BilinearError: all rows are the same.
    """
    squares = 0.0
    x = np.empty((n, d if d < n else 0), np.float32)
    gram = np.zeros((n, n) if d >= n else (0, 0))  # float64, summed in float32 within a block
    for columns, block in blocks:
        squares += float(np.einsum("ij,ij->i", block, block).sum(dtype=np.float64))
        block -= block.mean(axis=0, dtype=np.float64).astype(np.float32)
        if d < n:
            x[:, columns] = block
        else:
            gram = gram + block @ block.T  # NumPy takes BLAS's symmetric product for this
        if progress:
            progress(columns.stop, d)
    if d < n:
        variance, axes = _principal(x.T.astype(np.float64) @ x)
        z = x @ axes
        basis = z / variance
    else:
        variance, axes = _principal(gram)
        z = axes * np.sqrt(variance)
        basis = axes / np.sqrt(variance)
    return Coordinates(z.astype(np.float32), variance, basis, squares / n)


def _principal(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues above rounding, descending, and their vectors as columns."""
    values, vectors = eigh(symmetric, driver="evd", overwrite_a=True, check_finite=False)
    keep = np.flatnonzero(values > RANK_TOLERANCE * values[-1])[::-1]
    if not len(keep):
        raise BilinearError("all training photos have the same features: there is nothing to learn")
    return values[keep], vectors[:, keep]


def recover(
    blocks: Blocks, n_train: int, d: int, coefficients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn weights on the training rows into weights on the features, and score more rows.

    Args:
        blocks: of the training rows and, below them, the rows to score.
        n_train: how many of the rows are training rows.
        d: columns.
        coefficients: float (n_train, k), one column an output; `basis @ w`.

    Returns:
        weights float32 (d, k); `mean @ weights` float64 (k,), mean that of the training rows;
        `rows @ weights` float64 (rows to score, k).
    """
    coefficients = coefficients.astype(np.float32)
    weights = np.empty((d, coefficients.shape[1]), np.float32)
    offset: np.ndarray = np.zeros(coefficients.shape[1])
    scores: np.ndarray | float = 0.0
    for columns, block in blocks:
        mean = block[:n_train].mean(axis=0, dtype=np.float64).astype(np.float32)
        weights[columns] = (block[:n_train] - mean).T @ coefficients
        offset += mean @ weights[columns]
        scores = scores + (block[n_train:] @ weights[columns]).astype(np.float64)
    return weights, offset, np.asarray(scores)
