"""A network of a projection, bilinear pooling and a softmax, and its training by Adam, in NumPy.

Products of matrices take most of the time. NumPy computes them as quickly as TensorFlow, without
the seconds to start and to compile. Each thread computes a part of a batch. The caller should give
the BLAS library one thread: its own threads would wait for each other after each small product.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bilinear_cli.machine import n_cpus
from bilinear_cli.poolings import triangle
from bilinear_cli.progress import Progress
from bilinear_cli.training.losses import cross_entropy
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.projected_pooling import pool_projected

Batch = tuple[np.ndarray, ...]  # rows (n, ...), targets (n, k), and any weights (n,)
Batches = Callable[[], Iterable[Batch]]

MEAN_DECAY, SQUARE_DECAY = 0.9, 0.999
EPSILON = 1e-7


class PoolingNetwork:
    """Maps -> kernel -> pooling -> scores; with a frozen kernel, pooled maps -> scores.

    Attributes:
        kernel: float32 (maps' channels, channels).
        head: the output layer, of features of mean square one; at first of zeros.
    """

    def __init__(self, kernel: np.ndarray, n_classes: int, frozen: bool) -> None:
        """Start from a kernel, which training changes in place unless it is frozen."""
        n_features = triangle.n_entries(kernel.shape[1])
        self.kernel, self.frozen = kernel, frozen
        self.head = Linear(
            np.zeros((n_features, n_classes), np.float32), np.zeros(n_classes, np.float32)
        )
        self.scale = np.float32(np.sqrt(n_features))  # of the features, for Adam

    @property
    def parameters(self) -> list[np.ndarray]:
        """The arrays that training changes."""
        return [self.head.weights, self.head.intercept, *([] if self.frozen else [self.kernel])]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return scores (n, classes) of rows."""
        features = rows if self.frozen else pool_projected(rows, self.kernel).features
        return self.head(self.scale * features)

    def output_layer(self) -> Linear:
        """Return the output layer of the features as they are."""
        return Linear(self.head.weights * self.scale, self.head.intercept)

    def gradients(self, rows: np.ndarray, targets: np.ndarray, *weight: np.ndarray) -> Batch:
        """Return the gradients of the summed cross entropy by the parameters."""
        pooled = None if self.frozen else pool_projected(rows, self.kernel)
        features = self.scale * (rows if pooled is None else pooled.features)
        _, error, _ = cross_entropy(targets, *weight)(self.head(features))
        by_head = features.T @ error, error.sum(axis=0)
        if pooled is None:
            return by_head
        return *by_head, pooled.kernel_gradient(self.scale * error @ self.head.weights.T)

    def right_and_total(
        self, rows: np.ndarray, targets: np.ndarray, *weight: np.ndarray
    ) -> tuple[float, float]:
        """Return how many rows have their highest score at the right class, and how many there are.

        Each counts with its weight.
        """
        is_right = self.scores(rows).argmax(axis=1) == targets.argmax(axis=1)
        (row_weight,) = weight or [np.ones(len(rows))]
        return float(is_right @ row_weight), float(row_weight.sum())


class Adam:
    """Changes the parameters of a network in place, step by step.

    Source: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    def __init__(self, network: PoolingNetwork, learning_rate: float) -> None:
        """Start with the present parameters."""
        self.network, self.learning_rate, self.n_steps = network, learning_rate, 0
        self.moments = [(np.zeros_like(x), np.zeros_like(x)) for x in network.parameters]

    def step(self, gradients: Iterable[np.ndarray]) -> None:
        """Make one step; there is a gradient for each parameter."""
        self.n_steps += 1
        # the moments start at zero, so the first of them are too small
        mean_share, square_share = (1 - decay**self.n_steps for decay in (MEAN_DECAY, SQUARE_DECAY))
        size = np.float32(self.learning_rate * square_share**0.5 / mean_share)
        for x, gradient, (mean, square) in zip(
            self.network.parameters, gradients, self.moments, strict=True
        ):
            mean += (1 - MEAN_DECAY) * (gradient - mean)
            square += (1 - SQUARE_DECAY) * (np.square(gradient) - square)
            x -= size * mean / (np.sqrt(square) + EPSILON)


def train_network(
    adam: Adam,
    batches: Batches,
    validation: Batches | None,
    epochs: int,
    patience: int,
    progress: Progress | None = None,
) -> int:
    """Train a network on batches, which are new ones in each epoch.

    With `validation`, training stops when the accuracy on these rows has not risen for `patience`
    epochs, and goes back to the best epoch. If the rows have weights, the accuracy is weighted.

    Returns:
        The number of epochs that the final parameters were trained for.
    """
    network, best_accuracy, best_epoch = adam.network, -1.0, epochs
    with ThreadPoolExecutor(n_cpus()) as threads:
        for epoch in range(1, epochs + 1):
            for batch in batches():
                sums = sum_over_parts(network.gradients, batch, threads)
                adam.step(x / len(batch[0]) for x in sums)
            if progress:
                progress(epoch, epochs)
            if not validation:
                continue
            counts = [sum_over_parts(network.right_and_total, x, threads) for x in validation()]
            right, total = np.sum(counts, axis=0)
            if right / total > best_accuracy:
                best_accuracy, best_epoch = right / total, epoch
                best = [x.copy() for x in network.parameters]
            elif epoch - best_epoch >= patience:
                break
    if validation:
        for x, value in zip(network.parameters, best, strict=True):
            x[...] = value
    if progress:
        progress(epochs, epochs)
    return best_epoch


def sum_over_parts(
    function: Callable[..., tuple[Any, ...]], batch: Batch, threads: ThreadPoolExecutor
) -> list[Any]:
    """Return the sums of a function's results over parts of a batch, one for each thread."""
    n_parts = min(n_cpus(), len(batch[0]))
    parts = zip(*(np.array_split(x, n_parts) for x in batch), strict=True)
    return [sum(x) for x in zip(*threads.map(lambda part: function(*part), parts), strict=True)]
