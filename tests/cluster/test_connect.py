"""Connections to a scheduler and its workers, which are real processes."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client
from support import dask_processes
from support.commands import start_python
from support.dask_processes import end, end_scheduler, scheduler_and_worker, start, wait_for
from support.errors import raises

from bilinear_cli.cluster import connect as connect_module
from bilinear_cli.cluster import watch
from bilinear_cli.cluster.connect import connect
from bilinear_cli.errors import BilinearError, FeatureFileError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scheduler.json"


def test_a_missing_worker_is_waited_for(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_workers: list[int] = []  # each time that the client looks
    look = watch._Watch.look

    async def look_and_record(self: watch._Watch) -> None:
        await look(self)
        if self._client.scheduler.address in file.read_text():  # and not another test's cluster
            n_workers.append(self._n_workers)

    monkeypatch.setattr(watch, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(watch._Watch, "look", look_and_record)
    workers: list[subprocess.Popen] = []

    def join() -> None:
        wait_for(lambda: n_workers[:3] == [0] * 3)
        workers.append(start("worker", "--scheduler-file", file, "--no-nanny"))

    joining = threading.Thread(target=join)
    with dask_processes.scheduler(file), ExitStack() as stack:
        stack.callback(lambda: [end(worker) for worker in workers])
        stack.callback(joining.join)
        joining.start()
        with connect(str(file)) as client:
            joining.join()
            assert len(client.nthreads()) == 1
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            n_looks = len(n_workers)
            wait_for(lambda: n_workers[n_looks:][:3] == [1] * 3)
            end(workers[0])
            wait_for(lambda: n_workers[-3:] == [0] * 3)
            assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def fail(*_: Any) -> None:
    raise FeatureFileError("the disk is full")


CALLS: list[Callable[[Client, Any], Any]] = [
    lambda client, _: client.run(os.getpid, on_error="return"),  # as workers are checked
    lambda _, future: future.result(),
    lambda client, _: client.submit(os.getpid, pure=False).result(),
    lambda client, _: wait_for(lambda: client.status == "closed") and client.nthreads(),
    fail,
]


def test_a_scheduler_that_is_killed_is_one_line_and_hides_no_other_error(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks = [ExitStack() for _ in CALLS]
    with scheduler_and_worker(file) as process:
        clients = [stack.enter_context(connect(str(file))) for stack in stacks]
        assert {client._timeout for client in clients} == {connect_module.CONNECT_SECONDS}
        futures = [client.submit(time.sleep, 60, pure=False) for client in clients]
        end_scheduler(process, *clients)
        for call, stack, client, future in zip(CALLS, stacks, clients, futures, strict=True):
            error = FeatureFileError if call is fail else BilinearError
            with raises(error, "disk" if call is fail else "scheduler"), stack:
                call(client, future)
    assert capsys.readouterr().err == ""


def test_a_scheduler_that_another_one_replaces_is_one_line(file: Path) -> None:
    with scheduler_and_worker(file) as process, ExitStack() as stack:
        client = stack.enter_context(connect(str(file)))
        future = client.submit(time.sleep, 60)
        port = client.scheduler.address.rpartition(":")[2]
        end(process)
        wait_for(lambda: client.status == "connecting")
        replacement = start("scheduler", "--host", "127.0.0.1", "--port", port)
        try:
            wait_for(lambda: client.status == "running")
            with raises(BilinearError, "scheduler"), stack:
                future.result()
        finally:
            end(replacement)


def test_a_system_without_signal_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: Windows has none."""
    monkeypatch.delattr(signal, "pthread_sigmask")
    with connect_module._block_ctrl_c():
        pass


INTERRUPTED = """
import os, signal, sys, threading, time
from bilinear_cli.cluster.connect import connect
try:
    with connect(sys.argv[1]) as client:
        future = client.submit(time.sleep, 0, resources={"of nobody": 1})
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        client.gather([future])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_wait_that_ctrl_c_interrupts_is_silent(client: Client) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start_python(INTERRUPTED, client.scheduler.address, text=True, **pipes) as process:
        assert process.communicate() == ("interrupted\n", "")


# Workers of this machine --------------------------------------------------------------------


def test_an_error_of_a_task_is_raised_as_it_is(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), connect(client.scheduler.address) as other:
        other.submit(divmod, 1, 0).result()


def malloc_and_profile() -> tuple[str | None, bool]:
    profile = dask.config.get("distributed.worker.profile.enabled")
    return os.environ.get("MALLOC_TRIM_THRESHOLD_"), profile


def test_workers_of_this_machine_keep_memory_and_are_not_profiled_even_if_restarted(
    client: Client,
) -> None:
    before = client.run(malloc_and_profile)
    client.restart()
    assert [*before.values(), *client.run(malloc_and_profile).values()] == [(None, False)] * 4
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ  # which is that of workers that are no forks


def test_nobody_else_reaches_the_workers_of_this_machine(client: Client) -> None:
    info = client.scheduler_info()
    for port in (int(info["address"].rpartition(":")[2]), info["services"]["dashboard"]):
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


def test_workers_that_die_of_a_task_are_one_line(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 1)
    facts = ("2", "fatal", "tcp://127.0.0.1:", "--overwrite", "--batch-size")
    with raises(BilinearError, *facts), connect(client.scheduler.address) as other:
        other.submit(os._exit, 1, key="fatal").result()
