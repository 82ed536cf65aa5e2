"""Tests of the way to a scheduler and its workers, which are real processes."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client
from processes import ENVIRONMENT, begun, start, wait_for

from bilinear_cli.cluster import connect as connect_module
from bilinear_cli.cluster.connect import connect
from bilinear_cli.errors import BilinearError, FeatureFileError

GONE = "^the scheduler has gone: when there is one again, give the same command"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scheduler.json"


def test_a_worker_that_is_not_there_is_waited_for(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "LOOK_SECONDS", 0.2)
    said = "there is no worker: start one, it is waited for"

    def come() -> None:
        wait_for(lambda: said in caplog.text)
        processes.append(start("worker", "--scheduler-file", file, "--no-nanny"))

    coming = threading.Thread(target=come)
    with begun(file, n_workers=0) as processes:
        coming.start()
        with connect(str(file)) as client:
            (address,) = client.nthreads()
            coming.join()
            assert caplog.text.count(said) == 1
            time.sleep(1)  # it is looked for five times meanwhile
            processes[1].kill()
            wait_for(lambda: caplog.text.count(said) == 2)
    assert address.startswith("tcp://")


@pytest.mark.parametrize(
    "call",
    [
        lambda client, _: client.run(os.getpid),
        lambda _, future: future.result(),
        lambda client, _: client.submit(os.getpid, pure=False).result(),
        lambda client, _: wait_for(lambda: client.status == "closed") and client.nthreads(),
    ],
    ids=["run", "result", "submit", "later"],
)
def test_a_scheduler_that_goes_is_one_line(
    call: Callable[[Client, Any], Any],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 2)  # it is looked for as long again
    monkeypatch.setattr(connect_module, "LOOK_SECONDS", 0.2)

    def use() -> None:
        with connect(str(file)) as client:
            future = client.submit(time.sleep, 60)
            processes[0].kill()
            processes[0].wait()
            call(client, future)

    with begun(file) as processes, pytest.raises(BilinearError, match=GONE):
        use()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("says", "said"),
    [(b"", "nothing was said in 1 s"), (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "")],
    ids=["nothing", "something else"],
)
def test_who_is_no_scheduler_is_one_line_soon(
    says: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "tcp://{}:{}".format(*server.getsockname())

        def answer() -> None:
            visitor, _ = server.accept()
            visitor.sendall(says)
            over.wait()
            visitor.close()

        over, thread = threading.Event(), threading.Thread(target=answer)
        thread.start()
        before = time.monotonic()
        try:
            with pytest.raises(BilinearError, match=f"no scheduler answers at {address}: {said}"):
                connect(address).__enter__()
            assert time.monotonic() - before < 5
        finally:
            over.set()
            thread.join()


def test_a_protocol_that_is_not_set_up_is_one_line() -> None:
    said = r"^no scheduler answers at tls://127.0.0.1:1: TLS expects .*$"
    with pytest.raises(BilinearError, match=said):
        connect("tls://127.0.0.1:1").__enter__()


def test_a_scheduler_that_is_another_one_has_gone(file: Path) -> None:
    def use() -> None:
        with connect(str(file)) as client:
            future = client.submit(time.sleep, 60)
            port = client.scheduler.address.rpartition(":")[2]
            processes[0].kill()
            wait_for(lambda: client.status == "connecting")
            processes.append(start("scheduler", "--port", port, "--no-dashboard"))
            wait_for(lambda: client.status == "running")
            future.result()

    with begun(file) as processes, pytest.raises(BilinearError, match=GONE):
        use()


def test_a_fault_of_another_kind_is_not_hidden_by_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_SECONDS", 2)

    def use() -> None:
        with connect(str(file)) as client:
            processes[0].kill()
            wait_for(lambda: client.status != "running")
            raise FeatureFileError("the disk is full")

    with begun(file) as processes, pytest.raises(FeatureFileError, match="the disk is full"):
        use()


def test_what_is_no_fault_of_the_scheduler_is_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), connect("local:1") as client:
        client.submit(divmod, 1, 0).result()


BROKEN_OFF = """
import os, signal, threading, time
from bilinear_cli.cluster.connect import connect
try:
    with connect("local:1") as client:
        future = client.submit(time.sleep, 0, resources={"of nobody": 1})
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        client.gather([future])
except KeyboardInterrupt:
    print("broken off")
"""


def test_waits_that_ctrl_c_breaks_off_are_silent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_OFF], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("broken off\n", "")


def test_workers_of_this_machine_are_set_for_it_even_if_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)  # of another cluster of the tests

    def look() -> tuple[str | None, bool]:
        profile = dask.config.get("distributed.worker.profile.enabled")
        return os.environ.get("MALLOC_TRIM_THRESHOLD_"), profile

    profiled = dask.config.set({"distributed.worker.profile.enabled": True})
    with profiled, connect("local:1") as client:
        before = client.run(look)
        client.restart()
        assert [*before.values(), *client.run(look).values()] == [(None, False)] * 2


def test_nobody_else_reaches_the_workers_of_this_machine() -> None:
    with connect("local:1") as client:
        info = client.scheduler_info()
        ports = [int(info["address"].rpartition(":")[2]), info["services"]["dashboard"]]
        for port in ports:
            socket.create_connection(("127.0.0.1", port)).close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port))


def test_workers_that_die_over_a_task_are_one_line() -> None:
    said = r"^2 workers died over the task fatal, the last of them tcp://\S+: see their logs"

    def use() -> None:
        with connect("local:2") as client:
            client.cluster.scheduler.allowed_failures = 1
            client.submit(os._exit, 1, key="fatal").result()

    with pytest.raises(BilinearError, match=said):
        use()
