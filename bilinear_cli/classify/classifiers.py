"""Classifiers on the coordinates of `gram.py`: fit, and score.

A linear classifier minimises `C * (sum of losses) + ||W||² / 2` over weights W and an intercept
that is not penalised.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from bilinear_cli.classify.lbfgs import minimize

CLASSIFIERS = ("softmax", "mlp")
SATURATION = 0.2  # p (1 - p) at the end of a fit, about, in terms of that at its start
MAX_ITERATIONS = 1000
MAX_EPOCHS = 300
PATIENCE = 30
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
MLP_BATCH = 64


@dataclass(frozen=True)
class Linear:
    """A linear map: float32 weights (d, k) and intercept (k,)."""

    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, k) of rows (n, d)."""
        return x @ self.weights + self.intercept


def one_hot(labels: np.ndarray, n_classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Return float32 targets (n, n_classes): 1 - smoothing for the label, the rest spread evenly.

    With smoothing s every class gets s / n_classes, and the label 1 - s besides.
    """
    targets = np.full((len(labels), n_classes), smoothing / n_classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def softmax_objective(
    model: Linear, z: np.ndarray, targets: np.ndarray, C: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the multinomial objective and its gradients by weights and intercept.

    The loss of a row is the divergence of its probabilities from its targets, which is the cross
    entropy less the targets' own entropy: a constant, without which relative decreases mean
    something however large C is.

    Args:
        model: weights (r, k).
        z: float32 (n, r).
        targets: float32 (n, k), rows of sum one.
        C: the weight of the losses.
    """
    C = float(C)  # a NumPy float64 would make float64 of every array that it meets
    scores = model(z)
    scores -= scores.max(axis=1, keepdims=True)
    log_targets = np.log(targets, where=targets > 0, out=np.zeros_like(targets))
    p = np.exp(scores)
    total = p.sum(axis=1, keepdims=True)
    loss = np.log(total).sum(dtype=np.float64) - _dot(targets, scores - log_targets)
    error = C * (p / total - targets)
    by_weights = z.T @ error + model.weights
    return float(C * loss + 0.5 * _dot(model.weights, model.weights)), by_weights, error.sum(axis=0)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the products of two float32 matrices, summed by row, then in float64."""
    return float(np.einsum("ij,ij->i", a, b).sum(dtype=np.float64))


def fit_softmax(
    z: np.ndarray,
    targets: np.ndarray,
    C: float,
    variance: np.ndarray,
    start: Linear | None = None,
    tolerance: float = 1e-9,
) -> Linear:
    """Fit a multinomial softmax by L-BFGS to convergence.

    L-BFGS works on weights scaled by the roots of the objective's estimated curvature: on
    principal axes the loss's is about `C variance p (1 - p)`, with the mean of p (1 - p) taken
    where the fit starts. That takes most of the spread of eigenvalues away, and with it two
    thirds of the iterations and more.

    Args:
        z: float32 (n, r), on principal axes.
        targets: float32 (n, k), rows of sum one.
        C: the weight of the losses.
        variance: (r,), sums of squares of the columns of `z`, as of `gram.Coordinates`.
        start: where to begin, such as the fit for a smaller C.
        tolerance: the relative decrease of the objective in an iteration at which it ends.
    """
    (n, r), k = z.shape, targets.shape[1]
    start = start or Linear(np.zeros((r, k), np.float32), np.zeros(k, np.float32))
    p = softmax(start(z), axis=1)
    curvature = float(C) * float(np.mean(p * (1 - p))) * SATURATION
    scale = 1 / np.sqrt(np.append(1 + curvature * variance, curvature * n))
    scale = scale.astype(np.float32)[:, None]

    def unpack(u: np.ndarray) -> Linear:
        scaled = u.reshape(r + 1, k) * scale
        return Linear(scaled[:-1], scaled[-1])

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, by_weights, by_intercept = softmax_objective(unpack(u), z, targets, C)
        return value, (np.vstack([by_weights, by_intercept]) * scale).ravel()

    u = (np.vstack([start.weights, start.intercept]) / scale).ravel()
    return unpack(minimize(objective, u, tolerance=tolerance, max_iterations=MAX_ITERATIONS))


@dataclass(frozen=True)
class Mlp:
    """Two layers with a ReLU between, and the number of epochs they were trained for."""

    first: Linear
    second: Linear
    epochs: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return scores (n, k) of rows (n, d)."""
        return self.second(np.maximum(self.first(x), 0))


def fit_mlp(
    z: np.ndarray,
    targets: np.ndarray,
    *,
    hidden: int,
    dropout: float,
    seed: int,
    epochs: int = MAX_EPOCHS,
    stop_on: tuple[np.ndarray, np.ndarray] | None = None,
) -> Mlp:
    """Train a multi-layer perceptron with one hidden layer by Adam.

    Args:
        z: float32 (n, r), rows in any orthonormal basis.
        targets: float32 (n, k), rows of sum one.
        hidden: units.
        dropout: share of them that is left out at a time.
        seed: of the initial weights, the order of the rows and the dropout.
        epochs: how long; the most, where `stop_on` is given.
        stop_on: rows and targets that are not trained on; training stops when their accuracy
            has not risen for `PATIENCE` epochs, and goes back to where it was best.
    """
    import keras

    keras.utils.set_random_seed(seed)
    unit = np.float32(np.sqrt(z.shape[1] / np.square(z).sum(axis=1).mean()))  # mean square one
    network = keras.Sequential(
        [
            keras.layers.Dense(
                hidden, "relu", kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY)
            ),
            keras.layers.Dropout(dropout),
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
        batch_size=MLP_BATCH,
        epochs=epochs,
        verbose=0,
        validation_data=(stop_on[0] * unit, stop_on[1]) if stop_on else None,
        callbacks=[stop] if stop_on else [],
    )
    best = int(np.argmax(history.history["val_accuracy"])) + 1 if stop_on else epochs
    first, second = network.layers[0].get_weights(), network.layers[2].get_weights()
    return Mlp(Linear(first[0] * unit, first[1]), Linear(*second), best)
