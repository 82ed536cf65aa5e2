"""Passes over blocks of rows by workers.

If the memory of the workers allows it, each worker keeps blocks of rows. Otherwise the workers
read the rows at each pass. Dask computes blocks again if a worker is lost.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from bilinear_cli.cluster import tasks
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.primal import Linear, LossSums

if TYPE_CHECKING:
    from distributed import Future

    from bilinear_cli.cluster.pool import OnDone, WorkerPool


@dataclass(frozen=True)
class DaskPasses:
    """Passes over blocks of rows by workers; see `training.primal.Passes`."""

    workers: "WorkerPool"
    features: "Future"  # `SharedFeatures` minus the mean
    blocks: Sequence[Any]  # rows that workers keep, or indices of rows to read in each pass
    starts: np.ndarray  # position of the first row of each block, and the number of all rows
    keep: bool  # whether workers keep the blocks

    def column_squares(self, on_done: "OnDone | None") -> np.ndarray:
        """Return the sum of squares of each column, float64 (d,)."""
        all_rows = {block: np.arange(size) for block, size in enumerate(np.diff(self.starts))}
        futures = [future for _, future in self._submit(tasks.column_squares, all_rows)]
        (total,) = self.workers.tree_sum(futures, on_done)
        return total

    def losses(
        self,
        indices: np.ndarray,
        targets: np.ndarray,
        make_loss: MakeLoss,
        sample_weight: np.ndarray | None = None,
    ) -> Callable[[Linear], LossSums]:
        """Return a function that makes one pass at each call; workers keep targets and weights."""
        weights = np.ones(len(indices)) if sample_weight is None else sample_weight
        selected = {
            block: self.workers.send(
                (indices[rows] - self.starts[block], targets[rows], weights[rows])
            )
            for block, rows in self._split(indices)
        }

        def sums(model: Linear) -> LossSums:
            submitted = self._submit(tasks.losses, selected, self.workers.send(model), make_loss)
            return self.workers.tree_sum([future for _, future in submitted])

        return sums

    def scores(self, model: Linear, indices: np.ndarray) -> np.ndarray:
        """Return scores from one pass."""
        rows = dict(self._split(indices))
        selected = {block: indices[rows[block]] - self.starts[block] for block in rows}
        submitted = self._submit(tasks.block_scores, selected, self.workers.send(model))
        groups, futures = zip(*submitted, strict=True)
        scores = np.empty((len(indices), len(model.intercept)), np.float32)
        for group, group_scores in zip(groups, self.workers.gather(futures), strict=True):
            scores[np.concatenate([rows[block] for block in group])] = group_scores
        return scores

    def _split(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each block that has any of these rows, and the positions of those in `indices`."""
        block = np.searchsorted(self.starts, indices, side="right") - 1
        order = np.argsort(block, kind="stable")
        blocks, firsts = np.unique(block[order], return_index=True)
        yield from zip(blocks.tolist(), np.split(order, firsts[1:]), strict=True)

    def _submit(
        self, task: Callable[..., Any], selected: Mapping[int, Any], *args: Any
    ) -> "list[tuple[list[int], Future]]":
        """Start a task for each group of the selected blocks; return the groups and the futures."""
        submitted = []
        for worker, group in self._groups(selected):
            blocks, values = [self.blocks[b] for b in group], [selected[b] for b in group]
            call = (self.features, blocks, values, *args)
            submitted.append((group, self.workers.submit(task, *call, worker=worker)))
        return submitted

    def _groups(self, blocks: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Divide blocks among the threads of the workers that keep them.

        Each group is the blocks of one task, with the address of its worker or an empty string.
        """
        if not self.keep:
            workers = cycle(self.workers.threads())
            return [(worker, [block]) for worker, block in zip(workers, blocks, strict=False)]
        client, kept = self.workers.client, dict[str, list[int]]()
        holders, n_threads = client.who_has([self.blocks[b] for b in blocks]), client.nthreads()
        for block in blocks:
            first = next(iter(holders.get(self.blocks[block].key, ())), "")  # none: being loaded
            kept.setdefault(first, []).append(block)
        groups = []
        for worker, worker_blocks in kept.items():
            n = min(n_threads.get(worker, len(worker_blocks)), len(worker_blocks))
            groups += [(worker, worker_blocks[i::n]) for i in range(n)]
        return groups
