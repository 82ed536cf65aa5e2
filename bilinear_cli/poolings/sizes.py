"""What a size after a pooling's name means: channels to project on, or numbers of a sketch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FITTED_ON = "fitted-on"  # SHA-256 of the photos that projections were fitted on


@dataclass(frozen=True)
class Parameter:
    """An array that a pooling takes beside the maps.

    Attributes:
        name: `K` in it stands for the size.
        fits: says whether an array, with the size, can be it.
        axis: the one along which the channels of the maps are; None for none.
    """

    name: str
    fits: Callable[[np.ndarray, int], bool]
    axis: int | None = None


@dataclass(frozen=True)
class Size:
    """What a size after the colon means.

    Attributes:
        help: one line.
        example: a good size.
        parameters: what a pooling of that size takes beside the maps.
        required: there is no such pooling without a size.
        draw: channels of the maps, size, seed -> the parameters by name; None for a projection,
            which is fitted on training photos.
    """

    help: str
    example: int
    parameters: tuple[Parameter, ...]
    required: bool = False
    draw: Callable[[int, int, int], dict[str, np.ndarray]] | None = None


def sketch_parameters(channels: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """Draw the hashes and signs of a Tensor Sketch, see `functions.tensor_sketch`."""
    rng = np.random.default_rng([seed, size])
    return {
        f"hash-{size}": rng.integers(0, size, (2, channels)),
        f"sign-{size}": rng.choice(np.array([-1, 1]), (2, channels)),
    }


def _is_matrix(x: np.ndarray, dtype: type) -> bool:
    return x.dtype == dtype and x.ndim == 2


def _is_projection(x: np.ndarray, size: int) -> bool:
    return _is_matrix(x, np.float32) and x.shape[1] == size and bool(np.isfinite(x).all())


def _are_hashes(x: np.ndarray, size: int) -> bool:
    return _is_matrix(x, np.int64) and len(x) == 2 and bool(((x >= 0) & (x < size)).all())


def _are_signs(x: np.ndarray, size: int) -> bool:
    return _is_matrix(x, np.int64) and len(x) == 2 and bool(np.isin(x, (-1, 1)).all())


def _are_digests(x: np.ndarray, size: int) -> bool:
    return x.dtype == np.dtype("S64") and x.ndim == 1


PROJECTION = Size(
    "project the channels on so many first",
    144,
    (Parameter("projection-K", _is_projection, axis=0), Parameter(FITTED_ON, _are_digests)),
)
SKETCH = Size(
    "the numbers of the sketch",
    8192,
    (Parameter("hash-K", _are_hashes, axis=1), Parameter("sign-K", _are_signs, axis=1)),
    required=True,
    draw=sketch_parameters,
)
