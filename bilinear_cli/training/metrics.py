"""Metrics of scores and of probabilities. A photo counts once, however many views it has."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, recall_score

CONFIDENCE = 0.95
N_CONFUSED = 10
N_BINS = 15
N_RESAMPLES = 1000
BLOCK = 1 << 14  # photos of samples that are sorted together: they fit into the CPU's cache
LOG_BOUNDS = (-7.0, 7.0)  # of log T
PRIOR_STD = 2.0  # of log T

Bin = tuple[float, float, int]  # mean confidence, accuracy, number of photos


def average_views(photo: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each photo, ascending, and the mean scores (photos, k) of its views.

    Scores are (rows, k); `photo`, int (rows,), is the photo of each row.
    """
    _, first, inverse, count = np.unique(photo, True, True, True)
    mean = np.zeros((len(first), scores.shape[1]))
    np.add.at(mean, inverse, scores)
    order = np.argsort(first)
    return first[order], (mean / count[:, None])[order]


def top1(scores: np.ndarray, labels: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
    """Return the share of rows, or of their weights, whose highest score is at their label."""
    return float(np.average(scores.argmax(axis=1) == labels, weights=sample_weight))


def log_loss_from_scores(
    scores: np.ndarray, labels: np.ndarray, sample_weight: np.ndarray | None = None
) -> float:
    """Return the mean of -log softmax(scores) at the label, weighted if the rows have weights."""
    log_likelihood = log_softmax(scores, axis=1)[np.arange(len(labels)), labels]
    return -float(np.average(log_likelihood, weights=sample_weight))


def evaluate(scores: np.ndarray, labels: np.ndarray, class_names: np.ndarray) -> dict[str, Any]:
    """Return the metrics of scores (photos, k) and labels int (photos,), of one photo or more.

    Returns:
        `top1`, `top1_ci95` (Wilson's interval), `top5`, `mean_per_class_accuracy`, all 0 to 1;
        `log_loss`; `confused`, the most confused pairs: `count`, `true`, `predicted`.
    """
    n, predicted, accuracy = len(labels), scores.argmax(axis=1), top1(scores, labels)
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    interval = binomtest(round(accuracy * n), n).proportion_ci(CONFIDENCE, "wilson")
    true_score = scores[np.arange(n), labels]
    matrix = confusion_matrix(labels, predicted, labels=np.arange(len(class_names)))
    return {
        "top1": accuracy,
        "top1_ci95": [float(interval.low), float(interval.high)],
        # Not top_k_accuracy_score: it breaks ties by the order of the classes.
        "top5": float(np.mean((scores > true_score[:, None]).sum(axis=1) < 5)),
        "mean_per_class_accuracy": float(recall),
        "log_loss": log_loss_from_scores(scores, labels),
        "confused": [
            {"count": count, "true": str(class_names[i]), "predicted": str(class_names[j])}
            for count, i, j in confused_pairs(matrix, N_CONFUSED)
        ],
    }


def confused_pairs(matrix: np.ndarray, n_pairs: int) -> list[tuple[int, int, int]]:
    """Return (count, true class, predicted class) of the pairs confused most, at most `n_pairs`."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:n_pairs]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(wrong[i, j]), int(i), int(j)) for i, j in pairs if wrong[i, j]]


# Calibration -----------------------------------------------------------------------------


def fit_temperature(
    scores: np.ndarray, labels: np.ndarray, sample_weight: np.ndarray | None = None
) -> float:
    """Return the temperature T > 0 at which softmax(scores / T) has the lowest log loss.

    Scores (photos, k) are out of fold, and averaged over views. Without photos T is 1.
    Log T has a normal prior around 0, which matters for few photos: without it, a handful of
    photos that are all classified correctly would make every prediction certain. A photo with a
    weight counts that often.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    if not len(labels):
        return 1.0

    n = len(labels) if sample_weight is None else float(sample_weight.sum())

    def loss(log_t: float) -> float:
        prior = (log_t / PRIOR_STD) ** 2 / 2
        return log_loss_from_scores(scores / np.exp(log_t), labels, sample_weight) + prior / n

    return float(np.exp(minimize_scalar(loss, bounds=LOG_BOUNDS, method="bounded").x))


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return metrics of probabilities (photos, k), rows of sum one, and labels int (photos,).

    There must be one photo or more.

    Returns:
        `log_loss`; `brier`, the mean squared distance from the one-hot labels, 0 to 2; `ece`, the
        expected calibration error: the mean distance between confidence (the highest probability)
        and accuracy over 15 bins of equal mass, 0 to 1; `ece_ci95`, 1.96 standard errors of a
        bootstrap over photos to either side (not its percentiles: the error of resampled photos
        is biased upwards); `bins`, for each its `confidence`, `accuracy` and `count`.
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    likelihood = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    ece = float(_errors(confidence[None], correct[None])[0])
    margin = 1.96 * float(np.std(_resampled_errors(confidence, correct)))
    keys = ("confidence", "accuracy", "count")
    return {
        "log_loss": float(-np.log(likelihood).mean()),
        "brier": float(np.square(probabilities - one_hot).sum(axis=1).mean()),
        "ece": ece,
        "ece_ci95": [max(ece - margin, 0.0), min(ece + margin, 1.0)],
        "bins": [dict(zip(keys, values, strict=True)) for values in bins(confidence, correct)],
    }


def bins(confidence: np.ndarray, correct: np.ndarray) -> list[Bin]:
    """Return bins of equal mass of photos (photos,), in ascending order of confidence."""
    order = np.argsort(confidence, kind="stable")
    chunks = np.split(order, _starts(len(order))[1:])
    return [(float(confidence[i].mean()), float(correct[i].mean()), len(i)) for i in chunks]


def _starts(n: int) -> np.ndarray:
    """Return where each bin of n sorted photos starts; the first bins may have one photo more."""
    n_bins = min(N_BINS, n)
    return np.arange(n_bins) * (n // n_bins) + np.minimum(np.arange(n_bins), n % n_bins)


def _errors(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of each row of (samples, photos)."""
    order = np.argsort(confidence, axis=1, kind="stable")
    excess = np.take_along_axis(confidence - correct, order, axis=1)
    sums = np.add.reduceat(excess, _starts(excess.shape[1]), axis=1)
    return np.abs(sums).sum(axis=1) / excess.shape[1]


def _resampled_errors(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return the error of each of `N_RESAMPLES` bootstrap samples of photos (photos,)."""
    n, rng = len(confidence), np.random.default_rng(0)
    most = max(BLOCK // n, 1)
    sizes = (min(most, N_RESAMPLES - i) for i in range(0, N_RESAMPLES, most))
    draws = (rng.integers(0, n, (size, n)) for size in sizes)
    return np.concatenate([_errors(confidence[draw], correct[draw]) for draw in draws])
