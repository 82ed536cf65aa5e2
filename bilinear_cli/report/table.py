"""Figures of runs -> a table."""

from collections.abc import Sequence
from typing import Any

from bilinear_cli.errors import printable

COLUMNS = ("pooling", "classifier", "numbers", "bytes", "top-1", "95 %", "top-5", "s")
# The original post's options, and its top-1 on all 200 species of CUB-200-2011.
POST_OPTIONS = {"data_kind": "cub", "layer": "block5_pool", "image_size": 224}
POST_TOP1 = {
    "max": "0.68-0.69",
    "sum": "0.66",
    "max+sum": "0.71",
    "bilinear": "0.77",
    "bilinear, top 20,000 by variance": "0.75",
    "maps, to 144 channels": "0.75",
    "conv5, to 144 channels": "0.75",  # the name in runs of older files
}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a text table of runs, given `metrics.json` of each, which is Markdown too.

    If all runs have the original post's options on CUB, its figures are a column.
    """
    return markdown_table(table_rows(results), n_texts=2)


def markdown_table(rows: Sequence[Sequence[Any]], n_texts: int) -> str:
    """Return rows as an aligned table; the first row has the heads, `n_texts` columns are texts."""
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        head, *cells = map(str, column)
        width, align = max(map(len, [head, "---", *cells])), "<" if i < n_texts else ">"
        rule = "-" * width if i < n_texts else "-" * (width - 1) + ":"
        columns.append([f"{cell:{align}{width}}" for cell in (head, rule, *cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in zip(*columns, strict=True))


def table_rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the heads of the table, then the cells of each run; two columns are texts."""
    rows = [[*COLUMNS], *map(_cells, results)]
    if results and all(map(_has_post_options, results)):
        rows[0].append("post, 200 species")
        for row in rows[1:]:
            row.append(POST_TOP1.get(row[0], "-"))
    return rows


def _has_post_options(result: dict[str, Any]) -> bool:
    is_equal = POST_OPTIONS.items() <= result["extraction"].items()
    return is_equal and result["label_smoothing"] == 0


def _cells(result: dict[str, Any]) -> list[str]:
    accuracy = ["-", "-", "-"]
    if result["top1"] is not None:
        low, high = result["top1_ci95"]
        accuracy = [f"{result['top1']:.4f}", f"{low:.3f}-{high:.3f}", f"{result['top5']:.4f}"]
    return [
        name_of(result),
        result["classifier"],
        f"{result['n_features']:,}",
        f"{result['bytes']:,}",
        *accuracy,
        f"{result['seconds']:.1f}",
    ]


def name_of(result: dict[str, Any]) -> str:
    """Return the features of a run: the pooling, its selection and its normalisation."""
    name = result["pooling"]
    if "channels" in result:
        name += f", to {result['channels']} channels" + (", untrained" if result["frozen"] else "")
    if result["top_variance"]:
        name += f", top {result['top_variance']:,} by variance"
    return name if result["normalize"] == "auto" else f"{name}, {result['normalize']}"


def confused(result: dict[str, Any]) -> str:
    """Return a line with the most confused pairs of a run."""
    pairs = [f"{p['true']} as {p['predicted']} ({p['count']})" for p in result["confused"][:3]]
    mean = result["mean_per_class_accuracy"]
    by_class = "" if mean is None else f", mean over classes {mean:.4f}"
    line = f"{name_of(result)}{by_class}, most confused: {', '.join(pairs) or 'none'}"
    return printable(f"{line}; run: {result['run']}")
