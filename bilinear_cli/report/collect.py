"""Runs -> what a report says of them, whatever its form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.report.scores import (
    PhotoScores,
    by_class,
    clustered,
    judged,
    matrix_of,
    read_scored,
)
from bilinear_cli.run import read_labels, read_metrics

Metrics = dict[str, Any]


@dataclass(frozen=True)
class ReportData:
    """Several runs, one of them looked at closely.

    Attributes:
        runs: (folder's name, its `metrics.json`), in the order asked for.
        best: the number of the run that the rest is of.
        labels: path, label, split and group of each of its photos.
        scored: its photos that were scored by a fit that had not seen them.
        judged: those of them that figures are of.
        matrix: confusions, (k, k), the classes as in `scored`.
        order: of the classes, those that are confused as neighbours.
        classes: as `by_class` gives them.
    """

    runs: list[tuple[str, Metrics]]
    best: int
    labels: list[list[str]]
    scored: PhotoScores
    judged: PhotoScores
    matrix: np.ndarray
    order: np.ndarray
    classes: list[dict[str, Any]]

    @property
    def metrics(self) -> Metrics:
        """Of the run looked at closely."""
        return self.runs[self.best][1]

    @property
    def hardest(self) -> list[dict[str, Any]]:
        """The classes, the least accurate first, those without photos last."""
        return sorted(self.classes, key=lambda row: (not row["photos"], row["accuracy"]))

    @property
    def alike(self) -> bool:
        """Whether all runs' figures are of the same photos, out of as many folds."""
        photos = {
            (metrics["extraction"].get("data_sha256"), metrics["n_train"], metrics.get("folds"))
            for _, metrics in self.runs
        }
        return len(photos) == 1

    @property
    def on(self) -> str:
        """What the figures are of."""
        tested = "test" in self.judged.split
        kind = "test photos" if tested else "training photos, each by a fit that had not seen it"
        return f"{len(self.judged.labels):,} {kind}"


def find(folders: Sequence[Path]) -> ReportData:
    """Read runs, and look closely at the best by out-of-fold accuracy.

    Raises:
        BilinearError: a folder is no run, or its scores are missing or damaged.
    """
    runs = [(folder.resolve().name, read_metrics(folder)) for folder in folders]
    best = best_of([metrics for _, metrics in runs])
    labels = read_labels(folders[best])
    scored = read_scored(folders[best], runs[best][1]["temperature"])
    photos = judged(scored)
    matrix = matrix_of(photos)
    classes = by_class(matrix, scored.class_names)
    return ReportData(runs, best, labels, scored, photos, matrix, clustered(matrix), classes)


def best_of(results: Sequence[Metrics]) -> int:
    """Return the number of the best run by out-of-fold accuracy, the test photos left alone."""
    return max(range(len(results)), key=lambda i: results[i].get("oof_top1") or -1.0)
