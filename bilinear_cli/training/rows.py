"""The rows of a feature file that take part in training and testing."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.store import FeatureFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Rows of a feature file: their indices in the file, and their metadata, each (rows,).

    `class_names` has the names of the classes that the labels stand for. `sample_weight`, float64
    above zero, is how often each row counts; None for once. `box`, float64 (rows, 4), is the part
    of the photo, see `FeatureFile`; None for whole photos. `sha256`, str (rows,), is of the photos'
    files; None for rows of an array.
    """

    indices: np.ndarray
    photo: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    split: np.ndarray
    group: np.ndarray
    class_names: np.ndarray
    sample_weight: np.ndarray | None = None
    box: np.ndarray | None = None
    sha256: np.ndarray | None = None

    def take(self, keep: np.ndarray) -> "Rows":
        """Return some of the rows, by a mask or by their positions."""
        names = [*("indices", "photo", "labels", "paths", "split", "group")]
        names += ["sample_weight", "box", "sha256"]
        columns = {name: getattr(self, name) for name in names}
        return replace(self, **{name: x[keep] for name, x in columns.items() if x is not None})


def select_rows(file: FeatureFile, photo_set: PhotoSet | None, min_photos: int) -> Rows:
    """Return the rows of all classes with enough photos.

    Args:
        photo_set: replaces labels, split and groups of the file, matched by the photos' SHA-256.
        min_photos: classes with fewer photos, or without a training photo, are left out.

    Raises:
        BilinearError: fewer than two classes are left, or the photo set contradicts itself or has
            no photo of the file.
    """
    columns = (file.photo, file.labels, file.paths, file.split, file.group)
    rows = Rows(np.arange(len(file.labels)), *columns, file.class_names, box=file.box)
    rows = replace(rows, sha256=file.sha256)
    if photo_set:
        rows = _relabel(rows, file.sha256, photo_set)
    k, first = len(rows.class_names), np.unique(rows.photo, return_index=True)[1]
    n_photos = np.bincount(rows.labels[first], minlength=k)
    n_training = np.bincount(rows.labels[rows.split == "train"], minlength=k)
    keep = (n_photos >= min_photos) & (n_training > 0)
    if (small := rows.class_names[(n_photos > 0) & ~keep]).size:
        reason = f"fewer than {min_photos} photos or no training photo"
        log.warning("left out classes with %s: %s", reason, abbreviate(small, 20))
    rows, new_labels = rows.take(keep[rows.labels]), np.cumsum(keep) - 1
    rows = replace(rows, labels=new_labels[rows.labels], class_names=rows.class_names[keep])
    if len(rows.class_names) < 2:
        raise BilinearError(
            f"{file.path}: fewer than two classes have at least {min_photos} photos and a training "
            "photo. Add photos, or lower --min-photos."
        )
    return rows


def _relabel(rows: Rows, sha256: np.ndarray, photo_set: PhotoSet) -> Rows:
    """Return the rows of a photo set's photos, with its labels, split and groups."""
    index_of: dict[str, int] = {}
    for i, digest in enumerate(photo_set.sha256()):
        if not digest:  # an unreadable file
            continue
        first = index_of.setdefault(digest, i)
        if photo_set.labels[first] != photo_set.labels[i]:
            raise BilinearError(
                f"{photo_set.spec}: {photo_set.paths[first]} and {photo_set.paths[i]} are the same "
                "photo with two different labels. Correct one of them."
            )
    indices = np.array([index_of.get(digest, -1) for digest in sha256])
    known = indices >= 0
    if not known.any():
        raise BilinearError(
            f"{photo_set.spec} and the features have no photo in common: give the --data of the "
            "photos that were extracted"
        )
    if not known.all():
        log.warning(
            "left out photos that are not in %s: %s", photo_set.spec, abbreviate(rows.paths[~known])
        )
    missing = np.setdiff1d(np.array(list(index_of.values())), indices)
    if missing.size:
        message = "left out photos of %s without features (run extract with this --data): %s"
        log.warning(message, photo_set.spec, abbreviate(photo_set.paths[missing]))
    rows, indices = rows.take(known), indices[known]
    return replace(
        rows,
        labels=photo_set.labels[indices],
        split=photo_set.split[indices],
        group=photo_set.group[indices],
        class_names=np.array(photo_set.class_names),
    )
