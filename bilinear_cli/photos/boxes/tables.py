"""Boxes in text files: tables of CSV, CUB-200-2011's bounding_boxes.txt, and YOLO's labels."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import reason_of
from bilinear_cli.photos.boxes.crops import FRACTIONS, PIXELS, Box
from bilinear_cli.photos.boxes.source import (
    MAX_FRACTION,
    BoxSource,
    Detection,
    errors_at,
    make_box,
    validate_fractions,
)
from bilinear_cli.photos.lists.columns import CONFIDENCES, CORNERS, NAMES, SIDES, box_columns
from bilinear_cli.photos.lists.table import Table, excerpt, plain_name, read_table

PATHS = ("path", *NAMES["path"].split())
KNOWN = frozenset([*PATHS, *CONFIDENCES, *(name for names in CORNERS + SIDES for name in names)])
NO_BOX = {"", "NA"}  # R writes NA


def read_table_of_boxes(path: Path) -> BoxSource:
    """Read a table with a row for each box. A row of a photo without a box has empty values.

    Boxes are fractions if all their values are within 0 to 1, otherwise pixels.

    Raises:
        BilinearError: the file cannot be read, lacks columns, or has wrong values.
    """
    table = read_table(path, KNOWN)
    file_index, box_indices, confidence_index, are_corners = _find_columns(table)
    detections: dict[str, list[Detection]] = defaultdict(list)
    evidence = ""
    for row in table.rows:
        with errors_at(f"{path}, row {row.number}"):
            if len(row.values) != len(table.columns):
                raise ValueError(
                    f"it has {len(row.values)} fields, but the first line has {len(table.columns)}"
                )
            of_photo = detections[row.values[file_index]]
            values = [row.values[i] for i in box_indices]
            if {*values} <= NO_BOX:
                continue
            values += [row.values[confidence_index]] if confidence_index is not None else []
            if table.separator != ",":  # Excel writes decimal commas in many countries
                values = [value.replace(",", ".") for value in values]
            box = make_box(values[:4], *values[4:])
        if not evidence and max(map(abs, box)) > MAX_FRACTION:
            evidence = f"row {row.number} has {max(map(abs, box)):g}"
        if are_corners:
            box = box._replace(width=box.width - box.x, height=box.height - box.y)
        of_photo.append(Detection(box, f"row {row.number}"))
    unit = PIXELS if evidence else FRACTIONS
    return BoxSource(unit, detections, detections.__getitem__, evidence=evidence)


def _find_columns(table: Table) -> tuple[int, list[int], int | None, bool]:
    """Return the columns of the path, of a box, of a confidence, and whether boxes are corners."""
    columns = [plain_name(name) for name in table.columns]
    files = [name for name in columns if name == "path"]
    files = files or [name for name in columns if name in PATHS]
    box = box_columns(table)
    if not files or not box:
        what = "column of paths" if box else "boxes"
        raise BilinearError(
            f"{table.path} has no {what}: its first line should be path,x,y,width,height or "
            f"path,xmin,ymin,xmax,ymax, but is {excerpt(table.separator.join(table.columns))}"
        )
    if len(files) > 1:
        raise BilinearError(
            f"{table.path}: each of the columns {', '.join(files)} may be the path: name one 'path'"
        )
    confidence = next((columns.index(name) for name in CONFIDENCES if name in columns), None)
    return columns.index(files[0]), [*map(columns.index, box)], confidence, box in CORNERS


def read_cub_boxes(folder: Path) -> BoxSource:
    """Read `bounding_boxes.txt` of a folder in the layout of CUB-200-2011.

    Raises:
        BilinearError: the folder has another layout, or the table has wrong values.
    """
    path = folder / "bounding_boxes.txt"
    photos = {number: file for number, (file,) in _cub_rows(folder / "images.txt", 1)}
    detections: dict[str, list[Detection]] = {file: [] for file in photos.values()}
    for number, values in _cub_rows(path, 4):
        if number in photos:  # otherwise the folder has a part of the photos
            with errors_at(f"{path}, photo {number}"):
                detection = Detection(make_box(values), f"photo {number}")
            detections[photos[number]].append(detection)
    return BoxSource(PIXELS, detections, detections.__getitem__)


def _cub_rows(path: Path, n_values: int) -> list[tuple[str, list[str]]]:
    """Read lines of an id and `n_values` values; the last value may have blanks."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [line.strip().split(maxsplit=n_values) for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BilinearError(
            f"cannot read {path}: {reason_of(error)}. Boxes of CUB-200-2011 need images.txt and "
            "bounding_boxes.txt above the folder images."
        ) from error
    if short := [row for row in rows if len(row) != n_values + 1]:
        raise BilinearError(f"{path}: the line {' '.join(short[0])!r:.80} is too short")
    return [(number, values) for number, *values in rows]


def read_yolo_labels(folder: Path) -> BoxSource:
    """Read a folder of YOLO's text files, whose paths are those of photos but for the suffix.

    A folder `images` in the path of a photo may be `labels` in that of its text file.

    Raises:
        BilinearError: there is no text file. Only text files of photos are read; wrong values of
            one are an error when it is.
    """
    file_of = {}
    for path in sorted(folder.rglob("*.txt")):
        file = path.relative_to(folder).as_posix()
        file_of[_label_name(file)] = path
    if not file_of:
        raise BilinearError(f"there are no boxes in {folder}: it has no text files of YOLO")
    return BoxSource(FRACTIONS, file_of, lambda name: _read_labels(file_of[name]), (), _label_name)


def _label_name(path: str) -> str:
    """Return the path of YOLO's text file for the path of a photo."""
    file = PurePosixPath(path.replace("\\", "/"))
    parts = ["labels" if part == "images" else part for part in file.parts]
    return PurePosixPath(*parts).with_suffix(".txt").as_posix()


def _read_labels(path: Path) -> list[Detection]:
    """Read lines of class, x and y of the centre, width, height, and perhaps a confidence."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BilinearError(f"cannot read {path}: {reason_of(error)}") from error
    rows = [(f"row {i}", line.split()) for i, line in enumerate(lines, 1) if line.strip()]
    detections = []
    for place, (_, *values) in rows:
        with errors_at(f"{path}, {place}"):
            detections.append(Detection(_box_of_label(values), place))
    return detections


def _box_of_label(values: Sequence[str]) -> Box:
    """Return the box of a line without its class, or raise a ValueError."""
    if len(values) not in (4, 5):
        raise ValueError(
            f"it has {len(values) + 1} values, but a box has 5, or 6 with its confidence. "
            "A polygon is no box."
        )
    box = make_box(values[:4], *values[4:])
    validate_fractions(box)
    return box._replace(x=box.x - box.width / 2, y=box.y - box.height / 2)
