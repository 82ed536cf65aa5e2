"""A `--data` spec -> `PhotoSet`: which photos there are, of what, and for what.

Every kind of photo set (drawn sample, class folders, CUB-200-2011, CSV manifest,
tensorflow-datasets) ends as the same table of paths, labels, split and groups.
"""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from bilinear_cli.config import cache_folder
from bilinear_cli.errors import BilinearError, UsageError, abbreviate, validate_choice
from bilinear_cli.photos.images import FORMATS
from bilinear_cli.photos.manifest import read_manifest
from bilinear_cli.photos.sample import write_sample

log = logging.getLogger(__name__)

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
COLUMNS = ("paths", "labels", "split", "group")
TRAIN_FRACTION = 2 / 3
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PhotoSet:
    """A labelled, split photo set. All arrays have one entry a photo.

    Attributes:
        name: short, fit for a file name.
        kind: `sample`, `folders`, `cub`, `manifest` or `tfds`.
        spec: what the user typed.
        root: the folder that `paths` start from.
        paths: str, POSIX, relative to `root`; no photo stands there twice.
        labels: int64, indices into `class_names`.
        split: str, `train` or `test`.
        group: str; photos of one group are never torn apart by a split or a fold.
        class_names: one for each label; at least two.
        split_seed: the seed of a split that was made here; None where the set brought its own.
    """

    name: str
    kind: str
    spec: str
    root: Path
    paths: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    group: np.ndarray
    class_names: tuple[str, ...]
    split_seed: int | None

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.paths)

    def limit(self, n_photos: int) -> "PhotoSet":
        """Return the set with its first `n_photos`, taken in turn from each class and split."""
        counters: dict[tuple, count] = defaultdict(count)
        rank = [next(counters[key]) for key in zip(self.labels, self.split, strict=True)]
        return self.take(np.sort(np.argsort(rank, kind="stable")[:n_photos]))

    def take(self, indices: np.ndarray) -> "PhotoSet":
        """Return the set with these of its photos, given by their numbers."""
        return replace(self, **{name: getattr(self, name)[indices] for name in COLUMNS})

    def fingerprint(self) -> str:
        """Return a SHA-256 of what the set says of its photos, but not of their files."""
        columns = [*(getattr(self, name).tolist() for name in COLUMNS), list(self.class_names)]
        return hashlib.sha256(json.dumps(columns).encode()).hexdigest()

    def sha256(self) -> np.ndarray:
        """Return the SHA-256 of each file's bytes, as hexadecimal str; empty if unreadable."""
        with ThreadPoolExecutor() as pool:
            return np.array([*pool.map(_sha256, (self.root / path for path in self.paths))], str)


@dataclass(frozen=True)
class _Listing:
    """What a kind of set says of its photos; None for what it leaves open."""

    root: Path
    paths: list[str]
    labels: list[str]
    split: list[str] | None
    group: list[str] | None = None
    class_names: list[str] | None = None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # reading it as a photo will say what is wrong


def load_photo_set(spec: str, *, split_seed: int = 0, progress: Progress | None = None) -> PhotoSet:
    """Read a photo set.

    Args:
        spec: `sample` (`sample:grey`, `sample:no-ink`, `sample:seed=1`), a folder of class folders
            (optionally with `train/` and `test/` above them), a CUB-200-2011 folder, a CSV
            manifest `path,label[,split][,group]`, or `tfds:NAME`.
        split_seed: for the split of a set that has none: stratified, two thirds for training,
            groups kept whole.
        progress: told (done, total) while photos are drawn or unpacked.

    Raises:
        BilinearError: there is no such set, or something in it cannot be meant.
    """
    path = Path(spec)
    if spec == "sample" or spec.startswith("sample:"):
        name, kind = spec.replace(":", "-"), "sample"
        listing = _class_folders(_sample(spec, progress), spec)
    elif spec.startswith("tfds:"):
        from bilinear_cli.photos.tfds import unpack  # heavy, and an extra

        folder, name = unpack(spec.removeprefix("tfds:"), cache_folder() / "tfds", progress)
        kind, listing = "tfds", _class_folders(folder, spec)
    elif (path / "images.txt").is_file():
        name, kind, listing = path.resolve().name, "cub", _cub(path)
    elif path.is_dir():
        name, kind, listing = path.resolve().name, "folders", _class_folders(path, spec)
    elif path.is_file():
        name, kind, listing = path.stem, "manifest", _manifest(path, spec)
    else:
        raise BilinearError(
            f"there is no photo set at {spec!r}: give a folder, a CSV file or 'sample'"
        )
    return _photo_set(name, kind, spec, listing, split_seed)


