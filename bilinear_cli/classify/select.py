"""Hyper-parameters, chosen on folds of the training photos; then one fit on all of them."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from bilinear_cli.classify.classifiers import Linear, fit_mlp, fit_softmax, one_hot
from bilinear_cli.classify.gram import Coordinates
from bilinear_cli.classify.metrics import by_photo, log_loss, top1
from bilinear_cli.classify.rows import Rows
from bilinear_cli.errors import BilinearError, UsageError

log = logging.getLogger(__name__)

N_FOLDS = 5
GRID_DECADES = (-2, 5)  # of C, in units of one over the features' mean square
MOST_EXTRA_DECADES = 3  # beyond either end
SMOOTHING = (0.0, 0.1)
FOLD_TOLERANCE = 1e-6  # leaves the objective within 1e-5 of its optimum


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        classifier: `softmax` or `mlp`.
        normalize: one of `inputs.NORMALIZE`.
        top_variance: how many entries of highest variance to keep; None for all.
        C: weight of the losses; None: chosen by cross-validation.
        label_smoothing: likewise.
        min_photos: classes with fewer photos are left out.
        seed: of the folds, and of the mlp.
        hidden: units of the mlp.
        dropout: share of the mlp's hidden units that are left out at a time.
    """

    classifier: str = "softmax"
    normalize: str = "auto"
    top_variance: int | None = None
    C: float | None = None
    label_smoothing: float | None = None
    min_photos: int = 2
    seed: int = 0
    hidden: int = 256
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Raise UsageError if C or the smoothing is out of range."""
        if self.C is not None and not 0 < self.C < np.inf:
            raise UsageError(f"-C {self.C} is not above zero, or not a number")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing {self.label_smoothing} is not from 0 to below 1")


@dataclass(frozen=True)
class Fit:
    """What was fitted, in the coordinates of `gram.py`, and how it was chosen.

    Attributes:
        first: weights (r, k).
        second: an mlp's second layer, or None.
        oof_rows: rows that were scored by a fit that had not seen them.
        oof: their scores (rows, classes).
        report: for `metrics.json`.
    """

    first: Linear
    second: Linear | None
    oof_rows: Rows
    oof: np.ndarray
    report: dict[str, Any]


def fit_chosen(reduced: Coordinates, rows: Rows, options: Options) -> Fit:
    """Choose what the options leave open, and fit on all training rows.

    Args:
        reduced: the training rows.
        rows: what is known of them.
        options: of `train`.

    Raises:
        BilinearError: there is nothing to validate on.
    """
    fit = {"softmax": _choose_softmax, "mlp": _choose_mlp}[options.classifier]
    return fit(reduced, rows, options)


def folds(labels: np.ndarray, group: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the held-out rows of each fold: stratified by class, groups whole.

    Args:
        labels: int (rows,).
        group: str (rows,).
        seed: of the shuffle.

    Raises:
        BilinearError: no class has two groups.
    """
    groups_of = [len(np.unique(group[labels == label])) for label in np.unique(labels)]
    n_folds = min(N_FOLDS, max(groups_of))
    if n_folds < 2:
        raise BilinearError("no class has two training photos, or groups, for cross-validation")
    alone = len(np.unique(group)) == len(group)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(
        n_folds, shuffle=True, random_state=seed
    )
    groups = None if alone else group
    with warnings.catch_warnings():  # of a class with fewer groups than there are folds
        warnings.simplefilter("ignore", UserWarning)
        return [held_out for _, held_out in splitter.split(labels, labels, groups)]


def _smoothings(options: Options) -> Sequence[float]:
    return SMOOTHING if options.label_smoothing is None else (options.label_smoothing,)


def _out_of_fold(rows: Rows, scores: np.ndarray) -> dict[str, Any]:
    """Return a point of the curve: how well these scores do, and the scores."""
    first, mean = by_photo(rows.photo, scores)
    labels = rows.labels[first]
    return {"top1": top1(mean, labels), "log_loss": log_loss(mean, labels), "scores": scores}


def _merit(point: dict[str, Any]) -> tuple[float, float]:
    """Rank by accuracy, and by log loss among equals."""
    return point["top1"], -point["log_loss"]


