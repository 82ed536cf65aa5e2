"""Tests of the losses, against finite differences and definitions."""

import numpy as np
import pytest

from bilinear_cli.training.losses import (
    MakeLoss,
    cross_entropy,
    one_hot,
    plus_minus_one,
    squared_error,
    squared_hinge,
)

LABELS = np.array([0, 2, 1, 1, 0])
LOSSES = [
    (cross_entropy, one_hot(LABELS, 3)),
    (cross_entropy, one_hot(LABELS, 3, 0.1)),
    (squared_hinge, plus_minus_one(LABELS, 3)),
    (squared_error, plus_minus_one(LABELS, 3)),
]


def test_one_hot_and_signs() -> None:
    np.testing.assert_array_equal(one_hot(np.array([1, 0]), 3), [[0, 1, 0], [1, 0, 0]])
    smooth = one_hot(np.array([1, 0]), 4, 0.2)
    np.testing.assert_allclose(smooth, [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]])
    assert smooth.dtype == np.float32
    np.testing.assert_array_equal(plus_minus_one(np.array([1, 0]), 3), [[-1, 1, -1], [1, -1, -1]])


@pytest.mark.parametrize(("make_loss", "targets"), LOSSES)
def test_derivatives_are_those_of_finite_differences(
    make_loss: MakeLoss, targets: np.ndarray
) -> None:
    loss = make_loss(targets.astype(np.float64))
    scores = np.random.default_rng(0).normal(size=(5, 3))
    _, error, second = loss(scores)
    curvatures = np.empty((5, 3))
    for index in np.ndindex(5, 3):
        step = np.zeros((5, 3))
        step[index] = 1e-4
        below, value, above = (loss(scores + s)[0] for s in (-step, 0 * step, step))
        assert error[index] == pytest.approx((above - below) / 2e-4, rel=1e-4, abs=1e-6)
        curvatures[index] = (above - 2 * value + below) / 1e-8
    assert second == pytest.approx(curvatures.mean(), rel=1e-3)


@pytest.mark.parametrize(("make_loss", "targets"), LOSSES)
def test_float32_stays_float32_and_scores_stay_as_they_were(
    make_loss: MakeLoss, targets: np.ndarray
) -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    before = scores.copy()
    value, error, second = make_loss(targets)(scores)
    assert (type(value), type(second), error.dtype) == (float, float, np.float32)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_a_divergence(smoothing: float) -> None:
    """It is zero where the probabilities are the targets, and cross entropy but for a constant."""
    targets = one_hot(LABELS, 3, smoothing).astype(np.float64)
    loss = cross_entropy(targets)
    scores = 3 * np.random.default_rng(1).normal(size=(5, 3))
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    negative_entropy = np.sum(targets[targets > 0] * np.log(targets[targets > 0]))
    assert loss(scores)[0] == pytest.approx(negative_entropy - (targets * log_p).sum())
    if smoothing:
        assert loss(np.log(targets))[0] == pytest.approx(0, abs=1e-6)


def test_cross_entropy_of_scores_beyond_the_exponentials_range() -> None:
    value, error, _ = cross_entropy(one_hot(LABELS, 3))(np.full((5, 3), 1e4, np.float32))
    assert value == pytest.approx(5 * np.log(3), rel=1e-3)
    assert np.isfinite(error).all()


def test_a_hinge_is_zero_beyond_the_margin() -> None:
    targets = plus_minus_one(LABELS, 3)
    value, error, second = squared_hinge(targets)(targets * np.float32(1.5))
    assert (value, second) == (0, 0)
    assert not error.any()
    assert squared_hinge(targets)(0 * targets)[0] == targets.size


@pytest.mark.parametrize(("make_loss", "targets"), LOSSES)
def test_a_weight_is_the_number_of_equal_rows(make_loss: MakeLoss, targets: np.ndarray) -> None:
    weight = np.array([1, 3, 2, 1, 4])
    scores = np.random.default_rng(0).normal(size=targets.shape).astype(np.float32)
    value, slope, second = make_loss(targets, weight)(scores)
    all_values, all_slopes, all_second = make_loss(targets.repeat(weight, axis=0))(
        scores.repeat(weight, axis=0)
    )
    assert value == pytest.approx(all_values, rel=1e-5)
    first = np.cumsum(weight) - weight
    np.testing.assert_allclose(slope, all_slopes[first] * weight[:, None], rtol=1e-5, atol=1e-6)
    assert second * len(targets) == pytest.approx(all_second * weight.sum(), rel=1e-5)
