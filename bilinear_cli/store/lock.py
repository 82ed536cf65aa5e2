"""One run at a time writes a feature file: a lock that its process takes with it, however it ends.

The system keeps it (`flock`), so that what a killed process leaves is no obstacle; the file itself
says whose it is.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except BlockingIOError as error:
        raise in_use(output) from error
    except OSError as error:
        raise FeatureFileError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int:
    """Lock the file of that name; again if it was removed in between, by a run that ended."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, _own_name().encode())
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


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
