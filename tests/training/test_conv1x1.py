"""Tests of the conv1x1: a projection that is trained together with pooling and softmax."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bilinear_cli.training import conv1x1
from bilinear_cli.training.conv1x1 import fit_conv1x1, initial_kernel
from bilinear_cli.training.feature_transform import pool_projected
from bilinear_cli.training.losses import one_hot
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear

pytestmark = pytest.mark.slow  # Keras trains

N, SIDE, DEPTH = 48, 3, 8
LABELS = np.arange(N) % 3
TARGETS = one_hot(LABELS, 3)
ALL = np.arange(N)
VAL, TRAIN = np.split(ALL, [12])

Conv1x1 = tuple[np.ndarray, Linear, int]  # the kernel, the output layer, the epochs
Fitted = tuple[Conv1x1, Any]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv1x1, "LEARNING_RATE", 1e-2)
        patch.setattr(conv1x1, "BATCH_SIZE", 16)
        yield


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """Return maps whose classes differ in the pairs of active channels, not in single channels."""
    rng = np.random.default_rng(0)
    x = 0.1 * rng.random((N, SIDE * SIDE, DEPTH))
    pairs = {0: [(0, 1), (2, 3)], 1: [(0, 2), (1, 3)], 2: [(0, 3), (1, 2)]}
    for i, label in enumerate(LABELS):
        for location in range(SIDE * SIDE):
            x[i, location, list(pairs[label][rng.integers(2)])] += 1
    x = x.reshape(N, SIDE, SIDE, DEPTH).astype(np.float32)
    x.flags.writeable = False
    return x


def fit(maps: np.ndarray, indices: np.ndarray = ALL, epochs: int = 10, **kwargs: Any) -> Conv1x1:
    names = kwargs.keys() & {"frozen", "seed"}
    options = TrainOptions("conv1x1", channels=4, **{name: kwargs.pop(name) for name in names})
    train = (indices, TARGETS[indices])
    return fit_conv1x1(maps.__getitem__, train, options, epochs=epochs, **kwargs)


def directions(maps: np.ndarray, indices: np.ndarray = ALL) -> np.ndarray:
    return initial_kernel(maps.__getitem__, indices, 4, 0)


def scores(model: Conv1x1, maps: np.ndarray) -> np.ndarray:
    kernel, head, _ = model
    return head(pool_projected(maps, kernel))


@pytest.fixture(scope="module")
def fitted(maps: np.ndarray) -> dict[bool, Fitted]:
    """Return, for frozen or not, the fit and the scores of the Keras network that was trained."""
    result, networks, build = {}, [], conv1x1.build_network

    def recorded(*arguments: Any) -> Any:
        networks.append(build(*arguments))
        return networks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv1x1, "build_network", recorded)
        for frozen in (False, True):
            model = fit(maps, frozen=frozen)
            result[frozen] = model, np.asarray(networks[-1](maps))
    return result


def test_it_learns_the_pairs_of_active_channels(
    maps: np.ndarray, fitted: dict[bool, Fitted]
) -> None:
    model, _ = fitted[False]
    assert (scores(model, maps).argmax(1) == LABELS).mean() > 0.9
    means = maps.mean(axis=(1, 2))
    spread = means[:, :4].std(axis=0).max()
    assert np.abs([means[k == LABELS].mean(0) - means.mean(0) for k in range(3)]).max() < spread


@pytest.mark.parametrize("frozen", [False, True])
def test_scores_without_tensorflow_are_those_of_the_trained_network(
    maps: np.ndarray, fitted: dict[bool, Fitted], frozen: bool
) -> None:
    model, expected = fitted[frozen]
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(scores(model, maps), expected, atol=1e-4)
    norms = np.linalg.norm(pool_projected(maps, model[0]), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


def test_a_seed_reproduces_a_fit_and_another_seed_does_not(
    maps: np.ndarray, fitted: dict[bool, Fitted]
) -> None:
    kernel, expected, _ = fitted[False][0]
    same_kernel, same, _ = fit(maps)
    _, different, _ = fit(maps, seed=1)
    np.testing.assert_array_equal(expected.weights, same.weights)
    np.testing.assert_array_equal(kernel, same_kernel)
    assert np.abs(expected.weights - different.weights).max() > 1e-4


def test_maps_of_zeros_have_finite_features_and_gradients(maps: np.ndarray) -> None:
    import tensorflow as tf

    kernel = directions(maps)
    zeros = np.zeros((2, SIDE, SIDE, DEPTH), np.float32)
    assert not pool_projected(zeros, kernel).any()
    network = conv1x1.build_network(maps.shape[1:], kernel, 1.0, 3, False)
    network.layers[-1].set_weights([np.ones((10, 3), np.float32), np.zeros(3, np.float32)])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(zeros))
    for gradient in tape.gradient(loss, network.trainable_variables):
        assert np.isfinite(gradient.numpy()).all()


def test_it_goes_back_to_the_epoch_that_was_best(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels of the validation rows are wrong, so training lowers the accuracy on them."""
    monkeypatch.setattr(conv1x1, "PATIENCE", 3)
    monkeypatch.setattr(conv1x1, "LEARNING_RATE", 3e-3)
    wrong = one_hot((LABELS[VAL] + 1) % 3, 3)
    calls: list[tuple[int, int]] = []
    model = fit(
        maps, TRAIN, 40, validation_data=(VAL, wrong), progress=lambda *call: calls.append(call)
    )
    epochs = model[2]
    assert 1 <= epochs < 40
    assert calls == [(i + 1, 40) for i in range(epochs + 3)] + [(40, 40)]
    same = fit(maps, TRAIN, epochs)
    np.testing.assert_allclose(scores(model, maps), scores(same, maps), atol=1e-4)


