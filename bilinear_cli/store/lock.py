"""One run at a time writes a feature file: a lock that its process takes with it, however it ends.

The system keeps it (`flock`), so that what a killed process leaves is no obstacle; the file itself
says whose it is.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bilinear_cli.errors import FeatureFileError, InUseError


def lock_path(output: Path) -> Path:
    """Return the lock of a feature file, by its final name."""
    return output.with_name(output.name + ".lock")


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs from writing `output`, whose folder is made.

    Raises:
        FeatureFileError: its folder may not be written to.
        InUseError: another run is writing it.
    """
    path = lock_path(output)
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        path.write_text(_own_name(), "utf-8")
    except Timeout as error:
        raise in_use(output) from error
    except OSError as error:
        lock.release()
        raise FeatureFileError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who opened it then takes a new one
        lock.release()


def in_use(output: Path) -> InUseError:
    """Return the error that says which other process writes a feature file."""
    try:
        holder = lock_path(output).read_text(encoding="utf-8", errors="replace")
    except OSError:
        holder = ""
    if not holder or holder == _own_name():
        holder = "another program"
    return InUseError(f"{output} is in use by {holder}: wait for it or end it")


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
