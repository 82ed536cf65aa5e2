"""The reduction: a problem in d numbers a row as the same problem in at most min(n, d).

An L2-penalised linear model with a free intercept sees its features only through the inner
products of the centred rows. With fewer rows than numbers, n <= d, all is in their Gram matrix
(n, n); with fewer numbers, in the rows on their principal axes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

from bilinear_cli.errors import BilinearError
from bilinear_cli.training.primal import Block

Progress = Callable[[int, int], None]
RANK_TOLERANCE = 1e-7  # of the largest eigenvalue; what is smaller is rounding
SAME = "all training photos have the same features: there is nothing to learn"


@dataclass(frozen=True)
class Coordinates:
    """The training rows, centred, in an orthonormal basis of their span: their principal axes.

    Attributes:
        z: float (n, r); float64 where it comes from a Gram matrix, else float32.
        variance: float64 (r,), the sum of squares of each column of `z`, descending.
    """

    z: np.ndarray
    variance: np.ndarray

    def on_rows(self, weights: np.ndarray) -> np.ndarray:
        """Return α (n, k), float32, with which weights (r, k) in this basis are `Xᵀ α`."""
        scaled = weights / self.variance[:, None]
        return (self.z @ scaled.astype(self.z.dtype)).astype(np.float32)


def gram(
    columns: Iterable[Block], n: int, d: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Sum up the Gram matrix of the centred rows, in one pass, each half once, in float32.

    Args:
        columns: (which columns, float32 (n, their number)), in order; they are overwritten.
        n: rows.
        d: columns.
        progress: told (columns done, d).

    Returns:
        The Gram matrix, float32 (n, n); the rows' mean, float32 (d,); the mean squared norm of
        the rows before they were centred.

    Raises:
        BilinearError: all rows are the same.
    """
    mean = np.empty(d, np.float32)
    lower = np.zeros((n, n), np.float32, order="F")
    for span, block in columns:
        mean[span] = block.mean(axis=0)  # not to the last digit: the intercept takes up the rest
        block -= mean[span]
        lower = ssyrk(1, block.T, beta=1, c=lower, trans=1, lower=1, overwrite_c=1)
        if progress:
            progress(span.stop, d)
    diagonal = np.einsum("ii->i", lower)
    spread = diagonal.mean(dtype=np.float64)
    mean_square = float(spread + np.square(mean, dtype=np.float64).sum())
    check_not_constant(spread, mean_square)
    lower += lower.T
    diagonal *= 0.5
    return lower.T, mean, mean_square


def check_not_constant(spread: float, squares: float) -> None:
    """Raise BilinearError if rows that are centred have nothing left of their squared norms."""
    if spread <= RANK_TOLERANCE * squares:
        raise BilinearError(SAME)


def principal(gram: np.ndarray) -> Coordinates:
    """Return the rows of a Gram matrix on their principal axes.

    Raises:
        BilinearError: all rows are the same.
    """
    variance, axes = _eigen(gram.astype(np.float64))
    axes *= np.sqrt(variance)
    return Coordinates(axes, variance)


def rotate(
    batches: Callable[[], Iterable[Block]], n: int, d: int, progress: Progress | None = None
) -> tuple[Coordinates, np.ndarray, np.ndarray, float]:
    """Put rows of few numbers on their principal axes, in three passes over them.

    Args:
        batches: returns an iterable of (which rows, float32 (their number, d)).
        n: rows.
        d: numbers a row.
        progress: told (rows done, rows to be read in all).

    Returns:
        The rows, float32; the axes, float32 (d, r); the rows' mean, float32 (d,); their mean
        squared norm before they were centred.

    Raises:
        BilinearError: all rows are the same.
    """
    total, squares, done = np.zeros(d), 0.0, 0

    def tell(block: np.ndarray) -> None:
        nonlocal done
        done += len(block)
        if progress:
            progress(done, 3 * n)

    for _, block in batches():
        total += block.sum(axis=0, dtype=np.float64)
        squares += float(np.einsum("ij,ij->i", block, block).sum(dtype=np.float64))
        tell(block)
    mean = (total / n).astype(np.float32)
    covariance = np.zeros((d, d))
    for _, block in batches():
        block -= mean
        covariance += block.T @ block
        tell(block)
    check_not_constant(np.trace(covariance), squares)
    variance, axes = _eigen(covariance)
    axes = axes.astype(np.float32)
    z = np.empty((n, len(variance)), np.float32)
    for rows, block in batches():
        z[rows] = (block - mean) @ axes
        tell(block)
    return Coordinates(z, variance), axes, mean, squares / n


def _eigen(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues above rounding, descending, and their vectors as columns."""
    # its transpose is in LAPACK's order, which spares a copy
    values, vectors = eigh(symmetric.T, driver="evd", overwrite_a=True, check_finite=False)
    keep = np.flatnonzero(values > RANK_TOLERANCE * values[-1])[::-1]
    if not len(keep):
        raise BilinearError(SAME)
    return values[keep], vectors[:, keep]


def primal_weights(columns: Iterable[Block], mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return `Xᵀ α` of the centred rows X, float32 (d, k), in one pass.

    Args:
        columns: (which columns, float32 (n, their number)); they are overwritten.
        mean: float32 (d,), of the rows.
        alpha: float32 (n, k).
    """
    weights = np.empty((len(mean), alpha.shape[1]), np.float32)
    for span, block in columns:
        block -= mean[span]
        np.matmul(block.T, alpha, out=weights[span])
    return weights
