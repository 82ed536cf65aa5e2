"""Results -> SVG pictures: narrow enough for a phone, on white, in colour-blind safe colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import matplotlib
import numpy as np
from figures import Results
from matches import SHARES
from matplotlib import pyplot
from measure import PHOTOS_PER_CLASS, SUBSAMPLED_VARIANTS, TOP_ENTRIES
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


def draw(results: Results, folder: Path) -> None:
    """Draw all pictures of a data set, `NAME-matches.svg` and others, into a folder."""
    matplotlib.use("Agg")
    for name, picture in PICTURES.items():
        with matplotlib.rc_context(STYLE):
            figure, axes = pyplot.subplots()
            picture(axes, results)
            figure.savefig(folder / f"{results['name']}-{name}.svg", metadata={"Date": None})
            pyplot.close(figure)


def matches(axes: Any, results: Results) -> None:
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


def ablation(axes: Any, results: Results) -> None:
    """Draw the difference between each variant and the bilinear vector."""
    full = figures.hits(results, FULL)
    variants = [variant for key, variant in VARIANTS.items() if key != FULL]
    axes.figure.set_size_inches(4.6, 4.4)
    for y, variant in enumerate(variants):
        middle, low, high = figures.difference(figures.hits(results, variant.key), full)
        error = [[middle - low], [high - middle]]
        axes.errorbar(middle, y, xerr=error, fmt="o", color=BLUE, markersize=4)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(variants)), [variant.label for variant in variants], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"difference in top-1 from bilinear ({BARS})", loc="right")
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="x", linewidth=0.3)


def numbers(axes: Any, results: Results) -> None:
    """Draw accuracy against the number of entries of the bilinear matrix."""
    full, baseline = (figures.hits(results, key) for key in (FULL, BASELINE))
    tops = [top for top in TOP_ENTRIES if figures.trials(results, f"{FULL}/top{top}")]
    hits = [figures.hits(results, f"{FULL}/top{top}") for top in tops]
    top1 = float(full.mean())
    points = [top1 + np.array(figures.difference(x, full)) for x in hits]
    n_entries = results["made"]["map"][-1] ** 2
    _curve(axes, [*tops, n_entries], [*points, [top1] * 3], BLUE, "o-", "bilinear")
    axes.axhline(baseline.mean(), color=RED, linestyle="--", label=VARIANTS[BASELINE].label)
    axes.set(xscale="log", xlabel="entries with the highest variance", ylabel="top-1")
    _plain_ticks(axes, [100, 1_000, 10_000, 100_000])
    axes.legend(frameon=False, loc="lower right")


def photos(axes: Any, results: Results) -> None:
    """Draw accuracy against training photos per class, with an offset to avoid overlap."""
    counts = [n for n in PHOTOS_PER_CLASS if figures.trials(results, f"{FULL}/photos{n}")]
    mean_count = round(results["made"]["n_train"] / results["made"]["n_classes"])
    styles = ((BLUE, "o-", 0.96), (GREEN, "^:", 1.0), (RED, "s--", 1.04))
    for key, (colour, line, offset) in zip(SUBSAMPLED_VARIANTS, styles, strict=True):
        prefixes = [*(f"{key}/photos{n}" for n in counts), key]
        points = [figures.accuracy(figures.hits(results, prefix)) for prefix in prefixes]
        x = [offset * n for n in [*counts, mean_count]]
        _curve(axes, x, points, colour, line, VARIANTS[key].label)
    axes.set(xscale="log", xlabel="training photos per class", ylabel=f"top-1 ({BARS})")
    _plain_ticks(axes, [*counts, mean_count])
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
