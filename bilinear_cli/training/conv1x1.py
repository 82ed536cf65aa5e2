"""A 1x1 convolution of maps, bilinear pooling and a softmax, trained end to end.

The network that made the maps stays as it is. Its maps are read from the feature file in batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import numpy as np

from bilinear_cli.errors import Progress, UsageError
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.parameters import principal_directions, sample_indices, second_moment
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.estimator import Estimator, TrainingData, Trials
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.mlp import train_network
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.reducers import LocalReducer
from bilinear_cli.training.tuning import Tuning

ReadMaps = Callable[[np.ndarray], np.ndarray]
IndexedTargets = tuple[np.ndarray, ...]  # indices of rows, their targets, and any weights of them

MAX_EPOCHS = 100
PATIENCE = 6
BATCH_SIZE = 32  # maps
LEARNING_RATE = 1e-4
KERNEL_NORM = 1 / 3  # of the kernel's columns in the network; with a smaller one they change faster
N_SAMPLED = 500  # maps from which the principal directions are computed


@dataclass(frozen=True)
class StoredMaps:
    """Maps of the training rows, which stay in the file; `indices` are their rows there."""

    file: FeatureFile
    spec: str
    indices: np.ndarray
    progress: Progress | None
    solver: ClassVar[None] = None

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the maps of these training rows, float16 or float32 (n, *map shape)."""
        return self.file.read(self.spec, self.indices[indices])


