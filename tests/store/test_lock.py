"""Tests of the lock that keeps two runs from writing one file."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store.lock import lock_path, locked

HOLDER = """
import sys
from pathlib import Path
from bilinear_cli.store.lock import locked
with locked(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen:
    """Return a process that holds the lock of `x.h5`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "x.h5"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    return process


def test_the_second_is_refused_with_the_firsts_process_and_host(
    holder: subprocess.Popen, tmp_path: Path
) -> None:
    with holder:
        line = f"{tmp_path / 'x.h5'} is in use by process {holder.pid} on "
        with pytest.raises(FeatureFileError) as caught, locked(tmp_path / "x.h5"):
            pass
        assert str(caught.value).startswith(line + socket.gethostname())
        with locked(tmp_path / "y.h5"):  # another file is another matter
            pass
        holder.communicate()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_leaves_is_no_obstacle(
    holder: subprocess.Popen, tmp_path: Path
) -> None:
    with holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    left = lock_path(tmp_path / "x.h5")
    assert left.exists()
    with locked(tmp_path / "x.h5"):
        assert f"process {os.getpid()} " in left.read_text()
    assert not left.exists()


def test_one_at_a_time_holds_it_however_many_ask(tmp_path: Path) -> None:
    inside, most = 0, 0
    refused: list[str] = []
    guard = threading.Lock()

    def ask() -> None:
        nonlocal inside, most
        for _ in range(200):
            try:
                with locked(tmp_path / "x.h5"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except FeatureFileError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert refused
    assert all("x.h5 is in use by another program" in line for line in refused)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FeatureFileError, match=r"cannot write .*x.h5.lock: "),
        locked(tmp_path / "file" / "x.h5"),
    ):
        pass
