"""Figures -> SVG drawings within a page, in the page's own colours, light or dark."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.preprocessing import normalize

# Placeholders for colours of the style sheet. Nothing else is drawn in these colours.
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
# Parts that only an SVG file needs, and ids of groups, which are the same in all drawings.
FILE_ONLY = re.compile(
    r'^.*?(?=<svg)|<(metadata|style)\b.*?</\1>| xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', re.DOTALL
)
WIDTH = 5.0  # inches
RIGHT, WRONG = (0.17, 0.52, 0.85), (0.93, 0.42, 0.0)  # visible on light and on dark paper
MIN_OPACITY = 0.4  # a single photo stays visible


@matplotlib.rc_context(STYLE)
def calibration_plot(calibration: dict[str, Any]) -> str:
    """Draw the accuracy against the probability, before and after temperature scaling."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for when, colour, marker in (("before", BEFORE, "s--"), ("after", AFTER, "o-")):
        bins = calibration[when]["bins"]
        x, y = ([point[name] for point in bins] for name in ("confidence", "accuracy"))
        axes.plot(x, y, marker, color=colour, label=when, markersize=4)
    axes.set(xlabel="probability of the predicted class", ylabel="accuracy")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="best")
    return _svg(figure, "calibration")


@matplotlib.rc_context(STYLE)
def curve_plot(curve: Sequence[dict[str, Any]], chosen: tuple[float, float]) -> str:
    """Draw the out-of-fold accuracy of the points against C, a line per label smoothing.

    A circle marks the point of `chosen`: the C and the label smoothing of the run.
    """
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
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
    return _svg(figure, "curve")


@matplotlib.rc_context(STYLE)
def matrix_plot(matrix: np.ndarray) -> str:
    """Draw a large confusion matrix (k, k): correct in blue, errors in orange, by their share."""
    k = len(matrix)
    opacity = MIN_OPACITY + (1 - MIN_OPACITY) * np.sqrt(normalize(matrix, "l1"))
    pixels = np.zeros((k, k, 4))
    pixels[..., :3] = np.where(np.eye(k, dtype=bool)[..., None], RIGHT, WRONG)
    pixels[..., 3] = np.where(matrix > 0, opacity, 0)
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(pixels, interpolation="none", extent=(0.5, k + 0.5, k + 0.5, 0.5))
    axes.set(xlabel="number of the predicted class", ylabel="number of the true class")
    return _svg(figure, "matrix")


def _svg(figure: Figure, name: str) -> str:
    """Return a drawing as an HTML element; ids of drawings with different names differ."""
    svg = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    text = FILE_ONLY.sub("", svg.getvalue())
    for placeholder, colour in COLOURS.items():
        text = text.replace(placeholder, colour)
    return text.replace("<svg", '<svg aria-hidden="true"', 1)
