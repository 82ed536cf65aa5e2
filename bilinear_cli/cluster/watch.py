"""Warnings of the client while it waits: no worker, a silent process, or no results."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

POLL_SECONDS = 5
SILENT_PROCESS_SECONDS = 30  # a process of Dask sends something several times a second
SILENT_TASK_SECONDS = 60  # the first batch of a network may take that long


class Silence:
    """Logs a warning when nothing was heard for some seconds, and each time they have doubled."""

    def __init__(self, phrase: str, seconds: float) -> None:
        """Begin; `phrase` says what is missing, such as `no news from the scheduler`."""
        self._phrase, self._seconds = phrase, seconds
        self.heard()

    def heard(self) -> None:
        """Begin again."""
        self._since, self._limit = time.monotonic(), self._seconds

    @property
    def is_long(self) -> bool:
        """Whether a warning was logged."""
        return self._limit > self._seconds

    def check(self) -> None:
        """Log a warning if it is time."""
        seconds = time.monotonic() - self._since
        if seconds < self._limit:
            return
        while self._limit <= seconds:
            self._limit *= 2
        log.warning(
            "%s for %d s: waiting. Press ctrl-C to stop. The same command resumes an extraction",
            self._phrase,
            seconds,
        )


@contextmanager
def warn_of_silence(what: str) -> Iterator[Callable[[], None]]:
    """Log a warning from time to time while the block waits for tasks of the workers.

    Args:
        what: they should send, such as `results from the workers`.

    Yields:
        A function to call at each piece of news.
    """
    silence, end = Silence(f"no {what}", SILENT_TASK_SECONDS), threading.Event()

    def check_until_end() -> None:
        while not end.wait(POLL_SECONDS):
            silence.check()

    thread = threading.Thread(target=check_until_end, name="silence", daemon=True)
    thread.start()
    try:
        yield silence.heard
    finally:
        end.set()
        thread.join()


@contextmanager
def watch_processes(client: "Client") -> Iterator[None]:
    """Log a warning when there is no worker, and when the scheduler or a worker is silent."""

    async def start() -> asyncio.Task[None]:
        """Watch in the client's event loop, where a question without an answer can be cancelled."""
        return asyncio.create_task(_Watch(client).look_until_cancelled())

    watching = client.sync(start)
    try:
        yield
    finally:
        watching.get_loop().call_soon_threadsafe(watching.cancel)


class _Watch:
    """What is known of the processes of a scheduler."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._scheduler = Silence("no news from the scheduler", SILENT_PROCESS_SECONDS)
        self._workers: dict[str, tuple[float, Silence]] = {}  # address -> its last news
        self._n_workers = 1

    async def look_until_cancelled(self) -> None:
        """Look every few seconds."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Ask the scheduler about the workers, and log what is new."""
        try:
            identity: Any = self._client.scheduler.identity()
            workers = (await asyncio.wait_for(identity, POLL_SECONDS))["workers"]
        except TimeoutError:
            self._scheduler.check()
            return
        except Exception:  # the scheduler ended, which `connect` reports
            return
        self._scheduler.heard()
        if self._n_workers and not workers:
            log.warning("the scheduler has no worker: start one, this command waits for it")
        self._n_workers = len(workers)
        self._compare({address: worker["last_seen"] for address, worker in workers.items()})

    def _compare(self, last_seen: dict[str, float]) -> None:
        """Compare the times with the previous ones. Only changes count: the clocks may differ."""
        for address, (_, silence) in self._workers.items():
            if silence.is_long and address not in last_seen:
                message = "the silent worker %s has gone: others repeat what it had to do"
                log.warning(message, address)
        workers = {}
        for address, last_news in last_seen.items():
            phrase = f"no news from the worker {address}"
            new_worker = (last_news, Silence(phrase, SILENT_PROCESS_SECONDS))
            previous_news, silence = self._workers.get(address, new_worker)
            if last_news != previous_news:
                silence.heard()
            silence.check()
            workers[address] = last_news, silence
        self._workers = workers
