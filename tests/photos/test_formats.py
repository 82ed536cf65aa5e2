"""Tests of opening photos: which picture of a file is read, and what a file is that is no photo."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from support.errors import raises
from support.picture_files import dng, encoded, thumbnail_first, tiff

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.photos.pixels import formats, raw
from bilinear_cli.photos.pixels.images import DecodedPhoto, decode_photo, read_any

RED, BLUE = (255, 0, 0), (0, 0, 255)
LYING = Image.new("RGB", (40, 20), RED)  # taken upright, with the camera turned
LYING.paste(BLUE, (20, 0, 40, 20))
REDUCED = {254: (4, [1])}


def decode(data: bytes, suffix: str = ".jpg", size: int = 20) -> DecodedPhoto:
    return decode_photo(data, Path(f"photo{suffix}"), [size], "pad")


def heic(image: Image.Image) -> bytes:
    assert "HEIF" in formats.readable_formats()
    return encoded("HEIF", image, quality=90)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("suffix", [".jpg", ".heic", ".tif"])
def test_a_photo_is_turned_upright_once_whatever_its_suffix(kind: str, suffix: str) -> None:
    image, exif = LYING.copy(), Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()  # from here, pillow-heif writes the rotation of HEIC
    options = {} if kind == "HEIF" else {"exif": exif}
    assert "HEIF" in formats.readable_formats()
    photo = decode(encoded(kind, image, **options), suffix)
    pixels = photo.pixels[0].astype(int)
    assert np.abs(pixels[3, 10] - RED).max() < 20
    assert np.abs(pixels[16, 10] - BLUE).max() < 20
    assert pixels[:, :4].max() < 20  # black bars of `pad` on the left and right
    assert not photo.notes


# The picture of several ----------------------------------------------------------------------


def pages(*images: Image.Image, kind: str = "TIFF") -> bytes:
    copies = [image.copy() for image in images]  # Pillow keeps options of earlier formats
    return encoded(kind, copies[0], save_all=True, append_images=copies[1:])


GREEN = Image.new("RGB", (40, 20), "lime")


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_the_first_page_is_read_and_said(kind: str) -> None:
    photo = decode(pages(GREEN, LYING, kind=kind))
    assert photo.notes == [formats.SEVERAL]
    assert photo.pixels[0][10, 10, 1] > 240


def test_other_versions_of_a_phone_s_photo_are_not_pages() -> None:
    assert not decode(encoded("MPO", GREEN, save_all=True, append_images=[LYING])).notes


def test_a_gif_whose_second_frame_is_damaged_is_read() -> None:
    data = pages(GREEN, LYING, kind="GIF")
    second = data.rindex(b"\x21\xf9\x04")
    for end in range(second + 1, second + 20):
        assert decode(data[:end]).pixels[0][10, 10, 1] > 240


def test_a_page_that_follows_may_be_damaged() -> None:
    data = bytearray(pages(GREEN, LYING))
    photometric = data.rindex(b"\6\1\3\0\1\0\0\0")  # tag 262 of the second page
    data[photometric + 8] = 99
    assert decode(bytes(data)).pixels[0][10, 10, 1] > 240


def test_the_full_picture_behind_a_thumbnail_is_read() -> None:
    photo = decode(thumbnail_first(GREEN))
    assert photo.size == (40, 20)
    assert photo.pixels[0][10, 10, 1] > 240
    assert not photo.notes


def test_a_thumbnail_alone_is_refused() -> None:
    with raises(BadPhotoError, "photo.jpg", "thumbnail"):
        decode(tiff(np.asarray(GREEN), REDUCED))


def test_colours_of_16_bits_in_planes_are_refused() -> None:
    with raises(BadPhotoError, "photo.jpg", "planes"):
        decode(tiff(np.asarray(GREEN).astype(np.uint16), {284: (3, [2])}))


# Camera raw ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".dng", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", [1, 3])
def test_a_camera_raw_file_is_developed_upright(suffix: str, orientation: int) -> None:
    photo = decode(dng(orientation=orientation), suffix, 32)
    left, right = photo.pixels[0][16, [4, 27]].astype(int)
    if orientation == 3:
        left, right = right, left
    assert left[0] > left[2] + 100
    assert right[2] > right[0] + 100
    assert photo.size == (128, 96)


def test_a_large_camera_raw_file_is_developed_at_half_its_size() -> None:
    sizes = [raw.develop(dng(), min_side)[0].size for min_side in (48, 49)]
    assert sizes == [(64, 48), (128, 96)]


# Content of raw files of cameras that are TIFF files; and of those that are not.
RAW = {
    "a suffix": (tiff(np.asarray(GREEN)), ".NEF"),
    "CR2": (b"II*\0\x10\0\0\0CR\2\0", ".tif"),
    "thumbnail and sub-directories": (
        tiff(np.asarray(GREEN), REDUCED | {330: (4, [8])}),
        ".tif",
    ),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", ".jpg"),
    "Fujifilm": (b"FUJIFILMCCD-RAW 0201", ""),
    "Olympus": (b"IIRO\x08\0\0\0", ".tif"),
    "Panasonic": (b"IIU\0\x08\0\0\0", ".tif"),
}


@pytest.mark.parametrize(("data", "suffix"), RAW.values(), ids=RAW)
def test_a_camera_raw_file_is_never_read_as_its_thumbnail(
    data: bytes, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(BadPhotoError, "camera raw", "LibRaw"):
        decode(data, suffix)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with raises(BadPhotoError, "camera raw", "bilinear-cli[raw]"):
        decode(data, suffix)


# What is no photo --------------------------------------------------------------------------------

HEIC_START = b"\0\0\0\x18ftypmif1\0\0\0\0miafheic"
OTHERS = {
    "empty": (b"", "empty"),
    "zeros": (bytes(1000), "zero bytes"),
    "web page": (b"\xef\xbb\xbf\n<!DOCTYPE HTML><html>", "HTML"),
    "drawing": (b'<?xml version="1.0"?>\n<svg width="1">', "SVG"),
    "document": (b"%PDF-1.7", "PDF"),
    "Photoshop": (b"8BPS\0\1", "Photoshop"),
    "archive": (b"PK\3\4" + bytes(30), "ZIP"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "message": (b'{"error": "not found"}', '{"error": "not found"}'),
    "video": (b"\0\0\0\x20ftypisom" + bytes(500), "video"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "macOS"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "HEIC, cut off": (HEIC_START, "HEIC"),
    "HEIC, half of it": (heic(GREEN)[:-20], "end of file"),
    "PNG, cut off": (b"\x89PNG\r\n\x1a\n", "PNG"),
    "TIFF of 24 bits": (tiff(np.zeros((9, 9), np.uint8), {258: (3, [24])}), "TIFF"),
    "noise": (np.random.default_rng(0).bytes(500), "no known format"),
}


@pytest.mark.parametrize(("data", "name"), OTHERS.values(), ids=OTHERS)
def test_what_a_file_is_instead_of_a_photo_is_named(data: bytes, name: str) -> None:
    with raises(BadPhotoError, "photo.jpg", name):
        decode(data)


@pytest.mark.parametrize("suffix", [".heic", ".jpg"])
def test_formats_without_their_reader_are_named_with_what_to_install(
    suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = {"bilinear-cli[heic]": heic(GREEN), "Pillow": encoded("AVIF", GREEN)}
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setattr(features, "check", lambda name: False)
    formats.readable_formats.cache_clear()
    try:
        for reader, data in photos.items():
            with raises(BadPhotoError, f"photo{suffix}", reader):
                decode(data, suffix)
    finally:
        formats.readable_formats.cache_clear()


def test_a_photo_has_the_size_of_its_file_however_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded("JPEG", LYING.resize((400, 200))))
    assert decode_photo(path.read_bytes(), path, [20]).size == (400, 200)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert read_any(image, [20]).size == (400, 200)
