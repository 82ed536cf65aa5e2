"""How a photo is cropped and resized, as the texts that feature files store."""

import re
from typing import NamedTuple

PROCESSOR = "processor"  # resize as the publisher of an ONNX network does
PROCESSOR_RESIZE = re.compile(
    PROCESSOR + r": (shortest|both) ([1-9][0-9]{0,4}), crop ([1-9][0-9]{0,4}), ([a-z]+)"
)
CROP = re.compile(r"(all|largest|most-confident), margin ([0-9]+(?:\.[0-9]+)?), (pixels|fractions)")
MAX_MARGIN = 10.0
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
MAX_EDGE_RATIO = 4  # of the edge to the crop; more would only take memory


def processor_resize(keeps_ratio: bool, edge: int, size: int, filter_name: str) -> str:
    """Return the text of a geometry: resize the shortest edge, or both; then crop the centre."""
    sides = "shortest" if keeps_ratio else "both"
    return f"{PROCESSOR}: {sides} {edge}, crop {size}, {filter_name}"


class ProcessorResize(NamedTuple):
    """The arguments of `processor_resize`."""

    keeps_ratio: bool
    edge: int
    size: int
    filter_name: str


def parse_processor_resize(text: str) -> ProcessorResize | None:
    """Return the arguments that gave a text of `processor_resize`, or None if it is none."""
    match = PROCESSOR_RESIZE.fullmatch(text)
    if not match:
        return None
    sides, edge, size, filter_name = match.groups()
    resize = ProcessorResize(sides == "shortest", int(edge), int(size), filter_name)
    is_valid = resize.size <= resize.edge <= MAX_EDGE_RATIO * resize.size
    return resize if is_valid and filter_name in FILTERS else None


class CropOptions(NamedTuple):
    """How photos are cropped to boxes: of which boxes, with which margin, in which unit."""

    choice: str  # `all`, `largest` or `most-confident`
    margin: float  # of the box's width and height, on each side
    unit: str  # `pixels` or `fractions`

    def __str__(self) -> str:
        """Return the text of a feature file."""
        margin = f"{self.margin:.4f}".rstrip("0").rstrip(".")
        return f"{self.choice}, margin {margin}, {self.unit}"


def parse_crop(text: str) -> CropOptions | None:
    """Return the options of a text; None for an empty text. Raise a ValueError for others."""
    if not text:
        return None
    match = CROP.fullmatch(text)
    if not match or float(match[2]) > MAX_MARGIN:
        raise ValueError(f"crop is {text!r}")
    return CropOptions(match[1], float(match[2]), match[3])
