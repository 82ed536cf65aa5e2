"""The standard streams of the process: they are open, write any name, and are named in errors."""

import codecs
import errno
import io
import json
import logging
import os
import sys
from functools import cache
from typing import Any, TextIO

import click

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import reason_of

log = logging.getLogger(__name__)

OUTPUT, MESSAGES = "standard output", "standard error"
# What says that the reader of a pipe has gone; on Windows also EINVAL
READER_HAS_GONE = {errno.EPIPE, errno.EINVAL} if os.name == "nt" else {errno.EPIPE}


class _StandardFile(io.FileIO):
    """The file of a standard stream. Only its first error counts.

    Results that cannot be written end the command. Python would then try to write them once more,
    and change the exit code. Messages that cannot be written do not end the command.
    """

    def __init__(self, descriptor: int, title: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title, self._failed = title, False

    def write(self, data: Any, /) -> int:
        """Write bytes; raise a BilinearError if results cannot be written."""
        if not self._failed:
            try:
                return super().write(data)
            except OSError as error:
                self._failed = True
                if self._title == OUTPUT:
                    if error.errno in READER_HAS_GONE:  # click ends quietly
                        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error
                    reason = "it is closed" if error.errno == errno.EBADF else reason_of(error)
                    raise BilinearError(f"cannot write to {OUTPUT}: {reason}") from error
        return memoryview(data).nbytes


def prepare_streams() -> None:
    """Let the standard streams write any name and bear faults; call it before a file is opened."""
    _open_closed_streams()
    codecs.register_error("bilinear_escape", _escape)
    sys.stdout = _standard_stream(sys.stdout, OUTPUT, "bilinear_escape")
    sys.stderr = _standard_stream(sys.stderr, MESSAGES, "backslashreplace")


def _open_closed_streams() -> None:
    """Open the null device where a standard stream is closed.

    Otherwise the next file that is opened, perhaps a feature file, gets the number of the stream,
    and libraries write their messages into it. Standard input is then empty, and messages are lost.
    Results must not be lost: their null device is opened for reading, so that writing fails.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            os.dup2(null, descriptor)
            if null != descriptor:
                os.close(null)
            os.set_inheritable(descriptor, True)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def _standard_stream(stream: TextIO, title: str, errors: str) -> TextIO:
    """Return a stream to the same file, which writes any text; a console of Windows stays.

    ASCII becomes UTF-8, as in click: a process has ASCII if no locale is set.
    """
    buffer = getattr(stream, "buffer", None)
    if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):  # `python -u` has no buffer
        return stream
    file = io.BufferedWriter(_StandardFile(stream.fileno(), title))
    encoding = "utf-8" if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding
    return io.TextIOWrapper(file, encoding, errors, line_buffering=True)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what an encoding lacks by an escape; a byte of a path that is not UTF-8 stays."""
    assert isinstance(error, UnicodeEncodeError)
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        _warn_of_escapes()
        return codecs.backslashreplace_errors(error)


@cache
def _warn_of_escapes() -> None:
    log.warning(
        "standard output is in %s. Escapes such as \\u00e9 stand for characters that it lacks. To "
        "get the characters themselves in a file, set PYTHONIOENCODING=utf-8.",
        sys.stdout.encoding,  # the error has only `charmap`
    )


def print_json(value: object) -> None:
    """Print a value as JSON in one line: with escapes where standard output is not in UTF-8."""
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    text = json.dumps(value, ensure_ascii=not is_utf8)
    click.echo(text.encode(errors="backslashreplace").decode())  # for paths that are not UTF-8
