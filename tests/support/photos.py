"""Functions that write photos, and folders of photos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bilinear_cli.photos import sample


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


def use_small_sample(
    patch: pytest.MonkeyPatch, cache: Path, n_species: int, n_drawings: int
) -> None:
    """Let the sample have so many drawings of so many species, in a cache of its own."""
    patch.setenv("BILINEAR_CACHE", str(cache))
    patch.setattr(sample, "N_SPECIES", n_species)
    patch.setattr(sample, "N_DRAWINGS", n_drawings)


def similar_photos(folder: Path, classes: Sequence[str], n_photos: int, size: int) -> list[Path]:
    """Write photos (size x size) of blocks, alike within a class, and return their paths."""
    rng, paths = np.random.default_rng(1), []
    for name in classes:
        base = rng.integers(0, 256, (4, 4, 3))
        (folder / name).mkdir(parents=True)
        for i in range(n_photos):
            blocks = (base + rng.integers(-40, 40, base.shape)).clip(0, 255).astype(np.uint8)
            paths.append(folder / name / f"{i}.png")
            Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST).save(paths[-1])
    return paths
