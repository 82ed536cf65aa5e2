"""Tests of crops: the rectangle of a box, the choice of boxes, and reduced-size decoding."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.errors import raises

from bilinear_cli.errors import UsageError
from bilinear_cli.photos.boxes.crops import (
    Box,
    Crop,
    choose_boxes,
    crop_draft_size,
    crop_rectangle,
    crop_upright,
    draft_size,
    upright_size,
)


@pytest.mark.parametrize(
    ("box", "unit", "margin", "rectangle"),
    [
        (Box(10, 20, 30, 20), "pixels", 0, (10, 20, 40, 40)),
        (Box(10, 20, 30, 20), "pixels", 0.1, (7, 18, 43, 42)),  # of the box, on each side
        (Box(0.1, 0.4, 0.3, 0.8 / 2), "fractions", 0, (10, 20, 40, 40)),
        (Box(0, 0, 100, 50), "pixels", 0.1, (0, 0, 100, 50)),
        (Box(90, 40, 15, 12), "pixels", 0, (90, 40, 100, 50)),  # it hangs over the border
        (Box(-5, -5, 30, 20), "pixels", 0.2, (0, 0, 31, 19)),
        (Box(99.6, 49.7, 0.3, 0.2), "pixels", 0, (99, 49, 100, 50)),  # at least a pixel
        (Box(10.4, 10.6, 0.1, 0.1), "pixels", 0, (10, 11, 11, 12)),
    ],
)
def test_rectangle(
    box: Box, unit: str, margin: float, rectangle: tuple[int, int, int, int]
) -> None:
    assert crop_rectangle(box, unit, (100, 50), margin) == rectangle


@pytest.mark.parametrize(
    ("box", "unit", "facts"),
    [
        (Box(100, 0, 10, 10), "pixels", ["100 x 50 pixels"]),
        (Box(0, -30, 10, 10), "pixels", ["100 x 50 pixels"]),
        (Box(80, 10, 80, 20), "pixels", ["80, 10, 80, 20", "100 x 50 pixels"]),  # mostly outside
        (Box(0.5, 0.5, 0.9, 0.9), "fractions", ["0.5, 0.5, 0.9, 0.9"]),
        (Box(10, 10, 0, 5), "pixels", ["10, 10, 0, 5"]),
        (Box(10, 10, 5, -5), "pixels", ["10, 10, 5, -5"]),
    ],
)
def test_no_rectangle(box: Box, unit: str, facts: list[str]) -> None:
    with raises(ValueError, *facts):
        crop_rectangle(box, unit, (100, 50), margin=5)


SMALL, LARGE, LARGE_TOO = Box(0, 0, 1, 2, 0.9), Box(0, 0, 3, 3, 0.7), Box(1, 1, 3, 3, 0.9)


@pytest.mark.parametrize(
    ("boxes", "choice", "chosen"),
    [
        ([SMALL, LARGE], "all", (SMALL, LARGE)),
        ([SMALL, LARGE, LARGE_TOO], "largest", (LARGE,)),
        ([LARGE, SMALL], "most-confident", (SMALL,)),
        ([SMALL, LARGE_TOO], "most-confident", (LARGE_TOO,)),
        ([LARGE_TOO, LARGE_TOO._replace(x=2)], "most-confident", (LARGE_TOO,)),
        ([], "largest", ()),
    ],
)
def test_choice(boxes: list[Box], choice: str, chosen: tuple[Box, ...]) -> None:
    assert choose_boxes(boxes, choice) == chosen


def test_unknown_choice() -> None:
    with raises(UsageError, "bigest", "largest"):
        choose_boxes([], "bigest")


@pytest.mark.parametrize(
    ("crop", "min_side", "divisor"),
    [((800, 1000), 100, 8), ((1000, 799), 100, 4), ((200, 900), 100, 2), ((199, 900), 100, 1)],
)
def test_draft(crop: tuple[int, int], min_side: int, divisor: int) -> None:
    buffer = io.BytesIO()
    Image.new("L", (1003, 1501)).save(buffer, "JPEG")
    image = Image.open(buffer)
    image.draft(image.mode, draft_size(image.size, crop, min_side))
    assert image.size == (-(-1003 // divisor), -(-1501 // divisor))


# Pictures -----------------------------------------------------------------------------------

# EXIF orientation -> how an upright picture is stored.
STORED: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
WIDTH, HEIGHT = 403, 299
PATCH = (250, 90, 330, 190)


def opened(orientation: int, suffix: str = "JPEG", **options: Any) -> Image.Image:
    """Return a picture that is blue but for a red patch, as a camera stores it."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "blue")
    picture.paste("red", PATCH)
    method, exif = STORED[orientation], Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored = picture if method is None else picture.transpose(method)
    stored.save(buffer, suffix, exif=exif, **options)
    return Image.open(buffer)


def decode(image: Image.Image, crop: Crop, min_side: int) -> Image.Image:
    stored_size = image.size
    if image.format == "JPEG":
        image.draft(image.mode, crop_draft_size(image, crop, min_side))
    upright = ImageOps.exif_transpose(image)
    return crop_upright(upright, upright_size(image, stored_size), crop)


def red(image: Image.Image) -> np.ndarray:
    """Return where a picture is red, bool (height, width)."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels[..., 0] > pixels[..., 2]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_crop_is_upright(orientation: int, suffix: str) -> None:
    left, top, right, bottom = PATCH
    box = Box(left, top, right - left, bottom - top)
    crop = decode(opened(orientation, suffix), Crop(box, "pixels", 0.5), 1000)
    assert crop.size == (160, 200)
    inside = np.zeros((200, 160), bool)
    inside[50:150, 40:120] = True
    assert (red(crop) != inside).mean() < 0.02  # JPEG blurs edges


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("min_side", "divisor"), [(80, 2), (20, 8)])
@pytest.mark.parametrize("unit", ["pixels", "fractions"])
def test_a_reduced_crop_shows_the_same(
    orientation: int, min_side: int, divisor: int, unit: str
) -> None:
    left, top, right, bottom = PATCH
    scale = (WIDTH, HEIGHT) if unit == "fractions" else (1, 1)
    width, height = right - left, bottom - top
    box = Box(left / scale[0], top / scale[1], width / scale[0], height / scale[1])
    image = opened(orientation, subsampling=0, quality=95)
    crop = decode(image, Crop(box, unit, 0.5), min_side)
    assert abs(np.array(crop.size) - np.array((160, 200)) / divisor).max() <= 1
    rows, columns = np.nonzero(red(crop))
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    expected = np.array([40, 50, 120, 150]) / divisor
    assert abs(edges - expected).max() <= 1.5  # a pixel of the crop, and half of one of the patch


def test_a_small_crop_of_a_large_picture_is_not_reduced() -> None:
    crop = decode(opened(1), Crop(Box(250, 40, 60, 60), "pixels", 0), 31)
    assert crop.size == (60, 60)
