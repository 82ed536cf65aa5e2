"""Tests of the projection that is trained with what follows it."""

from typing import Any

import numpy as np
import pytest

from bilinear_cli.classify import conv1x1
from bilinear_cli.classify.conv1x1 import (
    Conv1x1,
    directions_of,
    fit_conv1x1,
    pool_projected,
)
from bilinear_cli.classify.losses import one_hot

N, SIDE, DEPTH = 48, 3, 8
LABELS = np.arange(N) % 3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv1x1, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(conv1x1, "BATCH", 16)


@pytest.fixture
def maps() -> np.ndarray:
    """Return maps whose classes differ in which channels are active together, not in how often."""
    rng = np.random.default_rng(0)
    x = 0.1 * rng.random((N, SIDE * SIDE, DEPTH))
    pairs = {0: [(0, 1), (2, 3)], 1: [(0, 2), (1, 3)], 2: [(0, 3), (1, 2)]}
    for i, label in enumerate(LABELS):
        for location in range(SIDE * SIDE):
            x[i, location, list(pairs[label][rng.integers(2)])] += 1
    return x.reshape(N, SIDE, SIDE, DEPTH).astype(np.float32)


def fit(maps: np.ndarray, rows: np.ndarray | None = None, **options: Any) -> Conv1x1:
    rows = np.arange(N) if rows is None else rows
    how = {"channels": 4, "frozen": False, "seed": 0, "epochs": 6, **options}
    return fit_conv1x1(lambda r: maps[r], rows, one_hot(LABELS, 3)[rows], **how)


def scores(net: Conv1x1, maps: np.ndarray) -> np.ndarray:
    return net.head(pool_projected(maps, net.kernel))


def test_it_learns_which_channels_go_together(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv1x1, "LEARNING_RATE", 1e-2)
    net = fit(maps, epochs=10)
    assert (scores(net, maps).argmax(1) == LABELS).mean() > 0.9
    means = maps.mean(axis=(1, 2))
    spread = means[:, :4].std(axis=0).max()
    assert np.abs([means[k == LABELS].mean(0) - means.mean(0) for k in range(3)]).max() < spread


def test_frozen_leaves_the_projection_as_it_was(maps: np.ndarray) -> None:
    start = directions_of(lambda r: maps[r], np.arange(N), 4, 0)
    np.testing.assert_array_equal(fit(maps, frozen=True).kernel, start)
    assert np.abs(fit(maps).kernel - start).max() > 1e-3


def test_a_seed_reproduces_a_fit_and_another_does_not(maps: np.ndarray) -> None:
    one, same, other = (fit(maps, epochs=1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.head.weights, same.head.weights)
    np.testing.assert_array_equal(one.kernel, same.kernel)
    assert np.abs(one.head.weights - other.head.weights).max() > 1e-4


def test_what_is_pooled_without_tensorflow_is_what_the_network_pools(maps: np.ndarray) -> None:
    import keras

    kernel = directions_of(lambda r: maps[r], np.arange(N), 4, 0)
    network = conv1x1.build_network(maps.shape[1:], 2 * kernel, 0.5, 3, True)
    features = keras.Sequential(network.layers[:-1]).predict(maps, verbose=0)
    wanted = pool_projected(maps, kernel)
    np.testing.assert_allclose(features / np.sqrt(10), wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_fit_without_tensorflow_is_the_network_that_was_trained(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    built: list[Any] = []
    build = conv1x1.build_network

    def kept(*how: Any) -> Any:
        built.append(build(*how))
        return built[-1]

    monkeypatch.setattr(conv1x1, "build_network", kept)
    net = fit(maps, frozen=frozen)
    (network,) = built
    wanted = network.predict(maps, verbose=0)
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(scores(net, maps), wanted, atol=1e-4)


def test_maps_of_zeros_have_finite_features_and_gradients(maps: np.ndarray) -> None:
    import tensorflow as tf

    kernel = directions_of(lambda r: maps[r], np.arange(N), 4, 0)
    nothing = np.zeros((2, SIDE, SIDE, DEPTH), np.float32)
    assert not pool_projected(nothing, kernel).any()
    network = conv1x1.build_network(maps.shape[1:], kernel, 1.0, 3, False)
    network.layers[-1].set_weights([np.ones((10, 3), np.float32), np.zeros(3, np.float32)])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(nothing))
    for gradient in tape.gradient(loss, network.trainable_variables):
        assert np.isfinite(gradient.numpy()).all()


def test_it_goes_back_to_the_epoch_that_was_best(
    maps: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows to stop on have labels that training only comes to contradict."""
    monkeypatch.setattr(conv1x1, "PATIENCE", 3)
    seen, held_out = np.arange(12, N), np.arange(12)
    wrong = one_hot((LABELS[held_out] + 1) % 3, 3)
    told: list[tuple[int, int]] = []
    net = fit(
        maps,
        seen,
        epochs=40,
        stop_on=(held_out, wrong),
        progress=lambda *done: told.append(done),
    )
    assert 1 <= net.epochs < 40
    assert told == [(i + 1, 40) for i in range(net.epochs + 3)] + [(40, 40)]
    same = fit(maps, seen, epochs=net.epochs)
    np.testing.assert_allclose(scores(net, maps), scores(same, maps), atol=1e-4)


def test_the_directions_know_nothing_of_other_rows(maps: np.ndarray) -> None:
    seen = np.arange(12, N)
    changed = maps.copy()
    changed[:12] *= 100
    one, other = (directions_of(lambda r, x=x: x[r], seen, 4, 0) for x in (maps, changed))
    np.testing.assert_array_equal(one, other)


def test_the_rows_to_stop_on_take_no_part_in_the_projection(maps: np.ndarray) -> None:
    seen, held_out = np.arange(12, N), np.arange(12)
    start = directions_of(lambda r: maps[r], seen, 4, 0)
    targets = one_hot(LABELS, 3)
    for factor in (1, 100):
        changed = maps.copy()
        changed[held_out] *= factor
        stop_on = (held_out, targets[held_out])
        net = fit(changed, seen, frozen=True, epochs=1, stop_on=stop_on)
        np.testing.assert_array_equal(net.kernel, start)


def test_directions_span_what_is_strongest_at_mean_square_one(maps: np.ndarray) -> None:
    kernel = directions_of(lambda r: maps[r], np.arange(N), 4, 0)
    x = maps.reshape(-1, DEPTH)
    assert np.square(x @ kernel).mean() == pytest.approx(1, rel=1e-3)
    gram = kernel.T @ kernel
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(4), atol=1e-4 * gram[0, 0])
    unit = kernel / np.sqrt(gram[0, 0])
    assert np.abs(unit).max(axis=0).min() > 0.95  # rotated: each is nearly a channel
    left = x - x @ unit @ unit.T
    assert np.square(left).sum() < 0.02 * np.square(x).sum()


def test_maps_are_read_a_batch_at_a_time(maps: np.ndarray) -> None:
    calls: list[np.ndarray] = []

    def read(rows: np.ndarray) -> np.ndarray:
        calls.append(rows)
        return maps[rows]

    targets, seen, held_out = one_hot(LABELS, 3), np.arange(20, N), np.arange(20)
    how: dict[str, Any] = {"channels": 4, "frozen": True, "seed": 0, "epochs": 2}
    fit_conv1x1(read, seen, targets[seen], stop_on=(held_out, targets[held_out]), **how)
    assert max(len(rows) for rows in calls) == 16
    times = np.bincount(np.concatenate(calls), minlength=N)
    assert (times[held_out] >= 2).all()  # once an epoch
    assert (times[seen] >= 3).all()  # and once for the directions
