"""Runs -> what a report says about them, in any format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import normalize

from bilinear_cli.report.text import have_same_photos
from bilinear_cli.run import (
    check_class_names,
    load_model,
    read_metrics,
    read_photo_rows,
    read_scores,
)
from bilinear_cli.training.model import Model, to_probabilities

Metrics = dict[str, Any]

MAX_UNUSUAL, MAX_RARITY = 12, 0.05  # of the photos to look at
MAX_OPTIMAL = 300  # classes; the optimal order of the leaves takes cubic time


class Predictions(NamedTuple):
    """Photos of a run, each scored by a model that was not trained on it."""

    paths: np.ndarray  # str (n_photos,), relative to the root of the data
    labels: np.ndarray  # int (n_photos,)
    split: np.ndarray  # str (n_photos,), `test` or `train`
    probabilities: np.ndarray  # (n_photos, n_classes), rows of sum one
    predicted: np.ndarray  # int (n_photos,), the most probable class
    confidence: np.ndarray  # (n_photos,), its probability
    box: np.ndarray  # float64 (n_photos, 4), the first box of the photo; zeros for a whole photo
    rarity: np.ndarray  # (n_photos,), see `training/novelty.py`; NaN for a run without a novelty
    sha256: np.ndarray  # str (n_photos,), of the file at extraction; empty if the run has none

    def take(self, indices: np.ndarray) -> "Predictions":
        """Return the photos of these indices, or where a mask is True."""
        return Predictions(*(column[indices] for column in self))

    def most_confident(self, mask: np.ndarray, n_photos: int) -> "Predictions":
        """Return at most `n_photos` where `mask` is True, in descending order of confidence."""
        masked = self.take(mask)
        return masked.take(np.argsort(-masked.confidence, kind="stable")[:n_photos])

    def most_unusual(self) -> "Predictions":
        """Return at most `MAX_UNUSUAL` photos of at most `MAX_RARITY`, the rarest first."""
        rare = self.take(self.rarity <= MAX_RARITY)
        return rare.take(np.argsort(rare.rarity, kind="stable")[:MAX_UNUSUAL])


class ReportData(NamedTuple):
    """The metrics of several runs, and the predictions of the best run."""

    runs: list[tuple[str, Metrics]]  # name of the folder, and metrics.json
    is_comparable: bool  # whether all runs have the same photos and the same number of folds
    best: int  # index of the run with the best out-of-fold accuracy; the rest is about this run
    metrics: Metrics
    photo_rows: list[list[str]]  # path, label, split and group of each photo
    class_names: np.ndarray  # str (k,)
    predictions: Predictions  # of the test photos and the training photos
    evaluated: Predictions  # the test photos, or all photos of a run without test photos
    evaluated_on: str  # their number and kind
    unusual: Predictions | None  # the most unusual of them; None for a run without a novelty
    matrix: np.ndarray  # their confusions, (k, k): rows are true classes, columns predicted ones
    classes: list[dict[str, Any]]  # see `class_metrics`
    hardest: list[dict[str, Any]]  # in ascending order of accuracy, then classes without photos


def read_report_data(folders: Sequence[Path]) -> ReportData:
    """Read runs, and the predictions of the run with the best out-of-fold accuracy.

    Raises:
        BilinearError: a folder is not a run, or its scores are missing or damaged.
    """
    runs = [(folder.resolve().name, read_metrics(folder)) for folder in folders]
    is_comparable = have_same_photos([x for _, x in runs]) and (
        len({x.get("folds") for _, x in runs}) == 1
    )
    best = max(range(len(runs)), key=lambda i: runs[i][1].get("oof_top1") or -1.0)
    folder, metrics = folders[best], runs[best][1]
    photo_rows, model = read_photo_rows(folder), load_model(folder)
    predictions, names = read_predictions(folder, model), model.class_names
    check_class_names(folder, photo_rows, predictions.paths, names[predictions.labels])
    evaluated, kind = predictions, "training photos, each predicted by a model not trained on it"
    if "test" in predictions.split:
        evaluated, kind = predictions.take(predictions.split == "test"), "test photos"
    evaluated_on = f"{len(evaluated.labels):,} {kind}"
    unusual = None if np.isnan(evaluated.rarity).any() else evaluated.most_unusual()
    every = np.arange(len(names))
    matrix = confusion_matrix(evaluated.labels, evaluated.predicted, labels=every)
    classes = class_metrics(matrix, names)
    hardest = sorted(classes, key=lambda row: (not row["n_photos"], row["accuracy"]))
    return ReportData(
        *(runs, is_comparable, best, metrics, photo_rows, names),
        *(predictions, evaluated, evaluated_on),
        unusual,
        *(matrix, classes, hardest),
    )


def read_predictions(run: Path, model: Model) -> Predictions:
    """Read a run's test photos, then its training photos, out of fold; raise as `read_scores`."""
    test, train = read_scores(run, "test"), read_scores(run, "oof")
    x = {name: np.concatenate([test[name], train[name]]) for name in test}
    split = np.repeat(["test", "train"], [len(test["labels"]), len(train["labels"])])
    p, scores = to_probabilities(x["scores"], model.temperature), x["scores"]
    rarity = model.novelty.rarity(scores) if model.novelty else np.full(len(scores), np.nan)
    columns = (x["paths"], x["labels"], split, p, p.argmax(axis=1), p.max(axis=1))
    return Predictions(*columns, x["box"], rarity, x["sha256"])


def class_order(matrix: np.ndarray) -> np.ndarray:
    """Return an order of the classes of a confusion matrix that puts confused ones side by side."""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    share = normalize(matrix, "l1")
    similarity = squareform(share + share.T, checks=False)  # of pairs
    distance = similarity.max() - similarity
    tree = linkage(distance, "average", optimal_ordering=len(matrix) <= MAX_OPTIMAL)
    return leaves_list(tree)


def class_metrics(matrix: np.ndarray, names: np.ndarray) -> list[dict[str, Any]]:
    """Return the counts and the accuracy of each class of a confusion matrix.

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
