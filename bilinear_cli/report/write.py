"""Runs -> the text of a report: Markdown is written here, HTML in `page`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.files import atomic_write
from bilinear_cli.messages import printable
from bilinear_cli.report.data import ReportData, read_report_data
from bilinear_cli.report.text import (
    OTHER_PHOTOS,
    classifier_label,
    commands,
    features_label,
    format_rarity,
    have_same_photos,
    markdown_table,
    novelty_sentences,
    table,
)
from bilinear_cli.training.metrics import confused_pairs

FORMATS = {".html": "html", ".md": "md"}  # suffix -> format
MAX_PAIRS = 10
PAIR_HEADS = ("true class", "predicted class", "photos")
CLASS_HEADS = ("class", "photos", "accuracy")
UNUSUAL_HEADS = ("photo", "label", "prediction", "as unusual")
UNUSUAL_ADVICE = (
    "Look at these photos: a label may be wrong, a photo may be bad, or show a species that is not "
    "one of the classes."
)
CALIBRATION_HEADS = ("temperature scaling", "log loss", "Brier", "calibration error", "95 %")


def write_report(runs: Sequence[Path], path: Path, output_format: str = "") -> None:
    """Write a report of run folders to a file, in the format of its suffix by default.

    Raises:
        BilinearError: a folder is not a run, a package is missing, or the file cannot be written.
        UsageError: the suffix is not that of a format.
    """
    output_format = output_format or FORMATS.get(path.suffix.lower(), "")
    if not output_format:
        raise UsageError(
            f"{path} does not end in .html or .md: rename it, or run bilinear report with --format"
        )
    text = render(runs, output_format)
    with atomic_write(path) as new:
        new.write_text(text, encoding="utf-8", errors="replace")


def render(runs: Sequence[Path], output_format: str) -> str:
    """Return a report of run folders in an output format, `html` or `md`.

    Raises:
        BilinearError: a folder is not a run, or a package is missing.
    """
    data = read_report_data(runs)
    if output_format == "md":
        return render_markdown(data)
    try:
        from bilinear_cli.report.page import render_html
    except ImportError as error:
        raise BilinearError(
            f"an HTML page needs {error.name}, which is not installed: "
            "pip install 'bilinear-cli[report]', or run bilinear report with --format md"
        ) from error
    return render_html(data)


def render_markdown(data: ReportData) -> str:
    """Return the report as Markdown for a README, without pictures."""
    metrics, names = data.metrics, [escape_markdown(row["name"]) for row in data.classes]
    pairs = [
        (names[true], names[predicted], count)
        for count, true, predicted in confused_pairs(data.matrix, MAX_PAIRS)
    ]
    classes = [
        (escape_markdown(row["name"]), row["n_photos"], f"{row['accuracy']:.3f}")
        for row in data.hardest
        if row["n_photos"]
    ]
    best = f"The best of {len(data.runs)} runs by out-of-fold accuracy. "
    runs = [x for _, x in data.runs]
    blocks = [
        "# Report",
        table(runs, [escape_markdown(name) for name, _ in data.runs]),
        *([] if have_same_photos(runs) else [OTHER_PHOTOS]),
        f"## {escape_markdown(', '.join([features_label(metrics), classifier_label(metrics)]))}",
        f"{best if len(data.runs) > 1 else ''}Results on {data.evaluated_on}.",
        "### Most confused pairs",
        markdown_table([PAIR_HEADS, *pairs], 2) if pairs else "None.",
        "### Accuracy by class",
        markdown_table([CLASS_HEADS, *classes], 1),
        *_unusual(data),
        *_calibration(metrics.get("calibration")),
        "### How the run was made",
        "\n".join("    " + " ".join(line.split()) for line in commands(metrics)),
    ]
    return "\n\n".join(blocks) + "\n"


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, within a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>|~&$:])", r"\\\1", printable(" ".join(text.split())))


def _unusual(data: ReportData) -> list[str]:
    novelty, photos = data.metrics.get("novelty"), data.unusual
    blocks = [novelty_sentences(novelty)] if novelty else []
    if photos and len(photos.paths):
        names, rarity = data.class_names, map(format_rarity, photos.rarity)
        columns = (photos.paths, names[photos.labels], names[photos.predicted], rarity)
        rows = [map(escape_markdown, row) for row in zip(*columns, strict=True)]
        blocks += [UNUSUAL_ADVICE, markdown_table([UNUSUAL_HEADS, *map(tuple, rows)], 3)]
    return ["### Unusual photos", *blocks] if blocks else []


def _calibration(calibration: dict[str, Any] | None) -> list[str]:
    if not calibration:
        return []
    rows = [
        (
            when,
            *(f"{calibration[when][name]:.4f}" for name in ("log_loss", "brier", "ece")),
            "{:.3f}-{:.3f}".format(*calibration[when]["ece_ci95"]),
        )
        for when in ("before", "after")
    ]
    return ["### Calibration", markdown_table([CALIBRATION_HEADS, *rows], 1)]
