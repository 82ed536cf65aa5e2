"""Tests of the multi-layer perceptron."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from support.rows import make_reducer

from bilinear_cli.training import mlp as mlp_module
from bilinear_cli.training.losses import one_hot
from bilinear_cli.training.mlp import fit_mlp
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions

pytestmark = pytest.mark.slow  # Keras trains

SCALE = 2.0**13  # a power of two: floating-point numbers are scaled without rounding


def options(hidden: int, dropout: float, seed: int = 0) -> TrainOptions:
    return TrainOptions(classifier="mlp", hidden=hidden, dropout=dropout, seed=seed)


def fit(x: np.ndarray, targets: np.ndarray, *args: Any, **kwargs: Any) -> tuple[Model, int]:
    """Return the network and the number of epochs of its training."""
    first, second, epochs = fit_mlp(x, targets, *args, **kwargs)
    return Model(first, second, (), np.arange(targets.shape[1])), epochs


def exclusive_or(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in four clouds; opposite clouds have the same label."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 2, (n, 2))
    x = (2 * corner - 1) + 0.2 * rng.normal(size=(n, 2))
    return x.astype(np.float32), corner[:, 0] ^ corner[:, 1]


def test_an_mlp_learns_what_no_linear_model_can_and_a_seed_reproduces_it_in_any_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.03)
    x, labels = exclusive_or(128, 0)
    test, test_labels = exclusive_or(64, 1)

    (small, epochs), (large, _), (different, _) = (
        fit(x * np.float32(scale), one_hot(labels, 2), options(32, 0.2, seed), epochs=15)
        for scale, seed in ((1 / SCALE, 5), (SCALE, 5), (SCALE, 6))
    )
    assert (small(test / np.float32(SCALE)).argmax(1) == test_labels).mean() > 0.95
    assert LogisticRegression(C=100.0).fit(x, labels).score(x, labels) < 0.75
    assert epochs == 15
    np.testing.assert_array_equal(small.first.weights / SCALE, large.first.weights * SCALE)
    np.testing.assert_array_equal(small.second.weights, large.second.weights)
    for layer in ("first", "second"):
        weights = [getattr(mlp, layer).weights for mlp in (large, different)]
        assert np.abs(weights[0] - weights[1]).max() > 0.01 * np.abs(weights[0]).max()


def test_rows_of_small_weight_teach_an_mlp_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.03)
    x, labels = exclusive_or(128, 0)
    wrong, weight = np.arange(128) % 8 < 5, np.ones(128)
    weight[wrong] = 0.01
    targets = one_hot(np.where(wrong, 1 - labels, labels), 2)
    mlp, _ = fit(x, targets, options(32, 0.0), weight, epochs=15)
    assert (mlp(x).argmax(1) == labels).mean() > 0.9  # though most targets are wrong


def test_an_mlp_goes_back_to_the_epoch_that_was_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of the validation rows are wrong, so training lowers the accuracy on them."""
    monkeypatch.setattr(mlp_module, "PATIENCE", 4)
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.003)
    x, labels = exclusive_or(128, 0)
    val, wrong = x[:40], 1 - labels[:40]

    arguments, validation_data = (x, one_hot(labels, 2), options(16, 0.0)), (val, one_hot(wrong, 2))
    mlp, epochs = fit(*arguments, epochs=60, validation_data=validation_data)
    assert 1 <= epochs < 60
    same, _ = fit(*arguments, epochs=epochs)
    np.testing.assert_allclose(mlp(x), same(x), atol=1e-5)


def test_on_principal_axes_the_accuracy_is_nearly_that_on_the_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here 119 axes replace 400 columns. Adam depends a little on the basis."""
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.01)
    rng = np.random.default_rng(1)
    n_train, n = 120, 1200
    labels = np.arange(n) % 3
    x = rng.normal(size=(3, 400))[labels] + 4.0 * rng.normal(size=(n, 400))
    x = (x - x[:n_train].mean(axis=0)).astype(np.float32)
    train, test = np.split(np.arange(n), [n_train])
    problem = make_reducer(x[train]).reduce_to_gram()
    reduced, mean = problem.coordinates, problem.mean
    basis = reduced.dual_coef(np.eye(len(reduced.sum_of_squares)))
    z = ((x - mean) @ ((x[train] - mean).T @ basis)).astype(np.float32)
    accuracy = []
    for rows in (x, z):
        targets = one_hot(labels[train], 3)
        mlp, _ = fit(rows[train], targets, options(16, 0.2), epochs=15)
        accuracy.append((mlp(rows[test]).argmax(1) == labels[test]).mean())
    assert min(accuracy) > 0.8
    assert abs(accuracy[0] - accuracy[1]) < 0.1
