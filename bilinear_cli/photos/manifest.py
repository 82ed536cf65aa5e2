"""Photo sets as CSV: path,label[,split][,group], as people and spreadsheets write them."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bilinear_cli.errors import BilinearError, abbreviate

COLUMNS = ("path", "label", "split", "group")


def manifest_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of path, label, split and group as the text of a manifest."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(rows)
    return text.getvalue()


def read_manifest(path: Path, spec: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the rows of a manifest, as spreadsheets write it.

    Blanks around values do not count, nor do the case of columns and splits, or empty lines. Paths
    are returned relative to the manifest's folder.

    Raises:
        BilinearError: it cannot be read, or a row does not name a new photo, a label and a known
            split, or has not as many fields as the first line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = [name.strip().lower() for name in next(reader, [])]
            lines = [(reader.line_num, [value.strip() for value in values]) for values in reader]
    except UnicodeDecodeError as error:
        raise BilinearError(f"cannot read {spec}: save it as CSV in UTF-8 ({error})") from error
    except (OSError, csv.Error) as error:
        raise BilinearError(f"cannot read {spec} as CSV: {error}") from error
    missing = {"path", "label"} - {*columns}
    if missing:
        raise BilinearError(
            f"{spec} lacks the column {abbreviate(sorted(missing, reverse=True))}: its first line "
            f"should be path,label[,split][,group], and is {','.join(columns)}"
        )
    row_of: dict[str, int] = {}
    rows = []
    for number, values in lines:
        if not any(values):
            continue
        where = f"{spec}, row {number}"
        if len(values) != len(columns):
            raise BilinearError(f"{where}: it has not as many fields as the first line")
        row = _checked(where, dict(zip(columns, values, strict=True)), path.parent.resolve())
        if row["path"] in row_of:
            listed = f"{row['path']} is listed already in row {row_of[row['path']]}"
            raise BilinearError(f"{where}: {listed}")
        row_of[row["path"]] = number
        rows.append(row)
    return columns, rows


def _checked(where: str, row: dict[str, str], root: Path) -> dict[str, str]:
    """Return a row, its path relative to `root`; raise if its path, label or split is wrong."""
    if not row["path"] or not row["label"]:
        raise BilinearError(f"{where}: the path or the label is empty")
    split = row.get("split", "train").lower()
    if split not in ("train", "test"):
        raise BilinearError(f"{where}: the split is {split!r}: write train or test")
    if not (root / row["path"]).is_file():
        raise BilinearError(f"{where}: there is no photo {root / row['path']}")
    path = Path(os.path.relpath(root / row["path"], root)).as_posix()
    return row | {"path": path, "split": split}
