"""What runs on a worker: the fitting of a projection, and the shards, one at a time."""

import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from distributed import Reschedule, Worker, get_worker

from bilinear_cli.cluster.requirements import ExtractRequirements, check
from bilinear_cli.errors import InUseError
from bilinear_cli.extraction.extract import extract
from bilinear_cli.extraction.from_photos import MapNetwork, Photos
from bilinear_cli.extraction.job import Job
from bilinear_cli.networks.load import Forward
from bilinear_cli.recipe import Recipe

log = logging.getLogger(__name__)

POLL_SECONDS = 1
# A process makes one shard at a time, however many task threads its worker was started with: the
# network takes all cores by itself, and a second shard would take as much memory again.
ALONE = threading.Lock()


@dataclass(frozen=True)
class ShardedJob:
    """What all shards of a run have in common.

    Attributes:
        job: of all shards, but for `recipe.shard` and `output`.
        requirements: what every worker must have.
        n_shards: how many shards there are.
        folder: where they are written.
        topic: under which workers report their progress; no other run's.
    """

    job: Job[Photos]
    requirements: ExtractRequirements
    n_shards: int
    folder: Path
    topic: str

    def output(self, number: int) -> Path:
        """Return the file of a shard, by its number from 1."""
        return self.folder / shard_name(number, self.n_shards)

    def key(self, kind: str, number: int = 0) -> str:
        """Return Dask's key of a task.

        It is no other run's, whose task of that key may still be running; and begins with what it
        is, for by that Dask sees many tasks alike, and gives them out as workers become free.
        """
        return f"bilinear-{kind}-{self.topic}-{number}"


def shard_name(number: int, n_shards: int) -> str:
    """Return the name of a shard's file."""
    width = max(3, len(str(n_shards)))
    return f"{number:0{width}d}of{n_shards:0{width}d}.h5"


# The tasks ---------------------------------------------------------------------------------


def same(job: ShardedJob) -> ShardedJob:
    """Return the job, which is thereby kept on the cluster once for all tasks."""
    return job


def fit(sharded: ShardedJob) -> dict[str, np.ndarray]:
    """Return the parameters of the poolings, with those that are to be fitted on photos."""
    with _task(sharded):
        job = _job_of(sharded, 1)
        with job.origin.open(job.recipe, job.skip_bad) as source:
            return source.parameters(job.parameters)


def make_shard(sharded: ShardedJob, number: int) -> None:
    """Write one shard's file, or resume it; wait as long as another run is writing it.

    Args:
        sharded: what all shards have in common.
        number: of the shard, from 1.

    Raises:
        BilinearError: see `extract`; or the worker is not as it must be.
    """
    with _task(sharded) as (worker, check_wanted):

        def progress(done: int, _: int) -> None:
            worker.log_event(sharded.topic, {"shard": number, "done": done})
            check_wanted()

        when_free(lambda: extract(_job_of(sharded, number), progress), check_wanted)


def _job_of(sharded: ShardedJob, number: int) -> Job[Photos]:
    """Return the job of one shard, whose network this process keeps from shard to shard."""
    job = sharded.job
    return replace(
        job,
        origin=replace(job.origin, network=_KeptNetwork(job.origin.network)),
        recipe=replace(job.recipe, shard=f"{number}/{sharded.n_shards}"),
        output=sharded.output(number),
    )


def when_free(run: Callable[[], None], check_wanted: Callable[[], None] = lambda: None) -> None:
    """Call `run` again until no other run is writing its file, and say once what is waited for."""
    told = False
    while True:
        try:
            return run()
        except InUseError as error:
            if not told:
                log.warning("waiting: %s", error)
            told = True
        time.sleep(POLL_SECONDS)
        check_wanted()


@contextmanager
def _task(job: ShardedJob) -> Iterator[tuple[Worker, Callable[[], None]]]:
    """Give the worker, and a function that ends the task if nobody wants it any more.

    The worker is checked; log lines of warnings go to the client.
    """
    worker = get_worker()
    key = worker.get_current_task()
    _keep_from_freezing()
    warnings.filterwarnings("ignore", module="PIL")  # as the command does, see `cli/base.py`
    if not ALONE.acquire(timeout=POLL_SECONDS):
        raise Reschedule  # perhaps to a worker that is free
    try:
        with _telling(worker, job.topic):
            check(job.requirements, worker)
            yield worker, lambda: _check_wanted(worker, key)
    finally:
        ALONE.release()


@cache
def _keep_from_freezing() -> None:
    """Mend what lets Dask's profiler stop this process for ever, up to Python 3.11.

    It asks for all threads' frames a hundred times a second. If garbage is collected in the middle
    of that, and a graph of TensorFlow's is in it, Python waits for a lock that it holds itself
    (CPython's issue 106883).
    """
    if sys.version_info >= (3, 12):
        return
    current_frames = sys._current_frames

    def without_collecting() -> dict[int, FrameType]:
        collects = gc.isenabled()
        gc.disable()
        try:
            return current_frames()
        finally:
            if collects:
                gc.enable()

    sys._current_frames = without_collecting


def _check_wanted(worker: Worker, key: Any) -> None:
    """End the task if the scheduler has taken it back while it runs, as when its client has gone.

    Should it be wanted again by then, it is begun again.
    """
    task = worker.state.tasks.get(key)
    if task is None or task.state not in ("executing", "long-running"):
        raise Reschedule


@contextmanager
def _telling(worker: Worker, topic: str) -> Iterator[None]:
    """Send the program's warnings to the client."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            worker.log_event(topic, {"warning": record.getMessage()})

    logger, handler = logging.getLogger("bilinear_cli"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


# What a process keeps ------------------------------------------------------------------------


@dataclass(frozen=True)
class _KeptNetwork:
    """A network that is loaded once in a process for all shards."""

    network: MapNetwork

    def sha256(self) -> str:
        """Return the SHA-256 of its weights."""
        return self.network.sha256()

    def load(self, recipe: Recipe) -> Forward:
        """Return the network, which does not depend on how photos are shown and maps pooled."""
        return _loaded(
            self.network,
            replace(recipe, poolings=(), views=("original",), image_size=1, shard="1/1"),
        )


@lru_cache(maxsize=1)
def _loaded(network: MapNetwork, recipe: Recipe) -> Forward:
    return network.load(recipe)
