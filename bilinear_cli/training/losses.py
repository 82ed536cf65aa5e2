"""Losses of linear classifiers, as functions of the scores.

A linear classifier minimises `C * (sum of losses) + ||W||² / 2` over weights W and an intercept
that is not penalised. A loss is made for targets (n, k). It maps scores (n, k) to its sum over all
rows and classes, its derivative by the scores (n, k), and its mean second derivative.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import xlogy

Loss = Callable[[np.ndarray], tuple[float, np.ndarray, float]]
MakeLoss = Callable[[np.ndarray], Loss]


def one_hot(labels: np.ndarray, n_classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Return float32 targets (n, n_classes) with label smoothing.

    Each class gets smoothing / n_classes, and the label 1 - smoothing in addition.
    """
    targets = np.full((len(labels), n_classes), smoothing / n_classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def plus_minus_one(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return float32 targets (n, n_classes): 1 for the label, -1 elsewhere."""
    return 2 * one_hot(labels, n_classes) - 1


def cross_entropy(targets: np.ndarray) -> Loss:
    """Make the multinomial loss of targets whose rows sum to one.

    It is the Kullback-Leibler divergence of softmax(scores) from the targets: the cross entropy
    minus the entropy of the targets. Without this constant, relative decreases would mean little
    at a large C.
    """
    negative_entropy = float(xlogy(targets, targets).sum(dtype=np.float64))

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        highest = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - highest)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        log_total = (np.log(total) + highest).sum(dtype=np.float64)
        value = float(log_total - inner_product(targets, scores)) + negative_entropy
        return value, p - targets, (len(p) - inner_product(p, p)) / p.size

    return loss


def squared_hinge(targets: np.ndarray) -> Loss:
    """Make the loss of an SVM for each class, `max(0, 1 - target * score)²`, targets 1 or -1."""

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        slack = np.maximum(1 - targets * scores, 0)
        return inner_product(slack, slack), -2 * targets * slack, 2 * float(np.mean(slack > 0))

    return loss


def squared_error(targets: np.ndarray) -> Loss:
    """Make the loss of ridge regression, `(score - target)² / 2`."""

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray, float]:
        error = scores - targets
        return 0.5 * inner_product(error, error), error, 1.0

    return loss


def inner_product(a: np.ndarray, b: np.ndarray) -> float:
    """Return the inner product of two float32 matrices, summed by row, then in float64."""
    return float(np.einsum("ij,ij->i", a, b).sum(dtype=np.float64))
