"""A 1x1 convolution of maps, bilinear pooling and a softmax, trained end to end.

The network below stays as it is; its maps are read from the feature file batch by batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.projection import principal_directions, sample_of, second_moment
from bilinear_cli.training.columns import Linear

Read = Callable[[np.ndarray], np.ndarray]
Held = tuple[np.ndarray, np.ndarray]
Progress = Callable[[int, int], None]

MAX_EPOCHS = 100
PATIENCE = 6
BATCH = 32
LEARNING_RATE = 1e-4
PROJECTION_SCALE = 1 / 3  # of the directions within the network; less: the projection moves faster
N_SAMPLED = 500  # maps from which the principal directions are taken
LEAST_NORM = 1e-6  # as in `pooling.l2_normalize`


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
    stop_on: Held | None = None,
    progress: Progress | None = None,
) -> Conv1x1:
    """Train by Adam, from rotated principal directions of the maps and a softmax of zeros.

    Args:
        read: int rows (m,) -> their maps, float16 or float32 (m, height, width, maps' channels).
        rows: which to train on.
        targets: float32 (len(rows), k), rows of sum one.
        channels: of the convolution, at most as many as the maps have.
        frozen: leave the convolution as it was initialised.
        seed: of the sample, and of the order of the rows.
        epochs: how long; the most, where `stop_on` is given.
        stop_on: rows and targets that are not trained on; training stops when their accuracy
            has not risen for `PATIENCE` epochs, and goes back to where it was best.
        progress: told (epochs done, at most).
    """
    import keras

    keras.utils.set_random_seed(seed)
    initial = directions_of(read, rows, channels, seed)
    # Pooling is blind to the kernel's scale, but Adam's steps are not: within the network all
    # weights are of one size, whatever the unit of the maps, which are divided instead.
    unit = np.float32(PROJECTION_SCALE / (np.linalg.norm(initial, axis=0).mean() or 1))
    shape = read(rows[:1]).shape[1:]
    network = build_network(shape, initial * unit, float(1 / unit), targets.shape[1], frozen)
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = network.fit(
        _batches(read, rows, targets, seed),
        validation_data=_batches(read, *stop_on, None) if stop_on else None,
        epochs=epochs,
        callbacks=_callbacks(epochs, bool(stop_on), progress),
        shuffle=False,  # the batches come shuffled
        verbose=0,
    )
    best = int(np.argmax(history.history["val_accuracy"])) + 1 if stop_on else epochs
    kernel = initial if frozen else network.get_layer("features").get_weights()[0][0, 0] / unit
    weights, intercept = network.get_layer("head").get_weights()
    return Conv1x1(kernel, Linear(weights * _head_scale(channels), intercept), best)


def directions_of(read: Read, rows: np.ndarray, channels: int, seed: int) -> np.ndarray:
    """Return the directions that training starts from, float32 (maps' channels, channels).

    Args:
        read: as of `fit_conv1x1`.
        rows: of which a sample is taken.
        channels: how many directions.
        seed: of the sample.
    """
    sample = sample_of(rows, N_SAMPLED, seed)
    batches = (read(sample[start : start + BATCH]) for start in range(0, len(sample), BATCH))
    return principal_directions(second_moment(batches), channels)


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
    matrices = np.swapaxes(x, 1, 2) @ x
    rows, columns = triangle.indices(kernel.shape[1])
    packed = matrices[:, rows, columns]
    packed = np.sign(packed) * np.sqrt(np.abs(packed))
    packed *= triangle.scale(kernel.shape[1]).astype(np.float32)
    norms = np.linalg.norm(packed, axis=1, keepdims=True)
    return packed / np.maximum(norms, np.float32(LEAST_NORM))


def _head_scale(channels: int) -> np.float32:
    """Return what makes the numbers of a feature of norm one about one, as Adam likes them."""
    return np.float32(np.sqrt(triangle.size_of(channels)))


def build_network(
    shape: tuple[int, ...], kernel: np.ndarray, factor: float, n_classes: int, frozen: bool
) -> Any:
    """Return the network: maps times `factor` -> kernel -> pooling -> a softmax of zeros."""
    import keras

    from bilinear_cli.layers import BilinearPooling

    pooling = BilinearPooling(channels=kernel.shape[1], trainable=not frozen, name="features")
    network = keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Rescaling(factor),
            pooling,
            keras.layers.Rescaling(_head_scale(kernel.shape[1])),
            keras.layers.Dense(n_classes, kernel_initializer="zeros", name="head"),
        ]
    )
    pooling.set_weights([kernel[None, None]])
    return network


def _callbacks(epochs: int, stops: bool, progress: Progress | None) -> list[Any]:
    import keras

    stop = partial(keras.callbacks.EarlyStopping, "val_accuracy", restore_best_weights=True)
    callbacks = [stop(patience=PATIENCE)] if stops else []
    if progress:
        callbacks += [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: progress(epoch + 1, epochs),
                on_train_end=lambda logs: progress(epochs, epochs),
            )
        ]
    return callbacks


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
