"""Tests of reading photos: what they look like, what is wrong with them, reading ahead."""

import errno
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from support.errors import raises
from support.photos import make_photo

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError
from bilinear_cli.photos.pixels.batches import BATCHES_AHEAD, read_batches
from bilinear_cli.photos.pixels.images import read_any, read_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def read_one(path: Path, size: int, resize: str = "squash") -> np.ndarray:
    (photo,) = read_photo(path, [size], resize)
    return photo


# What a photo looks like --------------------------------------------------------------------

# EXIF orientation -> a function that turns the stored rows and columns upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save(tmp_path: Path, image: Image.Image, suffix: str = ".png", **options: object) -> Path:
    path = tmp_path / f"photo{suffix}"
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_cameras_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path, Image.fromarray(PIXELS), exif=rotated(orientation))
    assert (read_one(path, 8) == UPRIGHT[orientation](PIXELS)).all()


def test_a_photo_is_rotated_before_it_is_resized(tmp_path: Path) -> None:
    lying = Image.new("RGB", (40, 20), RED)  # taken upright
    lying.paste(BLUE, (20, 0, 40, 20))
    path = save(tmp_path, lying, exif=rotated(6))
    photo = read_one(path, 20, "pad").astype(int)
    assert photo[:, :4].max() == photo[:, 16:].max() == 0  # upright: black on the left and right
    assert np.abs(photo[2, 10] - RED).max() < 10
    assert np.abs(photo[17, 10] - BLUE).max() < 10


GREY, BITS = PIXELS[..., :1], PIXELS[..., :1] > 127
PALETTE = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)
TWO_COLOURS = Image.new("P", (8, 8), 0)
TWO_COLOURS.putpalette([*RED, *BLUE])
TWO_COLOURS.paste(1, (4, 0, 8, 8))
WHITE_AND_BLUE = np.repeat([WHITE, BLUE], 4, axis=0)
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in (GREEN, RED, BLUE)]


# What is saved; suffixes; options -> the pixels that are read.
LOOKS: dict[str, tuple[Image.Image, list[str], dict[str, Any], Any]] = {
    "RGB": (Image.fromarray(PIXELS), [".png"], {}, PIXELS),
    "grey": (Image.fromarray(GREY[..., 0]), [".png", ".tif", ".bmp"], {}, GREY),
    "one bit": (Image.fromarray(BITS[..., 0]), [".png"], {}, BITS * 255),
    "palette": (PALETTE, [".png", ".gif"], {}, np.asarray(PALETTE.convert("RGB"))),
    "palette key": (TWO_COLOURS, [".png", ".gif"], {"transparency": 0}, WHITE_AND_BLUE),
    "grey key": (Image.new("L", (8, 8), 0), [".png"], {"transparency": 0}, WHITE),
    "RGB key": (Image.new("RGB", (8, 8), BLACK), [".png"], {"transparency": BLACK}, WHITE),
    "key of one bit": (Image.new("1", (8, 8), 0), [".png"], {"transparency": 0}, WHITE),
    "first frame": (FRAMES[0], [".gif"], {"save_all": True, "append_images": FRAMES[1:]}, GREEN),
}


@pytest.mark.parametrize(("image", "suffixes", "options", "expected"), LOOKS.values(), ids=LOOKS)
def test_every_kind_of_pixel_is_read_as_rgb_on_white(
    tmp_path: Path, image: Image.Image, suffixes: list[str], options: dict[str, Any], expected: Any
) -> None:
    for suffix in suffixes:
        photo = read_one(save(tmp_path, image, suffix, **options), 8)
        assert (photo.shape, photo.dtype) == ((8, 8, 3), np.uint8)
        assert (photo == expected).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (51, 224)])
def test_transparency_lies_on_white(tmp_path: Path, mode: str, alpha: int, expected: int) -> None:
    image = Image.new(mode, (8, 8), (*(100,) * (len(mode) - 1), alpha))
    photo = read_one(save(tmp_path, image), 8).astype(int)
    assert np.abs(photo - expected).max() <= 1


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow
    photo = read_one(save(tmp_path, image, ".jpg", quality=100), 16).astype(int)
    assert np.abs(photo - RED).max() < 6


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_grey_are_scaled(tmp_path: Path, suffix: str, byte_order: str) -> None:
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    path = save(tmp_path, Image.fromarray(deep.astype(f"{byte_order}u2")), suffix)
    with Image.open(path) as image:
        assert image.mode.startswith("I")
    assert (read_one(path, 8) == PIXELS[..., :1]).all()


