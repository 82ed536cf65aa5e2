"""Losses of linear classifiers, as functions of the scores.

A linear classifier minimises `C * (sum of losses) + ||W||² / 2` over weights W and an intercept
that is not penalised. A loss is made for targets (n, k), and for the weights of the rows (n,) if
they differ: each must be above zero, and multiplies the losses of its row. The loss maps scores
(n, k) to its sum over all rows and classes, its derivative by the scores (n, k), and its mean
second derivative.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from scipy.special import xlogy

Loss = Callable[[np.ndarray], tuple[float, np.ndarray, float]]


class MakeLoss(Protocol):
    """A function: targets (n, k), weights of the rows (n,) or None -> their loss."""

    def __call__(self, targets: np.ndarray, sample_weight: np.ndarray | None = None, /) -> Loss:
        """Return the loss."""


def one_hot(
    labels: np.ndarray, n_classes: int, smoothing: float = 0.0, dtype: Any = np.float32
) -> np.ndarray:
    """Return targets (n, n_classes) with label smoothing, float32 or of another type.

    Each class gets smoothing / n_classes, and the label 1 - smoothing in addition.
    """
    targets = np.full((len(labels), n_classes), smoothing / n_classes, dtype)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def plus_minus_one(labels: np.ndarray, n_classes: int, dtype: Any = np.float32) -> np.ndarray:
    """Return targets (n, n_classes): 1 for the label, -1 elsewhere."""
    return 2 * one_hot(labels, n_classes, dtype=dtype) - 1


def cross_entropy(targets: np.ndarray, sample_weight: np.ndarray | None = None) -> Loss:
    """Make the multinomial loss of targets whose rows sum to one.

    It is the Kullback-Leibler divergence of softmax(scores) from the targets: the cross entropy
    minus the entropy of the targets. Without this constant, relative decreases would mean little
    at a large C.
    """
    weight = _column(targets, sample_weight)
    weighted_targets, total_weight = weight * targets, float(weight.sum(dtype=np.float64))
    negative_entropy = float((weight * xlogy(targets, targets)).sum(dtype=np.float64))

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        highest = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - highest)
        total = p.sum(axis=1, keepdims=True)
        p /= total / weight  # the probabilities, times the weight of the row
        log_total = (weight * (np.log(total) + highest)).sum(dtype=np.float64)
        value = float(log_total - inner_product(weighted_targets, scores)) + negative_entropy
        second = (total_weight - inner_product(p, p, 1 / weight[:, 0])) / p.size
        return value, p - weighted_targets, second

    return loss


def squared_hinge(targets: np.ndarray, sample_weight: np.ndarray | None = None) -> Loss:
    """Make the loss of an SVM for each class, `max(0, 1 - target * score)²`, targets 1 or -1."""
    weight = _column(targets, sample_weight)
    slope, row_weight = -2 * weight * targets, weight[:, 0]

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        slack = np.maximum(1 - targets * scores, 0)
        second = 2 * float(np.count_nonzero(slack, axis=1) @ row_weight / slack.size)
        return inner_product(slack, slack, row_weight), slope * slack, second

    return loss


def squared_error(targets: np.ndarray, sample_weight: np.ndarray | None = None) -> Loss:
    """Make the loss of ridge regression, `(score - target)² / 2`."""
    weight = _column(targets, sample_weight)
    mean_weight = float(weight.mean(dtype=np.float64))

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        error = scores - targets
        weighted_error = weight * error
        return 0.5 * inner_product(weighted_error, error), weighted_error, mean_weight

    return loss


def inner_product(a: np.ndarray, b: np.ndarray, row_weight: np.ndarray | float = 1.0) -> float:
    """Return the inner product of two matrices, summed by row, then over the rows in float64.

    `row_weight`, one number or (n,), multiplies the products of a row.
    """
    return float((np.einsum("ij,ij->i", a, b) * row_weight).sum(dtype=np.float64))


def _column(targets: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    """Return the weights of the rows, (n, 1), of the type of the targets."""
    if sample_weight is None:
        return np.ones((len(targets), 1), targets.dtype)
    return sample_weight.astype(targets.dtype)[:, None]
