"""Tests of the reduction: inner products, and principal axes."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from support.errors import raises
from support.rows import slices

from bilinear_cli.errors import BilinearError
from bilinear_cli.training import gram
from bilinear_cli.training.gram import Coordinates

SHAPES = pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (20, 20), (21, 20)])
METHODS = pytest.mark.parametrize("method", ["gram", "rotate"])
Blocks = list[tuple[slice, np.ndarray]]


def in_columns(x: np.ndarray, width: int) -> Blocks:
    """Return columns of x, float32, as `inputs.columns` does: copies, in order."""
    return [(columns, x[:, columns].copy()) for columns in slices(x.shape[1], width)]


def in_batches(x: np.ndarray, height: int) -> Callable[[], Blocks]:
    return lambda: [(rows, x[rows].copy()) for rows in slices(len(x), height)]


def axes_of(x: np.ndarray, method: str, size: int = 1000) -> Coordinates:
    if method == "gram":
        return gram.principal_axes(gram.gram(in_columns(x, size), *x.shape)[0])
    return gram.rotate(in_batches(x, size), *x.shape)[0]


def make(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return rows whose axes differ in scale, off the origin, as float32 has them."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.linspace(3, 0.5, d) + 2).astype(np.float32)


def centred(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) - x.mean(0, dtype=np.float64)


@pytest.mark.parametrize("width", [1000, 7, 1])
@SHAPES
def test_the_gram_matrix_is_a_direct_computation(n: int, d: int, width: int) -> None:
    x = make(n, d)
    inner, mean, mean_square = gram.gram(in_columns(x, width), n, d)
    expected = centred(x) @ centred(x).T
    np.testing.assert_allclose(inner, expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(inner, inner.T)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(mean_square, np.square(x.astype(float)).sum(1).mean(), 1e-5)
    assert inner.dtype == mean.dtype == np.float32


@pytest.mark.parametrize("size", [1000, 7, 1])
@METHODS
@SHAPES
def test_principal_axes_keep_every_inner_product(n: int, d: int, method: str, size: int) -> None:
    x = make(n, d)
    reduced = axes_of(x, method, size)
    z = reduced.z.astype(np.float64)
    expected = centred(x) @ centred(x).T
    np.testing.assert_allclose(z @ z.T, expected, atol=1e-4 * expected.max())
    assert z.shape == (n, min(n - 1, d))
    scatter = z.T @ z
    np.testing.assert_allclose(scatter, np.diag(reduced.sum_of_squares), atol=2e-6 * scatter.max())
    np.testing.assert_allclose(np.diag(scatter), reduced.sum_of_squares, rtol=1e-3)
    assert (np.diff(reduced.sum_of_squares) <= 0).all()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)


@METHODS
@pytest.mark.parametrize(("n", "d"), [(30, 8), (10, 30)])
def test_duplicate_rows_and_columns_lower_the_rank(n: int, d: int, method: str) -> None:
    x = make(n, d)
    half = n // 2
    x[half:] = x[:half]  # every row twice
    x[:, 1] = x[:, 0]
    z = axes_of(x, method, 7).z
    assert z.shape[1] == min(half, d) - 1
    np.testing.assert_allclose(z[half:], z[:half], atol=1e-4 * np.abs(z).max())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@METHODS
@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30)])
def test_the_axes_do_not_depend_on_the_unit_of_the_features(
    n: int, d: int, method: str, scale: float
) -> None:
    x = make(n, d)
    one, scaled = (axes_of(x * np.float32(s), method) for s in (1, scale))
    assert scaled.z.shape == one.z.shape
    np.testing.assert_allclose(scaled.sum_of_squares, one.sum_of_squares * scale**2, rtol=1e-4)


@METHODS
@SHAPES
def test_weights_on_axes_are_weights_on_features(n: int, d: int, method: str) -> None:
    x = make(n, d)
    reduced = axes_of(x, method)
    w = np.random.default_rng(1).normal(size=(reduced.z.shape[1], 3)).astype(np.float32)
    mean = x.mean(0)
    on_features = gram.primal_weights(in_columns(x - mean, 7), d, reduced.coefficients(w))
    assert on_features.dtype == np.float32
    scores = reduced.z @ w
    np.testing.assert_allclose(centred(x) @ on_features, scores, atol=5e-3 * np.abs(scores).max())
    np.testing.assert_allclose(np.square(on_features).sum(), np.square(w).sum(), rtol=1e-3)
    if method == "rotate":
        _, axes, theirs, _ = gram.rotate(in_batches(x, 7), n, d)
        np.testing.assert_allclose(axes @ w, on_features, atol=5e-3 * np.abs(on_features).max())
        np.testing.assert_allclose(theirs, mean, rtol=1e-5)


def test_progress_counts_what_is_read() -> None:
    calls: list[Sequence[int]] = []
    x = make(8, 30)
    gram.gram(in_columns(x, 12), 8, 30, lambda *done: calls.append(done))
    assert calls == [(12, 30), (24, 30), (30, 30)]
    calls.clear()
    gram.rotate(in_batches(x, 5), 8, 30, lambda *done: calls.append(done))
    assert calls == [(5, 24), (8, 24), (13, 24), (16, 24), (21, 24), (24, 24)]


@METHODS
@pytest.mark.parametrize("value", [0, 0.3])
def test_rows_that_are_all_the_same_are_refused(method: str, value: float) -> None:
    with raises(BilinearError):
        axes_of(np.full((8, 30), value, np.float32), method)
