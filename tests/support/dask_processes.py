"""Dask's schedulers and workers as processes, and what the tests do to them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, Worker, WorkerPlugin
from distributed.utils import get_mp_context

from bilinear_cli.cluster import lag, tasks
from bilinear_cli.training import feature_transform
from support.commands import environment

AnyProcess = subprocess.Popen | BaseProcess
CHANNELS = 16  # of the maps whose bilinear features are trained on
SMALL_BLOCK = 4 * 7 * CHANNELS * (CHANNELS + 1) // 2  # bytes of 7 rows
SCHEDULER_AND_WORKER = """
import asyncio, sys
from distributed import Scheduler, Worker

async def run(file):
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "scheduler_file": file}
    async with Scheduler(**options) as scheduler, Worker(scheduler.address, nthreads=1):
        await scheduler.finished()

asyncio.run(run(sys.argv[1]))
"""

IMPATIENT = """
from bilinear_cli.cluster import lag, worker
from bilinear_cli.extraction import from_photos
lag.LAG_SECONDS = worker.POLL_SECONDS = worker.IN_USE_SECONDS = 0.1
from_photos.LOG_SECONDS = 0
"""  # a worker preloads it, so that it waits for nothing


class SmallBlocks(WorkerPlugin):
    """What makes workers read few rows at a time, those included that replace others.

    They do not wait for a file that they do not see.
    """

    def setup(self, worker: Worker) -> None:
        feature_transform.BLOCK_BYTES = SMALL_BLOCK
        lag.LAG_SECONDS = 0


def start(*words: str | Path, **variables: str) -> subprocess.Popen:
    """Start `dask scheduler` or `dask worker` as a user does, with these environment variables."""
    return _start("-m", "dask", *words, "--no-dashboard", **variables)


def scheduler(file: Path) -> AbstractContextManager[subprocess.Popen]:
    """Start `dask scheduler`, which writes this file; end it at the end of a block."""
    words = ("scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0")
    return _running(start(*words), file)


def scheduler_and_worker(file: Path) -> AbstractContextManager[subprocess.Popen]:
    """Start one process that is a scheduler, which writes this file, and its worker; likewise."""
    return _running(_start("-c", SCHEDULER_AND_WORKER, file), file)


def forked_scheduler_and_worker(file: Path) -> AbstractContextManager[BaseProcess]:
    """Do the same by a fork of the process that Dask's workers are forks of: it starts at once."""
    process = get_mp_context().Process(target=_run_quietly, args=(SCHEDULER_AND_WORKER, file))
    process.start()
    return _running(process, file)


def _run_quietly(code: str, argument: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.argv[1:] = [str(argument)]
    exec(code, {})


@contextmanager
def _running(process: AnyProcess, file: Path) -> Iterator[AnyProcess]:
    try:
        wait_for(lambda: file.exists() and file.stat().st_size)
        yield process
    finally:
        end(process)


def _start(*words: str | Path, **variables: str) -> subprocess.Popen:
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, env=environment(**variables), stderr=subprocess.DEVNULL)


@contextmanager
def thread_worker() -> Iterator[str]:
    """Yield the address of a scheduler with one worker, which is a thread of this process.

    The worker runs what a test has replaced in this process. A worker keeps files open until its
    process ends, so this function closes them.
    """
    options = {"processes": False, "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with ExitStack() as files, pytest.MonkeyPatch.context() as patch:
        open_features = tasks.open_features
        patch.setattr(tasks, "open_features", lambda x: files.enter_context(open_features(x)))
        with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
            yield cluster.scheduler_address
        tasks._opened.cache_clear()


def end(process: AnyProcess) -> None:
    """Kill a process."""
    process.kill()
    if isinstance(process, BaseProcess):
        process.join()
    else:
        process.wait()


def end_scheduler(process: AnyProcess, *clients: Client) -> None:
    """Kill a scheduler, for which its clients then look no longer than a moment."""
    for client in clients:
        client._timeout = 0.5  # closing takes twice as long at most, also on a busy machine
    end(process)


def wait_for(ready: Callable[[], Any], seconds: float = 100) -> Any:
    """Return what `ready` does as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value
