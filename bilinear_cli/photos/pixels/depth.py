"""Integers of more than eight bits -> eight bits: as the file declares them, or as it uses them.

Many programs store the 10, 12 or 14 bits of a sensor in 16 bits and declare nothing. Such a photo
would be nearly black. If its largest value is below a quarter of the range, it is scaled by the
next even number of bits instead, and a note says so.
"""

import sys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from bilinear_cli.photos.pixels.notes import Note

# Tags of TIFF
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
MAX_SAMPLE_VALUES = (281, 341)  # MaxSampleValue and SMaxSampleValue
SIGNIFICANT_BITS = "significant bits"  # in the info of an image; of the chunk sBIT of PNG
QUARTER = 64  # of the range of a high byte
DARK = Note(
    "9 of 10 of its values are below a sixteenth of white, which is nearly black. If only "
    "a caption or bad pixels are bright, save it with 8 bits"
)


class Depth(NamedTuple):
    """What a file declares of its values.

    Attributes:
        bits: of a stored value.
        white: the largest value that the file declares, or None.
        is_unsigned: values of 32 bits without a sign, which Pillow reads with one.
        white_is_zero: 0 is white.
    """

    bits: int = 16
    white: int | None = None
    is_unsigned: bool = False
    white_is_zero: bool = False


def declared_depth(image: Image.Image) -> Depth:
    """Return what an image of Pillow declares of its values, before it is loaded or turned."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        bits = image.info.get(SIGNIFICANT_BITS)
        return Depth(white=2**bits - 1 if bits else None)
    bits = max(tags.get(BITS_PER_SAMPLE, (16,)))
    values = [int(np.max(tags[tag])) for tag in MAX_SAMPLE_VALUES if tag in tags]
    # other values are the largest one of this photo, and not that of the camera
    white = next((x for x in values if x > 0 and (x + 1).bit_count() == 1), None)
    is_unsigned = bits == 32 and tags.get(SAMPLE_FORMAT, (1,))[0] == 1
    return Depth(bits, white, is_unsigned, image.mode == "I;16" and tags.get(PHOTOMETRIC) == 0)


def scale_grey(image: Image.Image, depth: Depth) -> tuple[Image.Image, list[Note]]:
    """Return a grey image of integers (the modes I) in eight bits, and what was guessed."""
    values = np.asarray(image)
    if depth.is_unsigned:
        values = values.view(np.uint32)
    white, notes = _white(values, depth)
    if (smallest := int(values.min())) < 0:
        notes.append(Note("its negative values were read as black", f"the smallest is {smallest}"))
    eight = _scale(values, white)
    grey = Image.fromarray(255 - eight if depth.white_is_zero else eight)
    grey.info |= {name: image.info[name] for name in ("icc_profile",) if name in image.info}
    return grey, notes


def raw_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name of the stored values of an image that is not loaded, such as RGB;16B."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def is_below_quarter(image: Image.Image) -> bool:
    """Return whether all colours of 16 bits, of which Pillow keeps the high byte, are dark."""
    return bool(np.asarray(image)[..., :3].max() < QUARTER)


def dark_note(values: np.ndarray, white: int) -> list[Note]:
    """Return a note if nearly all values are close to black."""
    return [DARK] * bool(np.count_nonzero(values > white // 16) < values.size // 10)


def scale_colours(image: Image.Image, again: ImageFile.ImageFile) -> tuple[Image.Image, list[Note]]:
    """Return colours of 16 bits, all of them dark, in eight bits, and what was guessed.

    Args:
        image: RGB or RGBA, loaded; Pillow has dropped the low bytes.
        again: the same image, not loaded.
    """
    depth = declared_depth(again)
    values = _all_bits(image, again)
    colours, alpha = values[..., :3], values[..., 3:]
    white, notes = _white(colours, depth)
    parts = [
        _scale(colours, white),
        _scale(alpha, white if alpha.max(initial=0) <= white else 65535),
    ]
    scaled = Image.fromarray(np.concatenate(parts, axis=2))
    scaled.info |= image.info
    return scaled, notes


def _all_bits(image: Image.Image, again: ImageFile.ImageFile) -> np.ndarray:
    """Return values of 16 bits, uint16 (height, width, channels).

    Pillow keeps the high byte of each value. With the other byte order, it keeps the low byte.
    """
    mode = raw_mode(again)
    order = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[mode[-1]]
    is_grey = mode.startswith("LA")  # which Pillow has in one order only; all bytes fit into RGBA
    other = "RGBA" if is_grey else mode[:-1] + order
    again.tile = [
        x._replace(args=(other, *x.args[1:]) if isinstance(x.args, tuple) else other)
        for x in again.tile
    ]
    low = np.asarray(again).astype(np.uint16)
    if is_grey:
        pairs = low[..., ::2] * 256 + low[..., 1::2]
        return pairs[..., [0, 0, 0, 1]]
    return np.asarray(image) * np.uint16(256) + low


def _white(values: np.ndarray, depth: Depth) -> tuple[int, list[Note]]:
    """Return the value of white, and a note if it is not the one that the file declares."""
    largest = int(values.max())
    if depth.white and largest <= depth.white:
        return depth.white, []
    bits = max(8, largest.bit_length())
    bits += bits % 2
    if largest <= 0 or bits == depth.bits:
        white = 2**depth.bits - 1
        return white, dark_note(values, white)
    reason = f"its {depth.bits}-bit values were scaled as {bits}-bit values"
    return 2**bits - 1, [Note(reason, f"the largest is {largest}")]


def _scale(values: np.ndarray, white: int) -> np.ndarray:
    """Return values from 0 to `white` as uint8."""
    return (values.clip(0, white).astype(np.int64) * 255 // white).astype(np.uint8)
