"""A lock that lets only one run at a time write a feature file.

The operating system holds the lock (`flock`) and releases it when the process ends, even by a
kill. The lock file names the process that holds it.

On a file system without locks, the lock file itself is the lock, a soft lock. A killed run leaves
it, and the next run takes it over if it names a process of the same machine that has ended.
"""

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, lock_descriptor

from bilinear_cli.errors import FeatureFileError, InUseError

log = logging.getLogger(__name__)

# What `flock` raises where a file system has no locks, or their server does not answer. 524 is
# Linux's internal ENOTSUPP, which some file systems return to programs.
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, 524})
_warned_devices: set[int] = set()  # file systems without locks, of which a warning was logged


def lock_path(output: Path) -> Path:
    """Return the lock file of a feature file with this final name."""
    return output.with_name(output.name + ".lock")


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Make the folder of `output`, and keep other runs from writing `output`.

    Raises:
        FeatureFileError: the folder cannot be written to.
        InUseError: another run is writing the file.
    """
    path = lock_path(output)
    lock: BaseFileLock | None = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _make_lock(path)
            lock.acquire()
        except Timeout as error:
            raise in_use_error(output, isinstance(lock, SoftFileLock)) from error
        except OSError as error:
            raise FeatureFileError(f"cannot write {path}: {error.strerror or error}") from error
        yield
    finally:
        if lock and lock.is_locked:
            _release(lock, path)


def _make_lock(path: Path) -> BaseFileLock:
    """Return the system's lock with this path, or a soft lock if the file system has no locks."""
    if _has_locks(path.parent):
        return FileLock(path, blocking=False, fallback_to_soft=False, on_acquired=_write_holder)
    _warn_of_soft_locks(path.parent.resolve())
    return SoftFileLock(path, blocking=False)


def _has_locks(folder: Path) -> bool:
    """Return whether the file system of a folder has locks.

    Another file shows it, because a `FileLock` that fails leaves an empty lock file, which a
    `SoftFileLock` takes for that of a running process.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            return lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise


def _warn_of_soft_locks(folder: Path) -> None:
    """Say once for each file system what soft locks mean."""
    device = folder.stat().st_dev
    if device in _warned_devices:
        return
    _warned_devices.add(device)
    log.warning(
        "%s is on a file system without file locks. Lock files (*.lock) replace them. If a run is "
        "killed, its lock file stays: the next run on this machine removes it, but before a run on "
        "another machine you have to remove it yourself.",
        folder,
    )


def _write_holder(lock_file: int) -> None:
    """Write the name of this process to a lock file that it has locked.

    Windows allows that only through the descriptor of the lock.
    """
    with suppress(OSError):  # a full disk: the lock is held, only its message has no name
        os.ftruncate(lock_file, 0)
        os.write(lock_file, _process_name().encode())


def _release(lock: BaseFileLock, path: Path) -> None:
    """Release a lock and remove its file. filelock leaves that of `flock`."""
    if not isinstance(lock, SoftFileLock):
        with suppress(OSError):  # Windows: the file is open, and filelock removes it
            path.unlink()  # still locked, so a run that has it open makes a new one
    lock.release()


def check_soft_lock(output: Path) -> None:
    """Raise an InUseError if another process has the soft lock of a feature file."""
    lock = SoftFileLock(lock_path(output))
    if lock.pid and not lock.is_lock_held_by_us:
        with locked(output):  # which removes the lock of a killed run
            pass


def in_use_error(output: Path, is_soft: bool = False) -> InUseError:
    """Return the error that names the other process that writes a feature file.

    A soft lock may be that of a process that has ended on another machine.
    """
    path = lock_path(output)
    try:
        holder = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        holder = ""
    if not holder.startswith("process "):  # of a soft lock: process, host, time of its start
        process, host, *_ = [*holder.splitlines(), "", ""]
        holder = f"process {process} on {host.partition('?')[0]}" if host else ""
    if not holder or holder == _process_name():
        holder = "another program"
    advice = f" If it has ended, remove {path}." if is_soft else ""
    return InUseError(f"{output} is in use by {holder}. Wait until that ends, or stop it.{advice}")


def _process_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
