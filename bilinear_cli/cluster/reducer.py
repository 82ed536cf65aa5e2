"""Stage 2 on workers: they take the sums over rows, and the solver stays in this process.

What is sent to workers are numbers of rows, means, models; they read the rows from files that
all of them see. Gram matrices come as tiles, inner products of some rows and of others, each
read and multiplied by one worker, which keeps nothing. Fits by passes go over the rows again and
again: there, if the workers' memory allows it, each worker keeps blocks of rows; otherwise it
reads them at each pass. Dask makes blocks anew when a worker is lost.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, cycle, pairwise
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import as_completed

from bilinear_cli.cluster import tasks
from bilinear_cli.cluster.futures import Futures, Tell
from bilinear_cli.cluster.requirements import check_workers
from bilinear_cli.cluster.tasks import Features, Source
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform, gram
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.primal import Linear, LossSums
from bilinear_cli.training.reducers import Progress, StreamStatistics, log_pass_time

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

MOST_ROWS = 8192  # on a side of a tile of a Gram matrix


class Workers(Futures):
    """The workers of a scheduler, and what they are asked to do with one feature file.

    Attributes:
        n: how many there are at first.
    """

    def __init__(self, client: "Client", file: FeatureFile) -> None:
        """Check that all workers see the file, and have the versions that there are here.

        Raises:
            BilinearError: one does not.
        """
        super().__init__(client)
        self.source = Source.of(file)
        check_workers(client, self.source)
        self.n = len(self.client.nthreads())
        log.info("workers: %d, threads: %d", self.n, self.n_threads())

    def over(self, transforms: Sequence[FeatureTransform], rows: np.ndarray) -> "DaskReducer":
        """Return sums over rows of these numbers."""
        return DaskReducer(self, Features(self.source, transforms), rows)

    def scores(self, model: Model, rows: np.ndarray) -> np.ndarray:
        """Return scores (len(rows), classes) of rows of these numbers."""
        features, sent = self.put(Features(self.source, model.transforms)), self.put(model)
        found = self.share_out(
            tasks.scores, [(features, piece, sent) for piece in self.pieces(rows)]
        )
        return np.concatenate(self.client.gather(found))


class DaskReducer:
    """Sums over rows of files, taken by workers; see `training.sums.Reducer`."""

    def __init__(self, workers: Workers, features: Features, rows: np.ndarray) -> None:
        """Take rows of these numbers."""
        self.workers, self.features, self.rows = workers, features, rows

    def gram(self, progress: Progress | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return X Xᵀ, the rows' mean and their mean square."""
        n, pieces = len(self.rows), self.workers.pieces(self.rows)
        pairs = tiles(n, self.workers.n_threads())
        tell = counted(progress, len(pieces) + len(pairs))
        mean, squares = self._mean(pieces, tell)
        features, inner = (
            self.workers.put(replace(self.features, mean=mean)),
            np.empty((n, n), np.float32),
        )
        calls = [(features, *(self.rows[place] for place in pair)) for pair in pairs]
        work = [1 if one is other else 2 for one, other in pairs]
        futures = self.workers.share_out(tasks.products, calls, work)
        coming = dict(zip(futures, pairs, strict=True))
        del futures  # a tile is let go when it is here
        for future in as_completed(list(coming), loop=self.workers.client.loop):
            one, other = coming.pop(future)
            tile = future.result()
            inner[one, other], inner[other, one] = tile, tile.T
            tell()
        gram.check_not_constant(float(np.trace(inner, dtype=np.float64)), squares)
        return inner, mean, squares / n

    def _mean(self, pieces: Sequence[np.ndarray], tell: Tell) -> tuple[np.ndarray, float]:
        """Return the rows' mean, float32 (d,), and the sum of their squared norms."""
        features = self.workers.put(self.features)
        futures = self.workers.share_out(tasks.total, [(features, piece) for piece in pieces])
        sums, squares = self.workers.total(futures, tell)
        return (sums / len(self.rows)).astype(np.float32), squares

    def weights(self, mean: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return Xᵀ α."""
        features = self.workers.put(replace(self.features, mean=mean))
        pieces = self.workers.pieces(np.arange(len(self.rows)))
        calls = [(features, self.rows[piece], alpha[piece]) for piece in pieces]
        (found,) = self.workers.total(self.workers.share_out(tasks.weights, calls))
        return found

    def stream(self, progress: Progress | None) -> StreamStatistics:
        """Take means and variances; then workers keep the rows, or fits have them read again."""
        n, d, workers = len(self.rows), self.features.d, self.workers
        pieces, needed, room = workers.pieces(self.rows), 4 * n * d, workers.room()
        blocks, keep = pieces, needed <= room
        if keep:
            blocks = np.array_split(
                self.rows, ceil(n / max(1, feature_transform.BLOCK_BYTES // (4 * d)))
            )
        sizes = f"{needed / 1e9:.1f} GB, of the {room / 1e9:.1f} GB that they may take"
        log.info("the workers %s: %s", "keep the rows" if keep else "read the rows anew", sizes)
        tell = counted(progress, len(pieces) + len(blocks))
        mean, squares = self._mean(pieces, tell)
        passes = Passes(workers, replace(self.features, mean=mean), blocks, keep, tell)
        began = time.perf_counter()
        variance = passes.variance(None if keep else tell)
        log_pass_time(time.perf_counter() - began)
        return StreamStatistics.of_sums(passes, mean, variance, squares, n)


class Passes:
    """Passes over blocks of rows by workers; see `training.columns.Passes`."""

    def __init__(
        self,
        workers: Workers,
        features: Features,
        blocks: Sequence[np.ndarray],
        keep: bool,
        tell: Tell,
    ) -> None:
        """Take blocks of rows.

        Args:
            workers: who has, or reads, the blocks.
            features: what of the rows.
            blocks: numbers of rows; together all, in order.
            keep: have workers keep them; otherwise they read them at each pass.
            tell: called when one is read to be kept.
        """
        self.workers, self.features, self.keep = workers, workers.put(features), keep
        self.starts = np.cumsum([0, *(len(block) for block in blocks)])
        self.blocks: Sequence[Any] = blocks
        if keep:
            self.blocks = workers.share_out(
                tasks.kept, [(self.features, block) for block in blocks]
            )
            workers.follow(self.blocks, tell)

    def variance(self, tell: Tell | None) -> np.ndarray:
        """Return the columns' sums of squares, float64 (d,)."""
        groups = self._groups(range(len(self.blocks)))
        (found,) = self.workers.total([self._start(tasks.variance, *g) for g in groups], tell)
        return found

    def losses(
        self, indices: np.ndarray, targets: np.ndarray, make_loss: MakeLoss
    ) -> Callable[[Linear], LossSums]:
        """Return model -> the sums over these rows."""
        chosen = {
            block: self.workers.put((indices[places] - self.starts[block], targets[places]))
            for block, places in self._places(indices)
        }
        return lambda model: self._losses(model, chosen, make_loss)

    def _losses(self, model: Linear, chosen: "dict[int, Future]", make_loss: MakeLoss) -> LossSums:
        sent = self.workers.put(model)
        futures = [
            self._start(tasks.losses, holder, group, [chosen[b] for b in group], sent, make_loss)
            for holder, group in self._groups(chosen)
        ]
        return self.workers.total(futures)

    def scores(self, model: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores (len(indices), k) of rows."""
        sent, places = self.workers.put(model), dict(self._places(indices))
        groups = self._groups(places)
        local = {block: indices[there] - self.starts[block] for block, there in places.items()}
        futures = [
            self._start(tasks.block_scores, holder, group, [local[b] for b in group], sent)
            for holder, group in groups
        ]
        found = np.empty((len(indices), len(model.intercept)), np.float32)
        for (_, group), its in zip(groups, self.workers.client.gather(futures), strict=True):
            found[np.concatenate([places[b] for b in group])] = its
        return found

    def _places(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the blocks that have any of these rows, and the rows' places in `indices`."""
        block = np.searchsorted(self.starts, indices, side="right") - 1
        order = np.argsort(block, kind="stable")
        blocks, firsts = np.unique(block[order], return_index=True)
        yield from zip(blocks.tolist(), np.split(order, firsts[1:]), strict=True)

    def _groups(self, blocks: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Return which blocks a task takes: such as one worker keeps, shared by its threads.

        Returns:
            (that worker's address, or nothing; blocks).
        """
        if not self.keep:
            threads = [by for by, n in self.workers.client.nthreads().items() for _ in range(n)]
            return [(by, [block]) for by, block in zip(cycle(threads or [""]), blocks)]
        holders = self.workers.client.who_has([self.blocks[block] for block in blocks])
        n_threads, has = self.workers.client.nthreads(), dict[str, list[int]]()
        for block in blocks:
            first = next(iter(holders.get(self.blocks[block].key, ())), "")  # none: on its way
            has.setdefault(first, []).append(block)
        groups = []
        for holder, its in has.items():
            n = min(n_threads.get(holder, len(its)), len(its))
            groups += [(holder, its[i::n]) for i in range(n)]
        return groups

    def _start(
        self, task: Callable[..., Any], by: str, group: Sequence[int], *args: Any
    ) -> "Future":
        blocks = [self.blocks[block] for block in group]
        return self.workers.submit(task, self.features, blocks, *args, by=by)


def tiles(n: int, n_threads: int) -> list[tuple[slice, slice]]:
    """Return the lower half of n rows by n rows, in tiles, the larger tasks first.

    On the diagonal a tile is half the work. With about a tile a thread, in units of work, none
    waits long; with more tiles, rows would be read more often.
    """
    side = 1 if n_threads == 1 else ceil(sqrt(2 * n_threads))
    side = min(max(side, ceil(n / MOST_ROWS)), n)
    ends = [n * i // side for i in range(side + 1)]
    runs = [slice(*pair) for pair in pairwise(ends)]
    below = [(one, other) for i, one in enumerate(runs) for other in runs[:i]]
    return below + [(run, run) for run in runs]


def counted(progress: Progress | None, total: int) -> Tell:
    """Return what tells `progress` each time that one more of `total` is done."""
    number = count(1)

    def tell() -> None:
        done = next(number)
        if progress:
            progress(done, total)

    return tell
