"""Features of an array in memory, in the blocks that the features of a file come in."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from bilinear_cli.training import feature_transform
from bilinear_cli.training.feature_transform import Block


@dataclass(frozen=True)
class ArrayFeatures:
    """`Features` of an array (n, d), float32 or float64, minus `mean` if it is given."""

    x: np.ndarray
    block_size: int | None = None  # rows or columns of a block; by default `BLOCK_BYTES`
    mean: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        """Type of the features."""
        return self.x.dtype

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.x.shape[1]

    def columns(self, indices: np.ndarray) -> Iterator[Block]:
        """Yield rows of these indices in blocks of columns, which the caller may overwrite."""
        for span in self._spans(self.n_features, len(indices)):
            x = self.x[:, span][indices]
            yield span, x if self.mean is None else np.subtract(x, self.mean[span], out=x)

    def rows(self, indices: np.ndarray) -> Iterator[Block]:
        """Yield rows of these indices in blocks of rows, which the caller may overwrite."""
        for span in self._spans(len(indices), self.n_features):
            x = self.x[indices[span]]
            yield span, x if self.mean is None else np.subtract(x, self.mean, out=x)

    def _spans(self, n: int, width: int) -> Iterator[slice]:
        """Yield blocks of n rows or columns of `width` numbers."""
        affordable = ceil(feature_transform.BLOCK_BYTES / (self.x.itemsize * width))
        step = self.block_size or affordable
        return (slice(start, min(start + step, n)) for start in range(0, n, step))
