"""The reduction: rows of d features as the same problem in at most min(n, d) dimensions.

An L2-penalised linear model with a free intercept sees its features only through the inner
products of the centred rows. With fewer rows than features, n <= d, the Gram matrix (n, n) holds
everything; with fewer features, the rows on their principal axes do.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

from bilinear_cli.errors import BilinearError
from bilinear_cli.training.feature_transform import Block

Progress = Callable[[int, int], None]
RANK_TOLERANCE = 1e-7  # of the largest eigenvalue; smaller ones are rounding
EQUAL_ROWS = "all training photos have the same features, so there is nothing to learn from them"


@dataclass(frozen=True)
class Coordinates:
    """The centred training rows in an orthonormal basis of their span: their principal axes.

    Attributes:
        z: float (n, r); float64 if computed from a Gram matrix, else float32.
        sum_of_squares: float64 (r,), of each column of `z`, descending.
    """

    z: np.ndarray
    sum_of_squares: np.ndarray

    def coefficients(self, weights: np.ndarray) -> np.ndarray:
        """Return α, float32 (n, k), such that weights (r, k) in this basis are `Xᵀ α`."""
        scaled = weights / self.sum_of_squares[:, None]
        return (self.z @ scaled.astype(self.z.dtype)).astype(np.float32)


# Sums over blocks ------------------------------------------------------------------------


def track(
    blocks: Iterable[Block], progress: Progress | None, total: int, start: int = 0
) -> Iterator[Block]:
    """Yield blocks; after each, call `progress` with (start + rows or columns done, total)."""
    for span, x in blocks:
        yield span, x
        if progress:
            progress(start + span.stop, total)


def row_sums(blocks: Iterable[Block], d: int) -> tuple[np.ndarray, float]:
    """Return the sum of the rows, float64 (d,), and the sum of their squared norms."""
    total, squares = np.zeros(d), 0.0
    for _, x in blocks:
        total += x.sum(axis=0, dtype=np.float64)
        squares += float(np.einsum("ij,ij->i", x, x).sum(dtype=np.float64))
    return total, squares


def column_squares(blocks: Iterable[Block], d: int) -> np.ndarray:
    """Return the sum of squares of each column, float64 (d,)."""
    total = np.zeros(d)
    for _, x in blocks:
        total += np.einsum("ij,ij->j", x, x)
    return total


def check_not_constant(spread: float, squares: float) -> None:
    """Raise BilinearError if centring leaves nothing of the rows' squared norms."""
    if spread <= RANK_TOLERANCE * squares:
        raise BilinearError(EQUAL_ROWS)


# Inner products --------------------------------------------------------------------------


def gram(
    columns: Iterable[Block], n: int, d: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the Gram matrix of the centred rows, from one pass, as float32 sums of one triangle.

    Args:
        columns: blocks of columns, float32 (n, columns of the block), in order; overwritten.
        n: number of rows.
        d: number of columns.
        progress: called with (columns done, d).

    Returns:
        The Gram matrix, float32 (n, n); the mean of the rows, float32 (d,); the mean squared norm
        of the rows before centring.

    Raises:
        BilinearError: all rows are equal.
    """
    mean = np.empty(d, np.float32)
    lower = np.zeros((n, n), np.float32, order="F")
    for span, x in track(columns, progress, d):
        mean[span] = x.mean(axis=0)  # in float32: the intercept absorbs the rounding
        x -= mean[span]
        lower = ssyrk(1, x.T, beta=1, c=lower, trans=1, lower=1, overwrite_c=1)
    diagonal = np.einsum("ii->i", lower)
    spread = diagonal.mean(dtype=np.float64)
    mean_square = float(spread + np.square(mean, dtype=np.float64).sum())
    check_not_constant(spread, mean_square)
    lower += lower.T
    diagonal *= 0.5
    return lower.T, mean, mean_square


def primal_weights(columns: Iterable[Block], d: int, alpha: np.ndarray) -> np.ndarray:
    """Return `Xᵀ α`, float32 (d, k), from one pass over the columns of X.

    Args:
        columns: blocks of columns, float32 (n, columns of the block).
        d: number of columns.
        alpha: float32 (n, k).
    """
    weights = np.empty((d, alpha.shape[1]), np.float32)
    for span, x in columns:
        np.matmul(x.T, alpha, out=weights[span])
    return weights


# Principal axes --------------------------------------------------------------------------


def principal_axes(gram: np.ndarray) -> Coordinates:
    """Return the rows of a Gram matrix on their principal axes.

    Raises:
        BilinearError: all rows are equal.
    """
    eigenvalues, vectors = _eigh(gram.astype(np.float64))
    vectors *= np.sqrt(eigenvalues)
    return Coordinates(vectors, eigenvalues)


def rotate(
    batches: Callable[[], Iterable[Block]], n: int, d: int, progress: Progress | None = None
) -> tuple[Coordinates, np.ndarray, np.ndarray, float]:
    """Rotate rows of few features to their principal axes, in three passes over them.

    Args:
        batches: starts a pass over the blocks of rows, float32 (rows of the block, d).
        n: number of rows.
        d: number of features.
        progress: called with (rows read, rows to read in all passes).

    Returns:
        The rows, float32; the axes, float32 (d, r); the mean of the rows, float32 (d,); their mean
        squared norm before centring.

    Raises:
        BilinearError: all rows are equal.
    """

    def read(number: int) -> Iterator[Block]:
        return track(batches(), progress, 3 * n, number * n)

    total, squares = row_sums(read(0), d)
    mean = (total / n).astype(np.float32)
    covariance = np.zeros((d, d))
    for _, x in read(1):
        x -= mean
        covariance += x.T @ x
    check_not_constant(np.trace(covariance), squares)
    eigenvalues, axes = _eigh(covariance)
    axes = axes.astype(np.float32)
    z = np.empty((n, len(eigenvalues)), np.float32)
    for rows, x in read(2):
        z[rows] = (x - mean) @ axes
    return Coordinates(z, eigenvalues), axes, mean, squares / n


def _eigh(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues above rounding, descending, and their vectors as columns."""
    # the transpose is in LAPACK's order, which saves a copy
    values, vectors = eigh(symmetric.T, driver="evd", overwrite_a=True, check_finite=False)
    keep = np.flatnonzero(values > RANK_TOLERANCE * values[-1])[::-1]
    if not len(keep):
        raise BilinearError(EQUAL_ROWS)
    return values[keep], vectors[:, keep]
