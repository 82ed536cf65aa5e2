"""Losses of linear classifiers, as functions of the scores.

A linear classifier minimises `C * (sum of losses) + ||W||² / 2` over weights W and an intercept
that is not penalised. A loss is made for targets (n, k), and then maps scores (n, k) to its sum
over all rows and classes, its derivative by the scores, and its mean second derivative.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import xlogy

Loss = Callable[[np.ndarray], tuple[float, np.ndarray, float]]
MakeLoss = Callable[[np.ndarray], Loss]


def one_hot(labels: np.ndarray, n_classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Return float32 targets (n, n_classes): 1 - smoothing for the label, the rest spread evenly.

    With smoothing s every class gets s / n_classes, and the label 1 - s besides.
    """
    targets = np.full((len(labels), n_classes), smoothing / n_classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def plus_minus_one(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return float32 targets (n, n_classes): 1 for the label, -1 elsewhere."""
    return 2 * one_hot(labels, n_classes) - 1


def cross_entropy(targets: np.ndarray) -> Loss:
    """Make the multinomial loss: the divergence of softmax(scores) from the targets.

    That is the cross entropy less the targets' own entropy: a constant, without which relative
    decreases mean something however large C is.

    Args:
        targets: float32 (n, k), rows of sum one.
    """
    own = float(xlogy(targets, targets).sum(dtype=np.float64))

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        highest = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - highest)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        log_total = (np.log(total) + highest).sum(dtype=np.float64)
        value = float(log_total - dot(targets, scores)) + own
        return value, p - targets, (len(p) - dot(p, p)) / p.size

    return loss


def squared_hinge(targets: np.ndarray) -> Loss:
    """Make the loss of one support vector machine a class: `max(0, 1 - target * score)²`.

    Args:
        targets: float32 (n, k), 1 or -1.
    """

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        margin = np.maximum(1 - targets * scores, 0)
        return dot(margin, margin), -2 * targets * margin, 2 * float(np.mean(margin > 0))

    return loss


def squared_error(targets: np.ndarray) -> Loss:
    """Make the loss of ridge regression: `(score - target)² / 2`.

    Args:
        targets: float32 (n, k).
    """

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        error = scores - targets
        return 0.5 * dot(error, error), error, 1.0

    return loss


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the products of two float32 matrices, summed by row, then in float64."""
    return float(np.einsum("ij,ij->i", a, b).sum(dtype=np.float64))