def _report(best: dict[str, Any], curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    points = [{k: v for k, v in point.items() if k != "scores"} for point in curve]
    return {
        "label_smoothing": best["label_smoothing"],
        "oof_top1": best["top1"],
        "oof_log_loss": best["log_loss"],
        "curve": points,
    }


# Softmax ----------------------------------------------------------------------------------


def _choose_softmax(reduced: Coordinates, rows: Rows, options: Options) -> Fit:
    """Choose the smoothing and C on folds; then fit on all rows."""
    held_out = folds(rows.labels, rows.group, options.seed)
    curve = [
        point
        for smoothing in _smoothings(options)
        for point in _curve(reduced, rows, held_out, smoothing, options.C)
    ]
    best = max(curve, key=_merit)
    targets = one_hot(rows.labels, len(rows.class_names), best["label_smoothing"])
    linear = None
    for decade in (-2, -1, 0):  # by way of smaller C, which is quicker
        linear = fit_softmax(reduced.z, targets, best["C"] * 10.0**decade, reduced.variance, linear)
    assert linear is not None
    return Fit(linear, None, rows, best["scores"], {**_report(best, curve), "C": best["C"]})


def _curve(
    reduced: Coordinates,
    rows: Rows,
    held_out: list[np.ndarray],
    smoothing: float,
    C: float | None,
) -> list[dict[str, Any]]:
    """Return out-of-fold figures at C, or along a grid that grows while the best is at an end."""
    targets = one_hot(rows.labels, len(rows.class_names), smoothing)
    cold: list[Linear | None] = [None] * len(held_out)

    def point(C: float, starts: list[Linear | None]) -> tuple[dict[str, Any], list[Linear | None]]:
        scores, models = _fit_folds(reduced, targets, held_out, C, starts)
        found = {"C": C, "label_smoothing": smoothing} | _out_of_fold(rows, scores)
        log.info("C %g, smoothing %g: %.4f out of fold", C, smoothing, found["top1"])
        return found, models

    if C is not None:
        return [point(C, cold)[0]]
    low, high = GRID_DECADES
    curve, models = [], cold
    for decade in range(low, high + 1):
        found, models = point(_grid(decade, reduced), models)
        curve.append(found)
    for _ in range(MOST_EXTRA_DECADES):
        best = max(range(len(curve)), key=lambda i: _merit(curve[i]))
        if best == 0:
            low -= 1
            curve = [point(_grid(low, reduced), cold)[0], *curve]
        elif best == len(curve) - 1:
            high += 1
            found, models = point(_grid(high, reduced), models)
            curve.append(found)
    best = max(range(len(curve)), key=lambda i: _merit(curve[i]))
    if best in (0, len(curve) - 1):
        log.warning("the best C, %g, is at an end of the grid", curve[best]["C"])
    return curve


def _grid(decade: int, reduced: Coordinates) -> float:
    """Return a C in units of one over the features' mean square, to three digits."""
    return float(f"{10.0**decade / reduced.mean_square:.3g}")


def _fit_folds(
    reduced: Coordinates,
    targets: np.ndarray,
    held_out: list[np.ndarray],
    C: float,
    starts: list[Linear | None],
) -> tuple[np.ndarray, list[Linear | None]]:
    """Return out-of-fold scores (rows, classes), and the fits, each begun at its start."""
    scores = np.empty(targets.shape, np.float32)
    models: list[Linear | None] = []
    for fold, start in zip(held_out, starts, strict=True):
        seen = np.setdiff1d(np.arange(len(targets)), fold)
        variance = reduced.variance * len(seen) / len(targets)
        model = fit_softmax(reduced.z[seen], targets[seen], C, variance, start, FOLD_TOLERANCE)
        scores[fold] = model(reduced.z[fold])
        models.append(model)
    return scores, models


# MLP --------------------------------------------------------------------------------------


def _choose_mlp(reduced: Coordinates, rows: Rows, options: Options) -> Fit:
    """Choose the smoothing and the epochs on one fold; then train on all rows for as long."""
    held_out = folds(rows.labels, rows.group, options.seed)[0]
    seen = np.setdiff1d(np.arange(len(rows.labels)), held_out)
    fit = partial(fit_mlp, hidden=options.hidden, dropout=options.dropout, seed=options.seed)
    curve = []
    for smoothing in _smoothings(options):
        targets = one_hot(rows.labels, len(rows.class_names), smoothing)
        stop_on = reduced.z[held_out], targets[held_out]
        mlp = fit(reduced.z[seen], targets[seen], stop_on=stop_on)
        point = {"label_smoothing": smoothing, "epochs": mlp.epochs}
        curve.append(point | _out_of_fold(rows.take(held_out), mlp(reduced.z[held_out])))
    best = max(curve, key=_merit)
    targets = one_hot(rows.labels, len(rows.class_names), best["label_smoothing"])
    mlp = fit(reduced.z, targets, epochs=best["epochs"])
    report = {**_report(best, curve), "C": None, "epochs": best["epochs"]}
    report |= {"hidden": options.hidden, "dropout": options.dropout}
    return Fit(mlp.first, mlp.second, rows.take(held_out), best["scores"], report)
