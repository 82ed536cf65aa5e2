"""Checks of the values of options: choices, numbers, flags and texts."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from math import inf
from numbers import Integral, Real
from typing import Any

from bilinear_cli.errors import UsageError
from bilinear_cli.messages import closest_match

MAX_INTEGER = 2**31 - 1  # libraries and files take no larger one
MAX_SEED = 2**32 - 1  # of NumPy's and Keras's generators


@dataclass(frozen=True)
class Range:
    """The finite numbers that an option takes."""

    kind: type[int] | type[float]
    minimum: float
    maximum: float = MAX_INTEGER
    min_open: bool = False  # the minimum itself is refused
    max_open: bool = False

    def __str__(self) -> str:
        """Return the limits, such as `from 1 to 9`, for a message."""
        low = f"{'above' if self.min_open else 'from'} {self.minimum:.10g}"
        high = f" to {'below ' * self.max_open}{self.maximum:.10g}"
        return low if self.maximum == inf else low + high

    def __contains__(self, number: float) -> bool:
        """Return whether a number is finite and within the limits."""
        low, high = self.minimum, self.maximum
        above = low < number if self.min_open else low <= number
        below = number < high if self.max_open else number <= high
        return above and below and -inf < number < inf

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
                if number in self:
                    return number
        noun = "integer" if self.kind is int else "number"
        text = "a text, and " if isinstance(value, str) else ""
        raise UsageError(f"{option} {value!r} is {text}no {noun} {self}")


POSITIVE = Range(int, 1)
SEED = Range(int, 0, MAX_SEED)
SHARE = Range(float, 0, 1)


def validate_options(options: Any, ranges: Mapping[str, Range]) -> None:
    """Check the numbers, flags and texts of a dataclass; replace NumPy's numbers by Python's.

    Args:
        options: a field is a flag if its default is True or False, and a text if its type is str.
            It may be None if its default is None.
        ranges: field -> the numbers that it takes.

    Raises:
        UsageError: a value is not in its range, neither True nor False, or no text.
    """
    for field in fields(options):
        value, option = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if value is None and field.default is None:
            continue
        if isinstance(field.default, bool) and not isinstance(value, bool):
            raise UsageError(f"{option} {value!r} is neither True nor False")
        if field.type in (str, str | None) and not isinstance(value, str):
            raise UsageError(f"{option} {value!r} is no text")
        if field.name in ranges:
            value = ranges[field.name].validate(option, value)
            object.__setattr__(options, field.name, value)  # the dataclass is frozen


def validate_choice(kind: str, value: str, choices: Collection[str]) -> str:
    """Return `value` if it is in `choices`.

    Raises:
        UsageError: it is not; the message names the most similar choice.
    """
    if isinstance(value, str) and value in choices:
        return value
    suggestion = closest_match(str(value), choices)
    hint = f"Did you mean {suggestion!r}? " if suggestion else ""
    raise UsageError(f"unknown {kind}: {value!r}. {hint}Choose from: {', '.join(choices)}")
