"""Tests of the lock that keeps two runs from writing one file."""

import errno
import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import pytest
from store.cases import holding, write
from support.commands import run_python
from support.errors import assert_names, raises, warnings

from bilinear_cli.errors import FeatureFileError, InUseError
from bilinear_cli.store import FeatureFile, lock
from bilinear_cli.store.lock import NO_LOCKS, lock_path, locked


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


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the tests may run as root, who may write everywhere."""
    fault = OSError(number, os.strerror(number))
    monkeypatch.setattr(lock.tempfile, "TemporaryFile", Mock(side_effect=fault))
    output = tmp_path / "x.h5"
    with raises(FeatureFileError, lock_path(output), os.strerror(number)), locked(output):
        pass


def test_a_folder_in_place_of_the_lock_file(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    lock_path(output).mkdir()
    reason = os.strerror(errno.EISDIR)
    with raises(FeatureFileError, lock_path(output), reason), locked(output):
        pass
    assert lock_path(output).is_dir()


def test_a_full_disk_costs_only_the_name_of_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated."""
    monkeypatch.setattr(os, "write", Mock(side_effect=OSError(errno.ENOSPC, "")))
    output = tmp_path / "x.h5"
    with locked(output), raises(InUseError, output), locked(output):
        pass
    assert not list(tmp_path.iterdir())


# File systems without locks: simulated in the functions that ask for a lock ---------------


@pytest.fixture
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a file system whose locks fail with ENOLCK, or the error of `parametrize`."""
    number, open_file = getattr(request, "param", errno.ENOLCK), h5py.File

    def open_unlocked(name: Any, mode: str, **options: Any) -> h5py.File:
        if isinstance(name, Path) and options.get("locking") is not False:
            raise OSError(number, "unable to lock file")
        return open_file(name, mode, **options)

    monkeypatch.setattr(lock, "_warned_devices", set())
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(number, "no lock")))
    monkeypatch.setattr(h5py, "File", open_unlocked)


@pytest.mark.parametrize("no_locks", NO_LOCKS, ids=str, indirect=True)
@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_file_is_the_lock_and_one_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "x.h5"
    for _ in range(2):
        with locked(output):
            with raises(InUseError, output, lock_path(output)), locked(output):
                pass
            write(output)
            FeatureFile(output).close()
        assert list(tmp_path.iterdir()) == [output]
    with pytest.raises(KeyboardInterrupt), locked(output):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [output]
    (warning,) = warnings(caplog)
    assert_names(warning, tmp_path, "*.lock")


@pytest.mark.usefixtures("no_locks")
def test_the_soft_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    output = tmp_path / "x.h5"
    code = "import os, sys; from filelock import SoftFileLock; lock = SoftFileLock(sys.argv[1])"
    run_python(f"{code}; lock.acquire(); os._exit(0)", lock_path(output))
    assert lock_path(output).exists()
    with locked(output), raises(InUseError, output), locked(output):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_locks")
def test_the_soft_lock_of_another_machine_is_named_also_to_a_reader(unfinished: Path) -> None:
    FeatureFile(unfinished, allow_partial=True).close()
    lock_path(unfinished).write_text("5\nelsewhere\n")
    facts = (unfinished, 5, "elsewhere", lock_path(unfinished))
    with raises(InUseError, *facts), locked(unfinished):
        pass
    with raises(InUseError, *facts):
        FeatureFile(unfinished, allow_partial=True)
    assert lock_path(unfinished).exists()


def test_a_file_that_this_process_has_open_without_hdf5s_lock(complete: Path) -> None:
    with h5py.File(complete, locking=False), FeatureFile(complete) as file:
        assert len(file.paths) == 6


def test_a_lock_of_hdf5_that_fails_otherwise_names_the_variable(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated."""
    fault = OSError(errno.EIO, "unable to lock file, errno = 5")
    monkeypatch.setattr(h5py, "File", Mock(side_effect=fault))
    with raises(FeatureFileError, complete, os.strerror(errno.EIO), "HDF5_USE_FILE_LOCKING=FALSE"):
        FeatureFile(complete)
