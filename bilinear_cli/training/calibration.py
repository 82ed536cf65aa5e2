"""The temperature that makes scores probabilities, and how far those are to be trusted."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from bilinear_cli.training.metrics import log_loss

N_BINS = 15
N_RESAMPLES = 1000
LOG_RANGE = (-7.0, 7.0)  # of temperatures that are tried
LOG_SPREAD = 2.0  # what is thought of them beforehand: as likely a seventh as seven


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T at which softmax(scores / T) has the least log loss.

    Log T has a prior, normal about 0, which counts when photos are few: a handful, all of them
    named rightly, would otherwise make every name certain.

    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        scores: (photos, k), of fits that had not seen the photos; averaged over views.
        labels: int (photos,).

    Returns:
        T > 0; 1 if there are no photos.
    """
    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        prior = (log_t / LOG_SPREAD) ** 2 / 2
        return log_loss(scores / np.exp(log_t), labels) + prior / len(labels)

    found = minimize_scalar(loss, bounds=LOG_RANGE, method="bounded")
    return float(np.exp(found.x))


def calibration(probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return how good probabilities are.

    Args:
        probabilities: (photos, k), rows of sum one; at least one photo.
        labels: int (photos,).
        seed: of the bootstrap.

    Returns:
        `log_loss`; `brier`, the mean squared distance from the truth as 0 and 1, 0 to 2; `ece`, the
        expected calibration error: the mean distance between the surest class's probability and the
        share of photos where it is right, over 15 bins of equal mass, 0 to 1; `ece_ci95`, 1.96
        standard errors of a bootstrap over photos to either side (not its percentiles: resampled
        bins are further from their probabilities than the photos' own); `bins`, of each its
        `confidence`, `accuracy` and `count`.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    likely = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300)
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(labels), len(labels)) for _ in range(N_RESAMPLES))
    resampled = [_error(bins(sure[draw], right[draw])) for draw in draws]
    found = bins(sure, right)
    ece, margin = _error(found), 1.96 * float(np.std(resampled))
    return {
        "log_loss": float(-np.log(likely).mean()),
        "brier": float(np.square(probabilities - truth).sum(axis=1).mean()),
        "ece": ece,
        "ece_ci95": [max(ece - margin, 0.0), min(ece + margin, 1.0)],
        "bins": [dict(zip(("confidence", "accuracy", "count"), x, strict=True)) for x in found],
    }


def bins(sure: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """Return of bins of equal mass the mean probability, the share that is right, and the count.

    Args:
        sure: (photos,), probability of the surest class.
        right: bool (photos,), whether it is the true one.
    """
    parts = np.array_split(np.argsort(sure, kind="stable"), min(N_BINS, len(sure)))
    return [(float(sure[p].mean()), float(right[p].mean()), len(p)) for p in parts]


def _error(found: list[tuple[float, float, int]]) -> float:
    total = sum(count for *_, count in found)
    return sum(abs(confidence - accuracy) * n for confidence, accuracy, n in found) / total