class Conv1x1Estimator(Estimator):
    """A projection of maps, bilinear pooling and a softmax; epochs are chosen on one fold."""

    cross_validated = False

    def reduce(self, reducer: LocalReducer, n_classes: int, options: TrainOptions) -> StoredMaps:
        """Check the maps of all training rows; training reads them in batches.

        Raises:
            UsageError: the maps have fewer channels than the convolution.
            FeatureFileError: a map is damaged or has a value that is not finite.
        """
        (transform,), file = reducer.features.transforms, reducer.features.file
        if options.channels > transform.n_features:
            raise UsageError(
                f"--channels {options.channels} is too high: the maps have {transform.n_features} "
                "channels"
            )
        for _ in file.batches(transform.spec, reducer.indices, BATCH_SIZE):
            pass  # an error during Keras's training would have a traceback of TensorFlow
        return StoredMaps(file, transform.spec, reducer.indices, reducer.progress)

    def trials(
        self, data: TrainingData, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Train until the accuracy on the validation rows stops rising."""
        (val_indices,) = val_folds
        maps, indices = data.reduced, np.setdiff1d(data.indices, val_indices)
        train, validation_data = (
            (selected, *data.weighted_targets(smoothing, selected))
            for selected in (indices, val_indices)
        )
        model, epochs = _fit(data, train, validation_data=validation_data)
        scores = np.zeros((len(data.indices), len(data.rows.class_names)), np.float32)
        scores[val_indices] = model.score_rows(maps.file, maps.indices[val_indices])
        yield {"epochs": epochs}, scores

    def refit(
        self, data: TrainingData, tuning: Tuning, train: np.ndarray, indices: np.ndarray
    ) -> np.ndarray:
        """Train for the chosen number of epochs."""
        targets, maps = data.weighted_targets(tuning.label_smoothing, train), data.reduced
        model, _ = _fit(data, (train, *targets), epochs=tuning.epochs)
        return model.score_rows(maps.file, maps.indices[indices])

    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        """Train on all rows for the chosen number of epochs."""
        targets = data.weighted_targets(tuning.label_smoothing, data.indices)
        return _fit(data, (data.indices, *targets), epochs=tuning.epochs)[0]


def _fit(data: TrainingData, train: IndexedTargets, **kwargs: Any) -> tuple[Model, int]:
    """Return the trained model of stored maps, and its number of epochs."""
    maps, options = data.reduced, data.options
    kernel, head, epochs = fit_conv1x1(maps.read, train, options, progress=maps.progress, **kwargs)
    transform = FeatureTransform(maps.spec, None, len(head.weights), "none", kernel=kernel)
    return Model(head, None, [transform], data.rows.class_names), epochs


def fit_conv1x1(
    read: ReadMaps,
    train: IndexedTargets,
    options: TrainOptions,
    *,
    epochs: int | None = None,
    validation_data: IndexedTargets | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, Linear, int]:
    """Train, starting from rotated principal directions of the maps and a softmax of zeros.

    Args:
        read: indices of rows -> maps, float16 or float32 (n, height, width, channels of the maps).
        train: indices (n,) of the rows to train on; targets, float32 (n, k), rows of sum one.
        options: `channels` of the convolution; `frozen`, do not train the convolution; `seed`, of
            the sample for the principal directions and of the order of the rows.
        epochs: number of epochs; None for `MAX_EPOCHS`, or fewer with `validation_data`.
        validation_data: the same for the validation rows, see `train_network`.
        progress: called with (epochs done, maximum).

    Returns:
        The kernel (maps' channels, channels), the output layer, the epochs of their training.
    """
    import keras

    (indices, targets, *_), epochs = train, epochs or MAX_EPOCHS
    keras.utils.set_random_seed(options.seed)
    initial = initial_kernel(read, indices, options.channels, options.seed)
    # Pooling ignores the scale of the kernel, but the steps of Adam do not. So all weights of the
    # network have the same scale, whatever the unit of the maps: the maps are scaled instead.
    unit = np.float32(KERNEL_NORM / (np.linalg.norm(initial, axis=0).mean() or 1))
    shape, n_classes = read(indices[:1]).shape[1:], targets.shape[1]
    network = build_network(shape, initial * unit, float(1 / unit), n_classes, options.frozen)
    report = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: progress and progress(epoch + 1, epochs),
        on_train_end=lambda logs: progress and progress(epochs, epochs),
    )
    best_epoch = train_network(
        network,
        LEARNING_RATE,
        epochs,
        PATIENCE,
        report,
        x=_batches(read, train, options.seed),
        validation_data=_batches(read, validation_data, None) if validation_data else None,
        shuffle=False,  # the batches are shuffled already
    )
    pooling, rescaling, head = network.layers[-3:]
    kernel = initial if options.frozen else pooling.get_weights()[0][0, 0] / unit
    weights, intercept = head.get_weights()
    return kernel, Linear(weights * rescaling.scale, intercept), best_epoch


def initial_kernel(read: ReadMaps, indices: np.ndarray, channels: int, seed: int) -> np.ndarray:
    """Return rotated principal directions, float32 (maps' channels, channels), of a sample."""
    sample = sample_indices(indices, N_SAMPLED, seed)
    batches = (
        read(sample[start : start + BATCH_SIZE]) for start in range(0, len(sample), BATCH_SIZE)
    )
    return principal_directions(second_moment(batches), channels)


def build_network(
    shape: tuple[int, ...], kernel: np.ndarray, factor: float, n_classes: int, frozen: bool
) -> Any:
    """Return the network: maps times `factor` -> kernel -> pooling -> a softmax of zeros."""
    import keras

    from bilinear_cli.layers import BilinearPooling

    scale = np.float32(np.sqrt(triangle.n_entries(kernel.shape[1])))
    pooling = BilinearPooling(channels=kernel.shape[1], trainable=not frozen, name="features")
    network = keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Rescaling(factor),
            pooling,
            keras.layers.Rescaling(scale),  # features of mean square one, for Adam
            keras.layers.Dense(n_classes, kernel_initializer="zeros", name="head"),
        ]
    )
    pooling.set_weights([kernel[None, None]])
    return network


def _batches(read: ReadMaps, rows: IndexedTargets, seed: int | None) -> Any:
    """Return a Keras dataset of rows, shuffled before each epoch unless seed is None."""
    import keras

    indices, *arrays = rows

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.rng = np.random.default_rng(seed)
            self.on_epoch_end()

        def __len__(self) -> int:
            return ceil(len(indices) / BATCH_SIZE)

        def __getitem__(self, i: int) -> tuple[np.ndarray, ...]:
            batch = self.order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE]
            return read(indices[batch]), *(array[batch] for array in arrays)

        def on_epoch_end(self) -> None:
            n = len(indices)
            self.order = np.arange(n) if seed is None else self.rng.permutation(n)

    return Batches()
