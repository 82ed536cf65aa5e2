"""What workers do with rows of feature files in a shared folder: sums, inner products, scores.

These are plain functions that run in a worker's process. They receive row indices and read the
rows, or they receive blocks of rows that workers keep.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.cluster.worker_check import check, differing
from bilinear_cli.errors import BilinearError
from bilinear_cli.store import FeatureFile, open_features
from bilinear_cli.training import gram
from bilinear_cli.training.feature_transform import (
    Block,
    FeatureTransform,
    array_blocks,
    column_blocks,
    row_blocks,
)
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear, LossSums, loss_sums

PACKAGES = ("bilinear-cli", "numpy", "scipy")


@dataclass(frozen=True)
class Source:
    """Feature files as the client sees them.

    Attributes:
        files: absolute paths, the same on every process.
        descriptions: size and digest of each file.
        versions: `name version, ...` of the packages that decide the numbers.
    """

    files: tuple[Path, ...]
    descriptions: tuple[str, ...]
    versions: str

    @classmethod
    def of(cls, file: FeatureFile) -> "Source":
        """Describe files that this process has opened."""
        files = tuple(path.absolute() for path in file.files)
        return cls(files, tuple(map(_describe, files)), _versions())

    def fault(self) -> str | None:
        """Return what this process lacks, or None; see `worker_check.Requirements`."""
        for path, expected in zip(self.files, self.descriptions, strict=True):
            found = _describe(path)
            if found != expected:
                return (
                    f"does not see {path} as this process does: {found} there, {expected} here. "
                    "Put the file into a folder that all workers share"
                )
        return differing(_versions(), self.versions)

    def open(self) -> FeatureFile:
        """Return the file, open for the rest of this process.

        Raises:
            BilinearError: this worker has other versions, or sees other files.
        """
        return _opened(self)


@dataclass(frozen=True)
class Features:
    """Features of files, minus `mean`, the mean of the training rows, if it is known."""

    source: Source
    transforms: Sequence[FeatureTransform]
    mean: np.ndarray | None = None

    @property
    def d(self) -> int:
        """Number of features."""
        return sum(transform.n_features for transform in self.transforms)

    def rows(self, indices: np.ndarray) -> Iterator[Block]:
        """Yield rows in blocks of rows."""
        return row_blocks(self.transforms, self.source.open(), indices, self.mean)

    def columns(self, indices: np.ndarray) -> Iterator[Block]:
        """Yield rows in blocks of columns."""
        return column_blocks(self.transforms, self.source.open(), indices, self.mean)


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def _describe(path: Path) -> str:
    if not path.exists():
        return "missing"
    try:
        with FeatureFile(path) as file:
            text = json.dumps([file.attributes, file.sha256.tolist()], default=str, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
        return f"a file of {path.stat().st_size:,} bytes ({digest[:12]})"
    except (BilinearError, OSError) as error:
        return f"unreadable ({error})"


@cache
def _opened(source: Source) -> FeatureFile:
    from distributed import get_worker

    check(source, get_worker())
    return open_features(source.files)


# Tasks on rows ---------------------------------------------------------------------------


def identity(x: Any) -> Any:
    """Return x. As the result of a task, it can be computed again if a worker is lost."""
    return x


def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the element-wise sum of two tuples."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def row_sums(features: Features, indices: np.ndarray) -> tuple[np.ndarray, float]:
    """Return `gram.row_sums` of rows."""
    return gram.row_sums(features.rows(indices), features.d)


def products(features: Features, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the inner products of two sets of rows, float32 (len(left), len(right)).

    The rows are read in blocks of columns, which bounds the memory.
    """
    n, same = len(left), np.array_equal(left, right)
    indices = left if same else np.concatenate([left, right])
    tile = np.zeros((n, len(right)), np.float32)
    for _, x in features.columns(indices):
        tile += x[:n] @ (x if same else x[n:]).T
    return tile


def weights(features: Features, indices: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray]:
    """Return Xᵀ α of rows X and their α, float32 (d, k)."""
    total = np.zeros((features.d, alpha.shape[1]), np.float32)
    for rows, x in features.rows(indices):
        total += x.T @ alpha[rows]
    return (total,)


def scores(features: Features, indices: np.ndarray, model: Model) -> np.ndarray:
    """Return scores (len(indices), classes)."""
    return np.concatenate([model(x) for _, x in features.rows(indices)])


def load_rows(features: Features, indices: np.ndarray) -> np.ndarray:
    """Return rows for a worker to keep, float32 (len(indices), d)."""
    return np.concatenate([x for _, x in features.rows(indices)])


# Tasks on blocks. A block is either kept rows, float32 (n, d), or indices of rows to read,
# int64 (n,). `chosen` has, for each block, the ascending positions of the rows to use.


def column_squares(
    features: Features, blocks: Sequence[np.ndarray], chosen: Sequence[np.ndarray]
) -> tuple[np.ndarray]:
    """Return the sum of squares of each column, float64 (d,)."""
    return (gram.column_squares(_rows(features, blocks, chosen), features.d),)


def losses(
    features: Features,
    blocks: Sequence[np.ndarray],
    chosen: Sequence[tuple[np.ndarray, np.ndarray]],
    model: Linear,
    make_loss: MakeLoss,
) -> LossSums:
    """Return `loss_sums`; `chosen` has pairs of positions and targets."""
    positions, targets = zip(*chosen, strict=True)
    rows = _rows(features, blocks, positions)
    return loss_sums(model, rows, np.concatenate(targets), make_loss)


def block_scores(
    features: Features, blocks: Sequence[np.ndarray], chosen: Sequence[np.ndarray], model: Linear
) -> np.ndarray:
    """Return scores (n, k) of the chosen rows of all blocks."""
    return np.concatenate([model(x) for _, x in _rows(features, blocks, chosen)])


def _rows(
    features: Features, blocks: Sequence[np.ndarray], chosen: Sequence[np.ndarray]
) -> Iterator[Block]:
    start = 0
    for block, positions in zip(blocks, chosen, strict=True):
        read = block.ndim == 1
        pieces = features.rows(block[positions]) if read else array_blocks(block, positions)
        for rows, x in pieces:
            yield slice(start + rows.start, start + rows.stop), x
        start += len(positions)
