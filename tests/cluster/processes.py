"""Schedulers and workers as one starts them by hand."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from networks import OTHER

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(
        [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    )
}


def start(*arguments: str | Path, other: bool = False) -> subprocess.Popen:
    """Start `dask scheduler` or `dask worker`."""
    environment = ENVIRONMENT | ({OTHER: "1" * 64} if other else {})
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    if arguments[0] == "worker":
        command += ["--nthreads", "1", "--no-dashboard"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=HERE)


def end(*processes: subprocess.Popen) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


@contextmanager
def begun(file: Path, n_workers: int = 1) -> Iterator[list[subprocess.Popen]]:
    """Start a scheduler, which writes this file, and workers, and end them.

    Yields:
        The processes, the scheduler first; those that are added are ended too.
    """
    processes = [start("scheduler", "--scheduler-file", file, "--port", "0", "--no-dashboard")]
    try:
        wait_for(file.exists)
        processes += [start("worker", "--scheduler-file", file) for _ in range(n_workers)]
        yield processes
    finally:
        end(*processes)


def wait_for(ready: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what `ready` does as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
