"""Figures of runs -> a table."""

from collections.abc import Sequence
from typing import Any

from bilinear_cli.errors import printable

COLUMNS = ("pooling", "classifier", "numbers", "bytes", "top-1", "95 %", "top-5", "s")
# Top-1 in the post that this project began with, on all 200 species of CUB-200-2011.
POSTS_LAYER, POSTS_IMAGE_SIZE, POSTS_SMOOTHING = "block5_pool", 224, 0
POSTS_TOP1 = {
    "max": "0.68-0.69",
    "sum": "0.66",
    "max+sum": "0.71",
    "bilinear": "0.77",
    "bilinear, top 20,000 by variance": "0.75",
    "maps, to 144 channels": "0.75",
    "conv5, to 144 channels": "0.75",  # as runs of older files and commands name them
}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a text table, a line a run, aligned, readable as Markdown too.

    Runs in the original post's own setting, on CUB, have its author's figures beside them.

    Args:
        results: as in `metrics.json`.
    """
    heads, *rows = rows_of(results)
    columns = []
    for i, cells in enumerate(zip(heads, *rows, strict=True)):
        width = max(map(len, cells))
        aligned = [f"{cell:<{width}}" if i < 2 else f"{cell:>{width}}" for cell in cells]
        rule = "-" * width if i < 2 else "-" * (width - 1) + ":"
        columns.append([aligned[0], rule, *aligned[1:]])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def rows_of(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the table: the heads, then a row a run; the first two are words."""
    rows = [[*COLUMNS], *[_cells(result) for result in results]]
    if results and all(map(_is_posts_setting, results)):
        rows[0].append("post, 200 species")
        for row in rows[1:]:
            row.append(POSTS_TOP1.get(row[0], "-"))
    return rows


def _is_posts_setting(result: dict[str, Any]) -> bool:
    own = [result["extraction"].get(name) for name in ("data_kind", "layer", "image_size")]
    posts = ["cub", POSTS_LAYER, POSTS_IMAGE_SIZE, POSTS_SMOOTHING]
    return [*own, result["label_smoothing"]] == posts


def name_of(result: dict[str, Any]) -> str:
    """Return what was trained on, for a table: the pooling, its selection and normalisation."""
    name = result["pooling"]
    if "channels" in result:
        name += f", to {result['channels']} channels" + (", untrained" if result["frozen"] else "")
    if result["top_variance"]:
        name += f", top {result['top_variance']:,} by variance"
    return name if result["normalize"] == "auto" else f"{name}, {result['normalize']}"


def _cells(result: dict[str, Any]) -> list[str]:
    figures = ["-", "-", "-"]
    if result["top1"] is not None:
        low, high = result["top1_ci95"]
        figures = [f"{result['top1']:.4f}", f"{low:.3f}-{high:.3f}", f"{result['top5']:.4f}"]
    return [
        name_of(result),
        result["classifier"],
        f"{result['n_features']:,}",
        f"{result['bytes']:,}",
        *figures,
        f"{result['seconds']:.1f}",
    ]


def confused(result: dict[str, Any]) -> str:
    """Return a line with the most confused pairs of a run."""
    pairs = [f"{p['true']} as {p['predicted']} ({p['count']})" for p in result["confused"][:3]]
    mean = result["mean_per_class_accuracy"]
    by_class = "" if mean is None else f", mean over classes {mean:.4f}"
    said = f"{name_of(result)}{by_class}, most confused: {', '.join(pairs) or 'none'}"
    return printable(f"{said}; run: {result['run']}")
