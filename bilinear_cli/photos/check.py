"""What is in a photo set, before hours are spent on it: reads every photo once."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError, some
from bilinear_cli.photos.dataset import Dataset, stratified_split
from bilinear_cli.photos.duplicates import (
    groups_with,
    hashes_of,
    load_hashing,
    members,
    near_sets,
)
from bilinear_cli.photos.images import FORMATS, decode_photo, photo_bytes, read_batches
from bilinear_cli.photos.manifest import manifest

SIZE = 224  # pixels, that hashes are taken at
BATCH = 64
LONGEST = 4  # times the shorter side; squashed to a square, such a photo is hardly itself
FLAT = 3.0  # of 255: standard deviation of the pixels; birds before a clear sky have 6 or more
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Look:
    """What one reading tells of a photo.

    Attributes:
        sha256: of the file, hexadecimal.
        width: in pixels, as stored.
        height: likewise.
        spread: the standard deviation of its pixels, of the colour that varies most, 0 to 127.5.
        hashes: uint64 (2,), see `hashes_of`.
    """

    sha256: str
    width: int
    height: int
    spread: float
    hashes: np.ndarray


@dataclass(frozen=True)
class Survey:
    """What was found. Photos are given by their numbers in the set.

    Attributes:
        unreadable: photo -> why `extract` would stop at it.
        exact: sets of photos whose files are the same, byte for byte.
        near: sets of photos that look the same and are not all the same file.
        odd: photo -> what is odd about it.
        seconds: that reading took, all in all.
    """

    unreadable: dict[int, str]
    exact: list[np.ndarray]
    near: list[np.ndarray]
    odd: dict[int, str]
    seconds: float


def survey(dataset: Dataset, image_size: int, progress: Progress | None = None) -> Survey:
    """Read every photo of a set once, in threads.

    Args:
        dataset: the photos.
        image_size: that `extract` will bring them to; smaller ones are odd.
        progress: told (done, total).

    Raises:
        BilinearError: the library that finds near duplicates is not installed, or there is not the
            memory to decode a photo.
    """
    load_hashing()
    start = time.perf_counter()
    looks: list[Look | BadPhotoError] = []
    for batch in read_batches([dataset.root / path for path in dataset.paths], BATCH, look):
        looks += batch
        if progress:
            progress(len(looks), len(dataset))
    seconds = time.perf_counter() - start
    good = {i: found for i, found in enumerate(looks) if isinstance(found, Look)}
    return Survey(
        unreadable={i: str(why) for i, why in enumerate(looks) if isinstance(why, BadPhotoError)},
        exact=_same(good, [found.sha256 for found in good.values()]),
        near=_near(good),
        odd={i: why for i, found in good.items() if (why := oddity(found, image_size))},
        seconds=seconds,
    )


def look(path: Path) -> Look:
    """Read a photo.

    Raises:
        BadPhotoError: `extract` could not read it either.
    """
    data = photo_bytes(path)
    (photo,) = decode_photo(data, path, [SIZE])
    with Image.open(io.BytesIO(data), formats=[*FORMATS]) as image:
        width, height = image.size
    spread = float(photo.std(axis=(0, 1)).max())
    return Look(hashlib.sha256(data).hexdigest(), width, height, spread, hashes_of(photo))


def oddity(found: Look, image_size: int) -> str:
    """Return what is odd about a photo; empty for nothing."""
    sides = sorted([found.width, found.height])
    said = f"{found.width} x {found.height} pixels"
    reasons = [
        (sides[0] < image_size, f"{said}: will be enlarged to {image_size}"),
        (sides[1] > LONGEST * sides[0], f"{said}: one side is over {LONGEST} times the other"),
        (found.spread < FLAT, "nearly one colour"),
    ]
    return "; ".join(reason for holds, reason in reasons if holds)


def _same(good: dict[int, Look], keys: Sequence | np.ndarray) -> list[np.ndarray]:
    numbers = np.array([*good], np.int64)
    return [numbers[part] for part in members(keys)]


def _near(good: dict[int, Look]) -> list[np.ndarray]:
    """Return the sets of near duplicates; photos of one colour have nothing to compare."""
    good = {i: found for i, found in good.items() if found.spread >= FLAT}
    sets = _same(good, near_sets(np.array([found.hashes for found in good.values()])))
    return [part for part in sets if len({good[i].sha256 for i in part.tolist()}) > 1]


def write_groups(dataset: Dataset, found: Survey, path: Path) -> np.ndarray:
    """Write a manifest whose groups keep duplicates together; return the groups, one a photo.

    A split that was made here is made again, so that it tears no group; one that the set brought
    stays.

    Raises:
        BilinearError: a name would not be read back as it is.
    """
    group = groups_with(dataset.group, [*found.exact, *found.near])
    split, seed = dataset.split, dataset.split_seed
    if seed is not None:
        split = stratified_split(dataset.labels, group, seed)
    labels = [dataset.class_names[i] for i in dataset.labels]
    paths = [os.path.relpath(dataset.root / p, path.parent.resolve()) for p in dataset.paths]
    blank = {text for text in [*paths, *labels, *group.tolist()] if text != text.strip()}
    if blank:  # which reading a manifest takes off
        raise BilinearError(f"--groups: rename what begins or ends with a blank: {some(blank)}")
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(manifest(zip(paths, labels, split, group, strict=True)))
    return group


def check_new(path: Path) -> None:
    """Raise unless a manifest can be written there, before any photo is read."""
    if path.exists():
        raise UsageError(f"{path} is there already: give --groups another name")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for --groups")
