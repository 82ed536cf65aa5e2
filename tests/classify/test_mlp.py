"""Tests of the multi-layer perceptron."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bilinear_cli.classify import mlp as mlp_module
from bilinear_cli.classify.gram import gram, principal
from bilinear_cli.classify.losses import one_hot
from bilinear_cli.classify.mlp import Mlp, fit_mlp


def exclusive_or(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in four clouds; opposite ones share a class."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 2, (n, 2))
    x = (2 * corner - 1) + 0.2 * rng.normal(size=(n, 2))
    return x.astype(np.float32), corner[:, 0] ^ corner[:, 1]


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_an_mlp_learns_what_no_linear_model_can_in_any_unit(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.03)
    x, labels = exclusive_or(128, 0)
    x *= np.float32(scale)
    targets = one_hot(labels, 2)
    unseen, truth = exclusive_or(64, 1)
    mlp = fit_mlp(x, targets, hidden=32, dropout=0.0, seed=0, epochs=15)
    assert (mlp(unseen * np.float32(scale)).argmax(1) == truth).mean() > 0.95
    linear = LogisticRegression(C=100.0).fit(x / scale, labels)
    assert linear.score(x / scale, labels) < 0.75


def test_a_seed_reproduces_an_mlp_and_another_does_not() -> None:
    x, labels = exclusive_or(64, 0)
    fits = [
        fit_mlp(x, one_hot(labels, 2), hidden=8, dropout=0.5, seed=seed, epochs=2)
        for seed in (5, 5, 6)
    ]
    for layer in ("first", "second"):
        a, b, other = (getattr(fit, layer).weights for fit in fits)
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - other).max() > 0.01
    assert fits[0].epochs == 2


def test_an_mlp_goes_back_to_the_epoch_that_was_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows to stop on have labels that training only comes to contradict."""
    monkeypatch.setattr(mlp_module, "PATIENCE", 4)
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.003)
    x, labels = exclusive_or(128, 0)
    held, wrong = x[:40], 1 - labels[:40]

    def fit(epochs: int, stop_on: tuple[np.ndarray, np.ndarray] | None = None) -> Mlp:
        targets = one_hot(labels, 2)
        return fit_mlp(x, targets, hidden=16, dropout=0.0, seed=0, epochs=epochs, stop_on=stop_on)

    mlp = fit(60, (held, one_hot(wrong, 2)))
    assert 1 <= mlp.epochs < 60
    same, longer = fit(mlp.epochs), fit(mlp.epochs + 4)
    np.testing.assert_allclose(mlp(x), same(x), atol=1e-5)
    assert (mlp(held).argmax(1) == wrong).mean() > (longer(held).argmax(1) == wrong).mean()


def test_on_principal_axes_it_does_as_well_as_on_the_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any orthonormal basis is as good: here one of 60 axes for 400 numbers."""
    monkeypatch.setattr(mlp_module, "LEARNING_RATE", 0.01)
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 3
    x = rng.normal(size=(3, 400))[labels] + 4.0 * rng.normal(size=(180, 400))
    x = (x - x.mean(axis=0)).astype(np.float32)
    train, test = np.arange(120), np.arange(120, 180)
    inner, mean, _ = gram([(slice(0, 400), x[train].copy())], 120, 400)
    reduced = principal(inner)
    basis = reduced.on_rows(np.eye(len(reduced.variance)))
    z = ((x - mean) @ ((x[train] - mean).T @ basis)).astype(np.float32)
    accuracy = []
    for rows in (x, z):
        fits = [
            fit_mlp(rows[train], one_hot(labels[train], 3), hidden=16, dropout=0.2, seed=seed,
                    epochs=15)
            for seed in range(3)
        ]  # fmt: skip
        accuracy.append(np.mean([(fit(rows[test]).argmax(1) == labels[test]) for fit in fits]))
    assert min(accuracy) > 0.6
    assert abs(accuracy[0] - accuracy[1]) < 0.1  # 1.5 standard errors of 60 photos
