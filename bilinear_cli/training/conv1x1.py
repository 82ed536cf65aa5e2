"""A 1x1 convolution of maps, bilinear pooling and a softmax, trained end to end.

The network that made the maps stays as it is. Its maps are kept in memory if they fit. Otherwise
each epoch reads them from the feature file in batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from bilinear_cli.errors import UsageError
from bilinear_cli.machine import free_memory
from bilinear_cli.poolings.parameters import principal_directions, sample_indices, second_moment
from bilinear_cli.progress import Progress
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.estimator import Estimator, TrainingData, Trials
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.pooling_network import Adam, Batch, PoolingNetwork, train_network
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.projected_pooling import pool_projected
from bilinear_cli.training.reducers import LocalReducer
from bilinear_cli.training.tuning import Tuning

ReadRows = Callable[[np.ndarray], np.ndarray]  # indices (n,) -> rows (n, ...)
IndexedTargets = tuple[np.ndarray, ...]  # indices of rows, their targets, and any weights of them

MAX_EPOCHS = 100
PATIENCE = 6
BATCH_SIZE = 32  # maps
LEARNING_RATE = 1e-4
KERNEL_NORM = 1 / 3  # of the kernel's columns in training; with a smaller one they change faster
N_SAMPLED = 500  # maps from which the principal directions are computed
MEMORY_FRACTION = 0.5  # of the free memory, that rows may take


@dataclass(frozen=True)
class StoredMaps:
    """Maps of the training rows; `indices` are their rows in the file."""

    file: FeatureFile
    spec: str
    indices: np.ndarray
    read: ReadRows  # indices of training rows -> their maps, float16 or float32 (n, *map shape)
    progress: Progress | None
    solver: ClassVar[None] = None


class Conv1x1Estimator(Estimator):
    """A projection of maps, bilinear pooling and a softmax; epochs are chosen on one fold."""

    cross_validated = False

    def reduce(self, reducer: LocalReducer, n_classes: int, options: TrainOptions) -> StoredMaps:
        """Read the maps of all training rows, if they fit the memory.

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
        spec, indices = transform.spec, reducer.indices
        read = in_memory(
            lambda rows: file.read(spec, indices[rows]),
            np.arange(len(indices)),
            file.row_dtype(spec),
        )
        return StoredMaps(file, spec, indices, read, reducer.progress)

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


@threadpool_limits.wrap(limits=1, user_api="blas")  # see pooling_network.py
def fit_conv1x1(
    read: ReadRows,
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
    (indices, targets, *_), n_epochs = train, epochs or MAX_EPOCHS
    initial = initial_kernel(read, indices, options.channels, options.seed)
    # Pooling ignores the scale of the kernel, but the steps of Adam do not. So all parameters of
    # the network have the same scale, whatever the unit of the maps.
    unit = np.float32(KERNEL_NORM / (np.linalg.norm(initial, axis=0).mean() or 1))
    network = PoolingNetwork(initial * unit, targets.shape[1], options.frozen)
    if options.frozen:
        used = np.concatenate([indices, validation_data[0]]) if validation_data else indices
        read = in_memory(partial(_pooled, read, initial), used, np.dtype(np.float32))
    rng = np.random.default_rng(options.seed)
    rng.permutation(len(indices))  # dropped, so that each epoch has the order of version 0.1.0
    best_epoch = train_network(
        Adam(network, LEARNING_RATE),
        partial(_batches, read, train, rng),
        partial(_batches, read, validation_data) if validation_data else None,
        n_epochs,
        PATIENCE,
        progress,
    )
    return initial if options.frozen else network.kernel / unit, network.output_layer(), best_epoch


def initial_kernel(read: ReadRows, indices: np.ndarray, channels: int, seed: int) -> np.ndarray:
    """Return rotated principal directions, float32 (maps' channels, channels), of a sample."""
    sample = sample_indices(indices, N_SAMPLED, seed)
    batches = (
        read(sample[start : start + BATCH_SIZE]) for start in range(0, len(sample), BATCH_SIZE)
    )
    return principal_directions(second_moment(batches), channels)


def in_memory(read: ReadRows, indices: np.ndarray, dtype: np.dtype) -> ReadRows:
    """Return a function that returns these rows from memory; or `read`, if they do not fit."""
    shape = (int(indices.max()) + 1, *read(indices[:1]).shape[1:])
    if prod(shape) * dtype.itemsize > MEMORY_FRACTION * free_memory():
        return read
    rows = np.empty(shape, dtype)
    for start in range(0, len(indices), BATCH_SIZE):
        batch = indices[start : start + BATCH_SIZE]
        rows[batch] = read(batch)
    return rows.__getitem__


def _pooled(read: ReadRows, kernel: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the features of rows, which do not change if the kernel does not."""
    return pool_projected(read(indices), kernel).features


def _batches(
    read: ReadRows, rows: IndexedTargets, rng: np.random.Generator | None = None
) -> Iterator[Batch]:
    """Yield rows, their targets, and any weights in batches, shuffled if `rng` is given."""
    indices, *arrays = rows
    n = len(indices)
    order = rng.permutation(n) if rng else np.arange(n)
    for start in range(0, n, BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        yield read(indices[batch]), *(array[batch] for array in arrays)
