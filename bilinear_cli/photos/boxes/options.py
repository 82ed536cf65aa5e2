"""The options of crops, without the libraries that reading photos needs."""

from dataclasses import dataclass, fields
from typing import Any

from bilinear_cli.errors import UsageError
from bilinear_cli.recipe import MAX_MARGIN
from bilinear_cli.validation import SHARE, Range, validate_choice, validate_options

CHOICES = ("all", "largest", "most-confident")  # of the boxes of a photo
NO_BOX = ("whole", "skip", "stop")  # what happens to a photo without a box
RANGES = {"margin": Range(float, 0, MAX_MARGIN), "min_confidence": SHARE}


@dataclass(frozen=True)
class BoxOptions:
    """Which boxes crop photos; see the help of `bilinear extract` for each."""

    source: str
    box: str = "all"
    margin: float = 0.1
    no_box: str = "whole"
    min_confidence: float = 0.2

    def __post_init__(self) -> None:
        """Raise a UsageError if an option has no valid value."""
        if not self.source:
            raise UsageError("--boxes has no value: give a source of boxes")
        validate_choice("--box", self.box, CHOICES)
        validate_choice("--no-box", self.no_box, NO_BOX)
        validate_options(self, RANGES)


def box_options(source: str | None, **options: Any) -> BoxOptions | None:
    """Return the options of crops, or None without a source of boxes.

    Raises:
        UsageError: an option has no valid value, or it is not the default without a source.
    """
    if source is not None:
        return BoxOptions(source, **options)
    for field in fields(BoxOptions)[1:]:
        if options.get(field.name, field.default) != field.default:
            name = field.name.replace("_", "-")
            raise UsageError(f"--{name} has no effect without --boxes. Remove it.")
    return None
