"""Projected maps, bilinearly pooled by NumPy, as the network of `conv1x1.py` pools them."""

import numpy as np

from bilinear_cli.poolings import triangle

LEAST_NORM = 1e-6  # as in `functions.l2_normalize`


def pool_projected(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return projected maps, bilinearly pooled and normalised, without TensorFlow.

    Args:
        maps: float (m, height, width, C).
        kernel: float32 (C, channels).

    Returns:
        float32 (m, channels * (channels + 1) / 2): the upper triangle, row by row, off-diagonal
        numbers times the square root of two.
    """
    x = maps.astype(np.float32, copy=False).reshape(len(maps), -1, maps.shape[-1]) @ kernel
    matrices = np.swapaxes(x, 1, 2) @ x
    rows, columns = triangle.indices(kernel.shape[1])
    packed = matrices[:, rows, columns]
    packed = np.sign(packed) * np.sqrt(np.abs(packed))
    packed *= triangle.scale(kernel.shape[1]).astype(np.float32)
    norms = np.linalg.norm(packed, axis=1, keepdims=True)
    return packed / np.maximum(norms, np.float32(LEAST_NORM))
