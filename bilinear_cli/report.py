"""Figures of runs -> a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilinear_cli.errors import BilinearError

COLUMNS = ("pooling", "classifier", "numbers", "bytes", "top-1", "95 %", "top-5", "s")


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a text table, a line a run, aligned, readable as Markdown too.

    Args:
        results: as in `metrics.json`.
    """
    rows = [COLUMNS, *[_cells(result) for result in results]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(_aligned(row, widths)) + " |" for row in rows]
    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def name_of(result: dict[str, Any]) -> str:
    """Return what was trained on, for a table: the pooling, its selection and normalisation."""
    name = result["pooling"]
    if result["top_variance"]:
        name += f", top {result['top_variance']:,} by variance"
    return name if result["normalize"] == "auto" else f"{name}, {result['normalize']}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


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
    return f"{name_of(result)}, most confused: {', '.join(pairs) or 'none'}; run: {result['run']}"


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the figures of a run folder.

    Raises:
        BilinearError: there are none.
    """
    try:
        return json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BilinearError(f"{run} is no run of bilinear train: {error}") from error
