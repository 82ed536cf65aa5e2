"""The poolings, one entry each; read without loading TensorFlow.

A pooling is named by a spec, and the spec is its key in the feature file: a method, and for some a
size after a colon. `bilinear:144` projects the channels on 144 first; `compact:8192` is a sketch of
8,192 numbers.

A new pooling is a function in `functions.py` and an entry in `ENTRIES`.
"""

import re
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from bilinear_cli.errors import UsageError, validate_choice
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.sizes import FITTED_ON, PROJECTION, SKETCH, Parameter, Size

HALF_PRECISION_FROM = 4096  # numbers in a row
TRIANGLE = "upper-triangle"
ROOT_L2 = "signed-sqrt,l2"
MAPS = "maps"
T = TypeVar("T")


@dataclass(frozen=True)
class Pooling:
    """One pooling.

    Attributes:
        method: what is done.
        help: one line.
        function: its name in `functions.py`. It takes maps, and returns rows as they are stored; or
            symmetric matrices, where the layout is `upper-triangle`: packing and normalising
            follow.
        layout: of a stored row: `dense`, or `upper-triangle` of a symmetric matrix, see
            `triangle.py`.
        normalization: what has been done to a row, in order; empty for nothing.
        sized: what a size after the colon means; None: there may be none.
        rank: dimensions of a row; 3 of maps, (height, width, channels).
        explainable: a row is that of Σ x xᵀ over the places x, normalised, so that a linear
            classifier's score is a sum over places.
        xla: XLA compiles the function, and well.
        aliases: other names that may be typed.
        size: what the spec names after the colon; None for nothing.
    """

    method: str
    help: str
    function: str
    layout: str = "dense"
    normalization: str = ""
    sized: Size | None = None
    rank: int = 1
    explainable: bool = False
    xla: bool = True
    aliases: tuple[str, ...] = ()
    size: int | None = None

    @property
    def spec(self) -> str:
        """What the user types."""
        return self.method if self.size is None else f"{self.method}:{self.size}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arrays that it takes beside the maps, see `parameters.py`."""
        if self.sized is None or self.size is None:
            return ()
        return tuple(x.name.replace("K", str(self.size)) for x in self.sized.parameters)

    @property
    def is_projected(self) -> bool:
        """Whether the channels are projected first, on parameters that are fitted."""
        return FITTED_ON in self.parameters

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of those of its parameters that are used in computing rows."""
        return tuple(name for name in self.parameters if name != FITTED_ON)

    @property
    def is_normalized_matrix(self) -> bool:
        """Whether `BilinearPooling` offers it as a method."""
        return self.layout == TRIANGLE and self.normalization.endswith(ROOT_L2)

    def row_length(self, channels: int) -> int:
        """Return the numbers in a row, of maps at one location, where the maps have channels."""
        pooled = self.size or channels
        return triangle.n_entries(pooled) if self.layout == TRIANGLE else pooled

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Say whether a row can have this shape."""
        if len(shape) != self.rank or not all(shape):
            return False
        channels = triangle.n_channels(shape[0]) if self.layout == TRIANGLE else shape[-1]
        return shape[-1] == self.row_length(channels)

    def channels(self, shape: tuple[int, ...], parameters: Mapping[str, np.ndarray]) -> int:
        """Return how many channels are pooled where a row has this shape."""
        if self.layout == TRIANGLE:
            return triangle.n_channels(shape[0])
        counted = (parameter_channels(name, parameters[name]) for name in self.parameters)
        return next((n for n in counted if n), shape[-1])


matrix = partial(Pooling, layout=TRIANGLE, normalization=ROOT_L2, sized=PROJECTION)
sketch = partial(Pooling, normalization=ROOT_L2, sized=SKETCH, xla=False)
ENTRIES = (
    Pooling("max", "the largest value of each channel", "max_pool"),
    Pooling("avg", "the mean of each channel", "avg_pool"),
    Pooling("sum", "the sum of each channel", "sum_pool"),
    matrix("bilinear", "products of two channels, summed", "outer_product_sum", explainable=True),
    matrix("bilinear-plain", "their mean, not normalised", "outer_product_mean", normalization=""),
    matrix("covariance", "bilinear of channels less their mean", "centred_product_sum"),
    matrix(
        "matrix-sqrt",
        "bilinear of the square root of the matrix",
        "outer_product_root",
        normalization=f"matrix-sqrt,{ROOT_L2}",
        xla=False,
    ),
    sketch("compact", "a sketch of bilinear, of so many numbers", "compact_pool"),
    # explainable are those of a conv1x1, which projects them and pools them bilinearly
    Pooling(
        MAPS, "the maps as they are", "keep_maps", rank=3, explainable=True, aliases=("conv5",)
    ),
)
POOLINGS = {pooling.method: pooling for pooling in ENTRIES}


