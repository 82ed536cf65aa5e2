"""Tests of projections of maps to fewer channels."""

import numpy as np
from support.errors import raises

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError
from bilinear_cli.poolings.parameters import (
    principal_directions,
    sample_indices,
    second_moment,
    varimax,
)


def test_the_second_moment_is_that_of_all_locations() -> None:
    maps = np.random.default_rng(0).normal(size=(7, 2, 3, 5))
    x = maps.reshape(-1, 5)
    moment = second_moment([maps[:3].astype(np.float16), maps[3:].astype(np.float32)])
    np.testing.assert_allclose(moment, x.T @ x / 42, atol=1e-3)


def test_maps_that_are_missing_or_not_finite_are_refused() -> None:
    with raises(BadPhotoError):
        second_moment([np.zeros((0, 2, 2, 3))])
    with raises(BilinearError, "float16", "float32"):
        second_moment([np.full((1, 2, 2, 3), np.inf)])


def test_a_sample_is_drawn_by_its_seed() -> None:
    train = np.arange(100, 200)
    first, again, other = (sample_indices(train, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    assert set(first) <= set(train)
    assert (np.diff(first) > 0).all()
    np.testing.assert_array_equal(sample_indices(train, 500, 0), train)
    with raises(UsageError, "--projection"):
        sample_indices(train[:0], 10, 0)


def test_varimax_finds_the_sparse_basis_of_a_span() -> None:
    rng = np.random.default_rng(0)
    sparse = np.eye(20)[:, :5]
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    rotated = np.abs(varimax(sparse @ rotation))
    np.testing.assert_allclose(np.sort(rotated.max(axis=0)), 1, atol=1e-3)
    np.testing.assert_allclose(rotated.sum(axis=0), 1, atol=0.05)


def test_a_projection_spans_what_varies_most() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    maps = (rng.normal(size=(50, 4, 4, 8)) * [9, 8, 7, 1, 1, 1, 1, 1]) @ basis.T
    directions = principal_directions(second_moment([maps[:20], maps[20:]]), 3)
    assert directions.dtype == np.float32
    q = np.linalg.qr(directions)[0]
    np.testing.assert_allclose(np.linalg.svd(basis[:, :3].T @ q)[1], 1, atol=1e-2)
    np.testing.assert_allclose(np.square(maps @ directions).mean(), 1, rtol=1e-3)
