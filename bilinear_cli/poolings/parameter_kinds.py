"""The kinds of arrays that poolings take beside the maps, and what is valid for each."""

from collections.abc import Callable

import numpy as np

# Arrays that poolings take, by their names without the size: dtype, the axis of a matrix that has
# the maps' channels (None for a vector), and whether an array has valid values for a size.
PARAMETERS: dict[str, tuple[str, int | None, Callable[[np.ndarray, str], bool | np.bool_]]] = {
    "projection": ("f4", 0, lambda x, k: x.shape[1] == int(k) and np.isfinite(x).all()),
    "fitted": ("S64", None, lambda x, k: True),
    "hash": ("i8", 1, lambda x, k: len(x) == 2 and ((x >= 0) & (x < int(k))).all()),
    "sign": ("i8", 1, lambda x, k: len(x) == 2 and np.isin(x, (-1, 1)).all()),
}


def check_parameter(name: str, array: np.ndarray) -> None:
    """Raise a ValueError unless the array can be the parameter of that name."""
    kind, _, size = name.rpartition("-")
    dtype, axis, is_valid = PARAMETERS[kind]
    has_type = array.size and array.dtype == dtype and array.ndim == (1 if axis is None else 2)
    if not (has_type and is_valid(array, size)):
        raise ValueError(f"{name} has the wrong shape, dtype or values")


def parameter_channels(name: str, array: np.ndarray) -> int | None:
    """Return the number of the maps' channels that a parameter is for; None for any number."""
    _, axis, _ = PARAMETERS[name.rpartition("-")[0]]
    return None if axis is None else array.shape[axis]
