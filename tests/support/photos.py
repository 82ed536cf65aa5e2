"""Functions that write photos, and folders of photos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def make_photo(
    path: Path,
    size: tuple[int, int] = (32, 24),
    seed: int = 0,
    colour: str | tuple[int, ...] | None = None,
) -> Path:
    """Write a photo of random blocks, or of one colour, and return its path.

    The suffix determines the format. The function creates missing folders. Photos of different
    seeds differ.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if colour:
        image = Image.new("RGB", size, colour)
    else:
        blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
    image.save(path)
    return path


def class_folders(folder: Path, classes: Mapping[str, int | Sequence[str]]) -> Path:
    """Write a folder of photos for each class, and return `folder`.

    A number n means the names 0.png to (n-1).png. All photos are different.

        class_folders(folder, {"train/wren": 3, "test/wren": ["a b.JPG"]})
    """
    folder.mkdir(parents=True, exist_ok=True)
    seed = 0
    for name, photos in classes.items():
        names = [f"{i}.png" for i in range(photos)] if isinstance(photos, int) else photos
        for photo in names:
            make_photo(folder / name / photo, seed=seed)
            seed += 1
    return folder
