"""A multi-layer perceptron with one hidden layer, on rows in any orthonormal basis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilinear_cli.training.estimator import Estimator, Training, Trials
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.tuning import Tuning

MAX_EPOCHS = 300
PATIENCE = 30
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
BATCH = 64


@dataclass(frozen=True)
class Mlp:
    """Two layers with a ReLU between, and the number of epochs they were trained for."""

    first: Linear
    second: Linear
    epochs: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, k) of rows (n, d)."""
        return self.second(np.maximum(self.first(x), 0))


class MlpEstimator(Estimator):
    """An mlp on the principal axes of the rows; epochs are chosen on one fold."""

    cross_validated = False

    def trials(
        self, training: Training, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Train until the accuracy on the validation rows stops rising."""
        (val_indices,) = val_folds
        targets, z = training.targets(smoothing), self._rows(training)
        indices = np.setdiff1d(training.indices, val_indices)
        stop_on = (z[val_indices], targets[val_indices])
        mlp = self._train(training, z[indices], targets[indices], stop_on=stop_on)
        scores = np.zeros(targets.shape, np.float32)
        scores[val_indices] = mlp(z[val_indices])
        yield {"epochs": mlp.epochs}, scores

    def fit(self, training: Training, choice: Tuning) -> Model:
        """Train on all rows for as many epochs as were chosen."""
        z, targets = self._rows(training), training.targets(choice.label_smoothing)
        mlp = self._train(training, z, targets, epochs=choice.epochs)
        first = training.reduced.from_axes(mlp.first)
        return Model(first, mlp.second, training.transforms, training.rows.class_names)

    def _rows(self, training: Training) -> np.ndarray:
        coordinates = training.reduced.coordinates()
        return coordinates.z.astype(np.float32)

    def _train(self, training: Training, z: np.ndarray, targets: np.ndarray, **rest: Any) -> Mlp:
        return fit_mlp(z, targets, training.options, **rest)


def fit_mlp(
    z: np.ndarray,
    targets: np.ndarray,
    options: TrainOptions,
    *,
    epochs: int = MAX_EPOCHS,
    stop_on: tuple[np.ndarray, np.ndarray] | None = None,
) -> Mlp:
    """Train a multi-layer perceptron with one hidden layer by Adam.

    Args:
        z: float32 (n, r), rows in any orthonormal basis.
        targets: float32 (n, k), rows of sum one.
        options: `hidden`, units; `dropout`, the share of them that is left out at a time; `seed`,
            of the initial weights, the order of the rows and the dropout.
        epochs: how long; the most, where `stop_on` is given.
        stop_on: rows and targets that are not trained on; training stops when their accuracy
            has not risen for `PATIENCE` epochs, and goes back to where it was best.
    """
    import keras

    keras.utils.set_random_seed(options.seed)
    unit = np.float32(np.sqrt(z.shape[1] / np.square(z).sum(axis=1).mean()))  # mean square one
    network = keras.Sequential(
        [
            keras.layers.Dense(
                options.hidden, "relu", kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY)
            ),
            keras.layers.Dropout(options.dropout),
            keras.layers.Dense(targets.shape[1]),
        ]
    )
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    stop = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=PATIENCE, restore_best_weights=True
    )
    history = network.fit(
        z * unit,
        targets,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        validation_data=(stop_on[0] * unit, stop_on[1]) if stop_on else None,
        callbacks=[stop] if stop_on else [],
    )
    best = int(np.argmax(history.history["val_accuracy"])) + 1 if stop_on else epochs
    first, second = network.layers[0].get_weights(), network.layers[2].get_weights()
    return Mlp(Linear(first[0] * unit, first[1]), Linear(*second), best)
