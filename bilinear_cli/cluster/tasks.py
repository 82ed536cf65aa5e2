"""What workers do with rows of feature files in a shared folder: sums, inner products, scores.

These are plain functions that run in a worker's process. They receive row indices and read the
rows, or they receive blocks of rows that workers keep.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.cluster.lag import is_visible, lasting_fault
from bilinear_cli.cluster.requirements import check_worker, version_fault
from bilinear_cli.errors import BilinearError
from bilinear_cli.machine import free_memory, package_versions
from bilinear_cli.store import FeatureFile, open_features
from bilinear_cli.training import principal_axes
from bilinear_cli.training.feature_transform import Block, Features, FeatureTransform
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear, LossSums, array_blocks, loss_sums

PACKAGES = ("bilinear-cli", "numpy", "scipy")

Blocks = Sequence[np.ndarray]  # each is kept rows, float32 (n, d), or indices of rows to read (n,)
Positions = Sequence[np.ndarray]  # for each block, the rows to use, ascending


@dataclass(frozen=True)
class SharedFiles:
    """Feature files as the client sees them."""

    files: tuple[Path, ...]  # absolute paths, the same on every process
    descriptions: tuple[str, ...]  # size and digest of each file
    versions: str  # `name version, ...` of the packages that decide the numbers

    @classmethod
    def from_file(cls, file: FeatureFile) -> "SharedFiles":
        """Describe files that this process has opened."""
        files = tuple(path.absolute() for path in file.files)
        return cls(files, tuple(map(describe, files)), package_versions(PACKAGES))

    def fault(self) -> str | None:
        """Return what this process lacks, or None; see `requirements.Fault`."""
        return version_fault(package_versions(PACKAGES), self.versions) or lasting_fault(
            self._unseen_file
        )

    def _unseen_file(self) -> str | None:
        for path, expected in zip(self.files, self.descriptions, strict=True):
            actual = describe(path)
            if actual != expected:
                return (
                    f"does not see {path} as the client does: on the worker it is {actual}, on the "
                    f"client {expected}. Put the file into a folder that all workers share"
                )
        return None


@dataclass(frozen=True)
class SharedFeatures:
    """`Features` of a file that every worker opens for itself."""

    shared_files: SharedFiles
    transforms: Sequence[FeatureTransform]
    mean: np.ndarray | None = None

    def open(self) -> Features:
        """Return the features; the file stays open for the rest of the process.

        Raises:
            BilinearError: this worker has other versions, or sees other files.
        """
        return Features(_opened(self.shared_files), self.transforms, self.mean)


def describe(path: Path) -> str:
    """Return size and digest of a feature file, or what is wrong with it."""
    try:
        if not is_visible(path):
            return "missing"
        with FeatureFile(path) as file:
            text = json.dumps([file.attributes, file.sha256.tolist()], default=str, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
        return f"a file of {path.stat().st_size:,} bytes ({digest[:12]})"
    except (BilinearError, OSError) as error:
        return f"unreadable ({error})"


@cache
def _opened(shared_files: SharedFiles) -> FeatureFile:
    from distributed import get_worker

    check_worker(shared_files.fault, get_worker())
    return open_features(shared_files.files)


def memory(dask_worker: Any) -> tuple[int, int]:
    """Return a worker's memory limit, 0 for none, and the free memory of its host, in bytes."""
    return int(dask_worker.memory_manager.memory_limit or 0), free_memory()


# Tasks on rows ---------------------------------------------------------------------------


def identity(x: Any) -> Any:
    """Return x. As the result of a task, it can be computed again if a worker is lost."""
    return x


def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the element-wise sum of two tuples."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def row_sums(
    shared: SharedFeatures, indices: np.ndarray, sample_weight: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Return `principal_axes.row_sums` of rows."""
    features = shared.open()
    return principal_axes.row_sums(features.rows(indices), features.n_features, sample_weight)


def products(shared: SharedFeatures, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the inner products of two sets of rows, float32 (len(left), len(right)).

    The rows are read in blocks of columns, which bounds the memory.
    """
    n, same = len(left), np.array_equal(left, right)
    indices = left if same else np.concatenate([left, right])
    tile = np.zeros((n, len(right)), np.float32)
    for _, x in shared.open().columns(indices):
        tile += x[:n] @ (x if same else x[n:]).T
    return tile


def weights(
    shared: SharedFeatures, indices: np.ndarray, dual_coef: np.ndarray
) -> tuple[np.ndarray]:
    """Return Xᵀ α of rows X and their α, float32 (d, k)."""
    features = shared.open()
    total = np.zeros((features.n_features, dual_coef.shape[1]), np.float32)
    for rows, x in features.rows(indices):
        total += x.T @ dual_coef[rows]
    return (total,)


def scores(shared_files: SharedFiles, indices: np.ndarray, model: Model) -> np.ndarray:
    """Return scores (len(indices), classes)."""
    return model.score_rows(_opened(shared_files), indices)


def load_rows(shared: SharedFeatures, indices: np.ndarray) -> np.ndarray:
    """Return rows for a worker to keep, float32 (len(indices), d)."""
    return np.concatenate([x for _, x in shared.open().rows(indices)])


# Tasks on blocks of rows -----------------------------------------------------------------


def column_squares(
    shared: SharedFeatures, blocks: Blocks, positions: Positions
) -> tuple[np.ndarray]:
    """Return the sum of squares of each column, float64 (d,)."""
    features = shared.open()
    return (principal_axes.column_squares(_rows(features, blocks, positions), features.n_features),)


def losses(
    shared: SharedFeatures,
    blocks: Blocks,
    selected: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    model: Linear,
    make_loss: MakeLoss,
) -> LossSums:
    """Return `loss_sums`; `selected` has positions, targets and weights of each block."""
    positions, targets, weights = zip(*selected, strict=True)
    rows = _rows(shared.open(), blocks, positions)
    return loss_sums(model, rows, np.concatenate(targets), make_loss, np.concatenate(weights))


def block_scores(
    shared: SharedFeatures,
    blocks: Sequence[np.ndarray],
    positions: Positions,
    model: Linear,
) -> np.ndarray:
    """Return scores (n, k) of the chosen rows of all blocks."""
    return np.concatenate([model(x) for _, x in _rows(shared.open(), blocks, positions)])


def _rows(features: Features, blocks: Blocks, positions: Positions) -> Iterator[Block]:
    start = 0
    for block, indices in zip(blocks, positions, strict=True):
        kept = block.ndim == 2
        read = array_blocks(block, indices) if kept else features.rows(block[indices])
        for rows, x in read:
            yield slice(start + rows.start, start + rows.stop), x
        start += len(indices)
