"""Tests of the reduction to principal axes."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from bilinear_cli.classify.gram import Coordinates, coordinates, recover
from bilinear_cli.errors import BilinearError

SHAPES = [(30, 8), (8, 30), (20, 20), (21, 20)]


def in_blocks(x: np.ndarray, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield columns of x, float32, as `inputs.blocks` does: copies, in order."""
    for start in range(0, x.shape[1], width):
        columns = slice(start, min(start + width, x.shape[1]))
        yield columns, x[:, columns].astype(np.float32)


def reduce(x: np.ndarray, width: int = 1000) -> Coordinates:
    return coordinates(in_blocks(x, width), *x.shape)


def make(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return rows whose axes differ in scale, off the origin, as float32 has them."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.linspace(3, 0.5, d) + 2).astype(np.float32)


@pytest.mark.parametrize("width", [1000, 7, 1])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_coordinates_keep_every_centred_inner_product(n: int, d: int, width: int) -> None:
    x = make(n, d)
    reduced = reduce(x, width)
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    gram = centred @ centred.T
    z = reduced.z.astype(np.float64)
    np.testing.assert_allclose(z @ z.T, gram, atol=1e-4 * gram.max())
    assert reduced.z.dtype == np.float32
    assert reduced.z.shape == (n, min(n - 1, d))
    np.testing.assert_allclose(reduced.mean_square, np.square(x.astype(float)).sum(1).mean(), 1e-5)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_axes_are_principal(n: int, d: int) -> None:
    reduced = reduce(make(n, d), 7)
    z = reduced.z.astype(np.float64)
    scatter = z.T @ z
    np.testing.assert_allclose(scatter, np.diag(reduced.variance), atol=2e-6 * scatter.max())
    np.testing.assert_allclose(np.diag(scatter), reduced.variance, rtol=1e-3)
    assert (np.diff(reduced.variance) <= 0).all()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (10, 30)])
def test_duplicate_rows_and_columns_lower_the_rank(n: int, d: int) -> None:
    x = make(n, d)
    half = n // 2
    x[half:] = x[:half]  # every row twice
    x[:, 1] = x[:, 0]
    reduced = reduce(x, 7)
    assert reduced.z.shape[1] == min(half - 1, d - 1)
    for values in (reduced.z, reduced.basis, reduced.variance):
        assert np.isfinite(values).all()
    np.testing.assert_allclose(
        reduced.z[half:], reduced.z[:half], atol=1e-5 * np.abs(reduced.z).max()
    )


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30)])
def test_nothing_depends_on_the_unit_of_the_features(n: int, d: int, scale: float) -> None:
    x = make(n, d)
    one, scaled = reduce(x), reduce(x * np.float32(scale))
    assert scaled.z.shape == one.z.shape
    np.testing.assert_allclose(scaled.variance, one.variance * scale**2, rtol=1e-4)
    np.testing.assert_allclose(scaled.mean_square, one.mean_square * scale**2, rtol=1e-5)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_basis_turns_weights_on_coordinates_into_weights_on_features(n: int, d: int) -> None:
    x = make(n, d)
    reduced = reduce(x)
    w = np.random.default_rng(1).normal(size=(reduced.z.shape[1], 3))
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    on_features = centred.T @ (reduced.basis @ w)
    scores = reduced.z @ w
    np.testing.assert_allclose(centred @ on_features, scores, atol=1e-4 * np.abs(scores).max())
    np.testing.assert_allclose(np.square(on_features).sum(), np.square(w).sum(), rtol=1e-3)


@pytest.mark.parametrize("width", [1000, 7])
@pytest.mark.parametrize(("n_train", "d"), [(30, 8), (8, 30)])
def test_recover_is_a_direct_computation(n_train: int, d: int, width: int) -> None:
    x = make(n_train + 5, d)
    coefficients = np.random.default_rng(1).normal(size=(n_train, 3))
    weights, offset, scores = recover(in_blocks(x, width), n_train, d, coefficients)
    train = x[:n_train].astype(np.float64)
    wanted = (train - train.mean(0)).T @ coefficients
    np.testing.assert_allclose(weights, wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(offset, train.mean(0) @ wanted, atol=1e-3)
    np.testing.assert_allclose(scores, x[n_train:] @ wanted, atol=1e-3)
    assert weights.dtype == np.float32
    assert scores.shape == (5, 3)


def test_recover_without_rows_to_score() -> None:
    x = make(8, 30)
    assert recover(in_blocks(x, 7), 8, 30, np.ones((8, 3)))[2].shape == (0, 3)


def test_progress_counts_columns() -> None:
    told: list[Sequence[int]] = []
    x = make(8, 30)
    coordinates(in_blocks(x, 12), 8, 30, lambda *done: told.append(done))
    assert told == [(12, 30), (24, 30), (30, 30)]


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30)])
@pytest.mark.parametrize("value", [0, 0.3])
def test_rows_that_are_all_the_same_are_refused(n: int, d: int, value: float) -> None:
    with pytest.raises(BilinearError, match="all training photos have the same features"):
        reduce(np.full((n, d), value, np.float32))