def get_pooling(spec: str) -> Pooling:
    """Return the pooling of that name.

    Raises:
        UsageError: there is none, and the message names the nearest; or its size cannot be.
    """
    method, colon, size = canonical_spec(spec).partition(":")
    kind = POOLINGS[validate_choice("pooling", method, POOLINGS)]
    if colon and not kind.sized:
        raise UsageError(f"{method} takes no size: write {method}, not {spec}")
    if not colon and kind.sized and kind.sized.required:
        raise UsageError(f"{method} takes a size, {kind.sized.help}: {usage(kind)}")
    if not colon:
        return kind
    if not (re.fullmatch("[0-9]{1,9}", size) and int(size) > 0):
        raise UsageError(f"{spec}: after the colon comes a whole number from 1 on")
    return replace(kind, size=int(size))


def is_known_pooling(spec: str) -> bool:
    """Say whether a spec, perhaps of a later version's file, names a method that is known here."""
    return canonical_spec(spec).partition(":")[0] in POOLINGS


def canonical_spec(spec: str) -> str:
    """Return the spec with the method's own name in place of an alias."""
    method, colon, size = spec.partition(":")
    own = (kind.method for kind in POOLINGS.values() if method in kind.aliases)
    return next(own, method) + colon + size


class SpecDict(UserDict[str, T]):
    """A dictionary by specs, which may be given by aliases."""

    def __getitem__(self, spec: str) -> T:
        """Return what a pooling has."""
        return super().__getitem__(canonical_spec(spec))

    def __setitem__(self, spec: str, value: T) -> None:
        """Set what a pooling has, under its own name."""
        super().__setitem__(canonical_spec(spec), value)

    def __contains__(self, spec: object) -> bool:
        """Say whether the pooling is there."""
        return isinstance(spec, str) and super().__contains__(canonical_spec(spec))


def usage(kind: Pooling) -> str:
    """Return how a pooling is typed."""
    names = " or ".join((kind.method, *kind.aliases))
    if not kind.sized:
        return names
    size = f":{kind.sized.example}"
    return names + (size if kind.sized.required else f"[{size}]")


def poolings_help() -> str:
    """Return what each pooling is, for the command line."""
    lines = [f"{usage(kind)}: {kind.help}" for kind in POOLINGS.values()]
    return "; ".join(lines) + f". [:{PROJECTION.example}]: {PROJECTION.help}. Repeatable."


# Parameters, by their names -----------------------------------------------------------------


def parameter(name: str) -> tuple[Parameter, int]:
    """Return what kind of parameter a name is of, and the size in it, 0 for none."""
    stem, _, size = name.rpartition("-")
    name, size = (f"{stem}-K", size) if size.isdecimal() else (name, "0")
    sizes = (kind.sized for kind in POOLINGS.values() if kind.sized)
    return next(x for kind in sizes for x in kind.parameters if x.name == name), int(size)


def check_parameter(name: str, array: np.ndarray) -> None:
    """Raise a ValueError unless the array can be the parameter of that name."""
    kind, size = parameter(name)
    if not (array.size and kind.fits(array, size)):
        raise ValueError(f"{name} has values of the wrong kind")


def parameter_channels(name: str, array: np.ndarray) -> int | None:
    """Return how many channels maps have that a parameter is for; None if it is for any."""
    axis = parameter(name)[0].axis
    return None if axis is None else array.shape[axis]


def storage_dtype(shape: tuple[int, ...]) -> np.dtype:
    """Return how a row of this shape is stored: float32 if it is small, else float16."""
    return np.dtype(np.float32 if np.prod(shape) < HALF_PRECISION_FROM else np.float16)
