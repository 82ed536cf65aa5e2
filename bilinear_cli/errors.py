"""What loops and faults report to their caller: progress, errors, and the text of messages.

Each message is one line: what happened, where, and what to do.
"""

import errno
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from difflib import get_close_matches

# Without it, Python prints the warnings of a program that has not set up logging.
logging.getLogger("bilinear_cli").addHandler(logging.NullHandler())

Progress = Callable[[int, int], None]  # called with (done, total)
LOG_SECONDS = 10  # between two log lines of a step that has no progress bar
BYTES = re.compile("[\udc80-\udcff]+")  # stand for bytes of a path, see PEP 383


class BilinearError(Exception):
    """A fault in the data or at run time; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(BilinearError, ValueError):
    """Options or arguments that are invalid; the command line exits with 2."""

    exit_code = 2


class BadPhotoError(BilinearError, OSError):
    """A file that cannot be read as a photo, or a photo set without a readable photo."""


class FeatureFileError(BilinearError, OSError):
    """A feature file that is missing, damaged, incomplete, or of another format."""


class InUseError(FeatureFileError):
    """A feature file that another run is writing; the caller may wait and try again."""


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


def validate_choice(kind: str, value: str, choices: Collection[str]) -> str:
    """Return `value` if it is in `choices`.

    Raises:
        UsageError: it is not; the message names the most similar choice.
    """
    if isinstance(value, str) and value in choices:
        return value
    suggestion = closest_match(str(value), choices)
    hint = f"Did you mean {suggestion!r}? " if suggestion else ""
    raise UsageError(f"unknown {kind}: {value!r}. {hint}Choose from: {', '.join(choices)}")


def closest_match(name: str, candidates: Iterable[str]) -> str:
    """Return the candidate that resembles a name most, or an empty string if none does.

    Capital letters are like small ones.
    """
    by_small = {candidate.lower(): candidate for candidate in candidates}
    return next((by_small[x] for x in get_close_matches(name.lower(), by_small, 1, 0.5)), "")


def abbreviate(names: Iterable[str], limit: int = 5) -> str:
    """Return the first `limit` names and the number of the others, for a message."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())


def reason_of(error: Exception) -> str:
    """Return what the operating system says about an error, or else its message."""
    number = getattr(error, "errno", None)
    if number == errno.EFBIG:
        limit = "more than the file system or `ulimit -f` allows"
        return f"{os.strerror(number)} ({limit})"
    return os.strerror(number) if number else one_line(error)


def unencodable(name: str, encoding: str) -> str:
    """Return that an encoding lacks characters of a name, and what to do."""
    if encoding == "utf-8":
        return f"the name {readable(name)} is not UTF-8: rename it"
    return f"the name {readable(name)} cannot be read in this locale ({encoding}): set PYTHONUTF8=1"


def readable(text: object) -> str:
    r"""Return a path, or a text with paths, with escapes as `\xe9` for bytes that are not UTF-8.

    Bytes that are UTF-8, but not what the locale asks for, become their characters.
    """

    def decoded(run: re.Match) -> str:
        return run[0].encode(errors="surrogateescape").decode(errors="backslashreplace")

    return BYTES.sub(decoded, str(text))


def command_line(words: Sequence[str]) -> str:
    """Return words as one types them into a shell of this system."""
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(words)
    return shlex.join(words)


def printable(text: str) -> str:
    r"""Return `text` as one line, safe for a terminal.

    Escapes such as `\n` stand for line breaks, control characters, and what is not visible.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable(text)
    )
