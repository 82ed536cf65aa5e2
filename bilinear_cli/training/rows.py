"""Which rows of a feature file take part in training, and what is known of them."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from bilinear_cli.errors import BilinearError, abbreviate
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.store import FeatureFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The rows that take part: their indices in the file, and what is known of them."""

    indices: np.ndarray
    photo: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    split: np.ndarray
    group: np.ndarray
    class_names: np.ndarray

    def take(self, keep: np.ndarray) -> "Rows":
        """Return the rows where `keep` is True."""
        columns = ("indices", "photo", "labels", "paths", "split", "group")
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})


def select_rows(file: FeatureFile, photo_set: PhotoSet | None, min_photos: int) -> Rows:
    """Choose the rows that take part: labelled, of a class with enough photos.

    Args:
        file: the features.
        photo_set: labels, split and groups to take instead of the file's, by the photos' SHA-256.
        min_photos: a class needs so many, and one of them for training; others are left out.

    Raises:
        BilinearError: fewer than two classes are left, or the data set contradicts itself.
    """
    rows = Rows(
        np.arange(len(file.labels)),
        file.photo,
        file.labels,
        file.paths,
        file.split,
        file.group,
        file.class_names,
    )
    if photo_set:
        rows = _relabelled(rows, file.sha256, photo_set)
    first = np.unique(rows.photo, return_index=True)[1]
    count = np.bincount(rows.labels[first], minlength=len(rows.class_names))
    trained = np.isin(np.arange(len(count)), rows.labels[rows.split == "train"])
    enough = (count >= min_photos) & trained
    if not enough.all():
        names = abbreviate(rows.class_names[(count > 0) & ~enough], 20)
        if names:
            log.warning("left out, fewer than %d photos or none to train on: %s", min_photos, names)
        rows = rows.take(enough[rows.labels])
        renumbered = np.cumsum(enough) - 1
        rows = replace(rows, labels=renumbered[rows.labels], class_names=rows.class_names[enough])
    if len(rows.class_names) < 2:
        raise BilinearError(
            f"{file.path}: fewer than two classes have {min_photos} photos, and one to train on"
        )
    return rows


def _relabelled(rows: Rows, sha256: np.ndarray, photo_set: PhotoSet) -> Rows:
    """Give the rows labels, split and groups of a data set, and leave out what it has not."""
    known: dict[str, int] = {}
    for i, digest in enumerate(photo_set.sha256()):
        if not digest:  # a file that cannot be read
            continue
        before = known.setdefault(digest, i)
        if photo_set.labels[before] != photo_set.labels[i]:
            raise BilinearError(
                f"{photo_set.spec}: {photo_set.paths[before]} and {photo_set.paths[i]} are "
                "the same photo with two labels: mend one"
            )
    place = np.array([known.get(digest, -1) for digest in sha256])
    found = place >= 0
    if not found.any():
        raise BilinearError(f"{photo_set.spec} and the features have no photo in common")
    if not found.all():
        log.warning("left out, not in %s: %s", photo_set.spec, abbreviate(rows.paths[~found]))
    absent = np.setdiff1d(np.array(list(known.values())), place)
    if absent.size:
        log.warning("not in the features: %s", abbreviate(photo_set.paths[absent]))
    rows, place = rows.take(found), place[found]
    return replace(
        rows,
        labels=photo_set.labels[place],
        split=photo_set.split[place],
        group=photo_set.group[place],
        class_names=np.array(photo_set.class_names),
    )