def stratified_split(labels: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Return `train` or `test` for each photo: about a third of each class for testing.

    A group stays whole and counts for the class of its first photo. A class with one group is
    for training alone.
    """
    rng = np.random.default_rng(seed)
    _, first, indices, size = np.unique(group, True, True, True)
    is_test = np.zeros(len(first), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        wanted = round(size[members].sum() * (1 - TRAIN_FRACTION))
        for member in members[:-1]:
            if size[member] <= 2 * wanted:  # nearer to a third with it than without
                is_test[member] = True
                wanted -= size[member]
    return np.where(is_test[indices], "test", "train")


def count_photos(
    labels: Iterable[str], split: Iterable[str], class_names: Iterable[str] = ()
) -> dict[str, dict[str, int]]:
    """Return class -> split -> number of photos, classes without photos too if they are named."""
    counts = Counter(zip(map(str, labels), map(str, split), strict=True))
    names = dict.fromkeys([*map(str, class_names), *(name for name, _ in counts)])
    return {name: {split: counts[name, split] for split in ("train", "test")} for name in names}


def _photo_set(name: str, kind: str, spec: str, listing: _Listing, split_seed: int) -> PhotoSet:
    """Check what every kind of set has to keep, number the labels, and split if need be."""
    if not listing.paths:
        raise BilinearError(f"{spec} lists no photos")
    names = tuple(listing.class_names or sorted(set(listing.labels)))
    if len(names) < 2:
        raise BilinearError(
            f"{spec} has one class only ({abbreviate(names)}): a classifier needs at least two"
        )
    for text in [*listing.paths, *names]:
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = text.encode(errors="surrogateescape").decode(errors="replace")
            raise BilinearError(f"{spec}: the name {shown!r} is not UTF-8: rename it") from None
    numbers = {label: i for i, label in enumerate(names)}
    labels = np.array([numbers[label] for label in listing.labels], np.int64)
    paths, group = np.array(listing.paths), np.array(listing.group or listing.paths)
    own = listing.split
    split = np.array(own) if own else stratified_split(labels, group, split_seed)
    is_train = split == "train"
    untrained = np.setdiff1d(labels[~is_train], labels[is_train])
    if untrained.size:
        classes = abbreviate(names[i] for i in untrained)
        raise BilinearError(f"{spec}: no training photo of a class with test photos: {classes}")
    torn = np.intersect1d(group[is_train], group[~is_train])
    if torn.size:
        log.warning("%s: groups with photos in both splits: %s", spec, abbreviate(torn))
    seed, root = None if own else split_seed, listing.root.resolve()
    return PhotoSet(name, kind, spec, root, paths, labels, split, group, names, seed)


# The kinds of set ------------------------------------------------------------------------


def _sample(spec: str, progress: Progress | None) -> Path:
    """Return the folder of a drawn sample, which is drawn if it is not in the cache."""
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
    drawn = "-".join(f"{key}={value}" for key, value in options.items())
    return write_sample(cache_folder() / "sample" / drawn, **options, progress=progress)


def _class_folders(folder: Path, spec: str) -> _Listing:
    splits = [split for split in ("train", "test") if (folder / split).is_dir()]
    if splits == ["test"]:
        raise BilinearError(f"{spec} has a folder test/ and none train/: what is there to learn?")
    capital = [e.name for e in folder.iterdir() if e.name.lower() in ("train", "test")]
    if any(name != name.lower() for name in capital):
        raise BilinearError(f"{spec}: rename {abbreviate(sorted(capital))} to train and test")
    photos = [
        (path.relative_to(folder).as_posix(), entry.name, split)
        for split in splits or ["."]
        for entry in sorted((folder / split).iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
        for path in list_photos(entry)
    ]
    if not photos:
        raise BilinearError(
            f"there are no photos in {spec}: it should have a folder for each class, with "
            f"{abbreviate(sorted(SUFFIXES), 9)} files"
        )
    paths, labels, split = (list(column) for column in zip(*photos, strict=True))
    files = {
        path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()
    }
    others = sorted(name for name in files - set(paths) if "/." not in name)
    if others:  # of no known suffix, or not in a folder of a class
        log.warning("%s: not taken (%d files): %s", spec, len(others), abbreviate(others))
    return _Listing(folder, paths, labels, split if len(splits) == 2 else None)


def list_photos(folder: Path) -> list[Path]:
    """Return the photos in a folder and below it, by suffix, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _cub(folder: Path) -> _Listing:
    photos = _cub_table(folder / "images.txt")
    classes = _cub_table(folder / "classes.txt")
    label_of = _cub_table(folder / "image_class_labels.txt")
    in_train = _cub_table(folder / "train_test_split.txt")
    for name, table in (("image_class_labels", label_of), ("train_test_split", in_train)):
        absent = photos.keys() - table.keys()
        if absent:
            raise BilinearError(
                f"{folder / name}.txt lacks the photos {abbreviate(sorted(absent))}"
            )
    unknown = {label_of[i] for i in photos} - classes.keys()
    if unknown:
        raise BilinearError(
            f"{folder / 'classes.txt'} lacks the classes {abbreviate(sorted(unknown))}"
        )
    return _Listing(
        folder / "images",
        list(photos.values()),
        [classes[label_of[i]] for i in photos],
        ["train" if in_train[i] == "1" else "test" for i in photos],
        class_names=list(classes.values()),
    )


def _cub_table(path: Path) -> dict[str, str]:
    """Read lines of `id value`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(line.strip().split(" ", 1) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BilinearError(f"cannot read {path}: {error}") from error


def _manifest(path: Path, spec: str) -> _Listing:
    columns, rows = read_manifest(path, spec)
    paths = [row["path"] for row in rows]
    return _Listing(
        path.parent,
        paths,
        [row["label"] for row in rows],
        [row["split"] for row in rows] if "split" in columns else None,
        [row["group"] or row["path"] for row in rows] if "group" in columns else None,
    )
