"""Results -> SVG pictures: narrow enough for a phone, on white, in colour-blind safe colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import matplotlib
import numpy as np
from matches import SHARES
from matplotlib import pyplot
from measure import DRAWN, PHOTOS, TOP, Trial
from vectors import BASELINE, FULL, VARIANTS

BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # palette of Okabe and Ito
STYLE: Any = {
    "figure.figsize": (4.6, 3.1),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: small files, and the reader's own fonts
    "svg.hashsalt": "why",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "errorbar.capsize": 2,
}
BARS = "95 % interval"


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw all pictures of a data set, `NAME-matches.svg` and others, into a folder."""
    matplotlib.use("Agg")
    for what, picture in PICTURES.items():
        with matplotlib.rc_context(STYLE):
            figure, axes = pyplot.subplots()
            picture(axes, results)
            figure.savefig(folder / f"{results['name']}-{what}.svg", metadata={"Date": None})
            pyplot.close(figure)


def matches(axes: Any, results: dict[str, Any]) -> None:
    """Draw the share of the similarity in the strongest matches."""
    for name, colour, line in (("bilinear", BLUE, "-"), ("sum", RED, "--")):
        low, middle, high = 100 * np.array(results["checks"]["shares"][name])
        axes.fill_between(100 * SHARES, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(100 * SHARES, middle, line, color=colour, label=name)
    axes.plot(100 * SHARES, 100 * SHARES, ":", color=GREY, label="equal matches")
    axes.axvline(1, color=GREY, linewidth=0.5)
    axes.set(xscale="log", xlabel="strongest matches, % of all pairs of locations")
    axes.set(ylabel="their share of the similarity, %", ylim=(0, 100))
    _plain_ticks(axes, [0.1, 1, 10, 100])
    axes.legend(frameon=False)


def ablation(axes: Any, results: dict[str, Any]) -> None:
    """Draw the difference between each variant and the bilinear vector."""
    full = figures.hits(results, *figures.seeds(results, FULL))
    variants = [variant for key, variant in VARIANTS.items() if key != FULL]
    axes.figure.set_size_inches(4.6, 4.4)
    for place, variant in enumerate(variants):
        of = figures.hits(results, *figures.seeds(results, variant.key))
        middle, low, high = figures.difference(of, full)
        error = [[middle - low], [high - middle]]
        axes.errorbar(middle, place, xerr=error, fmt="o", color=BLUE, markersize=4)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(variants)), [variant.says for variant in variants], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"difference in top-1 from bilinear ({BARS})", loc="right")
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x", linewidth=0.3)


def numbers(axes: Any, results: dict[str, Any]) -> None:
    """Draw accuracy against the number of entries of the bilinear matrix."""
    channels = results["made"]["map"][-1]
    full = figures.hits(results, Trial(FULL).key)
    kept = [top for top in TOP if Trial(FULL, top=top).key in results["trials"]]
    hits = [figures.hits(results, Trial(FULL, top=top).key) for top in kept]
    level = float(full.mean())
    found = [figures.difference(of, full) for of in hits]
    shifted = [tuple(level + x for x in interval) for interval in found]
    _curve(axes, [*kept, channels**2], [*shifted, (level,) * 3], BLUE, "o-", "bilinear")
    base = float(figures.hits(results, Trial(BASELINE).key).mean())
    axes.axhline(base, color=RED, linestyle="--", label=VARIANTS[BASELINE].says)
    axes.set(xscale="log", xlabel="entries with the highest variance", ylabel="top-1")
    _plain_ticks(axes, [100, 1_000, 10_000, 100_000])
    axes.legend(frameon=False, loc="lower right")


def photos(axes: Any, results: dict[str, Any]) -> None:
    """Draw accuracy against training photos per class, with an offset to avoid overlap."""
    whole = round(results["made"]["n_train"] / results["made"]["n_classes"])
    places = [n for n in PHOTOS if Trial(FULL, photos=n).key in results["trials"]]
    looks = ((BLUE, "o-", 0.96), (GREEN, "^:", 1.0), (RED, "s--", 1.04))
    for variant, (colour, line, aside) in zip(DRAWN, looks, strict=True):
        drawn = [figures.seeds(results, f"{variant}/photos{n}") for n in places]
        points = [
            figures.accuracy(figures.hits(results, *keys))
            for keys in [*drawn, [Trial(variant).key]]
        ]
        x = [aside * n for n in [*places, whole]]
        _curve(axes, x, points, colour, line, VARIANTS[variant].says)
    axes.set(xscale="log", xlabel="training photos per class", ylabel=f"top-1 ({BARS})")
    _plain_ticks(axes, [*places, whole])
    axes.figure.set_size_inches(4.6, 3.7)
    axes.figure.legend(frameon=False, loc="outside upper left")


PICTURES = {"matches": matches, "ablation": ablation, "numbers": numbers, "photos": photos}


def _curve(
    axes: Any, x: Sequence[float], points: Sequence[Any], colour: str, line: str, label: str
) -> None:
    middle, low, high = np.array(points).T
    axes.errorbar(
        x, middle, [middle - low, high - middle], fmt=line, color=colour, markersize=4, label=label
    )


def _plain_ticks(axes: Any, ticks: Sequence[float]) -> None:
    axes.set_xticks(ticks, [f"{tick:,g}" if tick < 1 else f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
