"""What a worker does with rows of feature files in a shared folder: sums, inner products, scores.

These are plain functions of a worker's process. They are given the numbers of rows, and read them;
or blocks of rows that workers keep.
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

from bilinear_cli.cluster.requirements import check, differing
from bilinear_cli.errors import BilinearError
from bilinear_cli.store import FeatureFile, open_features
from bilinear_cli.training import feature_transform
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Block, Linear, loss_sums

PACKAGES = ("bilinear-cli", "numpy", "scipy")
Chosen = tuple[np.ndarray, np.ndarray]  # which rows of a block, ascending, and their targets


@dataclass(frozen=True)
class Source:
    """Feature files as the client has them.

    Attributes:
        files: where, for every process alike.
        described: what tells each from another one.
        versions: of what decides the numbers, `name version, ...`.
    """

    files: tuple[Path, ...]
    described: tuple[str, ...]
    versions: str

    @classmethod
    def of(cls, file: FeatureFile) -> "Source":
        """Take files that are open here."""
        files = tuple(path.absolute() for path in file.files)
        return cls(files, tuple(map(_described, files)), _versions())

    def fault(self) -> str | None:
        """Return what this process lacks, or None; see `requirements.Requirements`."""
        for path, here in zip(self.files, self.described, strict=True):
            there = _described(path)
            if there != here:
                return f"does not see {path} as it is here: {there} there, {here} here"
        return differing(_versions(), self.versions)

    def open(self) -> FeatureFile:
        """Return the file, open as long as this process lives.

        Raises:
            BilinearError: this worker has other versions, or sees other files.
        """
        return _opened(self)


@dataclass(frozen=True)
class Features:
    """What a classifier sees of files, less the mean of the training rows, if that is known."""

    source: Source
    transforms: Sequence[FeatureTransform]
    mean: np.ndarray | None = None

    @property
    def d(self) -> int:
        """Numbers a row."""
        return sum(transform.n_features for transform in self.transforms)

    def batches(self, rows: np.ndarray) -> Iterator[Block]:
        """Yield rows of these numbers, a few at a time."""
        for places, x in feature_transform.row_blocks(self.transforms, self.source.open(), rows):
            if self.mean is not None:
                x -= self.mean
            yield places, x


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def _described(path: Path) -> str:
    if not path.exists():
        return "missing"
    try:
        with FeatureFile(path) as file:
            said = json.dumps([file.attributes, file.sha256.tolist()], default=str, sort_keys=True)
            digest = hashlib.sha256(said.encode()).hexdigest()
        return f"a file of {path.stat().st_size:,} bytes ({digest[:12]})"
    except (BilinearError, OSError) as error:
        return f"not to be read ({error})"


@cache
def _opened(source: Source) -> FeatureFile:
    from distributed import get_worker

    check(source, get_worker())
    return open_features(source.files)


# Tasks -----------------------------------------------------------------------------------


def itself(x: Any) -> Any:
    """Return it: a task for what others are to be given, which can be made again if it is lost."""
    return x


def added(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the sums of some rows and of others as those of all."""
    return tuple(a + b for a, b in zip(one, other, strict=True))


def total(features: Features, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rows' sum, float64 (d,), and that of their squared norms."""
    sums, squares = np.zeros(features.d), 0.0
    for _, x in features.batches(rows):
        sums += x.sum(axis=0, dtype=np.float64)
        squares += float(np.einsum("ij,ij->i", x, x).sum(dtype=np.float64))
    return sums, squares


def products(features: Features, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the inner products of rows and others, float32 (len(one), len(other)).

    They are read in blocks of columns, so that few of their numbers are in memory at a time.
    """
    n, same = len(one), np.array_equal(one, other)
    rows = one if same else np.concatenate([one, other])
    found = np.zeros((n, len(other)), np.float32)
    for columns, x in feature_transform.column_blocks(
        features.transforms, features.source.open(), rows
    ):
        if features.mean is not None:
            x -= features.mean[columns]
        found += x[:n] @ (x if same else x[n:]).T
    return found


def weights(features: Features, rows: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray]:
    """Return the part of these rows in Xᵀ α, float32 (d, k)."""
    found = np.zeros((features.d, alpha.shape[1]), np.float32)
    for places, x in features.batches(rows):
        found += x.T @ alpha[places]
    return (found,)


def scores(features: Features, rows: np.ndarray, model: Linear | Model) -> np.ndarray:
    """Return scores (len(rows), k)."""
    return np.concatenate([model(x) for _, x in features.batches(rows)])


# Of blocks, which are rows that are kept, float32 (n, d); or, int64 (n,), numbers of rows to read


def kept(features: Features, rows: np.ndarray) -> np.ndarray:
    """Return rows, to be kept."""
    found = np.empty((len(rows), features.d), np.float32)
    for places, x in features.batches(rows):
        found[places] = x
    return found


def variance(features: Features, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray]:
    """Return the columns' sums of squares, float64 (d,)."""
    found = np.zeros(features.d)
    for block in blocks:
        for _, x in _rows_of(features, block, np.arange(len(block))):
            found += np.einsum("ij,ij->j", x, x)
    return (found,)


def losses(
    features: Features,
    blocks: Sequence[np.ndarray],
    chosen: Sequence[Chosen],
    model: Linear,
    make_loss: MakeLoss,
) -> tuple[Any, ...]:
    """Return the sums over the chosen rows of blocks, as `loss_sums` takes them."""
    targets = np.concatenate([targets for _, targets in chosen])
    return loss_sums(model, _chosen(features, blocks, chosen), targets, make_loss)


def block_scores(
    features: Features, blocks: Sequence[np.ndarray], chosen: Sequence[np.ndarray], model: Linear
) -> np.ndarray:
    """Return scores (n, k) of the chosen rows of blocks."""
    pairs = [(indices, indices) for indices in chosen]
    return np.concatenate([model(x) for _, x in _chosen(features, blocks, pairs)])


def _chosen(
    features: Features, blocks: Sequence[np.ndarray], chosen: Sequence[Chosen]
) -> Iterator[Block]:
    start = 0
    for block, (indices, _) in zip(blocks, chosen, strict=True):
        for places, x in _rows_of(features, block, indices):
            yield slice(start + places.start, start + places.stop), x
        start += len(indices)


def _rows_of(features: Features, block: np.ndarray, indices: np.ndarray) -> Iterator[Block]:
    """Yield rows of a block, whether it is kept or to be read."""
    if block.ndim == 1:
        yield from features.batches(block[indices])
    elif np.array_equal(indices, np.arange(len(block))):
        yield slice(0, len(block)), block
    else:
        yield slice(0, len(indices)), block[indices]
