"""Functions that write photos, and folders of photos."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bilinear_cli.photos import sample
from bilinear_cli.photos.photo_set import PhotoSet


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


def cub_folder(folder: Path) -> Path:
    """Write a subset in CUB's layout, with gaps in the ids and classes out of order."""
    wrens = {11: "004.Wren/a b.jpg", 5790: "004.Wren/b.jpg"}
    photos = wrens | {17: "001.Owl/a.jpg", 3: "001.Owl/c.jpg"}
    for i, photo in photos.items():
        make_photo(folder / "images" / photo, seed=i)
    tables = {
        "images": photos,
        "classes": {4: "004.Wren", 1: "001.Owl"},
        "image_class_labels": {3: 1, 11: 4, 17: 1, 5790: 4, 6000: 9},
        "train_test_split": {3: 0, 11: 1, 17: 1, 5790: 0, 6000: 1},
    }
    for name, table in tables.items():
        lines = "".join(f"{key} {value}\n" for key, value in table.items())
        (folder / f"{name}.txt").write_text(lines)
    return folder


def rows(photo_set: PhotoSet) -> dict[str, tuple[str, str]]:
    """Return path -> (class, split)."""
    names = [photo_set.class_names[label] for label in photo_set.labels]
    columns = zip(photo_set.paths.tolist(), names, photo_set.split.tolist(), strict=True)
    return {path: (name, split) for path, name, split in columns}


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
