"""Tests of reading photos: what they look like, what is wrong with them, reading ahead."""

import errno
import io
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.errors import raises
from support.photos import make_photo

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.photos.images import BATCHES_AHEAD, read_batches, read_photo

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


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_cameras_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert (read_one(tmp_path / "a.png", 8) == UPRIGHT[orientation](PIXELS)).all()


def test_a_photo_is_rotated_before_it_is_resized(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken upright, stored lying
    lying = Image.new("RGB", (40, 20), RED)
    lying.paste(BLUE, (20, 0, 40, 20))
    lying.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    photo = read_one(tmp_path / "a.jpg", 20, "pad").astype(int)
    assert photo[:, :4].max() == photo[:, 16:].max() == 0  # upright: black on the left and right
    assert np.abs(photo[2, 10] - RED).max() < 10
    assert np.abs(photo[17, 10] - BLUE).max() < 10


def save(tmp_path: Path, image: Image.Image, suffix: str = ".png", **options: object) -> Path:
    path = tmp_path / f"photo{suffix}"
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    photo = read_one(save(tmp_path, Image.fromarray(PIXELS)), 8)
    assert photo.dtype == np.uint8
    assert (photo == PIXELS).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey(tmp_path: Path, suffix: str) -> None:
    photo = read_one(save(tmp_path, Image.fromarray(PIXELS[..., 0]), suffix), 8)
    assert (photo == PIXELS[..., :1]).all()
    assert photo.shape == (8, 8, 3)


def test_one_bit(tmp_path: Path) -> None:
    bits = PIXELS[..., 0] > 127
    photo = read_one(save(tmp_path, Image.fromarray(bits)), 8)
    assert (photo == np.where(bits, 255, 0)[..., None]).all()


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.asarray(image.convert("RGB"))
    assert (read_one(save(tmp_path, image, suffix), 8) == expected).all()


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    photo = read_one(save(tmp_path, image, suffix, transparency=0), 8)
    assert (photo[:, :4] == WHITE).all()
    assert (photo[:, 4:] == BLUE).all()


@pytest.mark.parametrize(("mode", "key"), [("L", 0), ("RGB", BLACK), ("1", 0)])
def test_a_transparent_key_colour_lies_on_white(
    tmp_path: Path, mode: str, key: int | tuple[int, ...]
) -> None:
    image = Image.new(mode, (8, 8), key)
    assert (read_one(save(tmp_path, image, transparency=key), 8) == WHITE).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (51, 224)])
def test_transparency_lies_on_white(tmp_path: Path, mode: str, alpha: int, expected: int) -> None:
    n_colours = len(mode) - 1
    image = Image.new(mode, (8, 8), (*(100,) * n_colours, alpha))
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


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (GREEN, RED, BLUE)]
    path = save(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert (read_one(path, 8) == GREEN).all()


@pytest.mark.parametrize("name", ["A.JPG", "b.jpeg", "photo", "no.png"])
def test_the_suffix_does_not_matter(tmp_path: Path, name: str) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    (tmp_path / name).write_bytes(file.getvalue())
    with Image.open(file) as image:
        assert (read_one(tmp_path / name, 8) == np.asarray(image)).all()


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
    if is_high:
        photos = {resize: photo.swapaxes(0, 1) for resize, photo in photos.items()}
    middle, quarter = size // 2, size // 4
    ends = ([quarter // 2, middle, size - 1 - quarter // 2], [RED, GREEN, BLUE])

    assert (photos["squash"][[0, middle, size - 1]][:, ends[0]] == ends[1]).all()
    assert (photos["crop"][:, 2:-2] == GREEN).all()  # the edges may mix in their neighbours
    assert (photos["pad"][[0, quarter - 1, size - quarter, size - 1]] == BLACK).all()
    assert (photos["pad"][[quarter + 1, middle, size - quarter - 2]][:, ends[0]] == ends[1]).all()


def test_squash_is_the_default(striped: tuple[Path, bool]) -> None:
    path, _ = striped
    assert (read_one(path, 20) == read_one(path, 20, "squash")).all()


def test_shrinking_averages(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    path = save(tmp_path, Image.fromarray(board.astype(np.uint8)))
    assert np.abs(read_one(path, 8).astype(int) - 127).max() <= 2


# What is wrong with a photo -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_photo_that_is_cut_off(tmp_path: Path, suffix: str, share: float) -> None:
    path = make_photo(tmp_path / f"photo{suffix}", size=(100, 100))
    os.truncate(path, int(share * path.stat().st_size))
    with raises(BadPhotoError, path):
        read_one(path, 8)


@pytest.mark.parametrize("data", [b"", b"this is a text", b"\xff\xd8\xff"])
def test_a_file_that_is_no_photo(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with raises(BadPhotoError, path):
        read_one(path, 8)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    with raises(BadPhotoError, path, os.strerror(errno.ENOENT)):
        read_one(path, 8)
    with raises(BadPhotoError, tmp_path, os.strerror(errno.EISDIR)):
        read_one(tmp_path, 8)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.full((4, 4), 0.5, np.float32)), ".tif")
    with raises(BadPhotoError, path):
        read_one(path, 4)


def test_too_little_memory_is_no_fault_of_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("bilinear_cli.photos.images._rgb", fail)
    path = make_photo(tmp_path / "photo.png")
    with raises(BilinearError, path):  # and so no BadPhotoError
        read_one(path, 8)


def test_an_image_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_photo(tmp_path / "photo.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_999)
    with raises(BadPhotoError, path):
        read_one(path, 8)


# Reading ahead ------------------------------------------------------------------------------


def pixel(item: int) -> np.ndarray:
    return np.full((1, 1, 3), item, np.uint8)


def test_batches_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    is_read: dict[int, threading.Event] = defaultdict(threading.Event)

    def read(item: int) -> np.ndarray:
        if item % 2 == 0:
            assert is_read[item + 1].wait(100)  # the later one is read first
        is_read[item].set()
        return pixel(item)

    batches = list(read_batches(range(5, 28), 5, read))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert [photo[0, 0, 0] for batch in batches for photo in batch] == list(range(5, 28))


@pytest.mark.parametrize(("n_items", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1])])
def test_few_photos(n_items: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in read_batches(range(n_items), 4, pixel)] == sizes


def test_an_error_takes_the_place_of_its_photo() -> None:
    def read(item: int) -> np.ndarray:
        if item % 3 == 0:
            raise BadPhotoError(f"photo {item}")
        return pixel(item)

    photos = [photo for batch in read_batches(range(1, 11), 4, read) for photo in batch]
    for item, photo in enumerate(photos, 1):
        if item % 3:
            assert isinstance(photo, np.ndarray)
            assert photo[0, 0, 0] == item
        else:
            assert isinstance(photo, BadPhotoError)
            assert str(photo) == f"photo {item}"


def test_another_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(read_batches(range(9), 4, lambda item: pixel(item // item)))


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

    def read(item: int) -> np.ndarray:
        calls.append(item)
        is_read[item].set()
        return pixel(item)

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

    def read(item: int) -> np.ndarray:
        calls.append(item)
        if item >= 50:  # the first batch is read at once
            assert is_closing.wait(100)
            time.sleep(0.05)  # `close` waits for it
        finished.append(item)
        return pixel(item)

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", close)
    batches = read_batches(range(1000), 50, read)
    next(batches)
    batches.close()
    assert len(calls) <= 52  # the two threads each had one photo; the others were dropped
    assert sorted(finished) == sorted(calls)
