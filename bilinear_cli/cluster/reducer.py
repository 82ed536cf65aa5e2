"""Stage 2 on workers: they compute the sums over rows. The solver runs in this process.

This process sends row indices, means and models. The workers read the rows from files that all of
them see. A Gram matrix comes in tiles, the inner products of two sets of rows: one worker reads
and multiplies the rows of a tile, and keeps nothing. Fits by passes are in `passes.py`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from bilinear_cli.cluster import tasks
from bilinear_cli.cluster.passes import DaskPasses
from bilinear_cli.cluster.pool import OnDone, WorkerPool
from bilinear_cli.cluster.requirements import check_workers
from bilinear_cli.cluster.tasks import SharedFeatures, SharedFiles
from bilinear_cli.progress import Progress
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, principal_axes
from bilinear_cli.training.dual import GramProblem
from bilinear_cli.training.feature_transform import Features
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import PrimalProblem
from bilinear_cli.training.reducers import LocalReducer

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

MAX_ROWS = 8192  # on a side of a tile of a Gram matrix


class Workers(WorkerPool):
    """The workers of a scheduler that train on one feature file; see `training.reducers`."""

    def __init__(self, client: "Client", file: FeatureFile) -> None:
        """Check that all workers see the file and have the same versions as this process.

        Raises:
            BilinearError: a worker does not.
        """
        super().__init__(client)
        self.shared_files = SharedFiles.from_file(file)
        check_workers(client, self.shared_files.fault)
        self.n_workers = len(client.nthreads())  # at the start
        log.info("workers: %d, threads: %d", self.n_workers, len(self.threads()))

    def reducer(
        self,
        features: Features,
        indices: np.ndarray,
        progress: Progress | None,
        sample_weight: np.ndarray | None = None,
    ) -> "DaskReducer":
        """Return the reducer of rows of these indices."""
        return DaskReducer(features, indices, progress, sample_weight, workers=self)

    def scores(self, model: Model, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of these indices."""
        shared_files, shared_model = self.send(self.shared_files), self.send(model)
        calls = [(shared_files, piece, shared_model) for piece in self.pieces(indices)]
        return np.concatenate(self.gather(self.map_evenly(tasks.scores, calls)))


@dataclass(frozen=True, kw_only=True)
class DaskReducer(LocalReducer):
    """Reduces the training rows by sums over them, which workers compute."""

    workers: Workers

    def reduce_to_gram(self) -> GramProblem:
        """Compute X Xᵀ in tiles; workers read the rows once for each of their tiles."""
        n, pieces = len(self.indices), self.workers.pieces(self.indices)
        tiles = gram_tiles(n, len(self.workers.threads()))
        on_done = self._counter(len(pieces) + len(tiles))
        mean, squares = self._sums(pieces, on_done)
        features = self._send(mean)
        calls = [(features, self.indices[rows], self.indices[columns]) for rows, columns in tiles]
        work = [1 if rows is columns else 2 for rows, columns in tiles]
        futures = self.workers.map_evenly(tasks.products, calls, work)
        pending = dict(zip(futures, tiles, strict=True))
        del futures  # as `completed` does
        inner = np.empty((n, n), np.float32)
        for future in self.workers.completed(list(pending)):
            rows, columns = pending.pop(future)
            tile = future.result()
            inner[rows, columns], inner[columns, rows] = tile, tile.T
            on_done()
        mean_squared_norm = squares / self.total_weight
        spread = float(np.trace(inner, dtype=np.float64)) / n
        principal_axes.check_not_constant(spread, mean_squared_norm)
        return GramProblem(inner, mean, mean_squared_norm, self.weights, self.sample_weight)

    def weights(self, mean: np.ndarray, dual_coef: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, from one pass."""
        features = self._send(mean)
        pieces = self.workers.pieces(np.arange(len(self.indices)))
        calls = [(features, self.indices[piece], dual_coef[piece]) for piece in pieces]
        (weights,) = self.workers.tree_sum(self.workers.map_evenly(tasks.weights, calls))
        return weights

    def reduce_to_axes(self) -> PrimalProblem:
        """Do as `LocalReducer`: rows of few features are small."""
        small = "rows of %d features are small: this process reduces them, not the workers"
        log.info(small, self.features.n_features)
        return super().reduce_to_axes()

    def reduce_to_stream(self) -> PrimalProblem:
        """Sum rows and squares; then workers keep the rows, or fits read them again."""
        n, d, workers = len(self.indices), self.features.n_features, self.workers
        pieces = workers.pieces(self.indices)
        blocks: Sequence[Any] = pieces
        needed, free = 4 * n * d, workers.free_bytes()
        keep = needed <= free
        if keep:
            n_blocks = ceil(n / max(1, feature_transform.BLOCK_BYTES // (4 * d)))
            blocks = np.array_split(self.indices, n_blocks)
        log.info(
            "the workers %s: the rows need %.1f GB of the %.1f GB that the workers may use",
            "keep the rows in memory" if keep else "read the rows again in each pass",
            needed / 1e9,
            free / 1e9,
        )
        on_done = self._counter(len(pieces) + len(blocks))
        mean, squares = self._sums(pieces, on_done)
        features, starts = self._send(mean), np.cumsum([0, *map(len, blocks)])
        if keep:
            blocks = workers.map_evenly(tasks.load_rows, [(features, block) for block in blocks])
            workers.wait(blocks, on_done)
        passes = DaskPasses(workers, features, blocks, starts, keep)
        sum_columns = partial(passes.column_squares, None if keep else on_done)
        return self.streamed(passes, mean, squares, sum_columns)

    def _send(self, mean: np.ndarray | None) -> "Future":
        shared = SharedFeatures(self.workers.shared_files, self.features.transforms, mean)
        return self.workers.send(shared)

    def _counter(self, total: int) -> OnDone:
        """Return a function that calls `progress` with (its number of calls, total)."""
        calls, progress = count(1), self.progress
        return lambda: progress(next(calls), total) if progress else None

    def _sums(self, pieces: Sequence[np.ndarray], on_done: OnDone) -> tuple[np.ndarray, float]:
        """Return the mean of the rows, float32 (d,), and the sum of their squared norms."""
        features, weights = self._send(None), self.sample_weight
        row_weights = [None] * len(pieces) if weights is None else self.workers.pieces(weights)
        calls = [(features, *piece) for piece in zip(pieces, row_weights, strict=True)]
        total, squares = self.workers.tree_sum(
            self.workers.map_evenly(tasks.row_sums, calls), on_done
        )
        return (total / self.total_weight).astype(np.float32), squares


def gram_tiles(n: int, n_threads: int) -> list[tuple[slice, slice]]:
    """Divide the lower triangle of an n x n matrix into tiles, the most work first.

    A tile on the diagonal is half the work. Each thread gets about the work of one full tile. More
    tiles would mean that workers read rows more often.
    """
    side = 1 if n_threads == 1 else ceil(sqrt(2 * n_threads))
    side = min(max(side, ceil(n / MAX_ROWS)), n)
    ends = [n * i // side for i in range(side + 1)]
    spans = [slice(*pair) for pair in pairwise(ends)]
    below = [(rows, columns) for i, rows in enumerate(spans) for columns in spans[:i]]
    return below + [(span, span) for span in spans]
