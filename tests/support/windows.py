"""Take away from this process what Windows does not have, and give it Windows' rules for files.

It must run before anything imports `bilinear_cli` or `filelock`, which choose once.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import psutil

# Other people's code: it knows that this is Linux, and may keep what it imports.
PORTABLE = ("asyncio", "multiprocessing.resource_tracker", "h5py", "joblib", "matplotlib.pyplot")
PORTABLE += ("platformdirs", "sklearn.linear_model", "tensorflow")
MODULES = ("fcntl", "grp", "pwd", "resource", "syslog", "termios")
FUNCTIONS: dict[Any, tuple[str, ...]] = {
    os: (
        *("preadv", "pread", "pwritev", "pwrite", "posix_fadvise", "posix_fallocate", "mkfifo"),
        *("sched_getaffinity", "sched_setaffinity", "uname", "getloadavg", "nice", "chown"),
        *("getuid", "geteuid", "getgid", "fork", "forkpty", "killpg", "getpgid", "setsid"),
    ),
    signal: ("pthread_sigmask", "sigwait", "setitimer", "alarm", "SIGHUP", "SIGKILL", "SIGUSR1"),
}


def act_like_windows() -> None:
    """Remove modules and functions; refuse to rename, remove or sync what Windows refuses."""
    assert not {"bilinear_cli", "filelock"} & sys.modules.keys()
    for name in PORTABLE:
        import_module(name)
    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, partial(_unless_open, getattr(os, name)))
    os.fsync = partial(_if_writable, os.fsync, fcntl.fcntl)
    sys.modules.update(dict.fromkeys(MODULES))
    for module, names in FUNCTIONS.items():
        for name in names:
            delattr(module, name)


def _unless_open(change: Callable[..., None], *paths: Any, **options: Any) -> None:
    """Rename or remove a file, unless this process has it open. Locks are left to filelock."""
    names = {os.path.realpath(path) for path in paths if not str(path).endswith(".lock")}
    if opened := names & {file.path for file in psutil.Process().open_files()}:
        raise PermissionError(13, "The process cannot access the file", *opened)
    change(*paths, **options)


def _if_writable(sync: Callable[[int], None], flags_of: Callable[..., int], number: int) -> None:
    """Sync a file that is open for writing."""
    if flags_of(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    sync(number)
