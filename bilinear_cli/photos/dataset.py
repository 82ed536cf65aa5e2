"""A `--data` spec -> `Dataset`: which photos there are, of what, and for what.

Every kind of photo set (drawn sample, class folders, CUB-200-2011, CSV manifest,
tensorflow-datasets) ends as the same table of paths, labels, split and groups.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bilinear_cli.config import cache_folder
from bilinear_cli.errors import BilinearError, UsageError, one_of, some
from bilinear_cli.photos.manifest import check_row, read_manifest
from bilinear_cli.photos.sample import write_sample

log = logging.getLogger(__name__)

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
COLUMNS = ("paths", "labels", "split", "group")
TRAIN_FRACTION = 2 / 3
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Dataset:
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

    def limit(self, n_photos: int) -> "Dataset":
        """Return the set with its first `n_photos`, taken in turn from each class and split."""
        cell = [*zip(self.labels, self.split, strict=True)]
        seen: Counter = Counter()
        rank = np.zeros(len(self), np.int64)
        for i, key in enumerate(cell):
            rank[i] = seen[key]
            seen[key] += 1
        return self.take(np.sort(np.argsort(rank, kind="stable")[:n_photos]))

    def take(self, which: np.ndarray) -> "Dataset":
        """Return the set with these of its photos, given by their numbers."""
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    def fingerprint(self) -> str:
        """Return a SHA-256 of what the set says of its photos, but not of their files."""
        columns = [*(getattr(self, name).tolist() for name in COLUMNS), list(self.class_names)]
        return hashlib.sha256(json.dumps(columns).encode()).hexdigest()

    def sha256(self) -> np.ndarray:
        """Return the SHA-256 of each file's bytes, as hexadecimal str; empty if unreadable."""
        with ThreadPoolExecutor() as pool:
            return np.array([*pool.map(_sha256, (self.root / path for path in self.paths))], str)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # reading it as a photo will say what is wrong


def load_dataset(spec: str, *, split_seed: int = 0, progress: Progress | None = None) -> Dataset:
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
    if spec == "sample" or spec.startswith("sample:"):
        return _sample(spec, split_seed, progress)
    if spec.startswith("tfds:"):
        return _tfds(spec, split_seed, progress)
    path = Path(spec)
    if path.is_dir():
        is_cub = (path / "images.txt").is_file()
        return (_cub if is_cub else _class_folders)(path, spec, split_seed)
    if path.is_file():
        return _manifest(path, spec, split_seed)
    raise BilinearError(f"there is no photo set at {spec!r}: give a folder, a CSV file or 'sample'")


