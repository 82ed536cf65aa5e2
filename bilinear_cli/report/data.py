"""Runs -> what a report says about them, in any format."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from bilinear_cli.run import read_class_names, read_labels, read_metrics, read_scores
from bilinear_cli.training.metrics import confusions
from bilinear_cli.training.model import to_probabilities

Metrics = dict[str, Any]

MAX_OPTIMAL = 300  # classes; the optimal order of the leaves takes cubic time


@dataclass(frozen=True)
class Predictions:
    """Photos of a run, each scored by a fit without this photo."""

    paths: np.ndarray  # str (n_photos,), relative to the root of the data
    labels: np.ndarray  # int (n_photos,)
    split: np.ndarray  # str (n_photos,), `test` or `train`
    probabilities: np.ndarray  # (n_photos, n_classes), rows of sum one
    class_names: np.ndarray  # str (n_classes,)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each photo, int (n_photos,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, (n_photos,)."""
        return self.probabilities.max(axis=1)

    def take(self, indices: np.ndarray) -> "Predictions":
        """Return the photos of these indices, or where a mask is True."""
        columns = ("paths", "labels", "split", "probabilities")
        return replace(self, **{name: getattr(self, name)[indices] for name in columns})

    def most_confident(self, mask: np.ndarray, n_photos: int) -> "Predictions":
        """Return at most `n_photos` where `mask` is True, in descending order of confidence."""
        masked = self.take(mask)
        return masked.take(np.argsort(-masked.confidence, kind="stable")[:n_photos])


@dataclass(frozen=True)
class ReportData:
    """The figures of several runs, and the predictions of the best run."""

    runs: list[tuple[str, Metrics]]  # name of the folder, and metrics.json
    best: int  # index of the run with the best out-of-fold accuracy; the figures below are of it
    labels: list[list[str]]  # path, label, split and group of each photo
    predictions: Predictions  # of the test photos and the training photos

    @property
    def metrics(self) -> Metrics:
        """The metrics of the best run."""
        return self.runs[self.best][1]

    @property
    def is_comparable(self) -> bool:
        """Whether all runs have the same photos and the same number of folds."""
        photos = {
            (metrics["extraction"].get("data_sha256"), metrics["n_train"], metrics.get("folds"))
            for _, metrics in self.runs
        }
        return len(photos) == 1

    @cached_property
    def evaluated(self) -> Predictions:
        """The photos that the figures are of: the test photos, or all photos without them."""
        is_test = self.predictions.split == "test"
        return self.predictions.take(is_test) if is_test.any() else self.predictions

    @property
    def evaluated_on(self) -> str:
        """The number and the kind of these photos."""
        kind = "training photos, each scored by a fit without it"
        if "test" in self.evaluated.split:
            kind = "test photos"
        return f"{len(self.evaluated.labels):,} {kind}"

    @cached_property
    def matrix(self) -> np.ndarray:
        """The confusion matrix: photos of a class (row) predicted as a class (column), (k, k)."""
        photos = self.evaluated
        return confusions(photos.labels, photos.predicted, len(photos.class_names))

    @cached_property
    def classes(self) -> list[dict[str, Any]]:
        """The figures of each class, see `class_metrics`."""
        return class_metrics(self.matrix, self.evaluated.class_names)

    @property
    def hardest(self) -> list[dict[str, Any]]:
        """The classes in ascending order of accuracy, then those without photos."""
        return sorted(self.classes, key=lambda row: (not row["n_photos"], row["accuracy"]))


def read_report_data(folders: Sequence[Path]) -> ReportData:
    """Read runs, and the predictions of the run with the best out-of-fold accuracy.

    Raises:
        BilinearError: a folder is no run, or its scores are missing or damaged.
    """
    runs = [(folder.resolve().name, read_metrics(folder)) for folder in folders]
    best = max(range(len(runs)), key=lambda i: runs[i][1].get("oof_top1") or -1.0)
    predictions = read_predictions(folders[best], runs[best][1]["temperature"])
    return ReportData(runs, best, read_labels(folders[best]), predictions)


def read_predictions(run: Path, temperature: float) -> Predictions:
    """Read the test photos of a run, then its training photos with their out-of-fold scores.

    Raises:
        BilinearError: a file of the run is missing or damaged.
    """
    names = read_class_names(run)
    test, train = read_scores(run, "test"), read_scores(run, "oof")
    paths, labels = (np.concatenate([test[key], train[key]]) for key in ("paths", "labels"))
    split = np.repeat(["test", "train"], [len(test["labels"]), len(train["labels"])])
    scores = np.concatenate([x["scores"].reshape(-1, len(names)) for x in (test, train)])
    return Predictions(paths, labels, split, to_probabilities(scores, temperature), names)


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Return a confusion matrix as shares of each row; 0 in rows without photos."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def class_order(matrix: np.ndarray) -> np.ndarray:
    """Return an order of the classes of a confusion matrix that puts confused ones side by side."""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    share = row_shares(matrix)
    similarity = squareform(share + share.T, checks=False)  # of pairs
    optimal = len(matrix) <= MAX_OPTIMAL
    distance = similarity.max() - similarity
    return leaves_list(linkage(distance, "average", optimal_ordering=optimal))


def class_metrics(matrix: np.ndarray, names: np.ndarray) -> list[dict[str, Any]]:
    """Return the figures of each class of a confusion matrix.

    Returns:
        `name`; `n_photos`; `n_correct`; `accuracy`, None without photos; `confused_with`, the
        class that its photos are most often mistaken for, or ""; `n_confused`, how often.
    """
    rows = []
    for name, counts, n_correct in zip(names, matrix, np.diag(matrix), strict=True):
        n_photos, errors = int(counts.sum()), np.where(names == name, 0, counts)
        rows.append(
            {
                "name": str(name),
                "n_photos": n_photos,
                "n_correct": int(n_correct),
                "accuracy": n_correct / n_photos if n_photos else None,
                "confused_with": str(names[errors.argmax()]) if errors.any() else "",
                "n_confused": int(errors.max()),
            }
        )
    return rows
