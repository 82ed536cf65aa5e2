"""A multi-layer perceptron with one hidden layer, on the principal axes of the rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilinear_cli.training.estimator import Estimator, TrainingData, Trials
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.tuning import Tuning

MAX_EPOCHS = 300
PATIENCE = 30  # epochs
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
BATCH_SIZE = 64


class MlpEstimator(Estimator):
    """A multi-layer perceptron; the number of epochs is chosen on one fold."""

    cross_validated = False

    def trials(
        self, data: TrainingData, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Train until the accuracy on the validation rows stops rising."""
        (val_indices,) = val_folds
        z, options = data.reduced.coordinates.z.astype(np.float32), data.options
        indices = np.setdiff1d(data.indices, val_indices)
        targets, *sample_weight = data.weighted_targets(smoothing, indices)
        validation_data = (z[val_indices], *data.weighted_targets(smoothing, val_indices))
        first, second, epochs = fit_mlp(
            z[indices], targets, options, *sample_weight, validation_data=validation_data
        )
        scores = np.zeros((len(z), targets.shape[1]), np.float32)
        model = Model(first, second, (), data.rows.class_names)
        scores[val_indices] = model(z[val_indices])
        yield {"epochs": epochs}, scores

    def refit(
        self, data: TrainingData, tuning: Tuning, train: np.ndarray, indices: np.ndarray
    ) -> np.ndarray:
        """Train for the chosen number of epochs."""
        z = data.reduced.coordinates.z.astype(np.float32)
        targets, *sample_weight = data.weighted_targets(tuning.label_smoothing, train)
        layers = fit_mlp(z[train], targets, data.options, *sample_weight, epochs=tuning.epochs)
        return Model(*layers[:2], (), data.rows.class_names)(z[indices])

    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        """Train on all rows for the chosen number of epochs."""
        z = data.reduced.coordinates.z.astype(np.float32)
        targets, *sample_weight = data.weighted_targets(tuning.label_smoothing, data.indices)
        on_axes, second, _ = fit_mlp(z, targets, data.options, *sample_weight, epochs=tuning.epochs)
        first = data.reduced.linear_from_axes(on_axes)
        return Model(first, second, data.transforms, data.rows.class_names)


def fit_mlp(
    z: np.ndarray,
    targets: np.ndarray,
    options: TrainOptions,
    sample_weight: np.ndarray | None = None,
    *,
    epochs: int | None = None,
    validation_data: tuple[np.ndarray, ...] | None = None,
) -> tuple[Linear, Linear, int]:
    """Train a multi-layer perceptron with one hidden layer.

    Args:
        z: float32 (n, r), rows in any orthonormal basis.
        targets: float32 (n, k), rows of sum one.
        options: `hidden`, the number of hidden units; `dropout`, their dropout rate; `seed`, of
            the initial weights, the order of the rows and the dropout.
        epochs: number of epochs; None for `MAX_EPOCHS`, or fewer with `validation_data`.
        sample_weight: weights of the rows, (n,); None for equal weights.
        validation_data: validation rows, their targets, and their weights if there are any; see
            `train_network`.

    Returns:
        The layers before and after the ReLU, and the number of epochs of their training.
    """
    import keras

    keras.utils.set_random_seed(options.seed)
    unit = np.float32(np.sqrt(z.shape[1] / np.square(z).sum(axis=1).mean()))  # mean square one
    decay = keras.regularizers.L2(WEIGHT_DECAY)
    network = keras.Sequential(
        [
            keras.layers.Dense(options.hidden, "relu", kernel_regularizer=decay),
            keras.layers.Dropout(options.dropout),
            keras.layers.Dense(targets.shape[1]),
        ]
    )
    best_epoch = train_network(
        network,
        LEARNING_RATE,
        epochs or MAX_EPOCHS,
        PATIENCE,
        x=z * unit,
        y=targets,
        sample_weight=sample_weight,
        batch_size=BATCH_SIZE,
        validation_data=(validation_data[0] * unit, *validation_data[1:])
        if validation_data
        else None,
    )
    first, second = network.layers[0].get_weights(), network.layers[2].get_weights()
    return Linear(first[0] * unit, first[1]), Linear(*second), best_epoch


def train_network(
    network: Any,
    learning_rate: float,
    epochs: int,
    patience: int,
    *callbacks: Any,
    **kwargs: Any,
) -> int:
    """Train a Keras network that gives scores, not probabilities, by Adam with early stopping.

    With `validation_data`, training stops when their accuracy has not risen for `patience` epochs,
    and restores the weights of the best epoch. If the rows have weights, the accuracy is weighted.
    `kwargs` are arguments of `keras.Model.fit`.

    Returns:
        The number of epochs that the final weights were trained for.
    """
    import keras

    network.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    stop = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=patience, restore_best_weights=True
    )
    stops = [stop] if kwargs["validation_data"] else []
    network.fit(epochs=epochs, callbacks=[*stops, *callbacks], verbose=0, **kwargs)
    return stop.best_epoch + 1 if stops else epochs
