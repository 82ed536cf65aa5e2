"""Connections to Dask: a scheduler's address, a scheduler file, or processes of this machine.

The command line imports this module, and Dask is an extra: only functions import Dask here.
"""

import asyncio
import json
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

from bilinear_cli.cluster.watch import watch_processes
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.machine import n_cpus
from bilinear_cli.messages import one_line

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
LOCAL_DASK_CONFIG = {
    # By default Dask's workers return memory to the system at once. A network needs the same
    # memory again for each batch, and would pay for each page again.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # The profiler samples each thread a hundred times a second, for a page that nobody opens here.
    "distributed.worker.profile.enabled": False,
    # Dask gives up a worker that is absent for this long. A worker that dies a second time while
    # it restarts would be lost.
    "distributed.deploy.lost-worker-timeout": "1 day",
}


def import_dask() -> None:
    """Import Dask, and silence its log lines in this process and in the processes that it starts.

    Errors are silenced too: Dask recovers from a dead worker, a broken connection or a failed task,
    or this program reports it in one line. A worker that was started by hand logs as usual.

    Raises:
        BilinearError: Dask is not installed.
    """
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    # A large photo set is sent to the scheduler once, on purpose.
    os.environ.setdefault("DASK_DISTRIBUTED__ADMIN__LARGE_GRAPH_WARNING_THRESHOLD", "1GB")
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise BilinearError(
            f"--scheduler needs {error.name}, which is not installed: "
            "pip install 'bilinear-cli[cluster]'"
        ) from error
    # These warn of ports, and of versions, which `check_workers` compares.
    warnings.filterwarnings("ignore", module="distributed")
    for name in ("distributed", "distributed.client", "distributed.gc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def connect(address: str) -> "Iterator[Client]":
    """Yield a client of a scheduler that has workers, and close it at the end.

    Workers may join late and may leave. The client waits, and logs warnings, while there is none,
    and while the scheduler or a worker is silent.

    Args:
        address: `tcp://host:8786` or another of Dask's protocols; the path of a scheduler file; or
            `local` or `local:WORKERS`, processes of one thread each on this machine, by default as
            many as it has cores.

    Raises:
        BilinearError: Dask is not installed, or no scheduler answers; in the block, the scheduler
            ended, or a task killed its workers.
        UsageError: the address is invalid.
    """
    import_dask()
    is_local = address.partition(":")[0] == "local"
    opened = _start_workers(address) if is_local else _open_client(address)
    with opened as client, watch_processes(client), _translate_errors(client):
        client.wait_for_workers(1)
        yield client


@contextmanager
def _start_workers(address: str) -> "Iterator[Client]":
    """Start the workers of `local` or `local:WORKERS`, and yield their client."""
    import dask
    from distributed import Client, LocalCluster

    _, colon, count = address.partition(":")
    if colon and not (count.isdecimal() and int(count)):
        raise UsageError(f"--scheduler {address} is invalid: write local:4 for four workers")
    n_workers = int(count) if colon else n_cpus()
    with dask.config.set(LOCAL_DASK_CONFIG):  # for the whole block, since Dask restarts workers
        try:
            with _block_ctrl_c():
                cluster = LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",  # any free port
                )
        except Exception as error:  # of any type: the system refuses, or a process ends at once
            raise BilinearError(
                f"cannot start the workers of --scheduler {address}: {_first_cause(error)}. Start "
                "fewer, such as local:1. A Python script must start them below "
                "`if __name__ == '__main__':`"
            ) from error
        with cluster, Client(cluster) as client:
            yield client


def _first_cause(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) and cause is not error:
        error = cause
    return f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def _block_ctrl_c() -> Iterator[None]:
    """Keep ctrl-C, which a terminal sends to all processes, from processes that start here.

    Threads and processes inherit the signal mask, so restarted workers have it too. This process
    receives a ctrl-C of the meantime at the end. Windows has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _open_client(address: str) -> "Client":
    from distributed import Client
    from distributed.comm import connect
    from distributed.security import Security
    from distributed.utils import LoopRunner

    async def check_answer() -> None:
        """Raise unless a process of Dask answers in time; a `Client` would wait for ever."""
        security = Security().get_connection_args("client")
        handshake = connect(address, timeout=CONNECT_SECONDS, **security)
        (await asyncio.wait_for(handshake, CONNECT_SECONDS + 1)).abort()

    source = ""
    if Path(address).is_file():
        address, source = _read_address(Path(address)), f", the address in {address}"
    if "://" not in address:
        raise UsageError(
            f"--scheduler {address} is neither an address such as tcp://host:8786, nor an existing "
            "scheduler file, nor local[:WORKERS]"
        )
    try:
        LoopRunner().run_sync(check_answer)  # in a thread, since a notebook runs a loop in its own
        return Client(address, timeout=CONNECT_SECONDS)
    except Exception as error:  # of any type: any program may listen at the address
        reason = one_line(error) or f"no answer within {CONNECT_SECONDS} s"
        if isinstance(error, MemoryError):  # its first bytes, taken for the size of a message
            reason = "another program answers there"
        raise BilinearError(
            f"no scheduler answers at {address}{source}: {reason}. Check the address, and that a "
            "scheduler runs there"
        ) from error


def _read_address(scheduler_file: Path) -> str:
    """Return the address that a scheduler wrote to its file."""
    with suppress(KeyError, TypeError, ValueError):
        address = json.loads(scheduler_file.read_bytes())["address"]
        if isinstance(address, str):
            return address
    raise BilinearError(
        f"{scheduler_file} is not a scheduler file: it has no address in JSON. Give the file that "
        "`dask scheduler --scheduler-file` writes"
    )


@contextmanager
def _translate_errors(client: "Client") -> Iterator[None]:
    """Raise what happens to the scheduler or to workers as errors of this program.

    Without a scheduler, each of the client's methods raises another type, so the client's status
    decides.
    """
    from distributed import KilledWorker

    try:
        yield
    except BilinearError:
        raise
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # on Dask's interrupted waits
        raise
    except KilledWorker as error:
        raise BilinearError(
            f"the task {error.task} lost its worker {error.allowed_failures + 1} times, the last "
            f"was {error.last_worker.address}. Memory ran out, or something killed the workers: "
            "the logs of workers and machines say which. For memory, start workers with more "
            "of it, or fewer with local:WORKERS, or extract with --overwrite and a smaller "
            "--batch-size. Otherwise run the same command again: an extraction resumes"
        ) from error
    except Exception as error:
        if client.status == "running" and not isinstance(error, CancelledError):
            raise
        raise BilinearError(
            "the scheduler ended: start one and run the same command again. An extraction resumes; "
            "training starts again"
        ) from error
