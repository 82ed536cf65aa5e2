"""Shared folders lag: what one machine has written, another one may see some seconds later.

NFS remembers for up to a minute what a folder has, and what it has not. It asks the server anew
when a program opens the folder. Times of files lag too, so nothing is decided by them.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LAG_SECONDS = 10
POLL_SECONDS = 0.5


def is_visible(path: Path) -> bool:
    """Return whether a file exists, after its folder and that one's folder were opened."""
    for folder in (path.parent.parent, path.parent):
        with suppress(OSError):
            os.scandir(folder).close()
    return path.exists()


def lasting_fault(find_fault: Callable[[], T]) -> T:
    """Return the result of `find_fault`; while it is a fault, call it again for some seconds."""
    end = time.monotonic() + LAG_SECONDS
    while (fault := find_fault()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return fault
