"""A source of boxes -> the boxes of each photo: which entry belongs to which photo."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.boxes.crops import FRACTIONS, Box, validate_box
from bilinear_cli.photos.boxes.json_files import read_json
from bilinear_cli.photos.boxes.matching import match_paths
from bilinear_cli.photos.boxes.source import BoxSource, errors_at
from bilinear_cli.photos.boxes.tables import read_cub_boxes, read_table_of_boxes, read_yolo_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoBoxes:
    """The boxes of photos."""

    unit: str  # `pixels`, or `fractions` of a picture's width and height
    boxes: list[tuple[Box, ...]]  # of each photo, in the order of the source; empty without a box


def read_boxes(
    source: str, paths: Sequence[str], root: Path, *, min_confidence: float = 0.2
) -> PhotoBoxes:
    """Read the boxes of photos, and log how many there are.

    Args:
        source: `cub` (or a path to its bounding_boxes.txt), a CSV file, a JSON file of MegaDetector
            or COCO, or a folder of YOLO's text files.
        paths: the photos, relative to `root`, or absolute.
        root: the folder of the photos.
        min_confidence: boxes of which a detector is less sure are left out.

    Raises:
        BilinearError: the source cannot be read, has wrong values, or has boxes of other photos;
            or it is ambiguous which photo it means.
    """
    content = _read_source(source, root)
    entry_of = match_paths(source, content.files, paths, root, content.file_name)
    entries = dict.fromkeys(entry_of.values())
    left_out: Counter[str] = Counter()
    boxes_of = {
        entry: _taken_boxes(source, content, entry, min_confidence, left_out) for entry in entries
    }
    boxes = [boxes_of[entry_of[path]] if path in entry_of else () for path in paths]
    log.info("%s", _summary(content, boxes, entries, left_out))
    return PhotoBoxes(content.unit, boxes)


def _taken_boxes(
    source: str, content: BoxSource, entry: str, min_confidence: float, left_out: Counter[str]
) -> tuple[Box, ...]:
    """Return the boxes of an entry, and count the others by the reason."""
    boxes = []
    for box, place, exclusion in content.detections(entry):
        if box.confidence < min_confidence:
            left_out[f"below confidence {min_confidence:g}"] += 1
        elif exclusion:
            left_out[exclusion] += 1
        else:
            with errors_at(f"{source}, {entry}, {place}"):
                _validate(box, content)
            boxes.append(box)
    return tuple(boxes)


def _validate(box: Box, content: BoxSource) -> None:
    """Raise a ValueError for what is wrong in any picture."""
    if content.unit == FRACTIONS:
        validate_box(box, (1, 1), FRACTIONS)
    elif min(box.width, box.height) < 1:
        advice = "Both have to be above 0."
        if min(box.width, box.height) > 0:
            but = f", but {content.evidence}" if content.evidence else ""
            advice = f"If boxes are fractions, all their values have to be within 0 to 1{but}."
        raise ValueError(f"the box is {box.width:g} x {box.height:g} pixels. {advice}")


def _summary(
    content: BoxSource,
    boxes: Sequence[tuple[Box, ...]],
    entries: Collection[str],
    left_out: Counter[str],
) -> str:
    """Return a line that tells how many boxes there are."""
    with_boxes, n_others = sum(map(bool, boxes)), len(content.files) - len(entries)
    facts = [
        f"boxes: {with_boxes:,} of {len(boxes):,} photos have one or more "
        f"(in all {sum(map(len, boxes)):,}, in {content.unit})"
    ]
    if left_out:
        counts = [f"{n:,} {reason}" for reason, n in sorted(left_out.items())]
        facts.append(f"boxes left out: {', '.join(counts)}")
    if n_failures := len({*content.failures} & {*entries}):
        facts.append(f"the detector failed for {n_failures:,}")
    if n_others:
        facts.append(f"entries of other photos: {n_others:,}")
    return "; ".join(facts)


def _read_source(source: str, root: Path) -> BoxSource:
    """Read a source of any format."""
    path = Path(source)
    if source == "cub":
        return read_cub_boxes(root.parent)
    if path.name == "bounding_boxes.txt":
        return read_cub_boxes(path.parent)
    if (path / "bounding_boxes.txt").is_file():
        return read_cub_boxes(path)
    if path.is_dir():
        return read_yolo_labels(path)
    if path.suffix.lower() == ".json":
        return read_json(path)
    if path.is_file():
        return read_table_of_boxes(path)
    raise BilinearError(
        f"there are no boxes at {source!r}: give 'cub', a CSV or JSON file, or a folder of YOLO's "
        "text files"
    )