# Sizes --------------------------------------------------------------------------------------


@pytest.fixture(params=["wide", "high"])
def striped(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bool]:
    """Write 80 x 40 pixels, green with 20 columns of red and of blue at the ends; or turned."""
    image = Image.new("RGB", (80, 40), GREEN)
    image.paste(RED, (0, 0, 20, 40))
    image.paste(BLUE, (60, 0, 80, 40))
    if request.param == "high":
        image = image.transpose(Image.Transpose.TRANSPOSE)
    return save(tmp_path, image), request.param == "high"


@pytest.mark.parametrize("size", [20, 40, 160])
def test_squash_crop_and_pad(striped: tuple[Path, bool], size: int) -> None:
    path, is_high = striped
    photos = {resize: read_one(path, size, resize) for resize in ("squash", "crop", "pad")}
    assert {photo.shape for photo in photos.values()} == {(size, size, 3)}
    assert (read_photo(path, [size])[0] == photos["squash"]).all()
    if is_high:
        photos = {resize: photo.swapaxes(0, 1) for resize, photo in photos.items()}
    middle, quarter = size // 2, size // 4
    ends = ([quarter // 2, middle, size - 1 - quarter // 2], [RED, GREEN, BLUE])

    assert (photos["squash"][[0, middle, size - 1]][:, ends[0]] == ends[1]).all()
    assert (photos["crop"][:, 2:-2] == GREEN).all()  # the edges may mix in their neighbours
    assert (photos["pad"][[0, quarter - 1, size - quarter, size - 1]] == BLACK).all()
    assert (photos["pad"][[quarter + 1, middle, size - quarter - 2]][:, ends[0]] == ends[1]).all()


def test_shrinking_averages(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    path = save(tmp_path, Image.fromarray(board.astype(np.uint8)))
    assert np.abs(read_one(path, 8).astype(int) - 127).max() <= 2


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (64, 64), (20, 90)])
@pytest.mark.parametrize(("size", "edge"), [(28, 32), (56, 64)])
def test_the_resize_of_a_processor(
    shape: tuple[int, int], size: int, edge: int, tmp_path: Path
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    path = save(tmp_path, image)
    start = (edge - size) // 2
    centre = slice(start, start + size)
    square = np.asarray(image.resize((edge, edge), Image.Resampling.BICUBIC))[centre, centre]
    assert (read_one(path, size, "processor: both 32, crop 28, bicubic") == square).all()
    height, width = (int(edge * side / min(shape)) for side in shape)
    kept = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    top, left = (height - size) // 2, (width - size) // 2
    expected = kept[top : top + size, left : left + size]
    assert (read_one(path, size, "processor: shortest 32, crop 28, lanczos") == expected).all()


def test_a_processor_resizes_only_the_centre_of_a_strip(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.arange(30_000 * 3).reshape(1, -1, 3).astype(np.uint8)))
    photo = read_one(path, 64, "processor: shortest 64, crop 64, bicubic")
    centre = np.asarray(Image.open(path).crop((14_000, 0, 16_000, 1)).resize((128_000, 64)))
    assert np.abs(photo.astype(int)[0, 32] - centre[0, 64_000]).max() < 64


# What is wrong with a photo -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.9])
def test_a_photo_that_is_cut_off(tmp_path: Path, suffix: str, share: float) -> None:
    path = make_photo(tmp_path / f"photo{suffix}", size=(100, 100))
    os.truncate(path, int(share * path.stat().st_size))
    with raises(BadPhotoError, path):
        read_one(path, 8)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    with raises(BadPhotoError, path, os.strerror(errno.ENOENT)):
        read_one(path, 8)
    with raises(BadPhotoError, tmp_path, "a folder"):
        read_one(tmp_path, 8)


def test_too_little_memory_is_no_fault_of_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilinear_cli.photos.pixels.images._rgb", Mock(side_effect=MemoryError))
    path = make_photo(tmp_path / "photo.png")
    with raises(BilinearError, path):  # and so no BadPhotoError
        read_one(path, 8)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "processor: shortest 8, crop 8, box"])
