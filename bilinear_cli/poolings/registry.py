"""The poolings, one entry each; TensorFlow is not imported here.

A spec names a pooling, and is its key in the feature file: a method, and for some methods a size
after a colon. `bilinear:144` first projects the channels to 144. `compact:8192` is a sketch of
8,192 numbers.

A new pooling is a function in `functions.py` and an entry in `ENTRIES`.
"""

import re
from collections import UserDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from bilinear_cli.errors import UsageError
from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.parameter_kinds import parameter_channels
from bilinear_cli.validation import validate_choice

MIN_FLOAT16_LENGTH = 4096  # numbers in a row
TRIANGLE = "upper-triangle"
ROOT_L2 = "signed-sqrt,l2"
MAPS = "maps"
FITTED_ON = "fitted-on"  # SHA-256 of the photos that projections were fitted on
T = TypeVar("T")


class Size(NamedTuple):
    """What a size after the colon means."""

    help: str
    example: int
    parameters: tuple[str, ...]  # arrays that the pooling takes; `K` stands for the size
    is_required: bool = False  # the pooling does not exist without a size


PROJECTION = Size("project the channels to this number first", 144, ("projection-K", FITTED_ON))
SKETCH = Size("the number of values in the sketch", 8192, ("hash-K", "sign-K"), is_required=True)


@dataclass(frozen=True)
class Pooling:
    """One pooling.

    Attributes:
        method: its name.
        help: one line.
        function_name: in `functions.py`, maps -> rows as they are stored; or for the layout
            `upper-triangle` symmetric matrices, which are then packed and normalised.
        layout: of a row: `dense`, or `upper-triangle` of a symmetric matrix, see `triangle.py`.
        normalization: the steps that were applied to a row, in order; empty for none.
        size_meaning: what a size after the colon means; None if the pooling takes no size.
        ndim: dimensions of a row; 3 of maps, (height, width, channels).
        explainable: a row is that of Σ x xᵀ over the locations x, normalised, so that a linear
            classifier's score is a sum over locations.
        supports_xla: XLA compiles the function, and well.
        aliases: other names that may be typed.
        uses_class_token: the function also takes `class_token`, which the network must have.
        size: the number after the colon of the spec; None for none.
    """

    method: str
    help: str
    function_name: str
    layout: str = "dense"
    normalization: str = ""
    size_meaning: Size | None = None
    ndim: int = 1
    explainable: bool = False
    supports_xla: bool = True
    aliases: tuple[str, ...] = ()
    uses_class_token: bool = False
    size: int | None = None

    @property
    def spec(self) -> str:
        """What the user types."""
        return self.method if self.size is None else f"{self.method}:{self.size}"

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the arrays that the pooling takes beside the maps, see `parameters.py`."""
        if self.size_meaning is None or self.size is None:
            return ()
        return tuple(name.replace("K", str(self.size)) for name in self.size_meaning.parameters)

    @property
    def is_projected(self) -> bool:
        """Whether the channels are first projected by a parameter that is fitted."""
        return FITTED_ON in self.parameter_names

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of those parameters that rows are computed from."""
        return tuple(name for name in self.parameter_names if name != FITTED_ON)

    @property
    def is_normalized_matrix(self) -> bool:
        """Whether `BilinearPooling` offers it as a method."""
        return self.layout == TRIANGLE and self.normalization.endswith(ROOT_L2)

    def row_length(self, channels: int) -> int:
        """Return the length of a row of maps with this number of channels at one location."""
        pooled = self.size or channels
        return triangle.n_entries(pooled) if self.layout == TRIANGLE else pooled

    def is_valid_row_shape(self, shape: tuple[int, ...]) -> bool:
        """Return whether a row can have this shape."""
        if len(shape) != self.ndim or not all(shape):
            return False
        channels = triangle.n_channels(shape[0]) if self.layout == TRIANGLE else shape[-1]
        return shape[-1] == self.row_length(channels)

    def n_channels(self, shape: tuple[int, ...], parameters: Mapping[str, np.ndarray]) -> int:
        """Return the number of channels that are pooled to a row of this shape."""
        if self.layout == TRIANGLE:
            return triangle.n_channels(shape[0])
        counts = (parameter_channels(name, parameters[name]) for name in self.parameter_names)
        return next((count for count in counts if count), shape[-1])


