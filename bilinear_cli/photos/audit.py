"""The audit behind `bilinear check`: facts of a photo set as lists and dictionaries, for JSON."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError
from bilinear_cli.files import atomic_write, relative_path
from bilinear_cli.messages import abbreviate
from bilinear_cli.photos import duplicates
from bilinear_cli.photos.audit_report import LONG, MIN_TRAIN, ONE_COLOUR, SMALL, similar_names
from bilinear_cli.photos.boxes.crops import Crop
from bilinear_cli.photos.lists.manifest import manifest_csv
from bilinear_cli.photos.photo_set import (
    PhotoSet,
    count_photos,
    is_unequal,
    stratified_group_split,
)
from bilinear_cli.photos.pixels.batches import read_batches
from bilinear_cli.photos.pixels.images import decode_photo, read_bytes
from bilinear_cli.progress import Progress

SIZE = 224  # pixels; photos are resized to this before they are hashed
BATCH_SIZE = 64
MAX_ASPECT_RATIO = 4  # of the sides; squashed to a square, a longer photo is hard to recognise
MIN_STD = 3.0  # of 255, in the channel that varies most; birds in front of a clear sky have 6


class Oddity(NamedTuple):
    """Something odd about a photo."""

    kind: str  # a word or two; photos of one kind are counted together
    reason: str
    rank: float = 0.0  # within a kind of `RANKED`; the lowest is the worst


class PhotoInfo(NamedTuple):
    """The measurements of one photo."""

    sha256: str  # of the file, hexadecimal
    hashes: np.ndarray | None  # see `perceptual_hashes`; None for a photo of nearly one colour
    oddities: tuple[Oddity, ...]


def audit_photos(
    photo_set: PhotoSet,
    image_size: int,
    progress: Progress | None = None,
    *,
    crops: Sequence[Sequence[Crop]] | None = None,
) -> dict[str, Any]:
    """Return facts of a photo set; every photo is read once, in threads.

    Args:
        image_size: of `extract`, in pixels; smaller photos are odd.
        crops: of each photo; None without boxes.

    Raises:
        BilinearError: imagehash is not installed, or the memory does not suffice to decode a photo.
    """
    duplicates.load_imagehash()
    start = time.perf_counter()
    files = [photo_set.root / path for path in photo_set.paths]
    results: list[PhotoInfo | BadPhotoError] = []
    items = zip(files, crops or [()] * len(files), strict=True)
    for batch in read_batches(items, BATCH_SIZE, lambda x: inspect_photo(x[0], image_size, x[1])):
        results += batch
        if progress:
            progress(len(results), len(files))
    seconds = time.perf_counter() - start
    infos = {i: info for i, info in enumerate(results) if isinstance(info, PhotoInfo)}
    hashes = {i: info.hashes for i, info in infos.items() if info.hashes is not None}
    exact = duplicates.group_by_key([*infos], [info.sha256 for info in infos.values()])
    sets = duplicates.near_duplicate_sets(np.array([*hashes.values()]))
    near = duplicates.group_by_key([*hashes], sets)
    near = [photos for photos in near if len({infos[i].sha256 for i in photos}) > 1]
    bad = {i: error for i, error in enumerate(results) if isinstance(error, BadPhotoError)}
    paths = photo_set.paths.tolist()
    odd = [(paths[i], oddity) for i, info in infos.items() for oddity in info.oddities]
    odd.sort(key=lambda x: (x[1].kind, x[1].rank))
    return {
        **_class_facts(photo_set),
        "left_out": [
            {"reason": reason, "count": len(left_out), "paths": [*left_out]}
            for reason, left_out in photo_set.left_out.items()
        ],
        "unreadable": [{"path": paths[i], "reason": str(error)} for i, error in bad.items()],
        "exact_duplicates": [_duplicates(photo_set, photos) for photos in exact],
        "near_duplicates": [_duplicates(photo_set, photos) for photos in near],
        "odd": [{"path": path, "kind": x.kind, "reason": x.reason} for path, x in odd],
        "reading_seconds": round(seconds, 1),
    }


def _class_facts(photo_set: PhotoSet) -> dict[str, Any]:
    names, seed = np.array(photo_set.class_names), photo_set.split_seed
    counts = count_photos(names[photo_set.labels], photo_set.split, names)
    return {
        "data": photo_set.spec,
        "photos": len(photo_set),
        "split": "given by the photo set" if seed is None else f"seed {seed}",
        "classes": counts,
        "unequal_classes": _unequal_classes(counts),
        "small_classes": [x for x, n_photos in counts.items() if n_photos["train"] < MIN_TRAIN],
        "untested_classes": [x for x, n_photos in counts.items() if not n_photos["test"]],
        "alike_classes": similar_names(photo_set.class_names),
    }


def _unequal_classes(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return the classes with the fewest and the most training photos if they are unequal."""
    n_train = {name: n_photos["train"] for name, n_photos in counts.items() if n_photos["train"]}
    ends = [choose(n_train, key=n_train.__getitem__) for choose in (min, max)]
    return ends if is_unequal([*n_train.values()]) else []


