"""A 1x1 convolution of conv5 maps, bilinear pooling and a softmax, trained end to end.

The network below stays as it is; its maps are read from the feature file batch by batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilinear_cli.classify.columns import Linear

Read = Callable[[np.ndarray], np.ndarray]

MAX_EPOCHS = 100
PATIENCE = 6
BATCH = 32
LEARNING_RATE = 1e-4
N_SAMPLED = 500  # maps from which the principal directions are taken
SOFTENING = 1e-3  # of the square root, in terms of a channel's mean square


@dataclass(frozen=True)
class Conv1x1:
    """The layers.

    Attributes:
        kernel: float32 (channels of the maps, channels).
        head: the softmax, on `pool_projected`.
        epochs: how long it was trained.
    """

    kernel: np.ndarray
    head: Linear
    epochs: int


def fit_conv1x1(
    read: Read,
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    channels: int,
    frozen: bool,
    seed: int,
    epochs: int = MAX_EPOCHS,
    stop_on: tuple[np.ndarray, np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Conv1x1:
    """Train by Adam, from the principal directions of the maps and a softmax of zeros.

    Args:
        read: int rows (m,) -> their maps, float32 (m, height, width, channels of the maps).
        rows: which to train on.
        targets: float32 (len(rows), k), rows of sum one.
        channels: of the convolution.
        frozen: leave the convolution as it was initialised.
        seed: of the sample, and of the order of the rows.
        epochs: how long; the most, where `stop_on` is given.
        stop_on: rows and targets that are not trained on; training stops when their accuracy
            has not risen for `PATIENCE` epochs, and goes back to where it was best.
        progress: told (epochs done, at most).
    """
    import keras

    keras.utils.set_random_seed(seed)
    kernel = principal_directions(read, rows, channels, seed)
    network = _network(read(rows[:1]).shape[1:], kernel, targets.shape[1], frozen)
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks: list[Any] = []
    if progress:
        told = progress
        callbacks += [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: told(epoch + 1, epochs),
                on_train_end=lambda logs: told(epochs, epochs),
            )
        ]
    if stop_on:
        callbacks += [
            keras.callbacks.EarlyStopping(
                "val_accuracy", patience=PATIENCE, restore_best_weights=True
            )
        ]
    history = network.fit(
        _batches(read, rows, targets, seed),
        validation_data=_batches(read, *stop_on, None) if stop_on else None,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )
    best = int(np.argmax(history.history["val_accuracy"])) + 1 if stop_on else epochs
    (kernel,), (weights, intercept) = (network.layers[i].get_weights() for i in (0, 2))
    scale = np.float32(np.sqrt(len(weights)))
    return Conv1x1(kernel[0, 0], Linear(weights * scale, intercept), best)


def principal_directions(read: Read, rows: np.ndarray, channels: int, seed: int) -> np.ndarray:
    """Return the first principal directions of the maps' locations, float32 (C, channels).

    They are those of the second moment, not of the covariance: what most locations have in common
    is part of the bilinear feature. All are scaled alike, so that the mean square of a projected
    channel is one.

    Args:
        read: as of `fit_conv1x1`.
        rows: of which a sample is taken.
        channels: how many directions, at most as many as the maps have channels.
        seed: of the sample.
    """
    sample = np.random.default_rng(seed).permutation(rows)[:N_SAMPLED]
    moment, n = np.zeros(()), 0
    for start in range(0, len(sample), BATCH):
        maps = read(np.sort(sample[start : start + BATCH]))
        x = maps.reshape(-1, maps.shape[-1])
        moment = moment + (x.T @ x).astype(np.float64)
        n += len(x)
    values, vectors = np.linalg.eigh(moment / n)
    scale = 1 / np.sqrt(values[-channels:].mean())
    return (vectors[:, ::-1][:, :channels] * scale).astype(np.float32)


def pool_projected(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return projected maps, bilinearly pooled and normalised, without TensorFlow.

    Args:
        maps: float (m, height, width, C).
        kernel: float32 (C, channels).

    Returns:
        float32 (m, channels * (channels + 1) / 2): the upper triangle, row by row, off-diagonal
        numbers times the square root of two.
    """
    x = maps.astype(np.float32, copy=False).reshape(len(maps), -1, maps.shape[-1]) @ kernel
    matrices = np.swapaxes(x, 1, 2) @ x / np.float32(x.shape[1])
    rows, columns, scale = _triangle(kernel.shape[1])
    packed = matrices[:, rows, columns]
    packed *= scale / np.sqrt(np.abs(packed) + np.float32(SOFTENING))
    norms = np.linalg.norm(packed, axis=1, keepdims=True)
    return packed / np.where(norms == 0, 1, norms)


def _triangle(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.triu_indices(channels)
    return rows, columns, np.where(rows == columns, 1, np.sqrt(2)).astype(np.float32)


def _network(shape: tuple[int, ...], kernel: np.ndarray, n_classes: int, frozen: bool) -> Any:
    import keras
    import tensorflow as tf

    height, width, _ = shape
    channels = kernel.shape[1]
    rows, columns, scale = _triangle(channels)
    places = (rows * channels + columns).astype(np.int32)

    class Bilinear(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            x = tf.reshape(x, (-1, height * width, channels))
            matrices = tf.matmul(x, x, transpose_a=True) / (height * width)
            packed = tf.gather(tf.reshape(matrices, (-1, channels**2)), places, axis=1)
            # The slope of a signed square root is infinite at zero; of this it is not.
            packed = scale * packed / tf.sqrt(tf.abs(packed) + SOFTENING)
            unit = tf.math.l2_normalize(packed, axis=1)
            return unit * np.float32(np.sqrt(len(places)))  # numbers of about one, as Adam likes

    conv = keras.layers.Conv2D(channels, 1, use_bias=False, trainable=not frozen)
    network = keras.Sequential(
        [
            keras.layers.Input(shape),
            conv,
            Bilinear(),
            keras.layers.Dense(n_classes, kernel_initializer="zeros"),
        ]
    )
    conv.set_weights([kernel[None, None]])
    return network


def _batches(read: Read, rows: np.ndarray, targets: np.ndarray, seed: int | None) -> Any:
    """Return batches of maps and targets; in another order each epoch, unless seed is None."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.random = np.random.default_rng(seed)
            self.order = np.arange(len(rows))
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(rows) // BATCH)

        def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
            taken = self.order[i * BATCH : (i + 1) * BATCH]
            return read(rows[taken]), targets[taken]

        def on_epoch_end(self) -> None:
            if seed is not None:
                self.order = self.random.permutation(len(rows))

    return Batches()
