"""Tests of the conv1x1: a projection that is trained together with pooling and softmax."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from bilinear_cli.training import conv1x1
from bilinear_cli.training.conv1x1 import fit_conv1x1, initial_kernel
from bilinear_cli.training.losses import one_hot
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.pooling_network import Adam, PoolingNetwork, train_network
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.projected_pooling import pool_projected

N, SIDE, DEPTH = 48, 3, 8
LABELS = np.arange(N) % 3
TARGETS = one_hot(LABELS, 3)
ALL = np.arange(N)
VAL, TRAIN = np.split(ALL, [12])

Conv1x1 = tuple[np.ndarray, Linear, int]  # the kernel, the output layer, the epochs


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
    return head(pool_projected(maps, kernel).features)


@pytest.fixture(scope="module")
def fitted(maps: np.ndarray) -> dict[bool, Conv1x1]:
    """Return the fit for frozen or not."""
    return {frozen: fit(maps, frozen=frozen) for frozen in (False, True)}


def test_it_learns_the_pairs_of_active_channels(
    maps: np.ndarray, fitted: dict[bool, Conv1x1]
) -> None:
    assert (scores(fitted[False], maps).argmax(1) == LABELS).mean() > 0.9
    means = maps.mean(axis=(1, 2))
    spread = means[:, :4].std(axis=0).max()
    assert np.abs([means[k == LABELS].mean(0) - means.mean(0) for k in range(3)]).max() < spread


def test_a_frozen_kernel_stays_and_another_changes(
    maps: np.ndarray, fitted: dict[bool, Conv1x1]
) -> None:
    for frozen, (kernel, _, _) in fitted.items():
        assert np.array_equal(kernel, directions(maps)) == frozen
        norms = np.linalg.norm(pool_projected(maps, kernel).features, axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-5)


@pytest.mark.slow  # Keras
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_of_the_layer_in_keras(maps: np.ndarray, weighted: bool) -> None:
    import keras

    from bilinear_cli.layers import BilinearPooling

    kernel = directions(maps)
    x, weight = maps[:11].copy(), [np.linspace(0.1, 2, 11, dtype=np.float32)] * weighted
    x[5] = 0
    network = PoolingNetwork(kernel.copy(), 3, False)
    adam = Adam(network, 0.01)
    keras.utils.set_random_seed(0)
    reference = keras.Sequential(
        [
            keras.layers.Input(maps.shape[1:]),
            BilinearPooling(channels=4),
            keras.layers.Rescaling(network.scale),
            keras.layers.Dense(3, kernel_initializer="zeros"),
        ]
    )
    reference.layers[0].set_weights([kernel[None, None]])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    reference.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    batches = partial(iter, [(x, TARGETS[:11], *weight)])
    train_network(adam, batches, None, 3, 1)
    for _ in range(3):
        reference.train_on_batch(x, TARGETS[:11], *weight)
    expected_kernel, *head = reference.get_weights()
    for value, expected in zip(network.parameters, [*head, expected_kernel[0, 0]], strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-4)


def test_a_seed_reproduces_a_fit_and_another_seed_does_not(
    maps: np.ndarray, fitted: dict[bool, Conv1x1]
) -> None:
    kernel, expected, _ = fitted[False]
    same_kernel, same, _ = fit(maps)
    _, different, _ = fit(maps, seed=1)
    np.testing.assert_array_equal(expected.weights, same.weights)
    np.testing.assert_array_equal(kernel, same_kernel)
    assert np.abs(expected.weights - different.weights).max() > 1e-4


def test_maps_of_zeros_have_finite_features_and_gradients(maps: np.ndarray) -> None:
    network = PoolingNetwork(directions(maps), 3, False)
    network.head.weights[...] = 1
    zeros = np.zeros((2, SIDE, SIDE, DEPTH), np.float32)
    assert not pool_projected(zeros, network.kernel).features.any()
    for gradient in network.gradients(zeros, TARGETS[:2]):
        assert np.isfinite(gradient).all()


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


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("free", [0, 1 << 30])
def test_maps_are_read_in_batches_and_the_projection_ignores_validation_rows(
    maps: np.ndarray, frozen: bool, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv1x1, "free_memory", lambda: free)
    changed = maps.copy()
    changed[VAL] *= 100
    calls: list[np.ndarray] = []

    def read(indices: np.ndarray) -> np.ndarray:
        calls.append(indices)
        return changed[indices]

    assert np.array_equal(initial_kernel(read, TRAIN, 4, 0), directions(maps, TRAIN))
    calls.clear()
    options = TrainOptions("conv1x1", channels=4, frozen=frozen)
    train, val = (TRAIN, TARGETS[TRAIN]), (VAL, TARGETS[VAL])
    fit_conv1x1(read, train, options, epochs=3, validation_data=val)
    assert max(len(indices) for indices in calls) == 16
    n_reads = np.bincount(np.concatenate(calls), minlength=N)
    pooled_once = frozen and free
    assert (n_reads[VAL] < 3).all() == bool(pooled_once)
    assert (n_reads[TRAIN] < 4).all() == bool(pooled_once)  # and once for the directions


def test_rows_in_memory_are_those_of_the_file(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = conv1x1.in_memory(maps.__getitem__, VAL, maps.dtype)
    np.testing.assert_array_equal(read(VAL[::-1]), maps[VAL[::-1]])
    monkeypatch.setattr(conv1x1, "free_memory", lambda: 2 * maps[VAL].nbytes - 2)
    assert conv1x1.in_memory(maps.__getitem__, VAL, maps.dtype) == maps.__getitem__
