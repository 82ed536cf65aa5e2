"""Symmetric matrices as the numbers of their upper triangle, row by row (`np.triu_indices`).

Off-diagonal numbers stand for two entries of the matrix. They are multiplied by the square root of
two, so that inner products and norms are those of whole matrices.
"""

from math import isqrt

import numpy as np


def n_entries(channels: int) -> int:
    """Return how many numbers the triangle of channels x channels has."""
    return channels * (channels + 1) // 2


def n_channels(size: int) -> int:
    """Return how many channels a triangle of so many numbers has."""
    return isqrt(2 * size)


def indices(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the column in the matrix of each number of the triangle."""
    return np.triu_indices(channels)


def multiplicity(channels: int) -> np.ndarray:
    """Return int64: how many entries of the matrix each number stands for, 1 or 2."""
    rows, columns = indices(channels)
    return np.where(rows == columns, 1, 2)


def scale(channels: int) -> np.ndarray:
    """Return what the entries of a matrix are multiplied by, 1 or the square root of two."""
    return np.sqrt(multiplicity(channels))


def pack(matrix: np.ndarray) -> np.ndarray:
    """Return the triangle of a symmetric matrix."""
    return matrix[indices(len(matrix))] * scale(len(matrix))


def unpack(numbers: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix of a triangle."""
    channels = n_channels(len(numbers))
    rows, columns = indices(channels)
    matrix = np.empty((channels, channels), numbers.dtype)
    matrix[rows, columns] = matrix[columns, rows] = numbers / scale(channels)
    return matrix
