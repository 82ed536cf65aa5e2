"""A folder of photos -> the photos of each class; the walk that `predict FOLDER` shares."""

import logging
from pathlib import Path

from bilinear_cli.errors import BilinearError, abbreviate
from bilinear_cli.photos.formats import FORMATS
from bilinear_cli.photos.manifest import PhotoRecord

log = logging.getLogger(__name__)

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def read_class_folders(folder: Path, spec: str, class_level: int = 1) -> list[PhotoRecord]:
    """Return the photos of class folders, or of `train/` and `test/` above class folders."""
    splits = [split for split in ("train", "test") if (folder / split).is_dir()]
    if splits == ["test"]:
        raise BilinearError(f"{spec} has a folder test/ but no folder train/: add training photos")
    split_folders = [e.name for e in folder.iterdir() if e.name.lower() in ("train", "test")]
    if any(name != name.lower() for name in split_folders):
        raise BilinearError(f"{spec}: rename {abbreviate(sorted(split_folders))} to train and test")
    rows = [
        PhotoRecord(
            path.relative_to(folder).as_posix(), entry.name, split if len(splits) == 2 else ""
        )
        for split in splits or ["."]
        for entry in sorted((folder / split).iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
        for path in list_photos(entry)
    ]
    if not rows:
        raise BilinearError(
            f"there are no photos in {spec}: it should have a folder for each class, with "
            f"{abbreviate(sorted(SUFFIXES), 9)} files"
        )
    listed = {row.path for row in rows}
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("[!.]*") if p.is_file()]
    ignored = sorted(path for path in files if path not in listed and "/." not in path)
    if ignored:  # the suffix is unknown, or the file is not in a class folder
        log.warning("%s: ignored files (%d): %s", spec, len(ignored), abbreviate(ignored))
    return rows


def list_photos(folder: Path) -> list[Path]:
    """Return the photos in a folder and below it, by suffix, sorted, without hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.is_file()
    )
