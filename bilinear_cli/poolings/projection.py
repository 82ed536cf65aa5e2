"""Directions in which maps are projected on fewer channels before they are pooled."""

from collections.abc import Iterable

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError

ROTATIONS = 60  # steps of varimax, at most


def sample_indices(train: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n of the training photos, or rows, by their numbers: drawn at random, ascending.

    Raises:
        UsageError: there are none.
    """
    if not len(train):
        raise UsageError("there are no training photos to take a projection from: --projection")
    return np.sort(np.random.default_rng(seed).permutation(train)[:n])


@np.errstate(over="ignore", invalid="ignore")  # numbers that are not finite are an error below
def second_moment(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of x xᵀ over all locations x, float64 (channels, channels).

    Args:
        batches: maps, float16 or float32 (any number, height, width, channels).

    Raises:
        BilinearError: there are none, or not all numbers are finite.
    """
    moment, n = np.zeros(()), 0
    for maps in batches:
        x = maps.astype(np.float32, copy=False).reshape(-1, maps.shape[-1])
        moment, n = moment + (x.T @ x).astype(np.float64), n + len(x)
    if not n:
        raise BadPhotoError("not one photo that a projection is to be fitted on can be read")
    if not np.isfinite(moment).all():
        raise BilinearError(
            "maps are beyond what float16 can hold: after --precision float16, take float32"
        )
    return moment / n


def principal_directions(second_moment: np.ndarray, channels: int) -> np.ndarray:
    """Return the first principal directions of maps, rotated, float32 (maps' channels, channels).

    They are those of the second moment, not of the covariance: what most locations have in common
    is part of the bilinear feature. All are scaled alike, so that the mean square of a projected
    channel is one.

    Args:
        second_moment: float (maps' channels, maps' channels), the mean of x xᵀ over locations x.
        channels: how many directions, at most as many as the maps have channels.
    """
    values, vectors = np.linalg.eigh(second_moment)
    scale = 1 / np.sqrt(values[-channels:].mean() or 1)
    return (varimax(vectors[:, ::-1][:, :channels]) * scale).astype(np.float32)


def varimax(directions: np.ndarray) -> np.ndarray:
    """Rotate orthonormal columns (C, channels) within their span, each to few large entries.

    The square root is taken entry by entry, so the basis matters: directions near to single
    channels, which are never negative after a ReLU, were better than the principal ones by two
    points on held-out training photos.

    Source: Kaiser, "The varimax criterion for analytic rotation in factor analysis", 1958.
    """
    rotation, before = np.eye(directions.shape[1]), 0.0
    for _ in range(ROTATIONS):
        x = directions @ rotation
        u, s, vt = np.linalg.svd(directions.T @ (x**3 - x * np.square(x).mean(axis=0)))
        rotation = u @ vt
        if s.sum() < before * (1 + 1e-5):
            break
        before = s.sum()
    return directions @ rotation