def test_rows_of_small_weight_teach_it_little(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv1x1, "LEARNING_RATE", 3e-3)
    is_wrong = np.arange(N) % 8 < 5
    targets = one_hot(np.where(is_wrong, (LABELS + 1) % 3, LABELS), 3)
    train = (ALL, targets, np.where(is_wrong, 0.01, 1))
    model = fit_conv1x1(maps.__getitem__, train, TrainOptions("conv1x1", channels=4), epochs=15)
    assert (scores(model, maps).argmax(1) == LABELS).mean() > 0.8  # though most targets are wrong


def test_directions_span_the_strongest_channels_at_mean_square_one(maps: np.ndarray) -> None:
    kernel = directions(maps)
    x = maps.reshape(-1, DEPTH)
    assert np.square(x @ kernel).mean() == pytest.approx(1, rel=1e-3)
    gram = kernel.T @ kernel
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(4), atol=1e-4 * gram[0, 0])
    unit = kernel / np.sqrt(gram[0, 0])
    assert np.abs(unit).max(axis=0).min() > 0.95  # rotated: each is nearly a channel
    residual = x - x @ unit @ unit.T
    assert np.square(residual).sum() < 0.02 * np.square(x).sum()


def test_maps_are_read_in_batches_and_the_projection_ignores_validation_rows(
    maps: np.ndarray,
) -> None:
    changed = maps.copy()
    changed[VAL] *= 100
    calls: list[np.ndarray] = []

    def read(indices: np.ndarray) -> np.ndarray:
        calls.append(indices)
        return changed[indices]

    options = TrainOptions("conv1x1", channels=4, frozen=True)
    train, val = (TRAIN, TARGETS[TRAIN]), (VAL, TARGETS[VAL])
    kernel, *_ = fit_conv1x1(read, train, options, epochs=2, validation_data=val)
    np.testing.assert_array_equal(kernel, directions(maps, TRAIN))
    assert max(len(indices) for indices in calls) == 16
    n_reads = np.bincount(np.concatenate(calls), minlength=N)
    assert (n_reads[VAL] >= 2).all()  # once in each epoch
    assert (n_reads[TRAIN] >= 3).all()  # and once for the directions
