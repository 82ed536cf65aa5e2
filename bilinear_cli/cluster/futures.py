"""Tasks of Dask's workers: given out evenly, and added up where they are."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import as_completed
from distributed.comm import get_address_host

from bilinear_cli.cluster.tasks import added, itself
from bilinear_cli.memory import free_memory

if TYPE_CHECKING:
    from distributed import Client, Future

SHARE_OF_MEMORY = 0.5  # of the workers', that rows may take which they keep

Tell = Callable[[], None]


class Futures:
    """What tasks are given to, and how."""

    def __init__(self, client: "Client") -> None:
        """Take a client of workers."""
        self.client = client

    def n_threads(self) -> int:
        """Return how many threads work, of all workers that there are now."""
        return max(1, sum(self.client.nthreads().values()))

    def submit(self, task: Callable[..., Any], *args: Any, by: str = "") -> "Future":
        """Start a task; its arguments go with it, and so it can be done again.

        Args:
            task: a function of `cluster/tasks.py`.
            args: its arguments; futures among them are what they stand for.
            by: address of the worker that is to do it as long as it is there, or nothing.
        """
        where = {"workers": [by], "allow_other_workers": True} if by else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            return self.client.submit(task, *args, pure=False, **where)

    def share_out(
        self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]], work: Iterable[float] = ()
    ) -> "list[Future]":
        """Start a task with each of these arguments, so that all threads have as much to do.

        By itself Dask gives tasks to the worker that has what they are all given.

        Args:
            task: as for `submit`.
            calls: arguments.
            work: how much there is to do for each, in any unit; by itself as much for all.
        """
        threads = [[0.0, by] for by, n in self.client.nthreads().items() for _ in range(n)]
        threads = threads or [[0.0, ""]]
        started = []
        for args, much in zip(calls, [*work] or repeat(1.0), strict=False):
            least = min(threads, key=itemgetter(0))
            least[0] += much
            started.append(self.submit(task, *args, by=least[1]))
        return started

    def put(self, x: Any) -> "Future":
        """Return what several tasks are to be given, so that it is sent once to a worker.

        It is a task too, and so does not go with the worker that has it, as scattered data do.
        """
        return self.submit(itself, x)

    def pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the rows in as many runs as there are threads, or as there are rows."""
        return np.array_split(rows, min(self.n_threads(), len(rows)))

    def total(self, futures: "Sequence[Future]", tell: Tell | None = None) -> tuple[Any, ...]:
        """Return the sum of what tasks return, added up by the workers, in pairs."""
        self.follow(futures, tell)
        while len(futures) > 1:
            pairs = [futures[i : i + 2] for i in range(0, len(futures), 2)]
            futures = [self.submit(added, *p) if len(p) == 2 else p[0] for p in pairs]
        return self.client.gather(futures[0])

    def follow(self, futures: "Sequence[Future]", tell: Tell | None) -> None:
        """Tell of each task that is done, if somebody wants to know; raise what one raises."""
        if tell:
            for future in as_completed(futures, loop=self.client.loop):
                if future.status != "finished":
                    future.result()
                tell()

    def room(self) -> float:
        """Return how many bytes of rows the workers may keep."""
        limits: dict[str, float] = {}
        free: dict[str, float] = {}
        for address, (limit, there) in self.client.run(_memory).items():
            host = get_address_host(address)
            limits[host] = limits.get(host, 0) + (limit or there)
            free[host] = there
        return SHARE_OF_MEMORY * sum(min(limits[host], free[host]) for host in limits)


def _memory(dask_worker: Any) -> tuple[int, int]:
    """Return a worker's limit, 0 for none, and what is free where it runs."""
    return int(dask_worker.memory_manager.memory_limit or 0), free_memory()
