"""Bilinear pooling of projected maps, and its gradient by the projection, in NumPy.

The values are those of the layer `BilinearPooling` with `channels`, and so are the gradients: see
`signed_sqrt` in `poolings/functions.py` for the slope of the root near zero.
"""

from dataclasses import dataclass

import numpy as np

from bilinear_cli.poolings import triangle

MIN_NORM = np.float32(1e-6)  # as in `l2_normalize` of `poolings/functions.py`
SLOPE_FLOOR = np.float32(1e-3)  # likewise


@dataclass(frozen=True)
class PooledMaps:
    """Pooled maps, and what the gradient needs; all float32."""

    x: np.ndarray  # the maps as matrices, (n, locations, d)
    projected: np.ndarray  # (n, locations, c)
    magnitude: np.ndarray  # of the entries before the root, (n, c (c + 1) / 2), see `triangle.py`
    norms: np.ndarray  # (n, 1)
    features: np.ndarray  # (n, c (c + 1) / 2), rows of norm one, or zeros

    def kernel_gradient(self, upstream: np.ndarray) -> np.ndarray:
        """Return a loss's gradient by the kernel (d, c), from that by the features."""
        c = self.projected.shape[-1]
        along = np.einsum("nt,nt->n", upstream, self.features)[:, None]
        by_entry = (upstream - along * self.features) / self.norms
        floor = SLOPE_FLOOR * self.magnitude.mean(axis=1, keepdims=True)
        root = np.sqrt(np.maximum(self.magnitude, floor))
        root[root == 0] = np.inf  # all-zero maps have the slope zero
        by_entry *= triangle.scale(c).astype(np.float32) / (2 * root)
        by_matrix = by_entry[:, _positions(c)]  # each entry at both of its places
        np.einsum("nii->ni", by_matrix)[...] *= 2
        by_projected = self.projected @ by_matrix
        return self.x.reshape(-1, self.x.shape[-1]).T @ by_projected.reshape(-1, c)


def pool_projected(maps: np.ndarray, kernel: np.ndarray) -> PooledMaps:
    """Project maps, float (n, height, width, d), by a kernel, float32 (d, c), and pool them."""
    x = maps.astype(np.float32, copy=False).reshape(len(maps), -1, maps.shape[-1])
    c = kernel.shape[1]
    projected = x @ kernel
    rows, columns = np.triu_indices(c)
    matrices = np.swapaxes(projected, 1, 2) @ projected
    entries = matrices.reshape(len(maps), -1)[:, rows * c + columns]
    magnitude = np.abs(entries)
    features = np.copysign(np.sqrt(magnitude), entries)
    features *= triangle.scale(c).astype(np.float32)
    norms = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), MIN_NORM)
    features /= norms
    return PooledMaps(x, projected, magnitude, norms, features)


def _positions(channels: int) -> np.ndarray:
    """Return where the triangle has each element of the matrix, int64 (channels, channels)."""
    rows, columns = np.triu_indices(channels)
    positions = np.empty((channels, channels), np.int64)
    positions[rows, columns] = positions[columns, rows] = np.arange(len(rows))
    return positions
