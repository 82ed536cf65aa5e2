"""Hyper-parameters, chosen on folds of the training photos."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from bilinear_cli.errors import BilinearError, abbreviate
from bilinear_cli.training.metrics import average_views, log_loss, top1
from bilinear_cli.training.rows import Rows

log = logging.getLogger(__name__)

DECADES = range(-3, 9)  # of C, in units of one over the features' mean square
PATIENCE = 2  # decades that together must gain something for the climb to go on, from 0 on
GAIN = 0.5  # of a standard error of the accuracy


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and on what grounds.

    Attributes:
        label_smoothing: of the targets.
        C: weight of the losses, or None.
        epochs: to train for, or None.
        rows: the rows that were scored by fits that had not seen them.
        scores: theirs, (rows, classes).
        curve: a point for each setting tried: the settings, `top1`, `log_loss`.
        folds: how many were held out in turn.
        solver: `gram` or `stream`, or None.
    """

    label_smoothing: float
    C: float | None
    epochs: int | None
    rows: Rows
    scores: np.ndarray
    curve: Sequence[dict[str, Any]]
    folds: int = 0
    solver: str | None = None

    def report(self) -> dict[str, Any]:
        """Return it for `metrics.json`; None for the figures if nothing was held out."""
        best = max(self.curve, key=_merit) if self.curve else {"top1": None, "log_loss": None}
        return {
            "C": self.C,
            "label_smoothing": self.label_smoothing,
            "epochs": self.epochs,
            "folds": self.folds,
            "solver": self.solver,
            "oof_top1": best["top1"],
            "oof_log_loss": best["log_loss"],
            "curve": self.curve,
        }


def folds(rows: Rows, n_folds: int, seed: int) -> list[np.ndarray]:
    """Return the indices of the validation rows of each fold: stratified by class, groups whole.

    Args:
        rows: the training rows.
        n_folds: how many; fewer if no class has so many groups.
        seed: of the shuffle.

    Raises:
        BilinearError: no class has two groups.
    """
    labels, group = rows.labels, rows.group
    groups_of = np.array([len(np.unique(group[labels == k])) for k in np.unique(labels)])
    if groups_of.max() < 2:
        raise BilinearError(
            "no class has two training photos, or groups, to choose settings by: add photos, or "
            "give softmax, svm or ridge their -C, and softmax --label-smoothing"
        )
    if groups_of.max() < n_folds:
        n_folds = int(groups_of.max())
        log.info("%d folds: no class has more training photos, or groups", n_folds)
    elif groups_of.min() < n_folds:
        few = abbreviate(rows.class_names[np.unique(labels)[groups_of < n_folds]])
        log.info("held out in some of the %d folds alone, as they have fewer: %s", n_folds, few)
    alone = len(np.unique(group)) == len(group)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
        n_folds, shuffle=True, random_state=seed
    )
    with warnings.catch_warnings():  # of what has just been said
        warnings.simplefilter("ignore", UserWarning)
        split = splitter.split(labels, labels, None if alone else group)
        return [val_indices for _, val_indices in split]


def choose(
    rows: Rows,
    val_folds: Sequence[np.ndarray],
    smoothings: Sequence[float],
    trials: Callable[[float], Iterator[tuple[dict[str, Any], np.ndarray]]],
) -> Tuning:
    """Try settings, and choose by accuracy, then by log loss.

    Args:
        rows: the training rows.
        val_folds: indices of the validation rows of each fold, of which the scores are.
        smoothings: of the labels, each tried.
        trials: smoothing -> (settings, scores (rows, classes) of the validation rows), one by one;
            they are ended when an ascending C brings hardly more.
    """
    scored = np.sort(np.concatenate(val_folds))
    theirs = rows.take(scored)
    first = average_views(theirs.photo, np.zeros((len(scored), 1)))[0]
    curve, kept = [], {}
    for smoothing in smoothings:
        points: list[dict[str, Any]] = []
        for settings, scores in trials(smoothing):
            mean = average_views(theirs.photo, scores[scored])[1]
            labels = theirs.labels[first]
            figures = {"top1": top1(mean, labels), "log_loss": log_loss(mean, labels)}
            points.append({"label_smoothing": smoothing, **settings, **figures})
            log.info("%s: %.4f", _said(points[-1]), figures["top1"])
            if points[-1] is max(points, key=_merit):
                kept[smoothing] = scores[scored]
            if _climbed(points, len(first)):
                break
        curve += points
    best = max(curve, key=_merit)
    chosen = (best["label_smoothing"], best.get("C"), best.get("epochs"))
    return Tuning(*chosen, theirs, kept[best["label_smoothing"]], curve, len(val_folds))


def _said(point: dict[str, Any]) -> str:
    names = {"C": "C", "epochs": "epochs", "label_smoothing": "smoothing"}
    return ", ".join(f"{said} {point[name]:g}" for name, said in names.items() if name in point)


def _climbed(points: Sequence[dict[str, Any]], n_photos: int) -> bool:
    """Say whether the last points, beyond decade 0, are hardly better than those before them."""
    top1s = [point["top1"] for point in points]
    if DECADES[0] + len(points) <= PATIENCE:
        return False
    before = max(top1s[:-PATIENCE])
    standard_error = np.sqrt(before * (1 - before) / n_photos)
    return max(top1s[-PATIENCE:]) - before <= GAIN * standard_error


def _merit(point: dict[str, Any]) -> tuple[float, float]:
    """Rank by accuracy, and by log loss among equals."""
    return point["top1"], -point["log_loss"]


def grid(mean_square: float) -> list[float]:
    """Return the C to try, ascending, to three digits.

    Args:
        mean_square: the features' mean squared norm.
    """
    return [float(f"{10.0**decade / mean_square:.3g}") for decade in DECADES]


def warm_start(C: float) -> list[float]:
    """Return smaller C, each quickly fitted from the ones before, and C."""
    return [C / 10.0**decades for decades in (4, 3, 2, 1, 0)]
