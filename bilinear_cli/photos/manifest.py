"""Photo sets as CSV: path,label[,split][,group], as people and spreadsheets write them."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bilinear_cli.errors import BilinearError, abbreviate, reason_of


class PhotoRecord(NamedTuple):
    """A photo of a photo set."""

    path: str  # POSIX, relative to the folder of the set
    label: str  # name of its class
    split: str = ""  # `train` or `test`; empty in all rows of a set that has no split of its own
    group: str = ""  # empty if the photo is a group of its own


def manifest_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of path, label, split and group as the text of a manifest."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([PhotoRecord._fields, *rows])
    return text.getvalue()


def read_manifest(path: Path, columns_of: Mapping[str, str] | None = None) -> list[PhotoRecord]:
    """Read a manifest. Its paths are relative to its folder.

    Blanks around values, the case of columns and splits, other columns, and empty lines do not
    matter.

    Raises:
        BilinearError: the file cannot be read, or a row does not have a new photo, a label, a
            known split, and as many fields as the first line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = [name.strip().lower() for name in next(reader, [])]
            lines = [(reader.line_num, [value.strip() for value in values]) for values in reader]
    except UnicodeDecodeError as error:
        raise BilinearError(f"cannot read {path}: save it as CSV in UTF-8 ({error})") from error
    except (OSError, csv.Error) as error:
        raise BilinearError(f"cannot read {path} as CSV: {reason_of(error)}") from error
    if missing := {"path", "label"} - {*columns}:
        raise BilinearError(
            f"{path} lacks the column {abbreviate(sorted(missing, reverse=True))}: its first line "
            f"should be path,label[,split][,group], but is {','.join(columns)}"
        )
    line_of_path: dict[str, int] = {}
    rows = []
    for line, values in lines:
        if not any(values):
            continue
        try:
            rows.append(_row(columns, values, path.parent.resolve()))
            first_line = line_of_path.setdefault(rows[-1].path, line)
            if first_line != line:
                raise ValueError(f"row {first_line} already lists {rows[-1].path}")
        except ValueError as error:
            raise BilinearError(f"{path}, row {line}: {error}") from error
    return rows


def _row(columns: list[str], values: list[str], root: Path) -> PhotoRecord:
    """Return a row with a path relative to `root`, or raise a ValueError."""
    if len(values) != len(columns):
        raise ValueError(f"it has {len(values)} fields, but the first line has {len(columns)}")
    row = dict(zip(columns, values, strict=True))
    file, split = root / row["path"], row.get("split", "").lower()
    if not row["path"] or not row["label"]:
        raise ValueError("the path or the label is empty")
    if "split" in row and split not in ("train", "test"):
        raise ValueError(f"the split is {split!r}: write train or test")
    if not file.is_file():
        raise ValueError(f"there is no photo {file}")
    path = Path(os.path.relpath(file, root)).as_posix()
    return PhotoRecord(path, row["label"], split, row.get("group", ""))
