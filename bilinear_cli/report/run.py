"""A run folder -> its figures, and the labels of its photos."""

import csv
import json
from pathlib import Path
from typing import Any

from bilinear_cli.errors import BilinearError, nearest

NEEDED = (  # of a run's figures, by what shows them
    *("pooling", "classifier", "normalize", "top_variance", "label_smoothing", "n_features"),
    *("bytes", "seconds", "top1", "top5", "mean_per_class_accuracy", "confused", "extraction"),
    *("n_train", "n_test", "n_classes", "run"),
)


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the figures of a run folder.

    Raises:
        BilinearError: there are none.
    """
    no_run = f"{run} is no run of bilinear train"
    try:
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except OSError as error:
        there = [path.parent.name for path in run.parent.glob("*/metrics.json")]
        hint = f" (did you mean {run.parent / near}?)" if (near := nearest(run.name, there)) else ""
        raise BilinearError(f"{no_run}: its metrics.json: {error.strerror}{hint}") from error
    except ValueError as error:
        raise BilinearError(f"{no_run}: its metrics.json: {error}") from error
    if not isinstance(metrics, dict):
        raise BilinearError(f"{no_run}: its metrics.json is another's")
    if lacking := sorted(set(NEEDED) - metrics.keys()):
        raise BilinearError(f"{no_run}: its metrics.json lacks {lacking[0]}")
    return metrics


def read_labels(run: Path) -> list[list[str]]:
    """Read path, label, split and group of every photo of a run.

    Raises:
        BilinearError: they are missing.
    """
    try:
        with (run / "labels.csv").open(encoding="utf-8", newline="") as f:
            return [*csv.reader(f)][1:]
    except (OSError, ValueError, csv.Error) as error:
        raise BilinearError(f"{run} is no whole run: {error}: train again") from error
