"""The text of messages: names, paths, commands and errors as a person reads them in one line."""

import errno
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

BYTES = re.compile("[\udc80-\udcff]+")  # stand for bytes of a path, see PEP 383


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


def command_line(words: Sequence[str]) -> str:
    """Return words as one types them into a shell of this system."""
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(words)
    return shlex.join(words)


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())


def reason_of(error: Exception) -> str:
    """Return what the operating system says about an error, or else its message."""
    number = getattr(error, "errno", None)
    if number == errno.EFBIG:
        limit = "more than the file system or `ulimit -f` allows"
        return f"{os.strerror(number)} ({limit})"
    if getattr(error, "winerror", None):  # more exact: a file may be open in another program
        return str(error.strerror)  # type: ignore[attr-defined]
    return os.strerror(number) if number else one_line(error)


def encoding_fault(name: str, encoding: str) -> str:
    """Return that an encoding lacks characters of a name, and what to do."""
    shown = escape_bytes(name)
    if encoding == "utf-8":
        return f"the name {shown} is not UTF-8: rename it"
    return f"the name {shown} cannot be read in this locale ({encoding}): set PYTHONUTF8=1"


def escape_bytes(text: object) -> str:
    r"""Return a path, or a text with paths, with escapes as `\xe9` for bytes that are not UTF-8.

    Bytes that are UTF-8, but not what the locale asks for, become their characters.
    """

    def decoded(run: re.Match) -> str:
        return run[0].encode(errors="surrogateescape").decode(errors="backslashreplace")

    return BYTES.sub(decoded, str(text))


def printable(text: str) -> str:
    r"""Return `text` as one line, safe for a terminal.

    Escapes such as `\n` stand for line breaks, control characters, and what is not visible.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in escape_bytes(text)
    )
