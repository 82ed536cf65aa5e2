"""What `extract` will cost with its default recipe, known before it is run."""

from typing import Any

from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.poolings.registry import get_pooling, storage_dtype

CHANNELS = 512  # of VGG16's last block
MS_AT_224 = 74.0  # a photo, VGG16 in bfloat16 on two cores, reading and writing beside it


def row_bytes(spec: str) -> int:
    """Return the bytes of a photo's row of VGG16's maps; not of the maps themselves."""
    numbers = get_pooling(spec).row_length(CHANNELS)
    return numbers * storage_dtype((numbers,)).itemsize


def estimate_cost(n_photos: int, image_size: int) -> dict[str, Any]:
    """Return bytes and seconds of `extract` on so many photos.

    Args:
        n_photos: in the set.
        image_size: width and height that they are brought to, in pixels.

    Returns:
        The bytes of the default poolings' rows, exactly, and the seconds, which assume two cores
        with bfloat16 and grow with the pixels.
    """
    poolings = ExtractOptions().pooling
    row = sum(map(row_bytes, poolings))
    ms = MS_AT_224 * (image_size / 224) ** 2
    return {
        "poolings": list(poolings),
        "image_size": image_size,
        "bytes_a_photo": row,
        "bytes": row * n_photos,
        "ms_a_photo": round(ms, 1),
        "seconds": round(ms * n_photos / 1000, 1),
    }
