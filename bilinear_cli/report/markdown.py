"""ReportData -> Markdown for a README: what can be said without pictures."""

import re
from collections.abc import Sequence
from typing import Any

from bilinear_cli.errors import printable
from bilinear_cli.report.collect import ReportData
from bilinear_cli.report.provenance import commands
from bilinear_cli.report.table import name_of, table
from bilinear_cli.training.metrics import confused_pairs

MOST_PAIRS = 10


def markdown(found: ReportData) -> str:
    """Return the report."""
    metrics, names = found.metrics, [plain(row["name"]) for row in found.classes]
    pairs = [
        (names[true], names[predicted], count)
        for count, true, predicted in confused_pairs(found.matrix, MOST_PAIRS)
    ]
    classes = [
        (plain(row["name"]), row["photos"], f"{row['accuracy']:.3f}")
        for row in found.hardest
        if row["photos"]
    ]
    parts = [
        "# Report",
        table([result for _, result in found.runs]),
        f"## {plain(name_of(metrics))}, {plain(metrics['classifier'])}",
        f"The best of {len(found.runs)} by out-of-fold accuracy, on {found.on}."
        if len(found.runs) > 1
        else f"On {found.on}.",
        "### Most confused",
        _rows(["class", "taken for", "photos"], pairs, 2) if pairs else "None.",
        "### Accuracy by class",
        _rows(["class", "photos", "accuracy"], classes, 1),
        *_calibration(metrics.get("calibration")),
        "### How it was made",
        "\n".join("    " + " ".join(line.split()) for line in commands(metrics)),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return text of strangers that Markdown shows as it is, within a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~&$:])", r"\\\1", printable(" ".join(text.split())))


def _rows(heads: Sequence[str], rows: Sequence[Sequence[Any]], words: int) -> str:
    """Return a table whose first `words` columns are words, and the others numbers."""
    rule = ["---" if i < words else "---:" for i in range(len(heads))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [heads, rule, *rows])


def _calibration(figures: dict[str, Any] | None) -> list[str]:
    if not figures:
        return []
    rows = [
        (
            when,
            *(f"{figures[when][name]:.4f}" for name in ("log_loss", "brier", "ece")),
            "{:.3f}-{:.3f}".format(*figures[when]["ece_ci95"]),
        )
        for when in ("before", "after")
    ]
    heads = ["temperature", "log loss", "Brier", "calibration error", "95 %"]
    return ["### Calibration", _rows(heads, rows, 1)]
