"""A `--data` spec -> `PhotoSet`: one table of paths, labels, split and groups for all kinds."""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.files import file_sha256
from bilinear_cli.messages import abbreviate, closest_match
from bilinear_cli.photos.listings import KINDS, Listing, ListingOptions
from bilinear_cli.photos.names import (
    appearance,
    check_names,
    show_difference,
    warn_of_lookalikes,
)
from bilinear_cli.progress import Progress
from bilinear_cli.validation import POSITIVE, SEED

log = logging.getLogger(__name__)

COLUMNS = ("paths", "labels", "split", "group")
MAX_CLASS_RATIO = 10  # of training photos; accuracy hides the errors on classes that are smaller


@dataclass(frozen=True)
class PhotoSet:
    """A labelled, split photo set. All arrays have one entry per photo."""

    name: str  # short, fit for a file name
    kind: str  # a key of `listings.KINDS`: `sample`, `folders`, `cub`, `manifest` or `tfds`
    spec: str  # what the user typed
    root: Path  # the folder that `paths` are relative to
    paths: np.ndarray  # str, POSIX, relative to `root`; each photo is listed once
    labels: np.ndarray  # int64, indices into `class_names`
    split: np.ndarray  # str, `train` or `test`
    group: np.ndarray  # str; photos of one group always land in the same split and fold
    class_names: tuple[str, ...]  # at least two
    split_seed: int | None  # of a split that was made here; None if the set has its own split
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)  # reason -> paths
    # float64 (n, 4), x, y, width and height of the part of each photo; zeros for a whole photo.
    # A photo with several boxes has an entry for each, one after the other. None for whole photos.
    box: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.paths)

    def limit(self, n_photos: int) -> "PhotoSet":
        """Return at most `n_photos` of the set, taken in turn from each class and split."""
        counters: dict[tuple, count] = defaultdict(count)
        rank = [next(counters[key]) for key in zip(self.labels, self.split, strict=True)]
        return self.take(np.sort(np.argsort(rank, kind="stable")[:n_photos]))

    def take(self, indices: np.ndarray) -> "PhotoSet":
        """Return the set with the photos of these indices only."""
        columns = {name: getattr(self, name)[indices] for name in COLUMNS}
        return replace(self, **columns, box=None if self.box is None else self.box[indices])

    def whole_photos(self) -> "PhotoSet":
        """Return the set with one entry for each photo, without boxes."""
        first = np.unique(self.photo, return_index=True)[1]
        return replace(self.take(first), box=None)

    @property
    def keys(self) -> np.ndarray:
        """What identifies each entry, str (n,), see `entry_keys`."""
        return entry_keys(self.paths, self.box)

    @property
    def photo(self) -> np.ndarray:
        """The index of the photo of each entry, int64 (n,)."""
        _, first, inverse = np.unique(self.paths, True, True)
        return np.argsort(np.argsort(first))[inverse]

    def keep_split(self, group: np.ndarray, split: np.ndarray) -> "PhotoSet":
        """Return the set with an earlier split (n,) of some of its groups.

        If a class would have no photo to train on, the set keeps its own split.
        """
        earlier = dict(zip(group.tolist(), split.tolist(), strict=True))
        pairs = zip(self.group.tolist(), self.split.tolist(), strict=True)
        kept = np.array([earlier.get(name, drawn) for name, drawn in pairs])
        untrained = np.setdiff1d(self.labels, self.labels[kept == "train"])
        return self if untrained.size else replace(self, split=kept)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the table of photos; it does not depend on their files."""
        columns = [*(getattr(self, name).tolist() for name in COLUMNS), list(self.class_names)]
        return hashlib.sha256(json.dumps(columns).encode()).hexdigest()

    def sha256(self) -> np.ndarray:
        """Return the SHA-256 of each file, as hexadecimal str; empty for an unreadable file."""
        with ThreadPoolExecutor() as pool:
            return np.array([*pool.map(_sha256, (self.root / path for path in self.paths))], str)


def entry_keys(names: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Return names, str (n,), with the boxes (n, 4) of those that have one."""
    if box is None or not box.any():
        return names
    pairs = zip(names.tolist(), box.tolist(), strict=True)
    return np.array([entry_key(name, values) for name, values in pairs], str)


def entry_key(name: str, box: Sequence[float]) -> str:
    """Return a name, with the box if it is not four zeros."""
    return f"{name} [{', '.join(f'{x:.6g}' for x in box)}]" if any(box) else name


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""  # the error is reported when the file is read as a photo


