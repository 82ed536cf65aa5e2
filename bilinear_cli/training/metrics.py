"""Metrics of scores. A photo counts once, however many views it has."""

from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

CONFIDENCE = 0.95
N_CONFUSED = 10


def average_views(photo: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average scores over the views of a photo.

    Args:
        photo: int (rows,), the index of the photo that a row shows.
        scores: (rows, k).

    Returns:
        The index of the first row of each photo, ascending; the mean scores (photos, k).
    """
    _, first, inverse, count = np.unique(photo, True, True, True)
    mean = np.zeros((len(first), scores.shape[1]))
    np.add.at(mean, inverse, scores)
    order = np.argsort(first)
    return first[order], (mean / count[:, None])[order]


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose highest score is at their label."""
    return float(accuracy_score(labels, scores.argmax(axis=1)))


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log softmax(scores) at the label."""
    return float(-log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean())


def evaluate(scores: np.ndarray, labels: np.ndarray, class_names: np.ndarray) -> dict[str, Any]:
    """Return the metrics of a classifier.

    Args:
        scores: (photos, k), at least one photo.
        labels: int (photos,).
        class_names: (k,).

    Returns:
        `top1`, `top1_ci95` (Wilson's interval), `top5`, `mean_per_class_accuracy`, all 0 to 1;
        `log_loss`; `confused`, the most confused pairs as (count, true, predicted).
    """
    n, predicted, accuracy = len(labels), scores.argmax(axis=1), top1(scores, labels)
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    interval = binomtest(round(accuracy * n), n).proportion_ci(CONFIDENCE, "wilson")
    true_score = scores[np.arange(n), labels]
    matrix = confusions(labels, predicted, len(class_names))
    return {
        "top1": accuracy,
        "top1_ci95": [float(interval.low), float(interval.high)],
        # Not top_k_accuracy_score: it breaks ties by the order of the classes.
        "top5": float(np.mean((scores > true_score[:, None]).sum(axis=1) < 5)),
        "mean_per_class_accuracy": float(recall),
        "log_loss": log_loss(scores, labels),
        "confused": [
            {"count": count, "true": str(class_names[i]), "predicted": str(class_names[j])}
            for count, i, j in confused_pairs(matrix, N_CONFUSED)
        ],
    }


def confusions(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the confusion matrix (k, k): rows are true classes, columns predicted ones."""
    return confusion_matrix(labels, predicted, labels=np.arange(n_classes))


def confused_pairs(matrix: np.ndarray, n_pairs: int) -> list[tuple[int, int, int]]:
    """Return (count, true class, predicted class) of the pairs confused most, at most `n_pairs`."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:n_pairs]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(wrong[i, j]), int(i), int(j)) for i, j in pairs if wrong[i, j]]
