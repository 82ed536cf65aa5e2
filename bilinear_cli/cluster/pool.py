"""Tasks of workers: how they start, how the work is divided, and how results come back."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import as_completed
from distributed.comm import get_address_host

from bilinear_cli.cluster import tasks
from bilinear_cli.cluster.requirements import run_on_workers
from bilinear_cli.cluster.watch import warn_of_silence

if TYPE_CHECKING:
    from distributed import Client, Future

MEMORY_FRACTION = 0.5  # of the workers' memory, for the rows that they keep

OnDone = Callable[[], None]  # called when a task is done


class WorkerPool:
    """The workers of a scheduler."""

    def __init__(self, client: "Client") -> None:
        """Use the workers of this client's scheduler."""
        self.client = client

    def threads(self) -> list[str]:
        """Return the worker's address of each thread; one empty string if there is no worker."""
        n_threads = self.client.nthreads()
        return [address for address, n in n_threads.items() for _ in range(n)] or [""]

    def pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the rows in as many pieces as there are threads, or rows if these are fewer."""
        return np.array_split(rows, min(len(self.threads()), len(rows)) or 1)

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

    def tree_sum(self, futures: "Sequence[Future]", on_done: OnDone | None = None) -> Any:
        """Return the sum of the tuples that tasks return; workers add them in pairs."""
        if on_done:
            self.wait(futures, on_done)
        while len(futures) > 1:
            pairs = [futures[i : i + 2] for i in range(0, len(futures), 2)]
            futures = [self.submit(tasks.add, *p) if len(p) == 2 else p[0] for p in pairs]
        return self.gather(futures[0])

    def gather(self, futures: Any) -> Any:
        """Return the result of a future, or those of a sequence."""
        with warn_of_silence("results from the workers"):
            return self.client.gather(futures)

    def completed(self, futures: "Sequence[Future]") -> "Iterator[Future]":
        """Yield each future as soon as it is done."""
        with warn_of_silence("results from the workers") as heard:
            completed = as_completed(futures, loop=self.client.loop)
            del futures  # so that a worker releases a result that has arrived
            for future in completed:
                heard()
                yield future

    def wait(self, futures: "Sequence[Future]", on_done: OnDone) -> None:
        """Call `on_done` for each task that is done; raise the error of a task that fails."""
        for future in self.completed(futures):
            if future.status != "finished":
                future.result()
            on_done()

    def free_bytes(self) -> float:
        """Return how many bytes of rows the workers may keep."""
        limits, free = Counter[str](), dict[str, int]()
        for address, (limit, free_on_host) in run_on_workers(self.client, tasks.memory).items():
            host = get_address_host(address)
            limits[host] += limit or free_on_host
            free[host] = free_on_host
        return MEMORY_FRACTION * sum(min(limits[host], free[host]) for host in limits)
