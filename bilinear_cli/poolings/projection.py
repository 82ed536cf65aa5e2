"""Projections of maps to fewer channels before they are pooled."""

from collections.abc import Iterable

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError

MAX_ROTATIONS = 60  # steps of varimax


def sample_indices(train: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n random indices of training photos, or rows, from all of theirs; ascending.

    Raises:
        UsageError: `train` is empty.
    """
    if not len(train):
        raise UsageError(
            "a projection needs training photos, and there are none. Give one as --projection."
        )
    return np.sort(np.random.default_rng(seed).permutation(train)[:n])


@np.errstate(over="ignore", invalid="ignore")  # values that are not finite are an error below
def second_moment(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of x xᵀ over all locations x, float64 (channels, channels).

    A batch is of float16 or float32 maps (batch, height, width, channels).

    Raises:
        BilinearError: there are no maps, or some values are not finite.
    """
    moment, n = np.zeros(()), 0
    for maps in batches:
        x = maps.astype(np.float32, copy=False).reshape(-1, maps.shape[-1])
        moment, n = moment + (x.T @ x).astype(np.float64), n + len(x)
    if not n:
        raise BadPhotoError("cannot read any of the photos that a projection is fitted on")
    if not np.isfinite(moment).all():
        raise BilinearError(
            "maps have values beyond the range of float16. If you used --precision float16, use "
            "float32."
        )
    return moment / n


def principal_directions(second_moment: np.ndarray, channels: int) -> np.ndarray:
    """Return the first principal directions of maps, rotated, float32 (maps' channels, channels).

    They are those of the second moment, not of the covariance, because the bilinear feature
    contains the mean. One scale makes the mean square of the projected channels one.

    Args:
        second_moment: float (maps' channels, maps' channels), the mean of x xᵀ over locations x.
        channels: the number of directions, at most the maps' channels.
    """
    values, vectors = np.linalg.eigh(second_moment)
    scale = 1 / np.sqrt(values[-channels:].mean() or 1)
    return (varimax(vectors[:, ::-1][:, :channels]) * scale).astype(np.float32)


def varimax(directions: np.ndarray) -> np.ndarray:
    """Rotate orthonormal columns (C, channels) within their span, each to few large elements.

    Pooling takes the square root of each element, so the basis matters: directions near to single
    channels, which are never negative after a ReLU, were two points better than the principal ones
    on held-out training photos.

    Source: Kaiser, "The varimax criterion for analytic rotation in factor analysis", 1958.
    """
    rotation, previous = np.eye(directions.shape[1]), 0.0
    for _ in range(MAX_ROTATIONS):
        x = directions @ rotation
        u, s, vt = np.linalg.svd(directions.T @ (x**3 - x * np.square(x).mean(axis=0)))
        rotation = u @ vt
        if s.sum() < previous * (1 + 1e-5):
            break
        previous = s.sum()
    return directions @ rotation
