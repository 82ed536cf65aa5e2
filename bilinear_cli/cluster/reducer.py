"""Stage 2 on workers: they compute the sums over rows. The solver runs in this process.

This process sends row indices, means and models. The workers read the rows from files that all of
them see. A Gram matrix comes in tiles, the inner products of two sets of rows: one worker reads
and multiplies the rows of a tile, and keeps nothing. Fits by passes are in `passes.py`.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count, pairwise, repeat
from math import ceil, sqrt
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import as_completed
from distributed.comm import get_address_host

from bilinear_cli.cluster import tasks
from bilinear_cli.cluster.passes import DaskPasses
from bilinear_cli.cluster.requirements import check_workers
from bilinear_cli.cluster.tasks import SharedFeatures, Source
from bilinear_cli.files import free_memory
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, gram
from bilinear_cli.training.dual import GramProblem
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import PrimalProblem
from bilinear_cli.training.reducers import Progress, log_pass_time

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

MAX_ROWS = 8192  # on a side of a tile of a Gram matrix
MEMORY_FRACTION = 0.5  # of the workers' memory, for the rows that they keep

Report = Callable[[], None]  # called when a task is done


class Workers:
    """The workers of a scheduler, for one feature file.

    Attributes:
        n: number of workers at the start.
    """

    def __init__(self, client: "Client", file: FeatureFile) -> None:
        """Check that all workers see the file and have the same versions as this process.

        Raises:
            BilinearError: a worker does not.
        """
        self.client, self.source = client, Source.of(file)
        check_workers(client, self.source)
        self.n = len(client.nthreads())
        log.info("workers: %d, threads: %d", self.n, len(self.threads()))

    def over(self, transforms: Sequence[FeatureTransform], indices: np.ndarray) -> "DaskReducer":
        """Return sums over rows of these indices."""
        return DaskReducer(self, SharedFeatures(self.source, transforms), indices)

    def scores(self, model: Model, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), classes) of rows of these indices."""
        features, sent = self.send(SharedFeatures(self.source, model.transforms)), self.send(model)
        calls = [(features, piece, sent) for piece in self.pieces(indices)]
        return np.concatenate(self.client.gather(self.map_evenly(tasks.scores, calls)))

    def threads(self) -> list[str]:
        """Return the worker's address of each thread; one empty string if there is no worker."""
        n_threads = self.client.nthreads()
        return [address for address, n in n_threads.items() for _ in range(n)] or [""]

    def pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the rows in as many pieces as there are threads, or rows if these are fewer."""
        return np.array_split(rows, min(len(self.threads()), len(rows)))

    def submit(self, task: Callable[..., Any], *args: Any, worker: str = "") -> "Future":
        """Start a task; its arguments go with it, so Dask can run it again.

        Dask replaces futures in the arguments by their results. `worker` is the address of the
        worker that runs the task as long as it is alive, or an empty string for any worker.
        """
        options = {"workers": [worker], "allow_other_workers": True} if worker else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            return self.client.submit(task, *args, pure=False, **options)

    def send(self, x: Any) -> "Future":
        """Return a future of x, for several tasks: each worker receives x once.

        It is the result of a task, so Dask can restore it when a worker is lost.
        """
        return self.submit(tasks.identity, x)

    def map_evenly(
        self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]], work: Iterable[float] = ()
    ) -> "list[Future]":
        """Start a task for each tuple of arguments, with the same amount of work for all threads.

        By default Dask gives tasks to the worker that has their common arguments. `work` is the
        amount of work of each task, in any unit; by default it is equal.
        """
        loads: list[list[Any]] = [[0.0, address] for address in self.threads()]
        futures = []
        for args, amount in zip(calls, [*work] or repeat(1.0), strict=False):
            lightest = min(loads, key=itemgetter(0))
            lightest[0] += amount
            futures.append(self.submit(task, *args, worker=lightest[1]))
        return futures

    def tree_sum(self, futures: "Sequence[Future]", report: Report | None = None) -> Any:
        """Return the sum of the tuples that tasks return; workers add them in pairs."""
        if report:
            self.wait(futures, report)
        while len(futures) > 1:
            pairs = [futures[i : i + 2] for i in range(0, len(futures), 2)]
            futures = [self.submit(tasks.add, *p) if len(p) == 2 else p[0] for p in pairs]
        return self.client.gather(futures[0])

    def wait(self, futures: "Sequence[Future]", report: Report) -> None:
        """Call `report` for each task that is done; raise the error of a task that fails."""
        for future in as_completed(futures, loop=self.client.loop):
            if future.status != "finished":
                future.result()
            report()

    def free_bytes(self) -> float:
        """Return how many bytes of rows the workers may keep."""
        limits: dict[str, float] = {}
        free: dict[str, float] = {}
        for address, (limit, free_on_host) in self.client.run(_memory).items():
            host = get_address_host(address)
            limits[host] = limits.get(host, 0) + (limit or free_on_host)
            free[host] = free_on_host
        return MEMORY_FRACTION * sum(min(limits[host], free[host]) for host in limits)


class DaskReducer:
    """Sums over rows of files by workers; see `training.reducers.Reducer`."""

    def __init__(self, workers: Workers, features: SharedFeatures, indices: np.ndarray) -> None:
        """Keep what to sum; workers start with the first method."""
        self.workers, self.features, self.indices = workers, features, indices

    def gram(self, progress: Progress | None) -> GramProblem:
        """Compute X Xᵀ in tiles; workers read the rows once for each of their tiles."""
        n, pieces = len(self.indices), self.workers.pieces(self.indices)
        tiles = gram_tiles(n, len(self.workers.threads()))
        report = _counter(progress, len(pieces) + len(tiles))
        mean, squares = self._mean(pieces, report)
        features = self.workers.send(replace(self.features, mean=mean))
        calls = [(features, self.indices[rows], self.indices[columns]) for rows, columns in tiles]
        work = [1 if rows is columns else 2 for rows, columns in tiles]
        futures = self.workers.map_evenly(tasks.products, calls, work)
        pending = dict(zip(futures, tiles, strict=True))
        del futures  # so that a worker releases a tile that has arrived
        inner = np.empty((n, n), np.float32)
        for future in as_completed(list(pending), loop=self.workers.client.loop):
            rows, columns = pending.pop(future)
            tile = future.result()
            inner[rows, columns], inner[columns, rows] = tile, tile.T
            report()
        gram.check_not_constant(float(np.trace(inner, dtype=np.float64)), squares)
        return GramProblem(inner, mean, squares / n, self.weights)

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α, from one pass."""
        features = self.workers.send(replace(self.features, mean=mean))
        pieces = self.workers.pieces(np.arange(len(self.indices)))
        calls = [(features, self.indices[piece], alpha[piece]) for piece in pieces]
        (weights,) = self.workers.tree_sum(self.workers.map_evenly(tasks.weights, calls))
        return weights

    def stream(self, progress: Progress | None) -> PrimalProblem:
        """Sum rows and squares; then workers keep the rows, or fits read them again."""
        n, workers = len(self.indices), self.workers
        d = sum(transform.n_features for transform in self.features.transforms)
        blocks = pieces = workers.pieces(self.indices)
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
        report = _counter(progress, len(pieces) + len(blocks))
        mean, squares = self._mean(pieces, report)
        passes = DaskPasses(workers, replace(self.features, mean=mean), blocks, keep, report)
        start_time = time.perf_counter()
        column_squares = passes.column_squares(None if keep else report)
        log_pass_time(time.perf_counter() - start_time)
        gram.check_not_constant(column_squares.sum(), squares)
        return PrimalProblem(passes, n, column_squares, mean, squares / n)

    def _mean(self, pieces: Sequence[np.ndarray], report: Report) -> tuple[np.ndarray, float]:
        """Return the mean of the rows, float32 (d,), and the sum of their squared norms."""
        features = self.workers.send(self.features)
        calls = [(features, piece) for piece in pieces]
        futures = self.workers.map_evenly(tasks.row_sums, calls)
        total, squares = self.workers.tree_sum(futures, report)
        return (total / len(self.indices)).astype(np.float32), squares


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


def _counter(progress: Progress | None, total: int) -> Report:
    """Return a function that calls `progress` with (its number of calls, total)."""
    if not progress:
        return lambda: None
    calls = count(1)
    return lambda: progress(next(calls), total)


def _memory(dask_worker: Any) -> tuple[int, int]:
    """Return a worker's memory limit, 0 for none, and the free memory of its host, in bytes."""
    return int(dask_worker.memory_manager.memory_limit or 0), free_memory()
