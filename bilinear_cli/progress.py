"""How loops report to their caller: progress callbacks, and log lines from time to time."""

import time
from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with (done, total)
LOG_SECONDS = 10  # between two log lines of a step that has no progress bar


def every(seconds: float) -> Callable[[], bool]:
    """Return a function that is true once in so many seconds, the first time after so many."""
    due = time.monotonic() + seconds

    def is_due() -> bool:
        nonlocal due
        if (now := time.monotonic()) < due:
            return False
        due = now + seconds
        return True

    return is_due
