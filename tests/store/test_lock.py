"""Tests of the lock that keeps two runs from writing one file."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from store.cases import holding
from support.errors import assert_names, raises

from bilinear_cli.errors import FeatureFileError, InUseError
from bilinear_cli.store.lock import lock_path, locked


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Give a process that holds the lock of `x.h5` until its input ends."""
    with holding(tmp_path / "x.h5", "with locked(path):") as process:
        yield process


@pytest.mark.slow
def test_the_second_run_is_refused_and_told_the_process_and_the_host_of_the_first(
    holder: subprocess.Popen, tmp_path: Path
) -> None:
    facts = (tmp_path / "x.h5", holder.pid, socket.gethostname())
    with raises(InUseError, *facts), locked(tmp_path / "x.h5"):
        pass
    with locked(tmp_path / "y.h5"):  # another file is free
        pass
    holder.communicate()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    path = lock_path(tmp_path / "x.h5")
    assert path.exists()
    with locked(tmp_path / "x.h5"):
        assert_names(path.read_text(), os.getpid(), socket.gethostname())
    assert not path.exists()


def test_one_thread_at_a_time_holds_it(tmp_path: Path) -> None:
    path, errors, holds = tmp_path / "x.h5", [], threading.Lock()

    def lock_often() -> None:
        for _ in range(200):
            try:
                with locked(path):
                    assert holds.acquire(blocking=False)
                    with raises(InUseError, path), locked(path):
                        pass
                    holds.release()
            except InUseError:
                pass
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=lock_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "x.h5"
    with raises(FeatureFileError, lock_path(output)), locked(output):
        pass
