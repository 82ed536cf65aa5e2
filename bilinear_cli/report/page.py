"""ReportData -> one page of HTML that needs nothing else: no network, no other file."""

import re
import shlex
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bilinear_cli.photos.manifest import manifest_csv
from bilinear_cli.report import plots
from bilinear_cli.report.collect import Metrics, ReportData
from bilinear_cli.report.provenance import commands, facts, typed
from bilinear_cli.report.scores import PhotoScores
from bilinear_cli.report.table import name_of, rows_of
from bilinear_cli.report.thumbnails import data_uri, thumbnails
from bilinear_cli.training.metrics import confused_pairs

MOST_PAIRS, MOST_MISTAKES = 20, 40
PHOTOS_A_SIDE = 3
LARGE = 30  # classes; the matrix of more is a picture
MOST_CSV_BYTES = 400_000  # of the set's labels


def html(found: ReportData) -> str:
    """Return the page, below 3 MB."""
    environment = Environment(
        loader=PackageLoader("bilinear_cli", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    script = Path(__file__).with_name("sort.js").read_text("utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        script=script, script_sha256=digest, **_contents(found)
    )


def breakable(text: str) -> Markup:
    """Return text as HTML that may go on in a new line after its joints, before any letter."""
    return Markup("<wbr>").join(re.findall(r".+?[_/-]+|.+", text, re.S))


def _contents(found: ReportData) -> dict[str, Any]:
    root = Path(found.metrics["extraction"].get("data_root") or ".")
    mended = shlex.quote(str(root / "mended.csv"))
    runs = [_run(name, metrics) for name, metrics in found.runs]
    pairs = _pairs(found)
    wrong = found.scored.surest(found.scored.predicted != found.scored.labels, MOST_MISTAKES)
    shown = {path for pair in pairs for path in (*pair["left"], *pair["right"])}
    shown.update(wrong.paths.tolist())
    pictures = thumbnails(root, shown)
    matrix = found.matrix[np.ix_(found.order, found.order)]
    is_large = len(matrix) > LARGE
    return {
        "table": _table(found),
        "runs": runs,
        "best": runs[found.best],
        "found": found,
        "metrics": found.metrics,
        "pairs": pairs,
        "mistakes": wrong,
        "pictures": pictures,
        "root": str(root),
        "gone": len(shown) - len(pictures),
        "mended": _mended(found.labels, wrong),
        "train_mended": f"{typed(found.metrics['command'])} --data {mended}",
        "matrix": None if is_large else matrix,
        "shares": (
            100 * np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
        ).round(),
        "matrix_plot": plots.matrix_plot(matrix) if is_large else None,
        "calibration": _calibration(found.metrics),
        "curve": _curve(found.metrics),
    }


def _table(found: ReportData) -> list[list[str]]:
    """Return the rows of the table of all runs, what a narrow screen is to show first."""
    heads, *rows = rows_of([metrics for _, metrics in found.runs])
    words, figures = slice(0, 4), slice(4, None)
    whole = [["run", "out of fold", *heads[figures], *heads[words]]]
    for (name, metrics), row in zip(found.runs, rows, strict=True):
        held_out = metrics.get("oof_top1")
        oof = "-" if held_out is None else f"{held_out:.4f}"
        whole.append([name, oof, *row[figures], *row[words]])
    return whole


def _run(name: str, metrics: Metrics) -> dict[str, Any]:
    return {
        "name": name,
        "title": f"{name_of(metrics)}, {metrics['classifier']}",
        "metrics": metrics,
        "commands": commands(metrics),
        "facts": facts(metrics),
    }


def _pairs(found: ReportData) -> list[dict[str, Any]]:
    """Return the pairs with paths: photos taken for another class, and photos of that class."""
    scored = found.judged

    def surest(label: int, predicted: int) -> list[str]:
        taken = (scored.labels == label) & (scored.predicted == predicted)
        return scored.surest(taken, PHOTOS_A_SIDE).paths.tolist()

    return [
        {
            "count": count,
            "of": int(found.matrix[true].sum()),
            "true": str(scored.class_names[true]),
            "predicted": str(scored.class_names[predicted]),
            "left": surest(true, predicted),
            "right": surest(predicted, predicted),
        }
        for count, true, predicted in confused_pairs(found.matrix, MOST_PAIRS)
    ]


def _mended(labels: list[list[str]], wrong: PhotoScores) -> str | None:
    """Return a manifest of all photos as an address, those in doubt first; None for a long one."""
    doubt = {path: i for i, path in enumerate(wrong.paths)}
    rows = sorted(labels, key=lambda row: doubt.get(row[0], len(doubt)))
    data = manifest_csv(rows).encode()
    return data_uri(data, "text/csv") if len(data) <= MOST_CSV_BYTES else None


def _calibration(metrics: Metrics) -> dict[str, Any] | None:
    figures = metrics.get("calibration")
    if not figures:
        return None
    return {**figures, "plot": plots.calibration_plot(figures["before"], figures["after"])}


def _curve(metrics: Metrics) -> dict[str, Any] | None:
    points: Sequence[dict[str, Any]] = metrics.get("curve") or []
    if len({point.get("C") for point in points}) < 2:
        return None
    chosen = (metrics["C"], metrics["label_smoothing"])
    return {"points": points, "plot": plots.curve_plot(points, chosen)}
