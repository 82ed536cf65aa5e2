"""A file -> RGB uint8 pixels of a given size; batches of photos, read ahead in threads."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError
from bilinear_cli.machine import n_cpus
from bilinear_cli.recipe import ProcessorResize, parse_processor_resize

T = TypeVar("T")
P = TypeVar("P")

BATCHES_AHEAD = 2
# Pillow's name -> suffixes of photos in a folder. Pillow's other formats are no photos, and some of
# them start programs.
FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
RESIZERS: dict[str, Callable[..., Image.Image]] = {
    "squash": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
}
MAX_RATIO = 16  # of the sides; the ends of a longer strip are cut off before it is resized
MIN_DECODED_RATIO = 2  # a JPEG is decoded at no less than this multiple of the requested size


def read_photo(path: Path, sizes: Sequence[int], resize: str = "squash") -> list[np.ndarray]:
    """Read a photo as a person would see it.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, at least at twice the
    largest of `sizes`. For 224 pixels this takes a quarter of the time of 12 megapixels and
    changes pixels by 0.4 of 255 (root mean square); another resizing filter changes them by 2.2.

    Args:
        path: a file in one of `FORMATS`; only the first frame of an animation is read.
        sizes: widths and heights of the results, in pixels.
        resize: `squash` (changes the ratio of the sides), `crop` (the centre square) or `pad`
            (black on two sides); or a text of `recipe.processor_resize`, whose lengths are scaled
            to other sizes than its own.

    Returns:
        For each size uint8 (size, size, 3), RGB, with the camera's rotation applied, transparency
        on white, and 16-bit grey scaled to eight bits.

    Raises:
        BadPhotoError: the file is not a photo, or is cut off.
        BilinearError: the memory does not suffice to decode it.
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
    """Return `read_photo` of a file with this content; `path` is for messages."""
    try:
        with Image.open(io.BytesIO(data), formats=[*FORMATS]) as image:
            image.draft(image.mode, (MIN_DECODED_RATIO * max(sizes),) * 2)  # changes JPEGs only
            return resize_image(image, sizes, resize)
    except MemoryError as error:
        raise BilinearError(f"not enough memory to decode {path}") from error
    except Exception as error:  # Pillow's decoders raise nearly any error for damaged bytes
        if isinstance(error, Image.UnidentifiedImageError):
            error = ValueError(f"its format is none of {', '.join(FORMATS)}")
        raise BadPhotoError(f"cannot read {path} as a photo: {error}") from error


def resize_image(image: Image.Image, sizes: Sequence[int], resize: str) -> list[np.ndarray]:
    """Return `read_photo` of an image of Pillow."""
    if 0 in image.size:
        raise ValueError("it has no pixels")
    rgb = _rgb(ImageOps.exif_transpose(image))
    if geometry := parse_processor_resize(resize):
        return [np.asarray(_resize_as_processor(rgb, n, geometry)) for n in sizes]
    function = RESIZERS[resize]
    return [np.asarray(function(rgb, (n, n), Image.Resampling.BILINEAR)) for n in sizes]


def read_any(photo: Any, sizes: Sequence[int], resize: str = "squash") -> list[np.ndarray]:
    """Return `read_photo` of a path, of an image of Pillow, or of an array.

    An array is uint8 (height, width, 3), RGB.

    Raises:
        BadPhotoError: see `read_photo`; or the image cannot be decoded, or has no pixels.
        BilinearError: the memory does not suffice to decode it.
        UsageError: the array has another shape or dtype, or it is none of these.
    """
    if isinstance(photo, str | PathLike):
        return read_photo(Path(photo), sizes, resize)
    with _as_image(photo) as image:
        return resize_image(image, sizes, resize)


def rgb_pixels(photo: np.ndarray | Image.Image) -> np.ndarray:
    """Return what `read_any` resizes of an array or an image of Pillow, and raise as it does."""
    with _as_image(photo) as image:
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))


@contextmanager
def _as_image(photo: Any) -> Iterator[Image.Image]:
    """Yield an array or an image as an image of Pillow; errors of Pillow get its description."""
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
            raise UsageError(
                f"an array of a photo has to be uint8 (height, width, 3), and not {photo.dtype} "
                f"{photo.shape}"
            )
        name = f"an array {photo.shape}"
    elif isinstance(photo, Image.Image):
        name = f"an image of {photo.width} x {photo.height} pixels in mode {photo.mode}"
    else:
        kind = type(photo).__name__
        raise UsageError(
            f"a photo has to be a path, an array or an image of Pillow, and not {kind}"
        )
    try:
        yield Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo
    except MemoryError as error:
        raise BilinearError(f"not enough memory to decode {name}") from error
    except Exception as error:  # see `decode_photo`
        raise BadPhotoError(f"cannot read {name}: {error}") from error


def _resize_as_processor(image: Image.Image, size: int, geometry: ProcessorResize) -> Image.Image:
    """Resize the shortest edge, or both, and crop the centre, as Hugging Face's processors do."""
    edge = round(geometry.edge * size / geometry.size)
    sides = [edge, edge]
    if geometry.keeps_ratio:
        longest = MAX_RATIO * min(image.size)
        image = _crop_centre(image, *(min(side, longest) for side in image.size))
        sides = [int(edge * side / min(image.size)) for side in image.size]
    image = image.resize((sides[0], sides[1]), Image.Resampling[geometry.filter_name.upper()])
    return _crop_centre(image, size, size)


def _crop_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    if image.mode.startswith("I"):  # 16 bits; convert("RGB") would clip them at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def stack_batch(
    batch: Sequence[list[np.ndarray] | BadPhotoError], sizes: Sequence[int], batch_size: int
) -> dict[int, np.ndarray]:
    """Return size -> uint8 (batch_size, size, size, 3); bad and missing photos are black."""
    arrays = {size: np.zeros((batch_size, size, size, 3), np.uint8) for size in sizes}
    for i, photo in enumerate(batch):
        if not isinstance(photo, BadPhotoError):
            for array, pixels in zip(arrays.values(), photo, strict=True):
                array[i] = pixels
    return arrays


def read_batches(
    items: Iterable[T], batch_size: int, read: Callable[[T], P]
) -> Iterator[list[P | BadPhotoError]]:
    """Call `read` in threads, for the items of two batches ahead.

    Yields:
        For each of `batch_size` items (of fewer at the end) the result, or its BadPhotoError.
    """

    def attempt(item: T) -> P | BadPhotoError:
        try:
            return read(item)
        except BadPhotoError as error:
            return error

    pool = ThreadPoolExecutor(n_cpus())
    try:
        pending: deque[list[Future]] = deque()
        iterator = iter(items)
        while batch := [*islice(iterator, batch_size)]:
            pending.append([pool.submit(attempt, item) for item in batch])
            if len(pending) > BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        for futures in pending:
            yield [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
