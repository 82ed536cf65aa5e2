"""A folder of class folders, below split folders or not -> the photos of each class."""

import logging
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate, escape_bytes
from bilinear_cli.photos.folders.split_folders import find_split_folders, refuse_splits_in_classes
from bilinear_cli.photos.folders.walk import SUFFIXES, Walk, left_out_hint, walk_photos
from bilinear_cli.photos.lists.manifest import PhotoRecord

log = logging.getLogger(__name__)

MAX_SUFFIXES = 12  # in a message


class ClassFolders(NamedTuple):
    """The photos of a folder, and how it was understood."""

    rows: list[PhotoRecord]  # those for training first
    layout: str  # for a message
    left_out: Mapping[str, Sequence[str]]  # reason -> paths


class _Photo(NamedTuple):
    path: str
    split_folder: str  # empty without split folders
    folders: tuple[str, ...]  # below the split folder


def read_class_folders(folder: Path, spec: str, class_level: int | None = None) -> ClassFolders:
    """Read class folders, or class folders below split folders such as `train/` and `test/`.

    Args:
        folder: is walked as `walk_photos` describes.
        spec: the name of the folder in messages.
        class_level: the level of folders, from 1, whose names are the classes; None for 1, with a
            warning where photos lie deeper. Where folders of this level have the same name, the
            classes are their paths from level 1.

    Raises:
        BilinearError: the layout has no plain meaning, or there are no photos at this level.
    """
    _refuse_cub_below(folder, spec)
    walk = walk_photos(folder)
    if not walk.photos:
        raise BilinearError(
            f"there are no photos in {spec}{left_out_hint(walk.left_out)}. It should have a folder "
            f"for each class, with {abbreviate(SUFFIXES, MAX_SUFFIXES)} files"
        )
    splits, level = find_split_folders(walk.photos, spec), class_level or 1
    photos = _below_split_folders(walk.photos, splits)
    in_classes = [photo for photo in photos if len(photo.folders) >= level]
    if not in_classes:
        raise BilinearError(_no_classes(photos, spec, level))
    if not splits:
        _refuse_parent(folder, spec, in_classes)
    if class_level is None:
        refuse_splits_in_classes(walk.photos, spec)
        _check_first_level(in_classes, spec)
    rows = _rows(in_classes, splits, level, spec)
    left_out = walk.left_out | _left_out_of_classes(walk, rows, splits, level)
    return ClassFolders(rows, _layout(rows, splits), left_out)


def _refuse_cub_below(folder: Path, spec: str) -> None:
    """Raise if a folder below has a split of its own, as in the archive of CUB-200-2011."""
    for table in sorted(folder.glob("*/train_test_split.txt")):
        if (table.parent / "images.txt").is_file():
            raise BilinearError(
                f"{spec} holds a photo set in the layout of CUB-200-2011: give --data "
                f"{table.parent}"
            )


def _below_split_folders(paths: Sequence[str], splits: Mapping[str, str]) -> list[_Photo]:
    """Return the photos below split folders, in their order; all photos without such folders."""
    photos: dict[str, list[_Photo]] = {name: [] for name in splits or [""]}
    for path in paths:
        *folders, _ = path.split("/")
        if not splits:
            photos[""].append(_Photo(path, "", tuple(folders)))
        elif folders and folders[0] in splits:
            photos[folders[0]].append(_Photo(path, folders[0], tuple(folders[1:])))
    return [*chain.from_iterable(photos.values())]


def _no_classes(photos: Sequence[_Photo], spec: str, level: int) -> str:
    if levels := _describe_levels(photos):
        return f"{spec} has no photos in folders of level {level}: {levels}. Lower --class-level."
    return (
        f"{spec} has photos but no folders. Make a folder for each class; or, to classify these "
        f"photos, give the folder to bilinear predict"
    )


