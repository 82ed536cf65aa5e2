"""What a source of boxes contains, in whatever format it is."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, NamedTuple

from bilinear_cli.errors import BilinearError
from bilinear_cli.photos.boxes.crops import Box

MAX_FRACTION = 1.001  # programs round


class Detection(NamedTuple):
    """A box in a source, and where it stands there."""

    box: Box
    place: str  # for messages, after the name of the photo
    exclusion: str = ""  # why it is not taken, such as `person`; empty if it is taken


class BoxSource(NamedTuple):
    """The content of a source of boxes."""

    unit: str  # `pixels` or `fractions`
    files: Collection[str]  # the photos, as the source names them
    detections: Callable[[str], Iterable[Detection]]  # of one of `files`
    failures: Collection[str] = ()  # of `files`, those that a detector could not read
    file_name: Callable[[str], str] = str  # the path of a photo -> how such a source names it
    evidence: str = ""  # that boxes are in pixels, if the format leaves it open


def make_box(values: Any, confidence: Any = 1.0) -> Box:
    """Return the box of x, y, width and height, or raise a ValueError."""
    try:
        x, y, width, height = map(float, values)
        box = Box(x, y, width, height, float(confidence))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the box {values!r:.80} with the confidence {confidence!r:.20} is not five numbers"
        ) from error
    if not all(map(isfinite, box)):
        raise ValueError(f"the box {values!r:.80} has a number that is not finite")
    if not 0 <= box.confidence <= 1:
        raise ValueError(f"the confidence {box.confidence:g} is not within 0 to 1")
    return box


def validate_fractions(values: Any) -> None:
    """Raise a ValueError if a number is above one."""
    if max(values) > MAX_FRACTION:
        raise ValueError(
            f"{max(values):g} is above 1, but the boxes of this format are fractions of the "
            "picture's width and height"
        )


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Raise a ValueError as a BilinearError that begins with a file and a place."""
    try:
        yield
    except ValueError as error:
        raise BilinearError(f"{place}: {error}") from error
