"""Tests of the reduction: inner products, and principal axes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.errors import raises
from support.rows import make_reducer

from bilinear_cli.errors import BilinearError
from bilinear_cli.training import principal_axes
from bilinear_cli.training.principal_axes import Coordinates

SHAPES = pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (20, 20), (21, 20)])
METHODS = pytest.mark.parametrize("method", ["reduce_to_gram", "reduce_to_axes"])


def coordinates_of(x: np.ndarray, method: str, size: int = 1000) -> Coordinates:
    return getattr(make_reducer(x, size), method)().coordinates


def make(n: int, d: int) -> np.ndarray:
    """Return rows whose axes differ in scale, off the origin, as float32 has them."""
    x = np.random.default_rng(0).normal(size=(n, d)) * np.linspace(3, 0.5, d) + 2
    return x.astype(np.float32)


def centred(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) - x.mean(0, dtype=np.float64)


@pytest.mark.parametrize("size", [1000, 7, 1])
@SHAPES
def test_the_gram_matrix_is_a_direct_computation(n: int, d: int, size: int) -> None:
    x = make(n, d)
    problem = make_reducer(x, size).reduce_to_gram()
    inner, mean = problem.gram, problem.mean
    expected = centred(x) @ centred(x).T
    np.testing.assert_allclose(inner, expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(inner, inner.T)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        problem.mean_squared_norm, np.square(x.astype(float)).sum(1).mean(), 1e-5
    )
    assert inner.dtype == mean.dtype == np.float32


@pytest.mark.parametrize("size", [1000, 7, 1])
@METHODS
@SHAPES
def test_principal_axes_keep_every_inner_product(n: int, d: int, method: str, size: int) -> None:
    x = make(n, d)
    coordinates = coordinates_of(x, method, size)
    z = coordinates.z.astype(np.float64)
    expected = centred(x) @ centred(x).T
    np.testing.assert_allclose(z @ z.T, expected, atol=1e-4 * expected.max())
    assert z.shape == (n, min(n - 1, d))
    scatter = z.T @ z
    squares = coordinates.sum_of_squares
    np.testing.assert_allclose(scatter, np.diag(squares), atol=2e-6 * scatter.max())
    np.testing.assert_allclose(np.diag(scatter), squares, rtol=1e-3)
    assert (np.diff(squares) <= 0).all()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)


@METHODS
@pytest.mark.parametrize(("n", "d"), [(30, 8), (10, 30)])
def test_duplicate_rows_and_columns_lower_the_rank(n: int, d: int, method: str) -> None:
    x = make(n, d)
    half = n // 2
    x[half:] = x[:half]  # every row twice
    x[:, 1] = x[:, 0]
    z = coordinates_of(x, method, 7).z
    assert z.shape[1] == min(half, d) - 1
    np.testing.assert_allclose(z[half:], z[:half], atol=1e-4 * np.abs(z).max())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@METHODS
@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30)])
def test_the_axes_do_not_depend_on_the_unit_of_the_features(
    n: int, d: int, method: str, scale: float
) -> None:
    x = make(n, d)
    unscaled, scaled = (coordinates_of(x * np.float32(s), method) for s in (1, scale))
    assert scaled.z.shape == unscaled.z.shape
    expected = unscaled.sum_of_squares * scale**2
    np.testing.assert_allclose(scaled.sum_of_squares, expected, rtol=1e-4)


@METHODS
@SHAPES
def test_weights_on_axes_are_weights_on_features(n: int, d: int, method: str) -> None:
    x, reducer = make(n, d), make_reducer(make(n, d), 7)
    coordinates = coordinates_of(x, method)
    w = np.random.default_rng(1).normal(size=(coordinates.z.shape[1], 3)).astype(np.float32)
    weights = reducer.weights(x.mean(0), coordinates.dual_coef(w))
    assert weights.dtype == np.float32
    scores = coordinates.z @ w
    np.testing.assert_allclose(centred(x) @ weights, scores, atol=5e-3 * np.abs(scores).max())
    np.testing.assert_allclose(np.square(weights).sum(), np.square(w).sum(), rtol=1e-3)
    if method == "reduce_to_axes":
        problem = reducer.reduce_to_axes()
        np.testing.assert_allclose(problem.axes @ w, weights, atol=5e-3 * np.abs(weights).max())
        np.testing.assert_allclose(problem.mean, x.mean(0), rtol=1e-5)


def test_progress_counts_what_is_read() -> None:
    calls: list[Sequence[int]] = []
    for size, reduce in ((12, "reduce_to_gram"), (5, "reduce_to_axes"), (5, "reduce_to_stream")):
        reducer = make_reducer(make(8, 30), size)
        getattr(replace(reducer, progress=lambda *done: calls.append(done)), reduce)()
    assert calls[:3] == [(12, 30), (24, 30), (30, 30)]
    assert calls[3:9] == [(5, 24), (8, 24), (13, 24), (16, 24), (21, 24), (24, 24)]
    assert calls[9:] == [(5, 16), (8, 16), (13, 16), (16, 16)]


@pytest.mark.parametrize("method", ["reduce_to_gram", "reduce_to_axes", "reduce_to_stream"])
@pytest.mark.parametrize("value", [0, 0.3])
def test_equal_rows_are_refused(method: str, value: float) -> None:
    with raises(BilinearError):
        getattr(make_reducer(np.full((8, 30), value)), method)()


def test_a_matrix_of_zeros_has_no_axes() -> None:
    with raises(BilinearError):
        principal_axes.eigenvectors(np.zeros((8, 8)))
