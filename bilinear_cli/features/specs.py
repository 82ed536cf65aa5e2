"""What a pooling is called and what it stores; read without loading the network.

A pooling is named by a spec, and the spec is its key in the feature file.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from bilinear_cli.errors import one_of

HALF_PRECISION_FROM = 4096  # numbers in a row


@dataclass(frozen=True)
class Pooling:
    """One pooling.

    Attributes:
        spec: what the user types.
        layout: of a stored row: `dense`, or `upper-triangle` of a symmetric matrix, row by row
            (`np.triu_indices`), its off-diagonal numbers times the square root of two, so that
            inner products are those of whole matrices.
        normalization: what has been done to a row, in order; empty for nothing.
    """

    spec: str
    layout: str = "dense"
    normalization: str = ""

    def channels(self, shape: tuple[int, ...]) -> int:
        """Return how many channels a map has whose row has this shape."""
        if self.layout == "upper-triangle":
            return isqrt(2 * shape[0])  # c (c + 1) / 2 numbers
        return shape[-1]


POOLINGS = {
    pooling.spec: pooling
    for pooling in (
        Pooling("max"),
        Pooling("avg"),
        Pooling("sum"),
        Pooling("bilinear", "upper-triangle", "signed-sqrt,l2"),
        Pooling("bilinear-plain", "upper-triangle"),
        Pooling("covariance", "upper-triangle", "signed-sqrt,l2"),
        Pooling("matrix-sqrt", "upper-triangle", "matrix-sqrt,signed-sqrt,l2"),
        Pooling("conv5"),
    )
}


def pooling(spec: str) -> Pooling:
    """Return the pooling of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    return POOLINGS[one_of("pooling", spec, POOLINGS)]


def row_dtype(shape: tuple[int, ...]) -> np.dtype:
    """Return how a row of this shape is stored: float32 if it is small, else float16."""
    return np.dtype(np.float32 if np.prod(shape) < HALF_PRECISION_FROM else np.float16)