def _refuse_parent(folder: Path, spec: str, photos: Sequence[_Photo]) -> None:
    """Raise if all photos are in one folder that has several folders."""
    common = posixpath.commonpath(["/".join(photo.folders) for photo in photos])
    level = len(common.split("/"))
    below = {photo.folders[level] for photo in photos if len(photo.folders) > level}
    if common and len(below) > 1:
        names = abbreviate(sorted(map(escape_bytes, below)))
        raise BilinearError(
            f"{spec} has only one folder with photos. To take {names} as classes or splits, give "
            f"--data {folder / common}"
        )


def _check_first_level(photos: Sequence[_Photo], spec: str) -> None:
    """Raise if the only class is `images`; warn if most class folders hold only folders."""
    classes = {photo.folders[0] for photo in photos}
    if classes == {"images"}:
        raise BilinearError(
            f"{spec} has no class folders, but only images/, as sets for object detection do. List "
            "path, label and split of its photos in a CSV file."
        )
    flat = {photo.folders[0] for photo in photos if len(photo.folders) == 1}
    if 2 * len(flat) < len(classes):
        log.warning(
            "%s: most class folders hold only folders: %s. The classes are the folders of level 1. "
            "Give --class-level N for another level, or --class-level 1 to confirm. If "
            "those of level 1 are splits, rename them to train, val and test",
            spec,
            _describe_levels(photos),
        )


def _describe_levels(photos: Sequence[_Photo]) -> str:
    """Return the number of folders at each level, with examples; empty without folders."""
    texts = []
    for level in range(1, max(len(photo.folders) for photo in photos) + 1):
        folders = {photo.folders[:level] for photo in photos if len(photo.folders) >= level}
        names = sorted({escape_bytes(folder[-1]) for folder in folders})
        count = (
            len(folders) if len(folders) == len(names) else f"{len(folders)} of {len(names)} names"
        )
        texts.append(f"level {level} has {count} ({abbreviate(names, 3)})")
    return ", ".join(texts)


def _rows(
    photos: Sequence[_Photo], splits: Mapping[str, str], level: int, spec: str
) -> list[PhotoRecord]:
    """Return a row for each photo; without a photo for testing, the rows have no split."""
    folders = sorted({photo.folders[:level] for photo in photos})
    label_of = {folder: folder[-1] for folder in folders}
    counts = Counter(label_of.values())
    if same := [escape_bytes(name) for name, count in counts.items() if count > 1]:
        label_of = {folder: "/".join(folder) for folder in folders}
        log.warning(
            "%s: several folders of level %d are called %s. The classes are paths: %s",
            spec,
            level,
            abbreviate(same, 3),
            escape_bytes(abbreviate(label_of.values(), 3)),
        )
    has_test = any(splits.get(photo.split_folder) == "test" for photo in photos)
    return [
        PhotoRecord(path, label_of[folders[:level]], splits[split_folder] if has_test else "")
        for path, split_folder, folders in photos
    ]


def _left_out_of_classes(
    walk: Walk, rows: Sequence[PhotoRecord], splits: Mapping[str, str], level: int
) -> dict[str, list[str]]:
    """Return reason -> photos that are in no class folder, and class folders without photos."""
    listed, n_levels = {row.path for row in rows}, level + bool(splits)
    with_photos = {"/".join(path.split("/")[:n_levels]) for path in listed}
    left_out = {
        "photos outside of the class folders": [x for x in walk.photos if x not in listed],
        "class folders without photos": [
            folder
            for folder in walk.folders[1:]
            if folder.count("/") == n_levels - 1
            and folder not in with_photos
            and (not splits or folder.split("/")[0] in splits)
        ],
    }
    return {reason: [*map(escape_bytes, paths)] for reason, paths in left_out.items() if paths}


def _layout(rows: Sequence[PhotoRecord], splits: Mapping[str, str]) -> str:
    """Return how a folder was understood."""
    n_photos, n_classes = len(rows), len({row.label for row in rows})
    if not rows[0].split:
        where = f" in {'/, '.join(splits)}/" if splits else ""
        return f"{n_photos:,} photos of {n_classes:,} classes{where}, a third of them to test"
    train, test = (
        " and ".join(f"{folder}/" for folder, x in splits.items() if x == split)
        for split in ("train", "test")
    )
    return f"{n_photos:,} photos: {train} to train on, {test} to test"
