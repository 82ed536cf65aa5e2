"""The progress of loops: a bar on a terminal or in a notebook, and lines elsewhere."""

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bilinear_cli.progress import Progress

LINE_SECONDS = 30  # between two lines of progress
COUNTS = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
TIMES = "[{elapsed}<{remaining}]"
COUNT_ALONE = "{desc}: {n_fmt} [{elapsed}, {rate_fmt}]"  # if the total is not known


@contextmanager
def progress_bar(label: str, unit: str = "", show: bool = True) -> Iterator[Progress]:
    """Yield a progress callback (done, total) that draws a bar, if `show`; total 0 is unknown.

    `unit` is what is counted. Without it, the bar has no counts, but the percentage and the time.
    Where stderr is neither a terminal nor a notebook, such as a log file, it prints lines instead.
    """
    if not show or sys.stderr is None:  # as it is if the process began with stderr closed
        yield lambda done, total: None
        return
    make_bar = _bar_class()
    if not make_bar:
        yield _progress_lines(label, unit)
        return
    bar: Any = None
    bar_format = "{l_bar}{bar}| " + (COUNTS if unit else TIMES)

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            line_format = bar_format if total else COUNT_ALONE
            bar = make_bar(desc=label, total=total, initial=done, unit=unit, bar_format=line_format)
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            bar = None

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def _bar_class() -> Any:
    """Return the class of a bar, which is a picture in a notebook; None where lines are right."""
    from tqdm import TqdmWarning
    from tqdm.asyncio import tqdm as text_bar

    with warnings.catch_warnings():  # a notebook without ipywidgets gets the bar as text
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm

    is_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return tqdm if tqdm is not text_bar or is_notebook or sys.stderr.isatty() else None


def _progress_lines(label: str, unit: str) -> Progress:
    """Return a progress callback that prints a line on stderr every half minute."""
    from tqdm import tqdm

    last = time.monotonic()
    start: tuple[int, float] | None = None
    line_format = "{desc}: {percentage:3.0f}% " + (COUNTS if unit else TIMES)

    def progress(done: int, total: int) -> None:
        nonlocal start, last
        now = time.monotonic()
        first, began = start = start or (done, now)
        if now - last >= LINE_SECONDS:
            line = tqdm.format_meter(
                *(done, total, now - began),
                prefix=label,
                unit=unit,
                initial=first,
                bar_format=line_format if total else COUNT_ALONE,
            )
            print(line, file=sys.stderr)
            last = now
        if done == total:
            start = None

    return progress