def _duplicates(photo_set: PhotoSet, indices: list[int]) -> dict[str, Any]:
    """Describe a set of duplicates; across splits it is a leak, across classes a wrong label."""
    photos = [
        {
            "path": str(photo_set.paths[i]),
            "label": photo_set.class_names[photo_set.labels[i]],
            "split": str(photo_set.split[i]),
        }
        for i in indices
    ]
    return {
        "across_splits": len({photo["split"] for photo in photos}) > 1,
        "across_classes": len({photo["label"] for photo in photos}) > 1,
        "photos": photos,
    }


def inspect_photo(path: Path, image_size: int, crops: Sequence[Crop] = ()) -> PhotoInfo:
    """Read and measure a photo; with crops, the size of the smallest one counts.

    Raises:
        BadPhotoError: `extract` cannot read it either.
    """
    data = read_bytes(path)
    (photo,), (width, height), notes = decode_photo(data, path, [SIZE])
    std = float(photo.std(axis=(0, 1)).max())
    is_flat = std < MIN_STD
    if crops:
        width, height = min((_crop_size(path, x, (width, height)) for x in crops), key=min)
    short, long = sorted([width, height])
    is_long = long > MAX_ASPECT_RATIO * short
    pixels = f"{width} x {height} pixels" + " in the box" * bool(crops)
    enlarged = f"{pixels}: will be enlarged to {image_size}"
    stretched = f"{pixels}: one side is over {MAX_ASPECT_RATIO} times the other"
    oddities = [
        (short < image_size, Oddity(SMALL, enlarged, short)),
        (is_long, Oddity(LONG, stretched, -long / short)),
        (is_flat, Oddity(ONE_COLOUR, f"standard deviation {std:.1f} of 255", std)),
    ]
    odd = tuple(Oddity(note.reason, note.detail or note.reason) for note in notes)
    odd += tuple(oddity for applies, oddity in oddities if applies)
    hashes = None if is_flat else duplicates.perceptual_hashes(photo)
    return PhotoInfo(hashlib.sha256(data).hexdigest(), hashes, odd)


def _crop_size(path: Path, crop: Crop, size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height of a crop, or raise a BadPhotoError."""
    try:
        left, top, right, bottom = crop.rectangle(size)
    except ValueError as error:
        raise BadPhotoError(f"cannot read {path} as a photo: {error}") from error
    return right - left, bottom - top


def write_groups(photo_set: PhotoSet, duplicate_sets: list[dict[str, Any]], path: Path) -> None:
    """Write a manifest whose groups keep duplicates, as `audit_photos` returns them, together.

    A split of the set itself stays. A split that was made here is made again, so that all photos
    of a group land in the same split.

    Raises:
        BilinearError: a name begins or ends with a blank, which reading a manifest strips.
    """
    index = {path: i for i, path in enumerate(photo_set.paths.tolist())}
    sets = [[index[photo["path"]] for photo in x["photos"]] for x in duplicate_sets]
    group = duplicates.merge_groups(photo_set.group, sets)
    split = photo_set.split
    if photo_set.split_seed is not None:
        split = stratified_group_split(photo_set.labels, group, photo_set.split_seed)
    labels = [photo_set.class_names[i] for i in photo_set.labels]
    paths = [relative_path(photo_set.root / p, path.parent.resolve()) for p in photo_set.paths]
    unsafe = {text for text in [*paths, *labels, *group.tolist()] if text != text.strip()}
    if unsafe:
        raise BilinearError(
            "cannot write --groups: these names begin or end with a space, which is lost when "
            f"the CSV file is read: {abbreviate(unsafe)}. Rename them."
        )
    with atomic_write(path) as new:
        text = manifest_csv(zip(paths, labels, split, group, strict=True), path)
        new.write_text(text, encoding="utf-8", newline="")


def validate_groups_path(path: Path) -> None:
    """Raise unless a manifest can be written to `path`; called before any photo is read."""
    if path.exists():
        raise UsageError(f"{path} exists already: give --groups another name")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for --groups: make it first")
