"""A file -> RGB uint8 of the asked size; photos in batches, read ahead."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from bilinear_cli.errors import BadPhotoError, BilinearError

T = TypeVar("T")
P = TypeVar("P")

BATCHES_AHEAD = 2
# Others of Pillow's are no photos, and some of those start programs.
FORMATS = {  # Pillow's name -> suffixes of files that count as photos in a folder
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
RESIZE: dict[str, Callable[..., Image.Image]] = {
    "squash": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
}
REDUCED = 2  # a JPEG is decoded at no less than so many times the size it is brought to


def read_photo(path: Path, sizes: Sequence[int], resize: str = "squash") -> list[np.ndarray]:
    """Read a photo as a person would see it.

    A JPEG of many pixels is decoded at a half, a quarter or an eighth of its size, never below
    twice the size that it is brought to. At 224 pixels that decodes 12 megapixels in a quarter
    of the time, and changes pixels by 0.4 of 255 (root mean square), where another filter for the
    resizing changes them by 2.2.

    Args:
        path: a file of any kind that Pillow reads; of an animation the first frame.
        sizes: widths, which are also the heights, of the results, in pixels.
        resize: `squash` (the sides' ratio changes), `crop` (the centre square) or `pad` (black
            on two sides).

    Returns:
        For each size uint8 (size, size, 3), RGB; the camera's rotation applied, transparency on
        white, 16-bit grey scaled to eight bits.

    Raises:
        BadPhotoError: it is no photo, or is cut off.
        BilinearError: there is not the memory to decode it.
    """
    return decode_photo(read_bytes(path), path, sizes, resize)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, or raise a BadPhotoError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadPhotoError(f"cannot read {path}: {error.strerror or error}") from error


def decode_photo(
    data: bytes, path: Path, sizes: Sequence[int], resize: str = "squash"
) -> list[np.ndarray]:
    """Return what `read_photo` does of a file with these bytes; `path` is for messages."""
    try:
        with Image.open(io.BytesIO(data), formats=[*FORMATS]) as image:
            image.draft(image.mode, (REDUCED * max(sizes),) * 2)  # of others than JPEG nothing
            rgb = _rgb(ImageOps.exif_transpose(image))
            resized = RESIZE[resize]
            return [np.asarray(resized(rgb, (n, n), Image.Resampling.BILINEAR)) for n in sizes]
    except MemoryError as error:
        raise BilinearError(f"there is not the memory to decode {path}") from error
    except Exception as error:  # on broken bytes Pillow's decoders raise nearly anything
        if isinstance(error, Image.UnidentifiedImageError):
            error = ValueError("not an image in any format known here")
        raise BadPhotoError(f"cannot read {path} as a photo: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    if image.mode.startswith("I"):  # 16 bits; convert("RGB") would clip them at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def empty_batch(sizes: Sequence[int], batch_size: int) -> dict[int, np.ndarray]:
    """Return room for a batch of photos: size -> uint8 (batch_size, size, size, 3)."""
    return {size: np.zeros((batch_size, size, size, 3), np.uint8) for size in sizes}


def fill_batch(
    room: dict[int, np.ndarray], batch: Sequence[list[np.ndarray] | BadPhotoError]
) -> list[int]:
    """Put photos into `empty_batch`'s arrays, black for a bad one; return which are bad."""
    for i, photo in enumerate(batch):
        for k, photos in enumerate(room.values()):
            photos[i] = 0 if isinstance(photo, BadPhotoError) else photo[k]
    return [i for i, photo in enumerate(batch) if isinstance(photo, BadPhotoError)]


def read_batches(
    items: Iterable[T], batch_size: int, read: Callable[[T], P]
) -> Iterator[list[P | BadPhotoError]]:
    """Yield lists of `batch_size` photos (the last may be shorter), read two batches ahead.

    Args:
        items: what photos are read from, in order; taken as they are read.
        batch_size: photos in a list.
        read: item -> pixels, as `read_photo` returns them; runs in threads.

    Yields:
        For each item of a batch its pixels, or the error that reading it raised.
    """

    def attempt(item: T) -> P | BadPhotoError:
        try:
            return read(item)
        except BadPhotoError as error:
            return error

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        ahead: deque[list[Future]] = deque()
        coming = iter(items)
        while few := [*islice(coming, batch_size)]:
            ahead.append([pool.submit(attempt, item) for item in few])
            if len(ahead) > BATCHES_AHEAD:
                yield [photo.result() for photo in ahead.popleft()]
        for batch in ahead:
            yield [photo.result() for photo in batch]
    finally:
        pool.shutdown(cancel_futures=True)