matrix_pooling = partial(Pooling, layout=TRIANGLE, normalization=ROOT_L2, size_meaning=PROJECTION)
sketch_pooling = partial(Pooling, normalization=ROOT_L2, size_meaning=SKETCH, supports_xla=False)
ENTRIES = (
    Pooling("max", "the largest value of each channel", "max_pool"),
    Pooling("avg", "the mean of each channel", "avg_pool"),
    Pooling("sum", "the sum of each channel", "sum_pool"),
    Pooling("cls", "the class token of a transformer", "class_token", uses_class_token=True),
    matrix_pooling(
        "bilinear", "sums of products of two channels", "outer_product_sum", explainable=True
    ),
    matrix_pooling(
        "bilinear-plain", "their means, not normalised", "outer_product_mean", normalization=""
    ),
    matrix_pooling("covariance", "bilinear after subtracting channel means", "centred_product_sum"),
    matrix_pooling(
        "matrix-sqrt",
        "bilinear with the square root of the matrix",
        "outer_product_root",
        normalization=f"matrix-sqrt,{ROOT_L2}",
        supports_xla=False,
    ),
    sketch_pooling("compact", "a sketch of bilinear with this many numbers", "compact_pool"),
    # explainable since `conv1x1` trains on maps: it projects them and pools them bilinearly
    Pooling(MAPS, "the maps unchanged", "keep_maps", ndim=3, explainable=True, aliases=("conv5",)),
)
POOLINGS = {pooling.method: pooling for pooling in ENTRIES}


def get_pooling(spec: str) -> Pooling:
    """Return the pooling of that name.

    Raises:
        UsageError: the method is unknown, and the message names the nearest; or the size is wrong.
    """
    if "," in spec:
        options = " ".join(f"--pooling {name}" for name in spec.split(",") if name)
        raise UsageError(f"{spec!r} is not one pooling. Repeat the option: {options}")
    method, colon, size = canonical_spec(spec).partition(":")
    pooling = POOLINGS[validate_choice("pooling", method, POOLINGS)]
    meaning = pooling.size_meaning
    if not colon:
        if meaning and meaning.is_required:
            raise UsageError(f"{method} needs a size, {meaning.help}: for example {usage(pooling)}")
        return pooling
    if not meaning:
        raise UsageError(f"{spec}: {method} takes no size. Write {method}.")
    if not (re.fullmatch("[0-9]{1,9}", size) and int(size) > 0):
        raise UsageError(f"{spec}: the size after the colon must be an integer from 1 to 999999999")
    return replace(pooling, size=int(size))


def split_specs(pooling: str) -> list[str]:
    """Return the specs of a text such as `max+bilinear`.

    Raises:
        UsageError: it is no text, but perhaps a list.
    """
    if not isinstance(pooling, str):
        raise UsageError(
            "pooling is one text, such as 'max', or 'max+bilinear' for both side by side, and not "
            f"{type(pooling).__name__}"
        )
    return pooling.split("+")


def check_class_token(specs: Iterable[str], has_class_token: bool) -> None:
    """Raise a UsageError if a pooling uses a class token where there is none."""
    for spec in specs:
        if get_pooling(spec).uses_class_token and not has_class_token:
            raise UsageError(
                f"--pooling {spec} needs the class token of a transformer, and there is none here. "
                "Use avg."
            )


def is_known_pooling(spec: str) -> bool:
    """Return whether the method is known; a file of a later version may have others."""
    return canonical_spec(spec).partition(":")[0] in POOLINGS


def canonical_spec(spec: str) -> str:
    """Return the spec with the method's own name in place of an alias."""
    method, colon, size = spec.partition(":")
    names = (pooling.method for pooling in POOLINGS.values() if method in pooling.aliases)
    return next(names, method) + colon + size


class SpecDict(UserDict[str, T]):
    """A dictionary whose keys are specs; an alias finds the same value."""

    def __getitem__(self, spec: str) -> T:
        """Return the value of a pooling."""
        return super().__getitem__(canonical_spec(spec))

    def __setitem__(self, spec: str, value: T) -> None:
        """Set the value of a pooling, under the method's own name."""
        super().__setitem__(canonical_spec(spec), value)

    def __contains__(self, spec: object) -> bool:
        """Return whether the pooling has a value."""
        return isinstance(spec, str) and super().__contains__(canonical_spec(spec))


def usage(pooling: Pooling) -> str:
    """Return how a pooling is typed."""
    names = " or ".join((pooling.method, *pooling.aliases))
    if not pooling.size_meaning:
        return names
    size = f":{pooling.size_meaning.example}"
    return names + (size if pooling.size_meaning.is_required else f"[{size}]")


def poolings_help() -> str:
    """Return what each pooling is, for the command line."""
    lines = [f"{usage(pooling)}: {pooling.help}" for pooling in POOLINGS.values()]
    return "; ".join(lines) + f". [:{PROJECTION.example}]: {PROJECTION.help}. Repeatable."


def storage_dtype(shape: tuple[int, ...]) -> np.dtype:
    """Return the dtype in which a row of this shape is stored: float32 if small, else float16."""
    return np.dtype(np.float32 if np.prod(shape) < MIN_FLOAT16_LENGTH else np.float16)
