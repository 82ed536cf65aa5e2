"""A photo set -> the same set, with an entry for each box of its photos."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate
from bilinear_cli.photos.boxes.boxes import read_boxes
from bilinear_cli.photos.boxes.crops import Box, Crop, choose_boxes, make_crop
from bilinear_cli.photos.boxes.options import BoxOptions
from bilinear_cli.photos.photo_set import PhotoSet, entry_key
from bilinear_cli.recipe import CropOptions

log = logging.getLogger(__name__)


class CroppedSet(NamedTuple):
    """A photo set with boxes, and what a recipe says of them."""

    photo_set: PhotoSet
    crop: CropOptions
    boxes_sha256: str


class MatchedBoxes(NamedTuple):
    """The index of the photo of each entry, and its box in `unit`; zeros for a whole photo."""

    unit: str
    indices: list[int]
    boxes: list[Box]


def crop_photo_set(photo_set: PhotoSet, options: BoxOptions) -> CroppedSet:
    """Return a set with an entry for each box that the options take; log what has no box.

    Raises:
        BilinearError: see `match_boxes`.
    """
    root, paths = photo_set.root, photo_set.paths.tolist()
    unit, indices, boxes = match_boxes(options, paths, root)
    box = np.array([values[:4] for values in boxes], np.float64)
    cropped = replace(photo_set.take(np.array(indices)), box=box)
    crop = CropOptions(options.box, options.margin, unit)
    return CroppedSet(cropped, crop, _sha256(cropped))


def crops_of_photos(photo_set: PhotoSet, options: CropOptions | None) -> list[list[Crop]]:
    """Return the crops of each photo, in order; an empty list for a whole photo."""
    crops: list[list[Crop]] = [[] for _ in range(int(photo_set.photo.max()) + 1)]
    if photo_set.box is not None:
        for i, box in zip(photo_set.photo.tolist(), photo_set.box, strict=True):
            crop = make_crop(box, options)
            crops[i] += [crop] if crop else []
    return crops


def match_boxes(options: BoxOptions, paths: Sequence[str], root: Path) -> MatchedBoxes:
    """Read the boxes of photos, and return an entry for each box that the options take.

    Raises:
        BilinearError: see `read_boxes`; or photos have no box and the options say `stop`, or no
            photo is left.
    """
    photo_boxes = read_boxes(options.source, paths, root, min_confidence=options.min_confidence)
    without = [path for path, boxes in zip(paths, photo_boxes.boxes, strict=True) if not boxes]
    if without and options.no_box == "stop":
        raise BilinearError(
            f"photos without a box in {options.source} ({len(without)}): {abbreviate(without)}. "
            "Use --no-box whole or skip."
        )
    if without:
        what = "left out" if options.no_box == "skip" else "not cropped"
        message = "photos without a box, which are %s (%d): %s"
        log.warning(message, what, len(without), abbreviate(without))
    entries: list[tuple[int, Box]] = []
    for i, boxes in enumerate(photo_boxes.boxes):
        uncropped = () if boxes or options.no_box == "skip" else (Box(0, 0, 0, 0),)
        chosen = choose_boxes(boxes, options.box) or uncropped
        # the same box twice in a source is one box
        entries += [(i, box) for box in {entry_key("", box[:4]): box for box in chosen}.values()]
    if not entries:
        where = "" if root == Path() else f" in {root}"
        raise BilinearError(f"no photo{where} has a box in {options.source}")
    return MatchedBoxes(photo_boxes.unit, [i for i, _ in entries], [box for _, box in entries])


def _sha256(photo_set: PhotoSet) -> str:
    """Return a digest of the boxes of all photos."""
    return hashlib.sha256("\n".join(photo_set.keys.tolist()).encode()).hexdigest()
