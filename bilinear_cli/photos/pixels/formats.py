"""The bytes of a file -> its picture as an image of Pillow, whatever its suffix."""

import io
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features

from bilinear_cli.photos.boxes.crops import Crop, crop_draft_size
from bilinear_cli.photos.pixels import depth, raw
from bilinear_cli.photos.pixels.contents import describe
from bilinear_cli.photos.pixels.notes import Note

# Pillow's name -> suffixes of photos in a folder. Pillow's other formats are no photos, and some of
# them start programs. HEIF, JXL and camera raw files need other packages; without these, photos
# with such a suffix are refused, and not passed over.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
    "JXL": (".jxl",),
    raw.NAME: raw.SUFFIXES,
}
SEVERAL = Note("it has several pages or frames, and only the first was read")
NOT_FULL = raw.REDUCED | 4  # a mask
MAX_PAGES = 1000  # that are searched for the full picture; in a damaged file, pages never end
PLANES = 284  # tag of TIFF, PlanarConfiguration


class OpenedPhoto(NamedTuple):
    """A picture in a file.

    Attributes:
        image: not yet turned upright; integers of more bits in a mode I.
        size: width and height of the whole picture as it is stored; a JPEG may be decoded smaller.
        notes: what was guessed or left out.
    """

    image: Image.Image
    size: tuple[int, int]
    notes: list[Note]


def open_photo(data: bytes, suffix: str, min_side: int, crop: Crop | None = None) -> OpenedPhoto:
    """Open the picture in a file with this content.

    Args:
        suffix: of the file; it tells camera raw files from TIFF where nothing else does.
        min_side: pixels; a JPEG or camera raw file is decoded smaller, but no smaller than this.
        crop: the part of the picture that will be taken, to which `min_side` refers.

    Raises:
        ValueError: it is no photo, or its reader is not installed; the message says what it is.
        Exception: nearly any, of a damaged file.
    """
    if raw.is_raw(data, suffix):
        return OpenedPhoto(*raw.develop(data, None if crop else min_side), [])
    try:
        image = _open(data)
    except UnidentifiedImageError as error:
        raise ValueError(describe(data, readable_formats())) from error
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        notes = _seek_full_page(image)
    else:
        notes = [SEVERAL] * _has_more_frames(image)
    size = image.size
    if image.format in ("JPEG", "MPO"):  # of HEIF, this might be a thumbnail
        smallest = crop_draft_size(image, crop, min_side) if crop else (min_side, min_side)
        image.draft(image.mode, smallest)
    if ";16" in depth.raw_mode(image):
        scaled, more = _sixteen_bits(image, data)
        return OpenedPhoto(scaled, size, notes + more)
    return OpenedPhoto(image, size, notes)


def _open(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=readable_formats())


@cache
def readable_formats() -> list[str]:
    """Return Pillow's names of the formats that can be read here."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    names = [name for name in FORMATS if name in Image.OPEN]
    return [name for name in names if name != "AVIF" or features.check("avif")]


def _has_more_frames(image: ImageFile.ImageFile) -> bool:
    if image.format == "MPO":  # other versions of the photo
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # the second frame of a GIF is damaged; the first one can still be read
        return True


# Values of 16 bits -----------------------------------------------------------------------


def _sixteen_bits(image: ImageFile.ImageFile, data: bytes) -> tuple[Image.Image, list[Note]]:
    """Return the image, with its colours in eight bits if these would be nearly black."""
    if image.format == "PNG":
        image.info[depth.SIGNIFICANT_BITS] = _significant_bits(data)
    mode, page = depth.raw_mode(image), image.tell()
    if image.mode not in ("RGB", "RGBA"):
        return image, []
    if mode.startswith("RGBa") or not depth.is_below_quarter(image):
        return image, depth.dark_note(np.asarray(image)[..., :3], 255)
    again = _open(data)
    again.seek(page)
    again.info |= image.info
    return depth.scale_colours(image, again)


def _significant_bits(data: bytes) -> int:
    """Return the bits that a PNG declares in its chunk sBIT, or 0."""
    head = data[: data.find(b"IDAT")]
    start = head.find(b"sBIT")
    return head[start + 4] if start > 0 else 0


# TIFF ------------------------------------------------------------------------------------


def _seek_full_page(image: TiffImagePlugin.TiffImageFile) -> list[Note]:
    """Seek the first full page, or the largest one if a thumbnail stands first.

    Raises:
        ValueError: there is none, or Pillow would read it wrongly.
    """
    thumbnail_first = not _is_full(image)
    pages = _full_pages(image)
    if thumbnail_first:
        sizes = {page: width * height for page, (width, height) in pages}
        if not sizes:
            raise ValueError(
                "it holds a thumbnail first, and no full picture that can be read. Save the "
                "picture as JPEG or PNG"
            )
        image.seek(max(sizes, key=lambda page: sizes[page]))
        several = len(sizes) > 1
    else:
        several = next(pages, None) is not None
        image.seek(0)
    is_deep = max(image.tag_v2.get(depth.BITS_PER_SAMPLE, (8,))) > 8
    if image.tag_v2.get(PLANES) == 2 and is_deep and image.tile[0].codec_name == "raw":
        raise ValueError("its 16-bit colours are in separate planes. Save it as PNG")
    return [SEVERAL] * several


def _full_pages(image: TiffImagePlugin.TiffImageFile) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the full pages after the first one, and their sizes, without those of other pixels."""
    for page in range(1, MAX_PAGES):
        try:
            image.seek(page)
        except EOFError:
            return
        except Exception:  # it is damaged, or its pixels are of a kind that Pillow cannot read
            continue
        if _is_full(image):
            yield page, image.size


def _is_full(image: TiffImagePlugin.TiffImageFile) -> bool:
    return not image.tag_v2.get(raw.NEW_SUBFILE_TYPE, 0) & NOT_FULL
