"""Options in Python that are numbers or flags: only these are taken, and nothing like them."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from math import inf
from numbers import Integral, Real
from typing import Any, NamedTuple

from bilinear_cli.errors import UsageError

MAX_INTEGER = 2**31 - 1  # libraries and files take no larger one
MAX_SEED = 2**32 - 1  # of NumPy's and Keras's generators


class Range(NamedTuple):
    """The numbers that an option takes.

    Attributes:
        kind: int or float.
        limits: such as `from 1 to 9`, for messages.
        contains: whether a finite number is one of them.
    """

    kind: type[int] | type[float]
    limits: str
    contains: Callable[[Any], bool]

    def validate(self, option: str, value: Any) -> Any:
        """Return a number, also of NumPy, as an int or a float.

        Raises:
            UsageError: it is another number, or none, such as True, nan or "1".
        """
        if isinstance(value, Integral if self.kind is int else Real) and not isinstance(
            value, bool
        ):
            with suppress(OverflowError):  # an integer may be too large for a float
                number = self.kind(value)  # type: ignore[call-overload]
                if -inf < number < inf and self.contains(number):
                    return number
        noun = "integer" if self.kind is int else "number"
        text = "a text, and " if isinstance(value, str) else ""
        raise UsageError(f"{option} {value!r} is {text}no {noun} {self.limits}")


def integers(minimum: int, maximum: int = MAX_INTEGER) -> Range:
    """Return the range of the integers from `minimum` to `maximum`."""
    return Range(int, f"from {minimum} to {maximum}", lambda x: minimum <= x <= maximum)


def numbers(minimum: float, maximum: float) -> Range:
    """Return the range of the numbers from `minimum` to `maximum`."""
    limits = f"from {minimum:g} to {maximum:g}"
    return Range(float, limits, lambda x: minimum <= x <= maximum)


def validate_options(options: Any, ranges: Mapping[str, Range]) -> None:
    """Check the numbers and the flags of a dataclass, and replace NumPy's numbers by Python's.

    Args:
        options: a field is a flag if its default is True or False. It may be None if its default
            is None.
        ranges: field -> the numbers that it takes.

    Raises:
        UsageError: a value is not in its range, or neither True nor False.
    """
    for field in fields(options):
        value, option = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise UsageError(f"{option} {value!r} is neither True nor False")
        if field.name in ranges and not (value is None and field.default is None):
            value = ranges[field.name].validate(option, value)
            object.__setattr__(options, field.name, value)  # the dataclass is frozen
