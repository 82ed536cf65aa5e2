"""Figures -> drawings within a page, SVG, in the page's own colours, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for those of the style sheet, and are not otherwise drawn with.
INK, BEFORE, AFTER = "#010203", "#010204", "#010205"
COLOURS = {INK: "currentColor", BEFORE: "var(--wrong)", AFTER: "var(--right)"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}
# What only a file of its own needs; ids of groups would stand in a page once a drawing.
FILE_ONLY = re.compile(
    r'^.*?(?=<svg)|<(metadata|style)\b.*?</\1>| xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', re.DOTALL
)
WIDTH = 5.0  # inches
RIGHT, WRONG = (0.17, 0.52, 0.85), (0.93, 0.42, 0.0)  # on light paper and on dark
FAINTEST = 0.4  # opacity


def calibration_plot(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Draw the share that is right against the probability, before and after the temperature."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        for name, found, colour, marker in (
            ("before", before, BEFORE, "s--"),
            ("after", after, AFTER, "o-"),
        ):
            x = [point["confidence"] for point in found["bins"]]
            y = [point["accuracy"] for point in found["bins"]]
            axes.plot(x, y, marker, color=colour, label=name, markersize=4)
        axes.set(xlabel="probability of the likeliest class", ylabel="share that is right")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(frameon=False, loc="best")

    return _svg("calibration", draw, 4.2)


def curve_plot(curve: Sequence[dict[str, Any]], chosen: tuple[float, float]) -> str:
    """Draw the out-of-fold accuracy against C, a line for each label smoothing.

    Args:
        curve: points with `C`, `label_smoothing`, `top1`.
        chosen: the C and the label smoothing that were taken.
    """

    def draw(axes: Axes) -> None:
        smoothings = sorted({point["label_smoothing"] for point in curve})
        for smoothing, colour, marker in zip(smoothings, (AFTER, BEFORE), ("o-", "s--")):  # noqa: B905
            points = [p for p in curve if p["label_smoothing"] == smoothing]
            x, y = [p["C"] for p in points], [p["top1"] for p in points]
            axes.plot(x, y, marker, color=colour, label=f"label smoothing {smoothing:g}")
        best = [p["top1"] for p in curve if (p["C"], p["label_smoothing"]) == chosen]
        axes.plot([chosen[0]] * len(best), best, "o", color=INK, fillstyle="none", markersize=12)
        axes.set(xscale="log", xlabel="C", ylabel="out-of-fold accuracy")
        if len(smoothings) > 1:
            axes.legend(frameon=False)

    return _svg("curve", draw, 3.2)


def matrix_plot(matrix: np.ndarray) -> str:
    """Draw a large confusion matrix: right in blue, wrong in orange, the fuller the more.

    Args:
        matrix: (k, k) counts, in the order they are to stand in.
    """
    k = len(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((k, k, 4))
    pixels[..., :3] = np.where(np.eye(k, dtype=bool)[..., None], RIGHT, WRONG)
    # a single photo is to be seen
    pixels[..., 3] = np.where(matrix > 0, FAINTEST + (1 - FAINTEST) * np.sqrt(share), 0)

    def draw(axes: Axes) -> None:
        axes.imshow(pixels, interpolation="none", extent=(0.5, k + 0.5, k + 0.5, 0.5))
        axes.set(xlabel="taken for class number", ylabel="class number")

    return _svg("matrix", draw, WIDTH)


def _svg(name: str, draw: Callable[[Axes], None], height: float) -> str:
    """Return a drawing as an element of HTML; other names make other ids."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = FILE_ONLY.sub("", out.getvalue())
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return text.replace("<svg", '<svg aria-hidden="true"', 1)
