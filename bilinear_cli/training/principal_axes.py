"""Sums over blocks of rows, and principal axes, from which the reduced problems are made.

An L2-penalised linear model with a free intercept sees its features only through the inner
products of the centred rows. With n <= d, fewer rows than features, the Gram matrix (n, n) holds
everything; with fewer features, the rows on their principal axes (n, at most d) do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from bilinear_cli.errors import BilinearError
from bilinear_cli.training.feature_transform import Block

RANK_TOLERANCE = 1e-7  # of the largest eigenvalue; smaller ones are rounding of float32
RANK_TOLERANCE_FLOAT64 = 1e-13
EQUAL_ROWS = "all training photos have the same features, so there is nothing to learn from them"


@dataclass(frozen=True)
class Coordinates:
    """The centred training rows in an orthonormal basis of their span: their principal axes.

    If rows have weights, the principal axes are those of the weighted rows.
    """

    z: np.ndarray  # float (n, r); float64 if computed from a Gram matrix, else as the rows
    sum_of_squares: np.ndarray  # float64 (r,), weighted, of each column of `z`, descending
    sample_weight: np.ndarray | None = None  # (n,), above zero

    def dual_coef(self, weights: np.ndarray) -> np.ndarray:
        """Return α (n, k), of the type of `weights`, whose (r, k) in this basis are `Xᵀ α`."""
        scaled = weights / self.sum_of_squares[:, None]
        return self.weighted(self.z @ scaled.astype(self.z.dtype)).astype(weights.dtype)

    def weighted(self, x: np.ndarray) -> np.ndarray:
        """Return rows x (n, k), each times its weight."""
        return x if self.sample_weight is None else x * self.sample_weight[:, None]


def rank_tolerance(dtype: np.dtype) -> float:
    """Return which share of the largest eigenvalue of rows of this type is rounding."""
    return RANK_TOLERANCE if dtype == np.float32 else RANK_TOLERANCE_FLOAT64


def eigenvectors(
    symmetric: np.ndarray, tolerance: float = RANK_TOLERANCE
) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues above rounding, descending, and their vectors as columns, float64.

    The matrix, float64 (n, n), of centred rows, is overwritten.

    Raises:
        BilinearError: all rows are equal.
    """
    # the transpose is in LAPACK's order, which saves a copy
    values, vectors = eigh(symmetric.T, driver="evd", overwrite_a=True, check_finite=False)
    keep = np.flatnonzero(values > tolerance * values[-1])[::-1]
    if not len(keep):
        raise BilinearError(EQUAL_ROWS)
    return values[keep], vectors[:, keep]


def check_not_constant(
    centred_squares: float, squares: float, tolerance: float = RANK_TOLERANCE
) -> None:
    """Raise BilinearError if centring leaves nothing of the rows' squared norms."""
    if centred_squares <= tolerance * squares:
        raise BilinearError(EQUAL_ROWS)


def row_sums(
    blocks: Iterable[Block], d: int, sample_weight: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Return the sum of the rows, float64 (d,), and of their squared norms, times their weights."""
    total, squares = np.zeros(d), 0.0
    for rows, x in blocks:
        row_weight = None if sample_weight is None else sample_weight[rows]
        norms = np.einsum("ij,ij->i", x, x)
        total += x.sum(axis=0, dtype=np.float64) if row_weight is None else row_weight @ x
        squares += float(
            (norms if row_weight is None else norms * row_weight).sum(dtype=np.float64)
        )
    return total, squares


def column_squares(blocks: Iterable[Block], d: int) -> np.ndarray:
    """Return the sum of squares of each column, float64 (d,)."""
    total = np.zeros(d)
    for _, x in blocks:
        total += np.einsum("ij,ij->j", x, x)
    return total
