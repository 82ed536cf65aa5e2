"""What runs on a worker: it fits a projection, and extracts shards, one at a time."""

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
from typing import TypeVar

import numpy as np
from distributed import Reschedule, Worker, get_worker

from bilinear_cli.cluster.requirements import ExtractRequirements, check_worker
from bilinear_cli.errors import InUseError
from bilinear_cli.extraction.extract import extract
from bilinear_cli.extraction.from_photos import MapNetwork, PhotoInput
from bilinear_cli.extraction.job import Job
from bilinear_cli.networks.network import Forward
from bilinear_cli.progress import every
from bilinear_cli.recipe import Recipe

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 1
IN_USE_SECONDS = 10  # after these, a shard that another process writes is left until later
# A process runs one task at a time, however many task threads its worker has: a network takes all
# cores by itself, and a second one would take as much memory again.
TASK_LOCK = threading.Lock()


@dataclass(frozen=True)
class ShardedJob:
    """A job that is cut into shards."""

    job: Job[PhotoInput]  # what all shards share; its output is the folder of the shards
    requirements: ExtractRequirements  # what every worker must have
    n_shards: int
    run_id: str  # a string that no other run has; also the topic of the workers' events

    def path(self, shard: int) -> Path:
        """Return the file of a shard, which counts from 1."""
        width = max(3, len(str(self.n_shards)))
        return self.job.output / f"{shard:0{width}d}of{self.n_shards:0{width}d}.h5"

    def job_of(self, shard: int) -> Job[PhotoInput]:
        """Return the job of a shard, with a network that this process loads once."""
        return replace(
            self.job,
            input=replace(self.job.input, network=_CachedNetwork(self.job.input.network)),
            recipe=replace(self.job.recipe, shard=f"{shard}/{self.n_shards}"),
            output=self.path(shard),
        )


def fit_projection(sharded: ShardedJob) -> dict[str, np.ndarray]:
    """Return the parameters of the poolings, after those that are missing are fitted on photos."""
    with _exclusive_task(sharded, logging.INFO):
        job = sharded.job_of(1)
        with job.input.open(job.recipe, job.skip_bad) as source:
            return source.fit_parameters(job.parameters)


def extract_shard(sharded: ShardedJob, shard: int) -> None:
    """Write the file of a shard, or resume it; try again later while another run writes it.

    Raises:
        BilinearError: the worker does not meet the requirements; or see `extract`.
    """

    def progress(n_done: int, _: int) -> None:
        get_worker().log_event(sharded.run_id, {"shard": shard, "n_done": n_done})
        _stop_if_cancelled()

    is_long = every(IN_USE_SECONDS)

    def poll() -> None:
        _stop_if_cancelled()
        if is_long():
            raise Reschedule  # so that this worker extracts other shards first

    with _exclusive_task(sharded):
        job = sharded.job_of(shard)
        retry_while_in_use(lambda: extract(job, progress), poll)


def retry_while_in_use(run: Callable[[], T], poll: Callable[[], None] = lambda: None) -> T:
    """Return `run()`, repeated until no other run writes its file; log one warning."""
    warned = False
    while True:
        try:
            return run()
        except InUseError as error:
            if not warned:
                log.warning("waiting: %s", error)
            warned = True
        time.sleep(POLL_SECONDS)
        poll()


@contextmanager
def _exclusive_task(sharded: ShardedJob, level: int = logging.WARNING) -> Iterator[None]:
    """Check this worker, and send the program's log lines to the client, in one task at a time."""
    _protect_from_profiler()
    warnings.filterwarnings("ignore", module="PIL")  # as the command does, see `cli/base.py`
    if not TASK_LOCK.acquire(timeout=POLL_SECONDS):
        raise Reschedule  # perhaps another worker is free
    worker, logger = get_worker(), logging.getLogger("bilinear_cli")
    handler, previous = _ClientHandler(worker, sharded.run_id), logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        check_worker(sharded.requirements.fault, worker)
        yield
    finally:
        logger.setLevel(previous)
        logger.removeHandler(handler)
        TASK_LOCK.release()


class _ClientHandler(logging.Handler):
    """Send log lines to the client that subscribes to a topic."""

    def __init__(self, worker: Worker, topic: str) -> None:
        super().__init__()
        self._worker, self._topic = worker, topic

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        event = {"level": record.levelno, "message": record.getMessage()}
        self._worker.log_event(self._topic, event)


def _stop_if_cancelled() -> None:
    """End the task if the scheduler has cancelled it, for example because its client ended.

    If the scheduler wants it again by then, it runs again.
    """
    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state not in ("executing", "long-running"):
        raise Reschedule


@cache
def _protect_from_profiler() -> None:
    """Keep Dask's profiler from stopping this process for ever, up to Python 3.11.

    The profiler asks for the frames of all threads a hundred times a second. If Python collects
    garbage meanwhile, and frees a graph of TensorFlow, it waits for a lock that it holds itself
    (CPython's issue 106883).
    """
    if sys.version_info >= (3, 12):
        return
    current_frames = sys._current_frames

    def current_frames_without_gc() -> dict[int, FrameType]:
        enabled = gc.isenabled()
        gc.disable()
        try:
            return current_frames()
        finally:
            if enabled:
                gc.enable()

    sys._current_frames = current_frames_without_gc


@dataclass(frozen=True)
class _CachedNetwork:
    """A network that a process loads once for all shards."""

    network: MapNetwork

    def sha256(self) -> str:
        """Return the SHA-256 of the weights."""
        return self.network.sha256()

    def measure_memory(self, layer: str, image_size: int) -> int | None:
        """Return the bytes that a photo of a batch takes."""
        return self.network.measure_memory(layer, image_size)

    def load(self, recipe: Recipe) -> Forward:
        """Return the network. Views, poolings and shard do not change it."""
        recipe = replace(recipe, specs=(), views=("original",), shard="1/1")
        return _load(self.network, recipe)


@lru_cache(maxsize=1)
def _load(network: MapNetwork, recipe: Recipe) -> Forward:
    return network.load(recipe)
