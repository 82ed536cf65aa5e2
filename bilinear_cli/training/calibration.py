"""The temperature that turns scores into probabilities, and the calibration of probabilities."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from bilinear_cli.training.metrics import log_loss

N_BINS = 15
N_RESAMPLES = 1000
LOG_BOUNDS = (-7.0, 7.0)  # of log T
PRIOR_STD = 2.0  # of log T

Bin = tuple[float, float, int]  # mean confidence, accuracy, number of photos


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T at which softmax(scores / T) has the lowest log loss.

    Log T has a normal prior around 0, which matters for few photos: without it, a handful of
    photos that are all classified correctly would make every prediction certain.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        scores: (photos, k), out of fold, averaged over views.
        labels: int (photos,).

    Returns:
        T > 0; 1 if there are no photos.
    """
    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        prior = (log_t / PRIOR_STD) ** 2 / 2
        return log_loss(scores / np.exp(log_t), labels) + prior / len(labels)

    return float(np.exp(minimize_scalar(loss, bounds=LOG_BOUNDS, method="bounded").x))


def calibration(probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return metrics of probabilities.

    Args:
        probabilities: (photos, k), rows of sum one; at least one photo.
        labels: int (photos,).
        seed: of the bootstrap.

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
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(labels), len(labels)) for _ in range(N_RESAMPLES))
    resampled = [_error(bins(confidence[draw], correct[draw])) for draw in draws]
    all_bins = bins(confidence, correct)
    ece, margin = _error(all_bins), 1.96 * float(np.std(resampled))
    keys = ("confidence", "accuracy", "count")
    return {
        "log_loss": float(-np.log(likelihood).mean()),
        "brier": float(np.square(probabilities - one_hot).sum(axis=1).mean()),
        "ece": ece,
        "ece_ci95": [max(ece - margin, 0.0), min(ece + margin, 1.0)],
        "bins": [dict(zip(keys, values, strict=True)) for values in all_bins],
    }


def bins(confidence: np.ndarray, correct: np.ndarray) -> list[Bin]:
    """Return bins of equal mass, in ascending order of confidence.

    Args:
        confidence: (photos,), the highest probability of each photo.
        correct: bool (photos,), whether the class of that probability is the label.
    """
    order = np.argsort(confidence, kind="stable")
    chunks = np.array_split(order, min(N_BINS, len(order)))
    return [(float(confidence[i].mean()), float(correct[i].mean()), len(i)) for i in chunks]


def _error(bins: list[Bin]) -> float:
    """Return the expected calibration error."""
    total = sum(count for *_, count in bins)
    return sum(abs(confidence - accuracy) * n for confidence, accuracy, n in bins) / total