@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 3)])
def test_an_array_without_pixels_is_a_bad_photo(shape: tuple[int, ...], resize: str) -> None:
    with raises(BadPhotoError, *shape[:2]):
        read_any(np.zeros(shape, np.uint8), [8], resize)
    with raises(BadPhotoError, *shape[:2]):
        read_any(Image.new("RGB", (shape[1], shape[0])), [8], resize)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with raises(BadPhotoError, 50, 40, "mode F"):
        read_any(Image.new("F", (50, 40)), [8])
    path = make_photo(tmp_path / "photo.jpg", size=(100, 90))
    os.truncate(path, path.stat().st_size // 2)
    with Image.open(path) as image, raises(BadPhotoError, 100, 90, "mode RGB"):
        read_any(image, [8])


@pytest.mark.parametrize("photo", [None, 3, b"photo.jpg", [PIXELS]])
def test_what_is_no_photo_is_a_usage_error(photo: Any) -> None:
    with raises(UsageError, type(photo).__name__):
        read_any(photo, [8])


@pytest.mark.parametrize("array", [PIXELS[..., 0], PIXELS[..., :2], PIXELS / 255, PIXELS[:0, :, 0]])
def test_an_array_of_another_shape_or_dtype_is_a_usage_error(array: np.ndarray) -> None:
    with raises(UsageError, array.dtype, array.shape):
        read_any(array, [8])


def test_too_little_memory_is_no_fault_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilinear_cli.photos.pixels.images._rgb", Mock(side_effect=MemoryError))
    with raises(BilinearError, 8, "memory"):
        read_any(PIXELS, [8])


# Reading ahead ------------------------------------------------------------------------------


def test_batches_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    is_read: dict[int, threading.Event] = defaultdict(threading.Event)

    def read(item: int) -> int:
        if item % 2 == 0:
            assert is_read[item + 1].wait(100)  # the later one is read first
        is_read[item].set()
        return item

    batches = list(read_batches(range(5, 28), 5, read))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert [*chain(*batches)] == [*range(5, 28)]


@pytest.mark.parametrize(("n_items", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1])])
def test_few_photos(n_items: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in read_batches(range(n_items), 4, int)] == sizes


def test_a_bad_photo_is_replaced_by_its_error_and_another_error_is_raised() -> None:
    errors = {item: BadPhotoError(f"photo {item}") for item in (3, 6, 9)}

    def read(item: int) -> int:
        if item in errors:
            raise errors[item]
        return item // item

    photos = chain(*read_batches(range(1, 11), 4, read))
    assert [*photos] == [errors.get(item, 1) for item in range(1, 11)]
    with pytest.raises(ZeroDivisionError):
        list(read_batches([0], 4, read))


@pytest.fixture
def calls() -> Iterator[list[int]]:
    """Give a list for the items that `read` is called with; fail if a thread is left."""
    before = set(threading.enumerate())
    yield []
    assert not set(threading.enumerate()) - before


def test_two_batches_are_read_ahead_and_no_more(calls: list[int]) -> None:
    submitted: list[int] = []
    is_read = [threading.Event() for _ in range(100)]

    def items() -> Iterator[int]:
        for item in range(100):
            submitted.append(item)
            yield item

    def read(item: int) -> int:
        calls.append(item)
        is_read[item].set()
        return item

    batches = read_batches(items(), 4, read)
    assert not submitted
    for n_batches in (1, 2, 3):
        next(batches)
        expected = 4 * (n_batches + BATCHES_AHEAD)
        assert submitted == list(range(expected))
        assert all(event.wait(100) for event in is_read[:expected])
        assert sorted(calls) == submitted
    batches.close()


def test_closing_early_stops_the_threads(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    is_closing, finished = threading.Event(), []
    shutdown = ThreadPoolExecutor.shutdown

    def close(pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(pool, wait=False, cancel_futures=cancel_futures)
        is_closing.set()
        shutdown(pool, wait)

    def read(item: int) -> int:
        calls.append(item)
        if item >= 50:  # the first batch is read at once
            assert is_closing.wait(100)
            time.sleep(0.05)  # `close` waits for it
        finished.append(item)
        return item

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", close)
    batches = read_batches(range(1000), 50, read)
    next(batches)
    batches.close()
    assert len(calls) <= 52  # the two threads each had one photo; the others were dropped
    assert sorted(finished) == sorted(calls)