def stratified_split(labels: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Return `train` or `test` for each photo: about a third of each class for testing.

    A group stays whole and counts for the class of its first photo. A class with one group is
    for training alone.
    """
    rng = np.random.default_rng(seed)
    _, first, which, size = np.unique(group, True, True, True)
    is_test = np.zeros(len(first), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        wanted = round(size[members].sum() * (1 - TRAIN_FRACTION))
        for member in members[:-1]:
            if size[member] <= 2 * wanted:  # nearer to a third with it than without
                is_test[member] = True
                wanted -= size[member]
    return np.where(is_test[which], "test", "train")


def _dataset(
    name: str,
    kind: str,
    spec: str,
    root: Path,
    paths: list[str],
    labels: Iterable[str],
    *,
    split: list[str] | None,
    split_seed: int,
    group: list[str] | None = None,
    class_names: Iterable[str] | None = None,
) -> Dataset:
    """Check what every kind of set has to keep, number the labels, and split if need be."""
    if not paths:
        raise BilinearError(f"{spec} lists no photos")
    labels = list(labels)
    names = tuple(class_names or sorted(set(labels)))
    if len(names) < 2:
        raise BilinearError(
            f"{spec} has one class only ({some(names)}): a classifier needs at least two"
        )
    for text in [*paths, *names]:
        _check_text(text, spec)
    numbers = {label: i for i, label in enumerate(names)}
    y = np.array([numbers[label] for label in labels], np.int64)
    groups = np.array(group or paths)
    parts = np.array(split) if split else stratified_split(y, groups, split_seed)
    _check_split(spec, y, parts, groups, names)
    seed = None if split else split_seed
    return Dataset(name, kind, spec, root.resolve(), np.array(paths), y, parts, groups, names, seed)


def _check_text(text: str, spec: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        raise BilinearError(f"{spec}: the name {shown!r} is not UTF-8: rename it") from None


def _check_split(
    spec: str, labels: np.ndarray, split: np.ndarray, group: np.ndarray, names: tuple[str, ...]
) -> None:
    is_train = split == "train"
    untrained = np.setdiff1d(labels[~is_train], labels[is_train])
    if untrained.size:
        classes = some(names[i] for i in untrained)
        raise BilinearError(f"{spec}: no training photo of a class with test photos: {classes}")
    torn = np.intersect1d(group[is_train], group[~is_train])
    if torn.size:
        log.warning("%s: groups with photos in both splits: %s", spec, some(torn))


# The kinds of set ------------------------------------------------------------------------


def _sample(spec: str, split_seed: int, progress: Progress | None) -> Dataset:
    options: dict = {"seed": 0, "ink": True, "grey": False}
    for word in spec.split(":")[1:]:
        key, equals, value = word.partition("=")
        one_of("option of the sample", key, ["grey", "no-ink", "seed"])
        if not (value.isdecimal() if key == "seed" else not equals):
            raise UsageError(f"cannot read {word!r} in {spec!r}: write sample:seed=1, sample:grey")
        if key == "seed":
            options["seed"] = int(value)
        else:
            options |= {"ink": False} if key == "no-ink" else {"grey": True}
    drawn = "-".join(f"{key}={value}" for key, value in options.items())
    folder = write_sample(cache_folder() / "sample" / drawn, **options, progress=progress)
    return replace(
        _class_folders(folder, spec, split_seed), name=spec.replace(":", "-"), kind="sample"
    )


def _class_folders(folder: Path, spec: str, split_seed: int) -> Dataset:
    parts = [part for part in ("train", "test") if (folder / part).is_dir()]
    if parts == ["test"]:
        raise BilinearError(f"{spec} has a folder test/ and none train/: what is there to learn?")
    capital = [e.name for e in folder.iterdir() if e.name.lower() in ("train", "test")]
    if any(name != name.lower() for name in capital):
        raise BilinearError(f"{spec}: rename {some(sorted(capital))} to train and test")
    paths, labels, split = [], [], []
    for part in parts or ["."]:
        for entry in sorted((folder / part).iterdir()):
            if not entry.is_dir() or entry.name.startswith("."):
                continue
            photos = [path.relative_to(folder).as_posix() for path in photos_in(entry)]
            paths += photos
            labels += [entry.name] * len(photos)
            split += [part] * len(photos)
    if not paths:
        raise BilinearError(
            f"there are no photos in {spec}: it should have a folder for each class, with "
            f"{some(sorted(SUFFIXES), 9)} files"
        )
    _warn_of_others(spec, folder, paths)
    return _dataset(
        folder.resolve().name,
        "folders",
        spec,
        folder,
        paths,
        labels,
        split=split if parts == ["train", "test"] else None,
        split_seed=split_seed,
    )


def _warn_of_others(spec: str, folder: Path, paths: list[str]) -> None:
    """Say which files are not taken: of no known suffix, or not in a folder of a class."""
    every = {
        path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()
    }
    others = sorted(name for name in every - set(paths) if "/." not in name)
    if others:
        log.warning("%s: not taken (%d files): %s", spec, len(others), some(others))


def photos_in(folder: Path) -> list[Path]:
    """Return the photos in a folder and below it, by suffix, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _cub(folder: Path, spec: str, split_seed: int) -> Dataset:
    photos = _cub_table(folder / "images.txt")
    classes = _cub_table(folder / "classes.txt")
    label_of = _cub_table(folder / "image_class_labels.txt")
    in_train = _cub_table(folder / "train_test_split.txt")
    for name, table in (("image_class_labels", label_of), ("train_test_split", in_train)):
        absent = photos.keys() - table.keys()
        if absent:
            raise BilinearError(f"{folder / name}.txt lacks the photos {some(sorted(absent))}")
    unknown = {label_of[i] for i in photos} - classes.keys()
    if unknown:
        raise BilinearError(f"{folder / 'classes.txt'} lacks the classes {some(sorted(unknown))}")
    return _dataset(
        folder.resolve().name,
        "cub",
        spec,
        folder / "images",
        list(photos.values()),
        [classes[label_of[i]] for i in photos],
        split=["train" if in_train[i] == "1" else "test" for i in photos],
        split_seed=split_seed,
        class_names=classes.values(),
    )


def _cub_table(path: Path) -> dict[str, str]:
    """Read lines of `id value`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(line.strip().split(" ", 1) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BilinearError(f"cannot read {path}: {error}") from error


def _manifest(path: Path, spec: str, split_seed: int) -> Dataset:
    columns, rows = read_manifest(path, spec)
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise BilinearError(
            f"{spec} lacks the column {some(missing)}: its first line should be "
            f"path,label[,split][,group], and is {','.join(columns)}"
        )
    root = path.parent.resolve()
    seen: dict[str, int] = {}
    for number, row in rows.items():
        check_row(f"{spec}, row {number}", row, root, seen, number)
    return _dataset(
        path.stem,
        "manifest",
        spec,
        root,
        list(seen),
        [row["label"] for row in rows.values()],
        split=[row["split"] for row in rows.values()] if "split" in columns else None,
        split_seed=split_seed,
        group=[row["group"] or p for row, p in zip(rows.values(), seen, strict=True)]
        if "group" in columns
        else None,
    )


def _tfds(spec: str, split_seed: int, progress: Progress | None) -> Dataset:
    from bilinear_cli.photos.tfds import unpack  # heavy, and an extra

    folder, name = unpack(spec.removeprefix("tfds:"), cache_folder() / "tfds", progress)
    return replace(_class_folders(folder, spec, split_seed), name=name, kind="tfds")
