"""Where the workers are: an address, a scheduler file, or processes of this machine."""

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from bilinear_cli.cluster.load import import_dask
from bilinear_cli.errors import BilinearError, UsageError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
LOOK_SECONDS = 5
LOCAL = {
    # Dask's workers by themselves give memory back to the system at once. A network takes the same
    # again for each batch, and would pay for each page anew.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # They look a hundred times a second at what each thread is doing, for a page nobody sees here.
    "distributed.worker.profile.enabled": False,
    # Dask gives up a worker that is not there this long after it died. If it died a second time
    # and is being restarted at that moment, it would be lost.
    "distributed.deploy.lost-worker-timeout": "1 day",
}


@contextmanager
def connect(address: str) -> "Iterator[Client]":
    """Give a client of a scheduler that has workers, and leave it tidily.

    Workers may come late, since a cluster's queue gives them when it pleases, and may go: that is
    said, and they are waited for.

    Args:
        address: `tcp://host:8786` or another of Dask's protocols; the path of a scheduler file; or
            `local` or `local:WORKERS`, processes of one thread each on this machine, by themselves
            as many as it has cores.

    Raises:
        BilinearError: Dask is not installed, or nobody answers at the address; in the block, the
            scheduler has gone, or workers died over a task.
        UsageError: the address is of no kind that is known.
    """
    import_dask()
    import dask
    from distributed import Client, LocalCluster

    if address == "local" or address.startswith("local:"):
        n_workers = _workers_of(address)
        with dask.config.set(LOCAL):  # as long as there may be workers that are begun anew
            with _without_ctrl_c():
                cluster = LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",  # a port that is free
                )
            with cluster, Client(cluster) as client, _watched(client), _in_one_line(client):
                yield client
        return
    with _client(Client, address) as client, _watched(client), _in_one_line(client):
        client.wait_for_workers(1)
        yield client


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Keep ctrl-C, which a terminal sends to all processes, from those that are begun here.

    Threads and processes inherit what is blocked, so it holds for workers that are begun anew, too.
    What arrives meanwhile is not lost.
    """
    resource_tracker.ensure_running()  # which else would let it through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _workers_of(address: str) -> int:
    """Return the number in `local:WORKERS`."""
    _, _, number = address.partition(":")
    if not number and address == "local":
        return len(os.sched_getaffinity(0))
    if not (number.isdecimal() and int(number)):
        raise UsageError(f"--scheduler {address}: write local:4 for four workers")
    return int(number)


def _client(client: "type[Client]", address: str) -> "Client":
    if Path(address).is_file():
        address = _address_in(Path(address))
    if "://" not in address:
        raise UsageError(
            f"--scheduler {address}: it is no tcp://host:8786, no scheduler file that is there, "
            "and not local[:WORKERS]"
        )
    try:
        asyncio.run(_greet(address))
        return client(address, timeout=CONNECT_SECONDS)
    except Exception as error:  # of any type, since who listens there may say anything
        said = " ".join(str(error).split()) or f"nothing was said in {CONNECT_SECONDS} s"
        raise BilinearError(f"no scheduler answers at {address}: {said}") from error


async def _greet(address: str) -> None:
    """Raise unless who listens there answers as Dask's processes do, and soon.

    A client waits without limit for that.
    """
    from distributed.comm import connect
    from distributed.security import Security

    security = Security().get_connection_args("client")
    greeting = connect(address, timeout=CONNECT_SECONDS, **security)
    comm = await asyncio.wait_for(greeting, CONNECT_SECONDS + 1)
    comm.abort()


def _address_in(scheduler_file: Path) -> str:
    """Return the address that a scheduler has written to its file."""
    try:
        address = json.loads(scheduler_file.read_bytes())["address"]
    except (KeyError, TypeError, ValueError):
        address = None
    if not isinstance(address, str):
        raise BilinearError(f"{scheduler_file} is no scheduler file: it has no address in JSON")
    return address


@contextmanager
def _watched(client: "Client") -> Iterator[None]:
    """Say, each time that it comes to that, that there is no worker."""
    over = threading.Event()

    def watch() -> None:
        alone = False
        while not over.wait(LOOK_SECONDS):
            try:
                was, alone = alone, not client.nthreads()
            except Exception:  # the scheduler has gone, which others will say
                return
            if alone and not was:
                log.warning("there is no worker: start one, it is waited for")

    thread = threading.Thread(target=watch, name="watching for workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_SECONDS)  # it may wait for a scheduler that does not answer


@contextmanager
def _in_one_line(client: "Client") -> Iterator[None]:
    """Raise what happens to the scheduler or to workers as errors of this program.

    Without a scheduler every call of the client ends in an error of another type, so that it is not
    the type which tells.
    """
    from distributed import KilledWorker

    try:
        yield
    except BilinearError:
        raise
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of Dask's waits, broken off
        raise
    except KilledWorker as error:
        raise BilinearError(
            f"{error.allowed_failures + 1} workers died over the task {error.task}, the last of "
            f"them {error.last_worker.address}: see their logs; if it was for memory, give them "
            "more, or begin an extraction again (--overwrite) with a smaller --batch-size; what is "
            "done of it is kept"
        ) from error
    except Exception as error:
        if client.status == "running" and not isinstance(error, CancelledError):
            raise
        raise BilinearError(
            "the scheduler has gone: when there is one again, give the same command; what is done "
            "of an extraction is kept, and a fit begins anew"
        ) from error
