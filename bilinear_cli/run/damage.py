"""The errors of reading a file of a run folder, each in one line."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path

from bilinear_cli.errors import BilinearError
from bilinear_cli.files import BROKEN_ZIP
from bilinear_cli.messages import printable, reason_of

ADVICE = "Train again with bilinear train."
# What reading and checking a damaged file can raise; a UsageError is a ValueError
READ_ERRORS = (*BROKEN_ZIP, LookupError, AttributeError, MemoryError, csv.Error)


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn what reading and checking a file raises into a BilinearError."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise ValueError("it is not a file")
        yield
    except FileNotFoundError as error:
        raise BilinearError(f"{path} is missing. {ADVICE}") from error
    except READ_ERRORS as error:
        if getattr(error, "errno", None):  # the file may be intact
            raise BilinearError(f"cannot read {path}: {reason_of(error)}") from error
        raise BilinearError(f"{path} is damaged: {printable(_fault(error))}. {ADVICE}") from error


def _fault(error: Exception) -> str:
    """Return what is wrong with a file, in a few words."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    if isinstance(error, JSONDecodeError):
        return f"it is not JSON from line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 from byte {error.start}"
    return reason_of(error)
