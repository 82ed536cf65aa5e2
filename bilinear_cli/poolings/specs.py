"""What a pooling is called and what it stores; read without loading the network.

A pooling is named by a spec, and the spec is its key in the feature file: a method, and for some a
size after a colon. `bilinear:144` projects the channels on 144 first; `compact:8192` is a sketch of
8,192 numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from bilinear_cli.errors import UsageError, one_of

HALF_PRECISION_FROM = 4096  # numbers in a row
TRIANGLE = "upper-triangle"
FITTED_ON = "fitted-on"  # SHA-256 of the photos that projections were fitted on


@dataclass(frozen=True)
class Pooling:
    """One pooling.

    Attributes:
        method: what is done.
        layout: of a stored row: `dense`, or `upper-triangle` of a symmetric matrix, row by row
            (`np.triu_indices`), its off-diagonal numbers times the square root of two, so that
            inner products are those of whole matrices.
        normalization: what has been done to a row, in order; empty for nothing.
        size: what the spec names after the colon: channels that the map's are projected on, or
            numbers of a sketch; None for neither.
    """

    method: str
    layout: str = "dense"
    normalization: str = ""
    size: int | None = None

    @property
    def spec(self) -> str:
        """What the user types."""
        return self.method if self.size is None else f"{self.method}:{self.size}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arrays that it takes beside the maps, see `parameters.py`."""
        if self.size is None:
            return ()
        if self.layout == TRIANGLE:
            return (f"projection-{self.size}", FITTED_ON)
        return (f"hash-{self.size}", f"sign-{self.size}")

    def channels(self, shape: tuple[int, ...], parameters: Mapping[str, np.ndarray]) -> int:
        """Return how many channels are pooled where a row has this shape."""
        if self.layout == TRIANGLE:
            return isqrt(2 * shape[0])  # c (c + 1) / 2 numbers
        return parameters[self.parameters[0]].shape[1] if self.parameters else shape[-1]


POOLINGS = {
    pooling.method: pooling
    for pooling in (
        Pooling("max"),
        Pooling("avg"),
        Pooling("sum"),
        Pooling("bilinear", TRIANGLE, "signed-sqrt,l2"),
        Pooling("bilinear-plain", TRIANGLE),
        Pooling("covariance", TRIANGLE, "signed-sqrt,l2"),
        Pooling("matrix-sqrt", TRIANGLE, "matrix-sqrt,signed-sqrt,l2"),
        Pooling("compact", "dense", "signed-sqrt,l2"),
        Pooling("conv5"),
    )
}


def pooling(spec: str) -> Pooling:
    """Return the pooling of that name.

    Raises:
        UsageError: there is none, and the message names the nearest; or its size cannot be.
    """
    method, colon, size = spec.partition(":")
    kind = POOLINGS[one_of("pooling", method, POOLINGS)]
    sized = kind.layout == TRIANGLE or method == "compact"
    if colon and not sized:
        raise UsageError(f"{method} takes no size: write {method}, not {spec}")
    if not colon and method == "compact":
        raise UsageError("compact takes how many numbers to sketch: compact:8192")
    if not colon:
        return kind
    if not (re.fullmatch("[0-9]{1,9}", size) and int(size) > 0):
        raise UsageError(f"{spec}: after the colon comes a whole number from 1 on")
    return replace(kind, size=int(size))


def row_dtype(shape: tuple[int, ...]) -> np.dtype:
    """Return how a row of this shape is stored: float32 if it is small, else float16."""
    return np.dtype(np.float32 if np.prod(shape) < HALF_PRECISION_FROM else np.float16)
