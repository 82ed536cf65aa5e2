"""The columns of a list that have the path, the label, the split and the group of a photo."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.messages import abbreviate, closest_match
from bilinear_cli.photos.folders.walk import SUFFIXES
from bilinear_cli.photos.lists.table import Table, excerpt, plain_name

log = logging.getLogger(__name__)

# What people call the columns, as `plain_name` writes it. Two of one line in a list are ambiguous:
# `class` beside `species` is a bird's Aves, and `species` beside `genus` may be an epithet.
NAMES = {
    "path": "filename filepath file imagepath imagefile imagefilename imagename imageid image "
    "imgpath imgname imgid img photopath photofile photoname photoid photo picture",
    "label": "classname class speciesname species scientificname taxonname taxon genus family "
    "breed category",
    "split": "subset partition set",
    "group": "groupid",
}
# Columns of corners, or of a corner, width and height. The first that are there are taken. Corners
# stand first, because `width` and `height` beside them are those of the picture.
CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
SIDES = (
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
    ("bboxx", "bboxy", "bboxw", "bboxh"),
    ("boxx", "boxy", "boxwidth", "boxheight"),
    ("x", "y", "w", "h"),
    ("left", "top", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("x", "y", "width", "height"),
)
CONFIDENCES = ("confidence", "conf", "score")  # of a box
KNOWN = frozenset([*NAMES, *" ".join(NAMES.values()).split()])
# Photos of these belong together as a rule. They are not taken unasked, as they change the split.
LIKE_GROUPS = (
    "individual individualid animal animalid specimen specimenid burst burstid sequence sequenceid "
    "nest nestid encounter encounterid"
)


def find_columns(table: Table, columns_of: Mapping[str, str]) -> dict[str, int]:
    """Return the index of the column of each field of `PhotoRecord` that a list has.

    Args:
        table: the list.
        columns_of: field -> the name of its column, where the user gives it.

    Raises:
        BilinearError: there is no path or no label, or two columns may be the same field.
        UsageError: a column of `columns_of` does not exist.
    """
    index_of = {field: _named_column(table, field, name) for field, name in columns_of.items()}
    names = [plain_name(column) for column in table.columns]
    for field, synonyms in NAMES.items():
        if field in index_of:
            continue
        free = [i for i in range(len(names)) if i not in index_of.values()]
        candidates = [i for i in free if names[i] == field]
        candidates = candidates or [i for i in free if names[i] in synonyms.split()]
        if len(candidates) > 1:
            raise _ambiguous(table, field, candidates)
        if candidates:
            index_of[field] = candidates[0]
    if missing := [field for field in ("path", "label") if field not in index_of]:
        raise _incomplete(table, missing)
    return index_of


def box_columns(table: Table) -> tuple[str, ...] | None:
    """Return the plain names of the four columns that have boxes, or None."""
    columns = {*map(plain_name, table.columns)}
    return next((names for names in CORNERS + SIDES if {*names} <= columns), None)


def log_columns(table: Table, index_of: Mapping[str, int]) -> None:
    """Log which columns were taken, unless they have the standard names, and which were not."""
    column_of = {field: table.columns[index_of[field]] for field in NAMES if field in index_of}
    if any(plain_name(name) != field for field, name in column_of.items()):
        pairs = ", ".join(f"{field}={name}" for field, name in column_of.items())
        log.info("%s: columns: %s", table.path, pairs)
    unused = [name for i, name in enumerate(table.columns) if name and i not in index_of.values()]
    if boxes := box_columns(table):
        message = "%s has boxes in the columns %s: --boxes %s crops photos to them"
        log.info(message, table.path, ", ".join(boxes), table.path)
        unused = [name for name in unused if plain_name(name) not in boxes + CONFIDENCES]
    if unused:
        log.info("%s: columns not used: %s", table.path, abbreviate(unused, 8))
    like_group = next((name for name in unused if plain_name(name) in LIKE_GROUPS.split()), "")
    if like_group and "group" not in index_of:
        message = "To keep photos of one %s in the same split, give --columns group=%s."
        log.info(message, like_group, like_group)


def _named_column(table: Table, field: str, name: str) -> int:
    """Return the index of the column with a name that the user gives."""
    columns = [*enumerate(table.columns)]
    matches = [i for i, column in columns if column == name]
    matches = matches or [i for i, column in columns if plain_name(column) == plain_name(name)]
    if len(matches) > 1:
        raise _ambiguous(table, field, matches)
    if matches:
        return matches[0]
    suggestion = closest_match(name, table.columns)
    hint = f"Did you mean {suggestion!r}? " if suggestion else ""
    names = abbreviate(filter(None, table.columns), 12)
    raise UsageError(
        f"the first line of {table.path} has no column {name!r}. {hint}It has: {names}"
    )


def _ambiguous(table: Table, field: str, indices: Sequence[int]) -> BilinearError:
    """Return the error of columns that may be the same field."""
    names = [table.columns[i] for i in indices]
    if len({*names}) < len(names):
        return BilinearError(
            f"{table.path} has more than one column {names[0]}: remove or rename the others"
        )
    return BilinearError(
        f"{table.path}: the {field} may be in any of the columns {', '.join(names)}: choose one "
        f"with --columns {field}=COLUMN"
    )


def _incomplete(table: Table, missing: Sequence[str]) -> BilinearError:
    """Return the error of a list without a path or without a label."""
    line = excerpt(table.separator.join(table.columns), 160)
    if any(Path(name).suffix.lower() in SUFFIXES for name in table.columns):
        return BilinearError(
            f"{table.path} does not name its columns. Put a line such as path,label above its "
            f"first line, {line}"
        )
    pairs = ",".join(f"{field}=COLUMN" for field in missing)
    return BilinearError(
        f"{table.path} lacks the column{'s' * (len(missing) - 1)} {' and '.join(missing)}. Give "
        f"--columns {pairs}, or write path,label[,split][,group] in its first line, which is: "
        f"{line}"
    )
