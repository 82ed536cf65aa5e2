"""Photo sets as CSV: path,label[,split][,group], as people and spreadsheets write them."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bilinear_cli.errors import BilinearError

COLUMNS = ("path", "label", "split", "group")


def manifest(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of path, label, split and group as the text of a manifest."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(rows)
    return text.getvalue()


def read_manifest(path: Path, spec: str) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Return the columns, and line number -> row; as spreadsheets write it.

    Blanks around values do not count, nor do the case of columns and splits, or empty lines.

    Raises:
        BilinearError: it cannot be read, or a row has not as many fields as the first line.
    """
    rows = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = [name.strip().lower() for name in next(reader, [])]
            for values in reader:
                values = [value.strip() for value in values]
                if not any(values):
                    continue
                if len(values) != len(columns):
                    where = f"{spec}, row {reader.line_num}"
                    raise BilinearError(f"{where}: it has not as many fields as the first line")
                rows[reader.line_num] = dict(zip(columns, values, strict=True))
    except UnicodeDecodeError as error:
        raise BilinearError(f"cannot read {spec}: save it as CSV in UTF-8 ({error})") from error
    except (OSError, csv.Error) as error:
        raise BilinearError(f"cannot read {spec} as CSV: {error}") from error
    for row in rows.values():
        if "split" in row:
            row["split"] = row["split"].lower()
    return columns, rows


def check_row(where: str, row: dict, root: Path, seen: dict[str, int], number: int) -> None:
    """Raise unless the row names a new photo, a label and a known split; note its path.

    Raises:
        BilinearError: saying `where`.
    """
    if not row["path"] or not row["label"]:
        raise BilinearError(f"{where}: the path or the label is empty")
    if "split" in row and row["split"] not in ("train", "test"):
        raise BilinearError(f"{where}: the split is {row['split']!r}: write train or test")
    if not (root / row["path"]).is_file():
        raise BilinearError(f"{where}: there is no photo {root / row['path']}")
    path = Path(os.path.relpath(root / row["path"], root)).as_posix()
    if path in seen:
        raise BilinearError(f"{where}: {path} is listed already in row {seen[path]}")
    seen[path] = number
