"""The kinds of photo sets. Each kind is one function that lists the photos of a `--data` spec.

To add a kind, write such a function and add it to `KINDS` at the end of this file. Photos that are
not files yet (drawn ones, or those of a library) are written to the cache with `write_photos`, so
that everything downstream (resuming, checksums, pages with photos) works on files.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from bilinear_cli.config import cache_folder
from bilinear_cli.errors import BilinearError, Progress, UsageError, abbreviate, validate_choice
from bilinear_cli.files import atomic_write
from bilinear_cli.photos import sample
from bilinear_cli.photos.images import FORMATS
from bilinear_cli.photos.manifest import Row, read_manifest

log = logging.getLogger(__name__)

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


class Listing(NamedTuple):
    """The photos of a set."""

    name: str  # short, fit for a file name
    root: Path  # the folder that paths are relative to
    rows: list[Row]
    class_names: tuple[str, ...] = ()  # empty for the sorted labels


def list_sample(spec: str, progress: Progress | None) -> Listing:
    """List the drawn sample: `sample`, followed by any of `:grey`, `:no-ink` and `:seed=N`."""
    options: dict = {"seed": 0, "ink": True, "grey": False}
    for word in spec.split(":")[1:]:
        key, equals, value = word.partition("=")
        validate_choice("option of the sample", key, ["grey", "no-ink", "seed"])
        if not (value.isdecimal() if key == "seed" else not equals):
            raise UsageError(f"cannot read {word!r} in {spec!r}: write sample:seed=1, sample:grey")
        if key == "seed":
            options["seed"] = int(value)
        else:
            options |= {"ink": False} if key == "no-ink" else {"grey": True}
    name = "-".join(f"{key}={value}" for key, value in options.items())
    folder, n_photos = cache_folder() / "sample" / name, sample.N_SPECIES * sample.N_DRAWINGS
    write_photos(folder, sample.drawings(**options), n_photos, progress)
    return _class_folders(spec.replace(":", "-"), folder, spec)


def list_tfds(spec: str, progress: Progress | None) -> Listing:
    """List a set of tensorflow-datasets. Its encoded photos are copied byte for byte."""
    from bilinear_cli.photos.tfds import open_dataset  # heavy, and an extra

    name, n_photos, photos = open_dataset(spec.removeprefix("tfds:"))
    folder = write_photos(cache_folder() / "tfds" / name, photos, n_photos, progress)
    return _class_folders(name, folder, spec)


def write_photos(
    folder: Path, photos: Iterable[tuple[str, bytes]], n_photos: int, progress: Progress | None
) -> Path:
    """Write photos into a folder of the cache, unless the folder exists; return the folder.

    Args:
        folder: exists as soon as all its photos are written.
        photos: path below `folder` and content of each of `n_photos` files.

    Raises:
        BilinearError: the folder cannot be written.
    """
    if folder.exists():
        return folder
    try:
        with atomic_write(folder) as draft:
            draft.mkdir()
            for done, (path, content) in enumerate(photos, 1):
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_bytes(content)
                if progress:
                    progress(done, n_photos)
    except BilinearError:
        if not folder.is_dir():  # otherwise another run has written the same photos
            raise
    return folder


def list_class_folders(spec: str, _: Progress | None) -> Listing:
    """List a folder that has a folder for each class, or `train/` and `test/` with those."""
    return _class_folders(Path(spec).resolve().name, Path(spec), spec)


def _class_folders(name: str, folder: Path, spec: str) -> Listing:
    splits = [split for split in ("train", "test") if (folder / split).is_dir()]
    if splits == ["test"]:
        raise BilinearError(f"{spec} has a folder test/ but no folder train/: add training photos")
    split_folders = [e.name for e in folder.iterdir() if e.name.lower() in ("train", "test")]
    if any(name != name.lower() for name in split_folders):
        raise BilinearError(f"{spec}: rename {abbreviate(sorted(split_folders))} to train and test")
    rows = [
        Row(path.relative_to(folder).as_posix(), entry.name, split if len(splits) == 2 else "")
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
    return Listing(name, folder, rows)


def list_photos(folder: Path) -> list[Path]:
    """Return the photos in a folder and below it, by suffix, sorted, without hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.is_file()
    )


def list_cub(spec: str, _: Progress | None) -> Listing:
    """List a folder in the layout of CUB-200-2011, or a subset of it with the official ids."""
    folder = Path(spec)
    tables = {
        name: _cub_table(folder / f"{name}.txt")
        for name in ("images", "classes", "image_class_labels", "train_test_split")
    }
    photos, classes, label_of, in_train = tables.values()
    for name in ("image_class_labels", "train_test_split"):
        if missing := photos.keys() - tables[name].keys():
            raise BilinearError(
                f"{folder / name}.txt lacks the photos {abbreviate(sorted(missing))}"
            )
    if missing := {label_of[i] for i in photos} - classes.keys():
        raise BilinearError(
            f"{folder / 'classes.txt'} lacks the classes {abbreviate(sorted(missing))}"
        )
    rows = [
        Row(path, classes[label_of[i]], "train" if in_train[i] == "1" else "test")
        for i, path in photos.items()
    ]
    return Listing(folder.resolve().name, folder / "images", rows, tuple(classes.values()))


def _cub_table(path: Path) -> dict[str, str]:
    """Read lines of `id value`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(line.strip().split(" ", 1) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BilinearError(f"cannot read {path}: {error}") from error


def list_manifest(spec: str, _: Progress | None) -> Listing:
    """List a CSV file `path,label[,split][,group]`."""
    return Listing(Path(spec).stem, Path(spec).parent, read_manifest(Path(spec)))


# Kind -> whether a spec is of this kind, and the function that lists its photos. The first kind
# that matches is taken.
KINDS: dict[str, tuple[Callable[[str], bool], Callable[[str, Progress | None], Listing]]] = {
    "sample": (lambda spec: spec.split(":")[0] == "sample", list_sample),
    "tfds": (lambda spec: spec.startswith("tfds:"), list_tfds),
    "cub": (lambda spec: (Path(spec) / "images.txt").is_file(), list_cub),
    "folders": (lambda spec: Path(spec).is_dir(), list_class_folders),
    "manifest": (lambda spec: Path(spec).is_file(), list_manifest),
}