def load_photo_set(
    spec: str,
    *,
    split_seed: int = 0,
    class_level: int | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> PhotoSet:
    """Read a photo set.

    Args:
        spec: `sample` (`sample:grey`, `sample:no-ink`, `sample:seed=1`), a folder of class folders
            (optionally with `train/` and `test/` above them), a CUB-200-2011 folder, a CSV
            manifest `path,label[,split][,group]`, or `tfds:NAME`.
        split_seed: for the split of a set that has none: stratified, two thirds for training,
            without cutting a group.
        class_level: of a folder: the level of folders, from 1, whose names are the classes; None
            for 1.
        columns: of a CSV file: a name of `PhotoRecord` -> the column that has it.
        progress: called while photos are drawn or unpacked.

    Raises:
        BilinearError: the set does not exist, or its photos, labels or split are wrong.
        UsageError: an option does not apply to this kind of set.
    """
    split_seed = SEED.validate("--split-seed", split_seed)
    if class_level is not None:
        class_level = POSITIVE.validate("--class-level", class_level)
    columns = {} if columns is None else columns
    if not isinstance(columns, Mapping) or not all(isinstance(x, str) for x in columns.values()):
        example = "{'path': 'filename', 'label': 'species'}"
        raise UsageError(f"columns has to be like {example}, and not {columns!r}")
    options = ListingOptions(class_level, columns, progress)
    for kind, (matches, list_set) in KINDS.items():
        if matches(spec):
            if class_level is not None and kind != "folders":
                raise UsageError(f"--class-level is for folders of photos. Remove it for {spec}.")
            if columns and kind != "manifest":
                raise UsageError(f"--columns is for CSV files. Remove it for {spec}.")
            return _photo_set(kind, spec, list_set(spec, options), split_seed)
    raise BilinearError(f"there is no photo set at {spec!r}: give a folder, a CSV file or 'sample'")


def _photo_set(kind: str, spec: str, listing: Listing, split_seed: int) -> PhotoSet:
    """Check a listing, encode its labels, and split it if it has no split."""
    if not listing.rows:
        raise BilinearError(f"{spec} lists no photos")
    paths, class_of, split, group = map(np.array, zip(*listing.rows, strict=True))
    names = listing.class_names or tuple(sorted({row.label for row in listing.rows}))
    if len(names) < 2:
        raise BilinearError(
            f"{spec} has only one class ({abbreviate(names)}): a classifier needs at least two"
        )
    root = listing.root.resolve()
    check_names([*paths.tolist(), *names, str(root), spec], spec)
    warn_of_lookalikes(names, spec)
    class_index = {name: i for i, name in enumerate(names)}
    labels = np.array([class_index[name] for name in class_of.tolist()], np.int64)
    group = np.where(group == "", paths, group)
    name, seed = listing.name, None
    if (split == "").any():
        split, seed = stratified_group_split(labels, group, split_seed), split_seed
    photo_set = PhotoSet(
        name, kind, spec, root, paths, labels, split, group, names, seed, listing.left_out
    )
    _check_split(photo_set)
    return photo_set


def _check_split(photo_set: PhotoSet) -> None:
    """Raise if a class is in the test split only; warn of groups that are in both splits."""
    is_train, spec = photo_set.split == "train", photo_set.spec
    untrained = np.setdiff1d(photo_set.labels[~is_train], photo_set.labels[is_train])
    if untrained.size:
        names = np.array(photo_set.class_names)
        trained = names[np.unique(photo_set.labels[is_train])].tolist()
        classes = abbreviate(_with_similar(name, trained) for name in names[untrained].tolist())
        raise BilinearError(f"{spec}: classes with test photos but no training photo: {classes}")
    in_both = np.intersect1d(photo_set.group[is_train], photo_set.group[~is_train])
    if in_both.size:
        message = "%s: groups with photos in both splits: %s. The test accuracy may be too high."
        log.warning(message, spec, abbreviate(in_both))


def _with_similar(name: str, others: Sequence[str]) -> str:
    """Return a name, and the one of the others that is perhaps meant."""
    for other in others:
        if appearance(name) == appearance(other):
            difference = show_difference(name, other)
            return f"{name} (train has this name in other Unicode characters: {difference})"
    similar = closest_match(name, others)
    return f"{name} (did you mean {similar}?)" if similar else name


def stratified_group_split(labels: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Return `train` or `test` for each photo: about a third of each class for testing.

    A group stays whole and counts for the class of its first photo. A class with one group is
    only for training.
    """
    rng = np.random.default_rng(seed)
    _, first, group_index, size = np.unique(group, True, True, True)
    is_test = np.zeros(len(first), bool)
    for label in np.unique(labels):
        groups = rng.permutation(np.flatnonzero(labels[first] == label))
        n_missing = round(size[groups].sum() / 3)
        for i in groups[:-1]:
            if size[i] <= 2 * n_missing:  # with this group the share is closer to a third
                is_test[i] = True
                n_missing -= size[i]
    return np.where(is_test[group_index], "test", "train")


def count_photos(
    labels: Iterable[str], split: Iterable[str], class_names: Iterable[str] = ()
) -> dict[str, dict[str, int]]:
    """Return class -> split -> number of photos; `class_names` adds classes without photos."""
    counts = Counter(zip(map(str, labels), map(str, split), strict=True))
    names = dict.fromkeys([*map(str, class_names), *(name for name, _ in counts)])
    return {name: {split: counts[name, split] for split in ("train", "test")} for name in names}


def is_unequal(n_train: Sequence[int]) -> bool:
    """Return whether classes with so many training photos differ by more than 10 : 1."""
    return len(n_train) > 0 and max(n_train) > MAX_CLASS_RATIO * min(n_train)
