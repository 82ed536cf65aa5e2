"""A 1x1 convolution of maps, bilinear pooling and a softmax, trained end to end.

The network below stays as it is; its maps are read from the feature file batch by batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from bilinear_cli.errors import UsageError
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.projection import principal_directions, sample_indices, second_moment
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.estimator import Estimator, Training, Trials
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.reducers import Progress, Reading
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.tuning import Tuning

Read = Callable[[np.ndarray], np.ndarray]
Targeted = tuple[np.ndarray, np.ndarray]  # indices of rows, and their targets

MAX_EPOCHS = 100
PATIENCE = 6
BATCH = 32
LEARNING_RATE = 1e-4
PROJECTION_SCALE = 1 / 3  # of the directions within the network; less: the projection moves faster
CHECKED_AT_ONCE = 32  # maps
N_SAMPLED = 500  # maps from which the principal directions are taken


@dataclass(frozen=True)
class Conv1x1:
    """The layers.

    Attributes:
        kernel: float32 (channels of the maps, channels).
        head: the softmax, on what `pool_projected` returns.
        epochs: how long it was trained.
    """

    kernel: np.ndarray
    head: Linear
    epochs: int


@dataclass(frozen=True)
class StoredMaps:
    """Maps of the training rows, which stay in the file.

    Attributes:
        file: where they are.
        spec: the pooling that keeps them.
        indices: of the training rows.
        progress: told (epochs done, at most).
    """

    file: FeatureFile
    spec: str
    indices: np.ndarray
    progress: Progress | None
    solver: ClassVar[None] = None

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the maps of these training rows, float16 or float32 (n, *map shape)."""
        return self.file.read(self.spec, self.indices[indices])


class Conv1x1Estimator(Estimator):
    """A trained projection of maps, pooled, with a softmax; epochs are chosen on one fold."""

    cross_validated = False

    def reduce(
        self,
        file: FeatureFile,
        transforms: Sequence[FeatureTransform],
        rows: Rows,
        options: TrainOptions,
        reading: Reading,
    ) -> StoredMaps:
        """Check the maps of all training rows; training reads them batch by batch.

        Raises:
            UsageError: the maps have fewer channels than the convolution.
            FeatureFileError: a map is damaged, or holds what is no number.
        """
        (transform,) = transforms
        widest = file.shapes[transform.spec][-1]
        if options.channels > widest:
            raise UsageError(f"--channels {options.channels} is more than the maps' {widest}")
        for _ in file.batches(transform.spec, rows.indices, CHECKED_AT_ONCE):
            pass  # TensorFlow would make a traceback of its own of what is wrong with a row
        return StoredMaps(file, transform.spec, rows.indices, reading.progress)

    def trials(
        self, training: Training, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Train until the accuracy on the validation rows stops rising."""
        (val_indices,) = val_folds
        targets = training.targets(smoothing)
        indices = np.setdiff1d(training.indices, val_indices)
        net = self._train(training, indices, targets, stop_on=(val_indices, targets[val_indices]))
        maps, scores = training.reduced, np.zeros(targets.shape, np.float32)
        model = self._model(training, net)
        scores[val_indices] = model.score_rows(maps.file, maps.indices[val_indices])
        yield {"epochs": net.epochs}, scores

    def fit(self, training: Training, choice: Tuning) -> Model:
        """Train on all rows for as many epochs as were chosen."""
        targets = training.targets(choice.label_smoothing)
        net = self._train(training, training.indices, targets, epochs=choice.epochs)
        return self._model(training, net)

    def _train(
        self, training: Training, indices: np.ndarray, targets: np.ndarray, **rest: Any
    ) -> Conv1x1:
        maps = training.reduced
        rest |= {"progress": maps.progress}
        return fit_conv1x1(maps.read, (indices, targets[indices]), training.options, **rest)

    def _model(self, training: Training, net: Conv1x1) -> Model:
        spec, n_features = training.reduced.spec, len(net.head.weights)
        transform = FeatureTransform(spec, None, n_features, "none", kernel=net.kernel)
        return Model(net.head, None, [transform], training.rows.class_names)


def fit_conv1x1(
    read: Read,
    train: Targeted,
    options: TrainOptions,
    *,
    epochs: int = MAX_EPOCHS,
    stop_on: Targeted | None = None,
    progress: Progress | None = None,
) -> Conv1x1:
    """Train by Adam, from rotated principal directions of the maps and a softmax of zeros.

    Args:
        read: int rows (m,) -> their maps, float16 or float32 (m, height, width, maps' channels).
        train: indices (n,) of the rows to train on, and their targets, float32 (n, k), rows of
            sum one.
        options: `channels`, of the convolution, at most as many as the maps have; `frozen`, leave
            the convolution as it was initialised; `seed`, of the sample and the order of the rows.
        epochs: how long; the most, where `stop_on` is given.
        stop_on: likewise of validation rows; training stops when their accuracy
            has not risen for `PATIENCE` epochs, and goes back to where it was best.
        progress: told (epochs done, at most).
    """
    import keras

    indices, targets = train
    channels, frozen, seed = options.channels, options.frozen, options.seed
    keras.utils.set_random_seed(seed)
    initial = directions_of(read, indices, channels, seed)
    # Pooling is blind to the kernel's scale, but Adam's steps are not: within the network all
    # weights are of one size, whatever the unit of the maps, which are divided instead.
    unit = np.float32(PROJECTION_SCALE / (np.linalg.norm(initial, axis=0).mean() or 1))
    shape = read(indices[:1]).shape[1:]
    network = build_network(shape, initial * unit, float(1 / unit), targets.shape[1], frozen)
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = network.fit(
        _batches(read, indices, targets, seed),
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
    sample = sample_indices(rows, N_SAMPLED, seed)
    batches = (read(sample[start : start + BATCH]) for start in range(0, len(sample), BATCH))
    return principal_directions(second_moment(batches), channels)


def _head_scale(channels: int) -> np.float32:
    """Return what makes the numbers of a feature of norm one about one, as Adam likes them."""
    return np.float32(np.sqrt(triangle.n_entries(channels)))


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
