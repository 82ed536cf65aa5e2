"""Photo sets as CSV: path,label[,split][,group], as people and spreadsheets write them."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate
from bilinear_cli.photos.lists.columns import KNOWN, box_columns, find_columns, log_columns
from bilinear_cli.photos.lists.lookup import Lookup
from bilinear_cli.photos.lists.table import Row, Table, plain_name, read_table
from bilinear_cli.photos.split_names import resolve_splits, split_role
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)

Cells = Sequence[tuple[Row, Mapping[str, str]]]  # of each row: field -> value

FORMULA_SIGNS = ("=", "+", "-", "@")  # begin a formula in Excel, LibreOffice and Google Sheets

# Labels that R, pandas and Excel write where there is none
LIKE_NO_LABEL = frozenset(["na", "n/a", "#n/a", "nan", "null"])


class PhotoRecord(NamedTuple):
    """A photo of a photo set."""

    path: str  # POSIX, relative to the folder of the set
    label: str  # name of its class
    split: str = ""  # `train` or `test`; empty in all rows of a set that has no split of its own
    group: str = ""  # empty if the photo is a group of its own


def manifest_csv(rows: Iterable[Sequence[str]], path: Path) -> str:
    """Return rows of path, label, split and group as the text of a manifest.

    `path` is the name that the file will have, for a warning.
    """
    rows = [*rows]
    warn_of_formulas(path, chain.from_iterable(rows))
    return csv_text([PhotoRecord._fields, *rows])


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def warn_of_formulas(path: object, cells: Iterable[str]) -> bool:
    """Warn of cells that a spreadsheet takes for formulas; return whether there are some.

    Cells are written as they are: programs read them right, and names keep their characters.
    """
    formulas = sorted({cell for cell in cells if cell.startswith(FORMULA_SIGNS)})
    if formulas:
        log.warning(
            "%s: a spreadsheet may take these cells for formulas: %s. Import the columns as text.",
            *(path, abbreviate(formulas, 3)),
        )
    return bool(formulas)


def read_manifest(path: Path, columns_of: Mapping[str, str] | None = None) -> list[PhotoRecord]:
    """Read a list of photos. Its paths are relative to its folder.

    Args:
        path: a text file with a separator, see `table.read_table`.
        columns_of: field of `PhotoRecord` -> the name of its column; others are found by name, see
            `columns.find_columns`.

    Raises:
        BilinearError: the file cannot be read, or a row does not have a new photo (or another box
            of one), a label, a known split, and as many values as the first line.
        UsageError: `columns_of` names an unknown field or column.
    """
    columns_of = columns_of or {}
    for field in columns_of:
        validate_choice("name before = in --columns", field, PhotoRecord._fields)
    table = read_table(path, KNOWN | {plain_name(column) for column in columns_of.values()})
    index_of = find_columns(table, columns_of)
    log_columns(table, index_of)
    cells = [(row, _cells(table, row, index_of)) for row in table.rows]
    records = _records(table, cells, _split_of(table, cells))
    for label, n_photos in Counter(record.label for record in records).items():
        if label.casefold() in LIKE_NO_LABEL:
            message = "%s: photos with the label %s: %s. Remove their rows, unless it is a class."
            log.warning(message, path, label, f"{n_photos:,}")
    return records


def _cells(table: Table, row: Row, index_of: Mapping[str, int]) -> dict[str, str]:
    """Return field -> value of a row, or raise if it lacks one."""
    n_values, n_columns = len(row.values), len(table.columns)
    if n_values < n_columns or any(row.values[n_columns:]):
        hint = ". Put quotes around a value that has a separator." if n_values > n_columns else ""
        reason = f"it has {n_values} fields, but the first line has {n_columns}{hint}"
        raise table.error(row, reason)
    cells = {field: row.values[i] for field, i in index_of.items()}
    for field in ("path", "label"):
        if not cells[field]:
            raise table.error(row, f"the {field} is empty")
    return cells


def _split_of(table: Table, cells: Cells) -> dict[str, str]:
    """Return the split that each word in the column means; log it if a word is not its name."""
    row_of: dict[str, Row] = {}
    for row, cell in cells:
        if "split" in cell:
            row_of.setdefault(cell["split"], row)
    if not row_of:
        return {}
    for word, row in row_of.items():
        if not split_role(word):
            raise table.error(
                row, f"the split is {word!r}: write train, val or test, or rename the column"
            )
    try:
        split_of = resolve_splits(row_of)
    except BilinearError as error:
        raise BilinearError(f"{table.path}: {error}") from error
    if other := [f"{x} as {split}" for x, split in split_of.items() if x.casefold() != split]:
        log.info("%s: split: took %s", table.path, ", ".join(other))
    return split_of


def _records(table: Table, cells: Cells, split_of: Mapping[str, str]) -> list[PhotoRecord]:
    """Return the photos of the rows, each with a path relative to the folder of the list."""
    has_boxes = box_columns(table) is not None  # a photo may have a row for each of its boxes
    lookup, missing = Lookup(table.path.parent.resolve()), []
    row_of: dict[str, tuple[Row, PhotoRecord]] = {}
    for row, cell in cells:
        try:
            file = lookup.find(cell["path"])
        except ValueError as error:
            raise table.error(row, str(error)) from error
        if not file:
            missing.append((row, cell["path"]))
            continue
        path = lookup.relative(file)
        split = split_of.get(cell.get("split", ""), "")
        record = PhotoRecord(path, cell["label"], split, cell.get("group", ""))
        first_row, first = row_of.setdefault(path, (row, record))
        if first_row is not row and not (has_boxes and record == first):
            label = f" as {first.label}" if first.label != record.label else ""
            reason = f"row {first_row.number} already lists {path}{label}: keep one row per photo"
            raise table.error(row, reason)
    if missing:
        row, text = missing[0]
        share = f"{len(missing):,} of {len(table.rows):,} photos are missing: " * (len(missing) > 1)
        raise table.error(row, f"{share}{lookup.explain(text)}")
    if lookup.inexact:
        text, file = next(iter(lookup.inexact.items()))
        message = "%s: inexact paths (%s): took the photo that matches, such as %s for %s"
        log.info(message, table.path, f"{len(lookup.inexact):,}", lookup.relative(file), text)
    return [record for _, record in row_of.values()]
