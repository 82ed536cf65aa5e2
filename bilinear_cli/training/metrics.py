"""Scores and labels -> figures. A photo counts once, however many views it has."""

from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

CONFIDENCE = 0.95
N_CONFUSED = 10


def by_photo(photo: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average scores over the views of a photo.

    Args:
        photo: int (rows,), which photo a row shows.
        scores: (rows, k).

    Returns:
        The rows' first index of each photo, in ascending order; the mean scores (photos, k).
    """
    _, first, which, count = np.unique(photo, True, True, True)
    mean = np.zeros((len(first), scores.shape[1]))
    np.add.at(mean, which, scores)
    order = np.argsort(first)
    return first[order], (mean / count[:, None])[order]


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose highest score is at their label."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log softmax(scores) at the label."""
    return float(-log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean())


def evaluate(scores: np.ndarray, labels: np.ndarray, class_names: np.ndarray) -> dict[str, Any]:
    """Return the figures of a table row.

    Args:
        scores: (photos, k), at least one photo.
        labels: int (photos,).
        class_names: (k,).

    Returns:
        `top1`, `top1_ci95` (Wilson's interval), `top5`, `mean_per_class_accuracy`, all 0 to 1;
        `log_loss`; `confused`, the most confused pairs as (count, true, predicted).
    """
    predicted = scores.argmax(axis=1)
    hits = int(np.sum(predicted == labels))
    interval = binomtest(hits, len(labels)).proportion_ci(CONFIDENCE, "wilson")
    true_score = scores[np.arange(len(labels)), labels]
    table = confusion_matrix(labels, predicted, labels=np.arange(len(class_names)))
    present = table.sum(axis=1) > 0
    return {
        "top1": hits / len(labels),
        "top1_ci95": [float(interval.low), float(interval.high)],
        "top5": float(np.mean((scores > true_score[:, None]).sum(axis=1) < 5)),
        "mean_per_class_accuracy": float(
            np.mean(np.diag(table)[present] / table.sum(axis=1)[present])
        ),
        "log_loss": log_loss(scores, labels),
        "confused": _most_confused(table, class_names),
    }


def _most_confused(table: np.ndarray, class_names: np.ndarray) -> list[dict[str, Any]]:
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:N_CONFUSED]
    pairs = np.column_stack(np.unravel_index(order, wrong.shape))
    return [
        {
            "count": int(wrong[true, predicted]),
            "true": str(class_names[true]),
            "predicted": str(class_names[predicted]),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]
