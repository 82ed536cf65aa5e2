"""A lock that lets only one run at a time write a feature file.

The operating system holds the lock (`flock`) and releases it when the process ends, even by a
kill. The lock file names the process that holds it.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bilinear_cli.errors import FeatureFileError, InUseError


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
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        path.write_text(_process_name(), "utf-8")
    except Timeout as error:
        raise in_use_error(output) from error
    except OSError as error:
        lock.release()
        raise FeatureFileError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # still locked, so a run that has it open makes a new one
        lock.release()


def in_use_error(output: Path) -> InUseError:
    """Return the error that names the other process that writes a feature file."""
    try:
        holder = lock_path(output).read_text(encoding="utf-8", errors="replace")
    except OSError:
        holder = ""
    if not holder or holder == _process_name():
        holder = "another program"
    return InUseError(f"{output} is in use by {holder}. Wait until that ends, or stop it.")


def _process_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
