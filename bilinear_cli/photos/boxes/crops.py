"""Boxes around animals, and the part of a picture that is cropped to a box.

All boxes and rectangles are of the upright picture: the one that a person sees, after the camera's
rotation (EXIF) has been applied.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from bilinear_cli.photos.boxes.options import CHOICES
from bilinear_cli.recipe import CropOptions
from bilinear_cli.validation import validate_choice

PIXELS, FRACTIONS = "pixels", "fractions"  # the units of boxes
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# Boxes may reach over the border of a picture. In a subset of CUB-200-2011, 30 of 1,185 do, with at
# least 0.76 of their area inside.
MIN_INSIDE = 0.5


class Box(NamedTuple):
    """A box in pixels, or in fractions of the width and the height of the picture."""

    x: float  # of its left upper corner, from the left upper corner of the picture
    y: float
    width: float
    height: float
    confidence: float = 1.0

    @property
    def area(self) -> float:
        """Return width times height."""
        return self.width * self.height


class Crop(NamedTuple):
    """What is cropped from a picture: a box in `unit`, and a margin, see `crop_rectangle`."""

    box: Box
    unit: str
    margin: float

    def rectangle(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return `crop_rectangle` of a picture of this width and height in pixels."""
        return crop_rectangle(self.box, self.unit, size, self.margin)


class CroppedPhoto(NamedTuple):
    """A photo, and the part of it that is meant; None for the whole photo."""

    photo: Any
    crop: Crop | None


def make_crop(box: np.ndarray, options: CropOptions | None) -> Crop | None:
    """Return the crop of a box (4,) of a feature file; None for zeros, which are a whole photo."""
    if options is None or not box.any():
        return None
    return Crop(Box(*map(float, box)), options.unit, options.margin)


def choose_boxes(boxes: Sequence[Box], choice: str) -> tuple[Box, ...]:
    """Return the boxes of a photo that a choice of `CHOICES` takes.

    Of equally large boxes the first is taken; of equally confident ones the largest, or the first
    of the largest.

    Raises:
        UsageError: the choice is unknown.
    """
    validate_choice("choice of boxes", choice, CHOICES)
    if choice == "all" or not boxes:
        return tuple(boxes)
    if choice == "largest":
        return (max(boxes, key=lambda box: box.area),)
    return (max(boxes, key=lambda box: (box.confidence, box.area)),)


def validate_box(box: Box, size: tuple[float, float], unit: str) -> None:
    """Raise a ValueError if a box is empty, or if less than half of it is in the picture.

    `size` is the picture's width and height in `unit`: (1, 1) for fractions.
    """
    inside = _overlap(box.x, box.width, size[0]) * _overlap(box.y, box.height, size[1])
    if box.width > 0 and box.height > 0 and inside >= MIN_INSIDE * box.area:
        return
    text = f"the box {', '.join(f'{value:.6g}' for value in box[:4])} (x, y, width, height)"
    if box.width <= 0 or box.height <= 0:
        raise ValueError(f"{text} has no area")
    frame = f"{size[0]} x {size[1]} pixels" if unit == PIXELS else "width 1 and height 1"
    raise ValueError(
        f"{text} lies outside the picture of {frame}. Boxes have to be of the upright photo in "
        "its present size."
    )


def _overlap(start: float, length: float, end: float) -> float:
    """Return how much of a length that begins at `start` is within 0 to `end`."""
    return max(0, min(start + length, end) - max(start, 0))


def crop_rectangle(
    box: Box, unit: str, size: tuple[int, int], margin: float
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of a picture that a box and a margin take.

    Each side of the box moves outwards by `margin` times its width or height, and to the nearest
    pixel. What is outside the picture is cut off. The rectangle has at least one pixel.

    Args:
        box: a box in `unit`.
        unit: `pixels` or `fractions`.
        size: width and height of the picture in pixels.
        margin: at least 0.

    Raises:
        ValueError: the box is empty, or less than half of it is in the picture.
    """
    frame = (1, 1) if unit == FRACTIONS else size
    validate_box(box, frame, unit)
    edges = []
    for start, length, extent, n_pixels in zip(box[:2], box[2:4], frame, size, strict=True):
        scale = n_pixels / extent
        first = min(max(round((start - margin * length) * scale), 0), n_pixels - 1)
        last = min(round((start + length + margin * length) * scale), n_pixels)
        edges.append((first, max(last, first + 1)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def draft_size(frame: tuple[int, int], crop: tuple[int, int], min_side: int) -> tuple[int, int]:
    """Return the size to request from Pillow's `draft`, so that a crop keeps enough pixels.

    A JPEG is decoded at a half, a quarter or an eighth of its size, or in full. The shorter side
    of the crop keeps at least `min_side` pixels, but for rounding, unless it had fewer.

    Args:
        frame: width and height of the picture as it is stored, which may be sideways.
        crop: width and height of the crop, upright or sideways, at the full size.
        min_side: in pixels.
    """
    divisor = next((n for n in (8, 4, 2) if min(crop) >= n * min_side), 1)
    return frame[0] // divisor, frame[1] // divisor


def upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and the height, stored as `size`, of a picture as a person sees it."""
    sideways = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
    return size[::-1] if sideways else size


def crop_draft_size(image: Image.Image, crop: Crop, min_side: int) -> tuple[int, int]:
    """Return `draft_size` for a crop of an opened picture that is not loaded yet.

    Raises:
        ValueError: see `crop_rectangle`.
    """
    left, top, right, bottom = crop.rectangle(upright_size(image, image.size))
    return draft_size(image.size, (right - left, bottom - top), min_side)


def crop_upright(image: Image.Image, size: tuple[int, int], crop: Crop) -> Image.Image:
    """Return the part of an upright picture that a crop takes.

    Args:
        image: perhaps decoded smaller than its full size.
        size: its full width and height, whose pixels the box may count.

    Raises:
        ValueError: see `crop_rectangle`.
    """
    left, top, right, bottom = crop.rectangle(size)
    x_scale, y_scale = image.width / size[0], image.height / size[1]
    edges = left * x_scale, top * y_scale, right * x_scale, bottom * y_scale
    return image.crop((round(edges[0]), round(edges[1]), round(edges[2]), round(edges[3])))
