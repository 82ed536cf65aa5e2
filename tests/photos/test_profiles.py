"""Tests of colour profiles: they are converted to sRGB, or ignored as the recipe says."""

import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from support import picture_files
from support.picture_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    deep_png,
    encoded,
    grey_profile,
    matrix_profile,
)

from bilinear_cli.photos.pixels import profiles
from bilinear_cli.photos.pixels.images import DecodedPhoto, decode_photo, read_any

PIXELS = np.random.default_rng(0).integers(60, 190, (16, 16, 3), np.uint8)  # also in sRGB
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
P3 = matrix_profile(DISPLAY_P3)


def in_profile(profile: bytes, mode: str = "RGB") -> Image.Image:
    """Return `PIXELS`, encoded in a profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = ImageCms.profileToProfile(Image.fromarray(PIXELS), SRGB, target)
    return image.convert(mode)


def decode(image: Image.Image, profile: bytes, colours: str = "srgb") -> DecodedPhoto:
    data = encoded("PNG" if image.mode != "CMYK" else "TIFF", image, icc_profile=profile)
    return decode_photo(data, Path("x"), [16], "squash", colours)


def distance(photo: DecodedPhoto, pixels: np.ndarray) -> int:
    return int(np.abs(photo.pixels[0].astype(int) - pixels).max())


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("colorants", [DISPLAY_P3, ADOBE_RGB])
def test_a_profile_is_applied_or_ignored(
    colorants: tuple[tuple[float, ...], ...], mode: str
) -> None:
    profile = matrix_profile(colorants)
    image = in_profile(profile, mode)
    assert distance(decode(image, profile), PIXELS) <= 2
    ignored = decode(image, profile, "")
    assert distance(ignored, np.asarray(image)[..., :3]) == 0
    assert distance(ignored, PIXELS) > 15
    image.info["icc_profile"] = profile
    assert distance(read_any(image, [16]), PIXELS) <= 2
    assert distance(read_any(image, [16], colours=""), PIXELS) > 15


def test_transparency_stays() -> None:
    image = in_profile(P3, "RGBA")
    image.putalpha(0)
    assert distance(decode(image, P3), np.array(255)) == 0


def test_grey_pixels_and_palettes_take_a_profile_of_colours() -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    assert distance(decode(grey, P3), PIXELS[..., :1]) <= 2
    palette = in_profile(P3).convert("P", palette=Image.Palette.ADAPTIVE)
    photo = decode(palette, P3)
    assert distance(photo, np.asarray(palette.convert("RGB"))) > 15
    assert not photo.notes


def test_srgb_changes_no_pixel() -> None:
    for profile in (SRGB.tobytes(), matrix_profile(picture_files.SRGB)):
        assert distance(decode(Image.fromarray(PIXELS), profile), PIXELS) == 0


def test_a_profile_of_grey() -> None:
    grey, profile = np.full((16, 16), 64, np.uint8), grey_profile(1)  # linear light
    for image in (Image.fromarray(grey), Image.fromarray(grey * np.uint16(257))):
        assert distance(decode(image, profile), np.array(137)) <= 1


def test_colours_of_12_bits_in_16_keep_their_profile() -> None:
    encoded_pixels = np.asarray(in_profile(P3)).astype(np.uint16) * 16
    data = deep_png(encoded_pixels, (b"iCCP", b"P3\0\0" + zlib.compress(P3)))
    assert distance(decode_photo(data, Path("x"), [16]), PIXELS) <= 3


def test_a_profile_that_cannot_be_applied_is_said() -> None:
    for image, profile, note in (
        (Image.fromarray(PIXELS), bytes(200), profiles.UNREADABLE),
        (Image.fromarray(PIXELS).convert("CMYK"), P3, profiles.UNSUITABLE),
    ):
        photo = decode(image, profile)
        assert photo.notes == [note]
        assert distance(photo, np.asarray(image.convert("RGB"))) == 0


def test_a_profile_is_read_once_and_applied_in_threads() -> None:
    profiles._read.cache_clear()
    image = in_profile(P3)
    image.info["icc_profile"] = P3
    read_any(image, [16])
    with ThreadPoolExecutor(4) as pool:
        photos = [*pool.map(lambda _: read_any(image.copy(), [16]), range(40))]
    assert max(distance(photo, PIXELS) for photo in photos) <= 2
    assert profiles._read.cache_info().misses == 1
