"""Tests of strange photos: each kind is read or refused as the table in docs/faults.md says."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.errors import raises

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.photos.pixels.images import read_photo

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
GREY_16 = np.asarray(RGB)[..., 0].astype(np.uint16) * 257
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RESIZES = ("squash", "crop", "pad", "processor: shortest 40, crop 32, bicubic")
ROTATED = Image.Exif()
ROTATED[0x0112] = 77


def encoded(kind: str, image: Image.Image = RGB, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def cut_off(kind: str) -> bytes:
    data = encoded(kind)
    return data[: len(data) // 2]


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    return encoded(kind, frames[0], save_all=True, append_images=frames[1:])


def bomb() -> bytes:
    """Return a PNG of few bytes that says it has 40,000 x 40,000 pixels."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


# In the order of the table.
STRANGE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded("JPEG"),
    "progressive JPEG": lambda: encoded("JPEG", progressive=True),
    "grey JPEG": lambda: encoded("JPEG", RGB.convert("L")),
    "CMYK JPEG": lambda: encoded("JPEG", RGB.convert("CMYK")),
    "JPEG of 12 megapixels": lambda: encoded("JPEG", RGB.resize((4000, 3000))),
    "JPEG, EXIF that is noise": lambda: encoded("JPEG", exif=b"Exif\0\0II*\0" + bytes(range(200))),
    "JPEG, rotated by 77": lambda: encoded("JPEG", exif=ROTATED),
    "JPEG, colour profile": lambda: encoded("JPEG", icc_profile=SRGB),
    "JPEG, colour profile that is noise": lambda: encoded("JPEG", icc_profile=bytes(range(256))),
    "JPEG, cut off": lambda: cut_off("JPEG"),
    "PNG of 1 bit": lambda: encoded("PNG", RGB.convert("1")),
    "PNG of 16 bits": lambda: encoded("PNG", Image.fromarray(GREY_16)),
    "PNG with transparency": lambda: encoded("PNG", RGB.convert("RGBA")),
    "PNG, cut off": lambda: cut_off("PNG"),
    "PNG of 1 x 1 pixels": lambda: encoded("PNG", Image.new("RGB", (1, 1), "red")),
    "PNG of 30,000 x 1 pixels": lambda: encoded("PNG", Image.new("RGB", (30_000, 1), "red")),
    "PNG that says it has 40,000 x 40,000 pixels": bomb,
    "animated GIF": lambda: animation("GIF"),
    "animated WebP": lambda: animation("WEBP"),
    "TIFF of floating-point numbers": lambda: encoded("TIFF", RGB.convert("L").convert("F")),
    "PostScript": lambda: encoded("EPS"),
    "MPO, as phones make it": lambda: encoded("MPO", save_all=True, append_images=[RGB]),
    "file of no bytes": lambda: b"",
    "text": lambda: b"this is no photo",
    "video": lambda: b"\0\0\0\x20ftypisom" + bytes(500),
}


REFUSED = [
    "JPEG, cut off",
    "PNG, cut off",
    "PNG that says it has 40,000 x 40,000 pixels",
    "TIFF of floating-point numbers",
    "PostScript",
    "file of no bytes",
    "text",
    "video",
]


def test_the_table_lists_every_kind_in_this_order_with_what_happens() -> None:
    outcomes = re.findall(r"^\| [^|]+ \| (read|refused)\b[^|]*\|$", TABLE.read_text("utf-8"), re.M)
    expected = ["refused" if name in REFUSED else "read" for name in STRANGE]
    assert outcomes[: len(STRANGE)] == expected


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as a command ignores it
@pytest.mark.parametrize("name", STRANGE)
def test_strange_photos_are_read_or_refused_whatever_their_suffix(
    name: str, tmp_path: Path
) -> None:
    data = STRANGE[name]()
    for suffix, resize in product((".jpg", ".png"), RESIZES):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        if name in REFUSED:
            with raises(BadPhotoError, path):
                read_photo(path, [32], resize)
        else:
            (photo,) = read_photo(path, [32], resize)
            assert (photo.shape, photo.dtype) == ((32, 32, 3), np.uint8)
            assert photo.any() or (resize == "pad" and "x 1 pixels" in name)  # a line of no height


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1000, 1500), (4000, 300), (600, 9000)])
@pytest.mark.slow
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(
    size: tuple[int, int], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jpg"
    RGB.convert(mode).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    (reduced,) = read_photo(path, [64])
    monkeypatch.setattr("bilinear_cli.photos.pixels.images.MIN_DECODED_RATIO", 10_000)
    (full,) = read_photo(path, [64])
    with Image.open(path) as image:
        filtered = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.HAMMING))
    changes = [np.sqrt(np.square(x.astype(float) - full).mean()) for x in (reduced, filtered)]
    assert 0 < changes[0] < changes[1] / 2


def test_a_photo_in_two_sizes_is_decoded_for_the_larger(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    RGB.resize((2000, 2000)).save(path)
    large, small = read_photo(path, [448, 32])
    assert (large.shape, small.shape) == ((448, 448, 3), (32, 32, 3))
    (alone,) = read_photo(path, [448])
    np.testing.assert_array_equal(large, alone)
