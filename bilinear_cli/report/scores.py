"""A run folder's scores -> who was taken for whom: by class, in pairs, photo by photo."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from bilinear_cli.run import read_class_names, read_scores
from bilinear_cli.training.metrics import confusions
from bilinear_cli.training.model import to_probabilities

MOST_ORDERED_BEST = 300  # classes; the best order of the leaves takes their cube in time


@dataclass(frozen=True)
class PhotoScores:
    """Photos that were scored by a fit that had not seen them, each once.

    Attributes:
        paths: str (photos,), below the root of the data.
        labels: int (photos,).
        split: str (photos,), `test` or `train`.
        probabilities: (photos, classes), rows of sum one.
        class_names: str (classes,).
    """

    paths: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    probabilities: np.ndarray
    class_names: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each photo."""
        return self.probabilities.argmax(axis=1)

    @property
    def sure(self) -> np.ndarray:
        """The probability of the likeliest class."""
        return self.probabilities.max(axis=1)

    def take(self, keep: np.ndarray) -> "PhotoScores":
        """Return the photos where `keep` is True, or of these numbers, in their order."""
        columns = ("paths", "labels", "split", "probabilities")
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})

    def surest(self, keep: np.ndarray, most: int) -> "PhotoScores":
        """Return the photos where `keep` is True, surest first, at most so many."""
        kept = self.take(keep)
        return kept.take(np.argsort(-kept.sure, kind="stable")[:most])


def read_scored(run: Path, temperature: float) -> PhotoScores:
    """Read the photos of a run: the test photos, then those of training by their folds.

    Args:
        run: the folder.
        temperature: of the run.

    Raises:
        BilinearError: a file of the run is missing or damaged.
    """
    names = read_class_names(run)
    test, train = read_scores(run, "test"), read_scores(run, "oof")
    paths, labels = (np.concatenate([test[key], train[key]]) for key in ("paths", "labels"))
    split = np.repeat(["test", "train"], [len(test["labels"]), len(train["labels"])])
    scores = np.concatenate([x["scores"].reshape(-1, len(names)) for x in (test, train)])
    return PhotoScores(paths, labels, split, to_probabilities(scores, temperature), names)


def judged(scored: PhotoScores) -> PhotoScores:
    """Return the photos that figures are of: the test photos, or else those of training."""
    test = scored.split == "test"
    return scored.take(test) if test.any() else scored


def matrix_of(scored: PhotoScores) -> np.ndarray:
    """Return how many photos of a class (row) were taken for which (column), (k, k)."""
    return confusions(scored.labels, scored.predicted, len(scored.class_names))


def clustered(matrix: np.ndarray) -> np.ndarray:
    """Return an order of the classes in which those that are confused are neighbours.

    Args:
        matrix: (k, k), of `matrix_of`.
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    near = squareform(share + share.T, checks=False)  # of pairs
    best = len(matrix) <= MOST_ORDERED_BEST
    return leaves_list(linkage(near.max() - near, "average", optimal_ordering=best))


def by_class(matrix: np.ndarray, names: np.ndarray) -> list[dict[str, Any]]:
    """Return of each class its `name`, `photos`, `right`, `accuracy`, and who it is `taken_for`.

    Classes without photos have None for the accuracy; `taken_for` is a name or "", and `times`
    says how often.
    """
    rows = []
    for k, counts in enumerate(matrix):
        photos, right = int(counts.sum()), int(counts[k])
        wrong = np.where(np.arange(len(counts)) == k, 0, counts)
        times = int(wrong.max())
        rows.append(
            {
                "name": str(names[k]),
                "photos": photos,
                "right": right,
                "accuracy": right / photos if photos else None,
                "taken_for": str(names[wrong.argmax()]) if times else "",
                "times": times,
            }
        )
    return rows
