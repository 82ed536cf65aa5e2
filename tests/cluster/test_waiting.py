"""Processes that are stopped, and folders that lag: what the client and workers wait for."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from distributed.comm import CommClosedError
from distributed.utils import LoopRunner
from support.commands import start_python
from support.dask_processes import scheduler_and_worker, wait_for
from support.errors import warnings
from support.feature_files import write_features
from support.shards import ONE_BY_ONE, RECIPE, OnWorkers, assert_same
from support.worker_network import WorkerNetwork

from bilinear_cli.cluster import lag, tasks, watch
from bilinear_cli.cluster.requirements import ExtractRequirements, check_worker, run_on_workers
from bilinear_cli.cluster.watch import Silence, warn_of_silence, watch_processes
from bilinear_cli.extraction.from_photos import PhotoInput
from bilinear_cli.machine import package_versions
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.progress import every
from bilinear_cli.store import locked

# What is logged ----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time in seconds, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_silence_is_logged_each_time_that_it_has_doubled(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    silence = Silence("no news", 30)
    logged = []
    for second in range(0, 601, 5):
        clock[0] = 1000 + second
        silence.check()
        logged += [second] * len(caplog.records)
        caplog.clear()
    assert logged == [30, 60, 120, 240, 480]
    silence.heard()
    silence.check()
    clock[0] += 29
    silence.check()
    assert not silence.is_long
    assert not caplog.records


def test_a_step_logs_once_in_so_many_seconds(clock: list[float]) -> None:
    is_due, due = every(10), []
    for clock[0] in (1000, 1009, 1010, 1019, 1040, 1049, 1050):
        due.append(is_due())
    assert due == [False, False, True, False, True, False, True]


def test_an_answer_that_lacks_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "SILENT_TASK_SECONDS", 0.01)
    with warn_of_silence("answer"):
        wait_for(lambda: warnings(caplog))
    assert "no answer" in warnings(caplog)[0]
    assert not [x for x in threading.enumerate() if x.name == "silence"]


def test_a_question_that_a_scheduler_has_not_answered_ends_with_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The silent scheduler is simulated."""
    events: list[str] = []

    async def identity() -> None:
        events.append("asked")
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(asyncio, "wait_for", lambda question, _: question)  # it has no limit here
    runner = LoopRunner()
    runner.start()
    try:
        with watch_processes(Mock(sync=runner.run_sync, scheduler=Mock(identity=identity))):
            wait_for(lambda: events)
        wait_for(lambda: events == ["asked", "cancelled"], 5)
    finally:
        runner.stop()


def test_a_worker_that_leaves_while_workers_are_asked_is_left_out() -> None:
    """The answer of Dask for such a worker is simulated."""
    answers: list[dict[str, Any]] = [{"a": CommClosedError()}, {"a": CommClosedError(), "b": 1}]
    client = Mock(run=Mock(side_effect=answers))
    assert run_on_workers(client, Mock()) == {"b": 1}
    client.wait_for_workers.assert_called_once_with(1)


# A folder that lags ------------------------------------------------------------------------


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return what hides a path for the first three looks, as a folder on NFS may."""
    exists = Path.exists

    def hide_path(hidden: Path) -> None:
        looks = iter([False] * 3)
        monkeypatch.setattr(
            Path, "exists", lambda path: exists(path) if path != hidden else next(looks, True)
        )

    monkeypatch.setattr(lag, "POLL_SECONDS", 0.01)
    return hide_path


WORKER = Mock(spec=["name", "address"], address="tcp://a:1")


def test_a_worker_waits_for_a_folder_that_the_client_has_just_made(
    hide: Callable[[Path], None], birds: PhotoSet, network: WorkerNetwork, tmp_path: Path
) -> None:
    """The lag of the shared folder is simulated."""
    token = tmp_path / "x.h5.shards" / "token"
    token.parent.mkdir()
    token.touch()
    requirements = ExtractRequirements.from_job(PhotoInput(birds, network), RECIPE, token)
    hide(token)
    assert not token.exists()
    with locked(token.parent):
        check_worker(requirements.fault, WORKER)


def test_a_worker_waits_for_a_feature_file_that_has_just_been_made(
    hide: Callable[[Path], None], tmp_path: Path
) -> None:
    """The lag of the shared folder is simulated."""
    path = write_features(tmp_path / "x.h5", {"max": np.eye(4, 9)}, [0, 0, 1, 1], ["train"] * 4)
    shared_files = tasks.SharedFiles(
        (path,), (tasks.describe(path),), package_versions(tasks.PACKAGES)
    )
    hide(path)
    assert not path.exists()
    check_worker(shared_files.fault, WORKER)


# Processes that are stopped -----------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.slow
def test_a_worker_that_is_stopped_is_named_and_goes_on_later(
    on_workers: OnWorkers,
    flock: PhotoSet,
    flock_rows: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(watch, "SILENT_PROCESS_SECONDS", 1.5)  # a heartbeat takes 0.5
    stopped: list[int] = []

    def stop(*_: int) -> None:
        """Stop the worker of the first batch, until it is missed."""
        if stopped or not on_workers.network.computed_by():
            return
        stopped.append(on_workers.network.computed_by()[0])
        os.kill(stopped[0], signal.SIGSTOP)
        try:
            wait_for(lambda: any("no news from the worker" in x for x in warnings(caplog)), 20)
        finally:
            os.kill(stopped[0], signal.SIGCONT)

    on_workers.extract(flock, ONE_BY_ONE, stop)
    assert all("tcp://127.0.0.1:" in line for line in warnings(caplog))
    assert_same(on_workers.output, flock_rows)


CLIENT = """
import logging, sys, time
from bilinear_cli.cluster import watch
from bilinear_cli.cluster.connect import connect
watch.POLL_SECONDS, watch.SILENT_PROCESS_SECONDS = 0.1, 0.5
logging.basicConfig(format="%(message)s")
try:
    with connect(sys.argv[1]) as client:
        future = client.submit(time.sleep, 100)
        print("submitted", flush=True)
        client.gather(future)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_a_scheduler_that_is_stopped_is_logged_and_ctrl_c_ends_the_client(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with scheduler_and_worker(file) as process, start_python(CLIENT, file, **pipes) as client:
        assert client.stdout.readline() == "submitted\n"
        process.send_signal(signal.SIGSTOP)
        assert "no news from the scheduler" in client.stderr.readline()
        client.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert client.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 5
        client.wait(5)
