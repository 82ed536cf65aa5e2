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

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError, abbreviate
from bilinear_cli.photos.duplicates import (
    hashes_of,
    load_hashing,
    members,
    merge_groups,
    near_duplicate_sets,
)
from bilinear_cli.photos.images import FORMATS, decode_photo, read_batches, read_bytes
from bilinear_cli.photos.manifest import manifest_csv
from bilinear_cli.photos.photo_set import PhotoSet, stratified_split

SIZE = 224  # pixels, that hashes are taken at
BATCH = 64
LONGEST = 4  # times the shorter side; squashed to a square, such a photo is hardly itself
FLAT = 3.0  # of 255: standard deviation of the pixels; birds before a clear sky have 6 or more
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PhotoInfo:
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
class Audit:
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


def audit_photos(photo_set: PhotoSet, image_size: int, progress: Progress | None = None) -> Audit:
    """Read every photo of a set once, in threads.

    Args:
        photo_set: the photos.
        image_size: that `extract` will bring them to; smaller ones are odd.
        progress: told (done, total).

    Raises:
        BilinearError: the library that finds near duplicates is not installed, or there is not the
            memory to decode a photo.
    """
    load_hashing()
    start = time.perf_counter()
    looks: list[PhotoInfo | BadPhotoError] = []
    for batch in read_batches(
        [photo_set.root / path for path in photo_set.paths], BATCH, inspect_photo
    ):
        looks += batch
        if progress:
            progress(len(looks), len(photo_set))
    seconds = time.perf_counter() - start
    good = {i: found for i, found in enumerate(looks) if isinstance(found, PhotoInfo)}
    return Audit(
        unreadable={i: str(why) for i, why in enumerate(looks) if isinstance(why, BadPhotoError)},
        exact=_same(good, [found.sha256 for found in good.values()]),
        near=_near(good),
        odd={i: why for i, found in good.items() if (why := oddity(found, image_size))},
        seconds=seconds,
    )


def inspect_photo(path: Path) -> PhotoInfo:
    """Read a photo.

    Raises:
        BadPhotoError: `extract` could not read it either.
    """
    data = read_bytes(path)
    (photo,) = decode_photo(data, path, [SIZE])
    with Image.open(io.BytesIO(data), formats=[*FORMATS]) as image:
        width, height = image.size
    spread = float(photo.std(axis=(0, 1)).max())
    return PhotoInfo(hashlib.sha256(data).hexdigest(), width, height, spread, hashes_of(photo))


def oddity(found: PhotoInfo, image_size: int) -> str:
    """Return what is odd about a photo; empty for nothing."""
    sides = sorted([found.width, found.height])
    said = f"{found.width} x {found.height} pixels"
    reasons = [
        (sides[0] < image_size, f"{said}: will be enlarged to {image_size}"),
        (sides[1] > LONGEST * sides[0], f"{said}: one side is over {LONGEST} times the other"),
        (found.spread < FLAT, "nearly one colour"),
    ]
    return "; ".join(reason for holds, reason in reasons if holds)


def _same(good: dict[int, PhotoInfo], keys: Sequence | np.ndarray) -> list[np.ndarray]:
    numbers = np.array([*good], np.int64)
    return [numbers[part] for part in members(keys)]


def _near(good: dict[int, PhotoInfo]) -> list[np.ndarray]:
    """Return the sets of near duplicates; photos of one colour have nothing to compare."""
    good = {i: found for i, found in good.items() if found.spread >= FLAT}
    sets = _same(good, near_duplicate_sets(np.array([found.hashes for found in good.values()])))
    return [part for part in sets if len({good[i].sha256 for i in part.tolist()}) > 1]


def write_groups(photo_set: PhotoSet, found: Audit, path: Path) -> np.ndarray:
    """Write a manifest whose groups keep duplicates together; return the groups, one a photo.

    A split that was made here is made again, so that it tears no group; one that the set brought
    stays.

    Raises:
        BilinearError: a name would not be read back as it is.
    """
    group = merge_groups(photo_set.group, [*found.exact, *found.near])
    split, seed = photo_set.split, photo_set.split_seed
    if seed is not None:
        split = stratified_split(photo_set.labels, group, seed)
    labels = [photo_set.class_names[i] for i in photo_set.labels]
    paths = [os.path.relpath(photo_set.root / p, path.parent.resolve()) for p in photo_set.paths]
    blank = {text for text in [*paths, *labels, *group.tolist()] if text != text.strip()}
    if blank:  # which reading a manifest takes off
        raise BilinearError(
            f"--groups: rename what begins or ends with a blank: {abbreviate(blank)}"
        )
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(manifest_csv(zip(paths, labels, split, group, strict=True)))
    return group


def check_new(path: Path) -> None:
    """Raise unless a manifest can be written there, before any photo is read."""
    if path.exists():
        raise UsageError(f"{path} is there already: give --groups another name")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for --groups")
