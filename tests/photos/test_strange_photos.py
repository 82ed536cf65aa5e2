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
from bilinear_cli.photos.images import read_photo

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(PIXELS)


def broken_exif() -> bytes:
    """Return a JPEG whose EXIF block is noise."""
    noise = b"Exif\0\0II*\0" + bytes(range(200))
    return encoded(rgb(), "JPEG", exif=noise)


def rotated_by_nonsense() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 77
    return encoded(rgb(), "JPEG", exif=exif)


def with_profile(profile: bytes) -> bytes:
    return encoded(rgb(), "JPEG", icc_profile=profile)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def bomb() -> bytes:
    """Return a PNG of few bytes that says it has 40,000 x 40,000 pixels."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


# In the order of the table.
STRANGE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(rgb(), "JPEG"),
    "progressive JPEG": lambda: encoded(rgb(), "JPEG", progressive=True),
    "grey JPEG": lambda: encoded(rgb().convert("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(rgb().convert("CMYK"), "JPEG"),
    "JPEG of 12 megapixels": lambda: encoded(rgb().resize((4000, 3000)), "JPEG"),
    "JPEG, EXIF that is noise": broken_exif,
    "JPEG, rotated by 77": rotated_by_nonsense,
    "JPEG, colour profile": lambda: with_profile(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ),
    "JPEG, colour profile that is noise": lambda: with_profile(bytes(range(256))),
    "JPEG, cut off": lambda: cut_off(encoded(rgb(), "JPEG")),
    "PNG of 1 bit": lambda: encoded(rgb().convert("1"), "PNG"),
    "PNG of 16 bits": lambda: encoded(
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"
    ),
    "PNG with transparency": lambda: encoded(rgb().convert("RGBA"), "PNG"),
    "PNG, cut off": lambda: cut_off(encoded(rgb(), "PNG")),
    "PNG of 1 x 1 pixels": lambda: encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "PNG of 30,000 x 1 pixels": lambda: encoded(Image.new("RGB", (30_000, 1), "red"), "PNG"),
    "PNG that says it has 40,000 x 40,000 pixels": bomb,
    "animated GIF": lambda: animation("GIF"),
    "animated WebP": lambda: animation("WEBP"),
    "TIFF of floating-point numbers": lambda: encoded(
        Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"
    ),
    "PostScript": lambda: encoded(rgb(), "EPS"),
    "MPO, as phones make it": lambda: encoded(rgb(), "MPO", save_all=True, append_images=[rgb()]),
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
    assert outcomes[: len(STRANGE)] == [
        "refused" if name in REFUSED else "read" for name in STRANGE
    ]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as a command ignores it
@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.slow
def test_strange_photos_are_read_or_refused_whatever_their_suffix(
    name: str, tmp_path: Path
) -> None:
    data = STRANGE[name]()
    for suffix, resize in product((".jpg", ".png"), ("squash", "crop", "pad")):
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
    blurred = rgb().convert(mode).resize(size, Image.Resampling.BICUBIC)
    (tmp_path / "x.jpg").write_bytes(encoded(blurred, "JPEG", quality=95))
    (reduced,) = read_photo(tmp_path / "x.jpg", [64])
    monkeypatch.setattr("bilinear_cli.photos.images.REDUCED", 10_000)
    (full,) = read_photo(tmp_path / "x.jpg", [64])
    with Image.open(tmp_path / "x.jpg") as image:
        filtered = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.HAMMING))
    changes = [np.sqrt(np.square(x.astype(float) - full).mean()) for x in (reduced, filtered)]
    assert 0 < changes[0] < changes[1] / 2


def test_a_photo_in_two_sizes_is_decoded_for_the_larger(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(rgb().resize((2000, 2000)), "JPEG"))
    large, small = read_photo(path, [448, 32])
    assert (large.shape, small.shape) == ((448, 448, 3), (32, 32, 3))
    (alone,) = read_photo(path, [448])
    np.testing.assert_array_equal(large, alone)
