"""Tests of integers of more than eight bits: scaled as declared, or by a guess that is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.picture_files import deep_png, encoded, tiff

from bilinear_cli.photos.pixels import depth
from bilinear_cli.photos.pixels.images import DecodedPhoto, decode_photo, read_any

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
OPAQUE = np.full((8, 8), 65535)


def decode(data: bytes) -> DecodedPhoto:
    return decode_photo(data, Path("x.png"), [8])


def ramp(bits: int, dtype: Any = np.uint16) -> np.ndarray:
    """Return whole numbers of these bits that are `RAMP` in eight bits."""
    return np.ceil(RAMP * ((2**bits - 1) / 255)).astype(dtype)


def assert_ramp(photo: DecodedPhoto, bits: int | None = None, largest: int | None = None) -> None:
    """Check the pixels, and the note of these bits or that there is none."""
    assert np.abs(photo.pixels[0].astype(int) - RAMP[..., None]).max() <= 1
    assert len(photo.notes) == (bits is not None)
    for note in photo.notes:
        assert f"{bits}-bit" in note.reason
        assert str(largest or 2**bits - 1) in note.detail


def colours(grey: np.ndarray) -> np.ndarray:
    return np.dstack([grey] * 3)


WRITERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "grey PNG": deep_png,
    "grey PNG with transparency": lambda x: deep_png(np.dstack([x, OPAQUE])),
    "PNG": lambda x: deep_png(colours(x)),
    "PNG with transparency": lambda x: deep_png(np.dstack([x, x, x, OPAQUE])),
    "grey TIFF": tiff,
    "TIFF": lambda x: tiff(colours(x)),
    "TIFF, big endian": lambda x: tiff(colours(x), byte_order=">"),
    "grey TIFF, LZW": lambda x: encoded("TIFF", Image.fromarray(x), compression="tiff_lzw"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bits_that_are_not_all_used(write: Callable[[np.ndarray], bytes], bits: int) -> None:
    assert_ramp(decode(write(ramp(bits))), None if bits == 16 else bits)


def test_the_bits_that_are_used_are_even_and_at_least_eight() -> None:
    assert "10-bit" in decode(deep_png(np.full((8, 8), 256))).notes[0].reason
    assert "8-bit" in decode(deep_png(np.full((8, 8), 3))).notes[0].reason
    assert not decode(deep_png(np.full((8, 8), 16384))).notes


@pytest.mark.parametrize("write", [deep_png, lambda x: deep_png(colours(x))])
def test_a_bright_pixel_in_12_bits_of_16_is_said(write: Callable[[np.ndarray], bytes]) -> None:
    values = ramp(12)
    values[0, 0] = 65535
    assert decode(write(values)).notes == [depth.DARK]


DARK = ramp(12) // 8  # 12 bits, underexposed


def test_transparency_of_all_bits_beside_colours_of_fewer() -> None:
    grey, alpha = np.full((8, 8), 1000), np.full((8, 8), 32768)
    photo = decode(deep_png(np.dstack([grey, alpha])))
    on_white = 255 - (255 - 1000 * 255 / 1023) / 2
    assert np.abs(photo.pixels[0] - on_white).max() < 2


DECLARED = {
    "MaxSampleValue": tiff(DARK, {281: (3, [4095])}),
    "SMaxSampleValue": tiff(DARK, {341: (3, [4095])}, ">"),
    "MaxSampleValue of colours": tiff(colours(DARK), {281: (3, [4095] * 3)}),
    "sBIT": deep_png(DARK, (b"sBIT", b"\x0c")),
    "sBIT of colours": deep_png(colours(DARK), (b"sBIT", b"\x0c\x0c\x0c")),
}


@pytest.mark.parametrize("data", DECLARED.values(), ids=DECLARED)
def test_declared_bits_keep_a_dark_photo_dark(data: bytes) -> None:
    photo = decode(data)
    assert np.abs(photo.pixels[0].astype(int) - RAMP[..., None] // 8).max() <= 1
    assert not photo.notes


@pytest.mark.parametrize("write", [tiff, deep_png])
def test_a_declaration_that_the_values_exceed_is_ignored(write: Callable[..., bytes]) -> None:
    declared: Any = {281: (3, [4095])} if write is tiff else (b"sBIT", b"\x0c")
    assert_ramp(decode(write(ramp(16), declared)))  # sBIT: scaled to 16 bits, as PNG demands


def test_the_largest_value_of_one_photo_is_no_declaration_of_bits() -> None:
    values = ramp(12).clip(0, 4001)
    (note,) = decode(tiff(values, {281: (3, [4001])})).notes
    assert "12-bit" in note.reason


def test_a_tiff_of_12_bits() -> None:
    values = ramp(12).reshape(-1, 2).astype(np.uint32)
    packed = values[:, 0] << 12 | values[:, 1]  # two values in three bytes
    data = packed.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].reshape(8, 12)
    assert_ramp(decode(tiff(np.ascontiguousarray(data), {256: (4, [8]), 258: (3, [12])})))


@pytest.mark.parametrize("bits", [8, 12, 16, 20, 24, 32])
def test_32_bits(bits: int) -> None:
    assert_ramp(decode(tiff(ramp(bits, np.uint32))), None if bits == 32 else bits)


def test_negative_values_are_said() -> None:
    photo = decode(tiff(ramp(14).astype(np.int16) - 5, {339: (3, [2])}))
    assert [note.detail for note in photo.notes][1:] == ["the smallest is -5"]
    assert (photo.pixels[0][0, 0] == 0).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_white_may_be_zero(bits: int) -> None:
    values = (2**bits - 1 - ramp(bits)).astype(f"u{bits // 8}")
    assert_ramp(decode(tiff(values, {262: (3, [0])})))


def test_an_image_in_memory_is_scaled_likewise() -> None:
    assert_ramp(read_any(Image.fromarray(ramp(12)), [8]), 12)
    assert_ramp(read_any(Image.fromarray(ramp(16)), [8]))
    assert_ramp(read_any(Image.fromarray(ramp(20, np.int32)), [8]), 20)
