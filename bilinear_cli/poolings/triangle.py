"""Symmetric matrices as vectors: their upper triangle, row by row (`np.triu_indices`).

An off-diagonal element stands for two entries of the matrix. It is multiplied by the square root of
two, so that inner products and norms are those of the whole matrices.
"""

from math import isqrt

import numpy as np


def n_entries(channels: int) -> int:
    """Return the length of the triangle of channels x channels."""
    return channels * (channels + 1) // 2


def n_channels(size: int) -> int:
    """Return the number of channels of a triangle of this length."""
    return isqrt(2 * size)


def multiplicity(channels: int) -> np.ndarray:
    """Return how many entries of the matrix each element stands for, int64, 1 or 2."""
    rows, columns = np.triu_indices(channels)
    return np.where(rows == columns, 1, 2)


def scale(channels: int) -> np.ndarray:
    """Return the factor of each element, 1 or the square root of two."""
    return np.sqrt(multiplicity(channels))


def pack(matrix: np.ndarray) -> np.ndarray:
    """Return the triangle of a symmetric matrix."""
    return matrix[np.triu_indices(len(matrix))] * scale(len(matrix))


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix of a triangle."""
    channels = n_channels(len(packed))
    rows, columns = np.triu_indices(channels)
    matrix = np.empty((channels, channels), packed.dtype)
    matrix[rows, columns] = matrix[columns, rows] = packed / scale(channels)
    return matrix
