"""Photos -> small pictures within a page."""

import io
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.photos.images import read_batches, read_photo

SIDE = 160  # pixels
MOST_BYTES = 9000  # of one, so that 160 of them are below 2 MB of a page
QUALITIES = (80, 65, 50, 35, 20, 5)
AT_ONCE = 16


def thumbnails(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return path -> data URI of a whole photo on a black square, of those that can be read.

    Args:
        root: the folder that the paths start from.
        paths: of photos; each is read once.
    """
    wanted = list(dict.fromkeys(paths))
    batches = read_batches(wanted, AT_ONCE, lambda path: _read(root / path))
    photos = (photo for batch in batches for photo in batch)
    return {
        path: data_uri(_jpeg(photo), "image/jpeg")
        for path, photo in zip(wanted, photos, strict=True)
        if not isinstance(photo, BadPhotoError)
    }


def _read(path: Path) -> np.ndarray:
    with suppress(OSError, ValueError):
        if path.is_file():  # what else there may be, such as a pipe, would never end
            return read_photo(path, [SIDE], "pad")[0]
    raise BadPhotoError(f"there is no photo {path}")


def _jpeg(pixels: np.ndarray) -> bytes:
    for quality in QUALITIES:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= MOST_BYTES:
            break
    return out.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{kind};base64,{b64encode(data).decode()}"
