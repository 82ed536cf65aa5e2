"""Tests of the gradients: against finite differences, and at points without a derivative."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.poolings.functions import SLOPE_FLOOR, matrix_sqrt, signed_sqrt

SHAPES = [(6, 9), (9, 6), (7, 7)]  # locations, channels


def gradient_of(function: Callable, x: np.ndarray, weights: np.ndarray | float = 1) -> np.ndarray:
    """Return the gradient of the weighted sum of a function's output."""
    tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = tf.reduce_sum(function(tensor) * tf.cast(weights, tensor.dtype))
    return tape.gradient(total, tensor).numpy()


def test_the_slope_is_exact_above_the_floor_and_constant_below() -> None:
    x = np.array([[4.0, -9.0, 0.01, 1e-9, 0.0]], np.float32)
    floor = SLOPE_FLOOR * np.abs(x).mean()
    assert 1e-9 < floor < 0.01
    expected = 0.5 / np.sqrt([[4, 9, 0.01, floor, floor]])
    np.testing.assert_allclose(gradient_of(signed_sqrt, x), expected, rtol=1e-6)


def test_each_map_has_its_own_floor_and_scale_does_not_matter() -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32)
    x[0, 0] = 0
    both = gradient_of(signed_sqrt, np.concatenate([x, 100 * x]))
    np.testing.assert_allclose(both[0], 10 * both[1], rtol=1e-5)


@pytest.mark.parametrize("size", [0, 1e-45, 1e-38, 1e-20])
def test_the_slope_is_finite_at_zero(size: float) -> None:
    assert np.isfinite(gradient_of(signed_sqrt, np.full((2, 3, 3), size, np.float32))).all()


def nuclear(x: np.ndarray, weights: np.ndarray) -> float:
    """Return the sum of weights times the root of Xᵀ X, by the singular values of X."""
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    return float(((np.swapaxes(vt, 1, 2) * s[:, None]) @ vt * weights).sum())


def slope(x: np.ndarray, weights: np.ndarray, direction: np.ndarray) -> float:
    """Return the derivative of `nuclear` in a direction, by differences."""
    step = 1e-6 * direction
    return (nuclear(x + step, weights) - nuclear(x - step, weights)) / 2e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-5), (np.float32, 1e-3)])
def test_the_matrix_root_has_its_true_gradient(
    shape: tuple[int, int], dtype: type, tolerance: float
) -> None:
    rng = np.random.default_rng(1)
    x = np.maximum(rng.normal(size=(2, *shape)), 0).astype(dtype)
    weights = rng.normal(size=(2, shape[1], shape[1]))
    gradient = gradient_of(matrix_sqrt, x, weights)
    for _ in range(5):
        direction = rng.normal(size=x.shape)
        expected = slope(x.astype(np.float64), weights, direction)
        assert (gradient * direction).sum() == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_true_along_maps_of_the_same_rank(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    n, c = shape
    x = rng.normal(size=(1, n, 3)) @ rng.normal(size=(1, 3, c))
    weights = rng.normal(size=(1, c, c))
    gradient = gradient_of(matrix_sqrt, x.astype(np.float32), weights)
    for direction in (x @ rng.normal(size=(c, c)), rng.normal(size=(n, n)) @ x):
        expected = slope(x, weights, direction)
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["zero", "equal", "one location", "orthonormal", "tiny", "large"])
def test_the_gradient_is_bounded_without_a_derivative(kind: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    x = {
        "zero": np.zeros(shape),
        "equal": np.ones(shape),
        "one location": np.eye(*shape)[:1] * np.eye(*shape),
        "orthonormal": np.eye(*shape),
        "tiny": 1e-15 * rng.random(shape),
        "large": 1e6 * rng.random(shape),
    }[kind][None].astype(np.float32)
    weights = rng.normal(size=(1, shape[1], shape[1]))
    gradient = gradient_of(matrix_sqrt, x, weights)
    assert np.linalg.norm(gradient) <= 2 * np.linalg.norm(weights) + 1e-4  # also False for NaN
    assert kind != "zero" or not gradient.any()
