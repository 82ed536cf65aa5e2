"""A text file with any usual separator and encoding -> the names of its columns, and its rows."""

import codecs
import csv
import io
import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import printable, reason_of

log = logging.getLogger(__name__)

SEPARATORS = ",;\t|"
# How files begin that people have in place of a CSV file
OTHER_FORMATS = {
    b"PK\x03\x04": "a workbook or an archive",  # Excel, LibreOffice, Numbers, zip
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"{": "JSON",
    b"[": "JSON",
    b"<": "XML or HTML",
}
# Excel's instruction to itself in the first line, which its sheets do not show
SEPARATOR_LINE = re.compile(r'"?sep=([^\s"]|\t)"?[\s,;|]*?(?:\r\n|\r|\n)', re.IGNORECASE)


class Row(NamedTuple):
    """A row of a table."""

    number: int  # as a spreadsheet counts: the first line is row 1
    values: list[str]


class Table(NamedTuple):
    """The content of a file of rows. Values have no blanks around them."""

    path: Path
    separator: str
    columns: list[str]
    rows: list[Row]  # without those that are empty

    def error(self, row: Row, reason: str) -> BilinearError:
        """Return an error that quotes a row."""
        quote = excerpt(self.separator.join(row.values))
        return BilinearError(f"{self.path}, row {row.number} ({quote}): {reason}")


def plain_name(name: str) -> str:
    """Return the name of a column without case, blanks, hyphens, underscores and Unicode forms."""
    return re.sub(r"[\s_-]+", "", normalize("NFC", name)).casefold()


def excerpt(text: str, length: int = 80) -> str:
    """Return the begin of a text, fit for a message of one line."""
    text = printable(text.replace("\t", " "))
    return text if len(text) <= length else f"{text[: length - 3]}..."


def read_table(path: Path, names: Collection[str]) -> Table:
    """Read a table, whose first line has the names of its columns.

    Args:
        path: a text file. UTF-16 needs a byte order mark.
        names: plain names of columns; the separator is the one that finds most of them.

    Raises:
        BilinearError: the file cannot be read, or is no such text.
    """
    text = _decoded(path)
    if line := SEPARATOR_LINE.match(text):
        text, separator = text[line.end() :], line[1]
    else:
        ranks = {separator: _rank(text, separator, names) for separator in SEPARATORS}
        separator = max(ranks, key=ranks.__getitem__)
        if ranks[separator][1] == 1:
            header = excerpt(text.lstrip().splitlines()[0], 160)
            raise BilinearError(
                f"{path} has one column. Write path,label[,split][,group] in its first line, which "
                f"is: {header}. Separate values by commas, semicolons, tabs or bars."
            )
    rows = [row for row in _rows(path, text, separator) if any(row.values)]
    if not rows:
        raise BilinearError(f"{path} is empty: its first line should be path,label[,split][,group]")
    return Table(path, separator, rows[0].values, rows[1:])


def _decoded(path: Path) -> str:
    """Return the text of a file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BilinearError(f"cannot read {path}: {reason_of(error)}") from error
    for begin, kind in OTHER_FORMATS.items():
        if data.lstrip().startswith(begin):
            raise BilinearError(
                f"{path} is {kind}, not CSV: save a list as CSV in UTF-8; unpack photos first"
            )
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        if b"\0" not in data:
            return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.encoding == "utf-8":
            return _decoded_as_windows(path, data)
    raise BilinearError(f"{path} is not a text: save the list as CSV in UTF-8")


def _decoded_as_windows(path: Path, data: bytes) -> str:
    """Return text in the code page of Western Windows, in which Excel saves CSV, and say so."""
    try:
        if not data.decode(errors="ignore").isascii():  # a file that two programs wrote
            raise UnicodeError
        text = data.decode("cp1252")
    except UnicodeError as error:
        raise BilinearError(
            f"{path} is neither in UTF-8 nor in Windows-1252: save the list as CSV in UTF-8"
        ) from error
    example = re.search(r"[^\s,;|\"/\\]*[^\x00-\x7f][^\s,;|\"/\\]*", text)
    assert example
    log.warning(
        "%s is not in UTF-8. It was read as Windows-1252, for example %r. If this name is wrong, "
        "save the list as CSV in UTF-8.",
        *(path, excerpt(example[0])),
    )
    return text


def _rank(text: str, separator: str, names: Collection[str]) -> tuple[int, int]:
    """Return how many known and how many other columns the first line has with a separator."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        columns = next(filter(any, reader), [])
    except csv.Error:  # a quote that is never closed
        return (0, 0)
    return sum(plain_name(column) in names for column in columns), len(columns)


def _rows(path: Path, text: str, separator: str, quoting: int = csv.QUOTE_MINIMAL) -> list[Row]:
    """Return the rows of a text; an open quote must not swallow the lines behind it."""
    rows: list[Row] = []
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        skipinitialspace=True,
        strict=True,
        quoting=quoting,  # type: ignore[arg-type]
    )
    try:
        for number, values in enumerate(reader, 1):
            rows.append(Row(number, [value.strip() for value in values]))
    except csv.Error as error:
        if separator == "\t" and quoting != csv.QUOTE_NONE:  # GBIF does not quote its texts
            return _rows(path, text, separator, csv.QUOTE_NONE)
        reason = f'{error}. Correct the quotes (") of this row.'
        raise BilinearError(f"cannot read {path}, row {len(rows) + 1}: {reason}") from error
    return rows
