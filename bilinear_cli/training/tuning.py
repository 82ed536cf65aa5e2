"""The choice of hyper-parameters by cross-validation inside the training rows."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import abbreviate
from bilinear_cli.training.metrics import average_views, log_loss_from_scores, top1
from bilinear_cli.training.rows import Rows

log = logging.getLogger(__name__)

DECADES = range(-3, 9)  # of C, relative to one over the mean square of the features
PATIENCE = 2  # decades without a gain after which the search ends, from decade 0 on
GAIN = 0.5  # standard errors of the accuracy


@dataclass(frozen=True)
class Tuning:
    """The chosen hyper-parameters, and the out-of-fold scores with them."""

    label_smoothing: float  # of the targets
    C: float | None  # inverse regularisation strength
    epochs: int | None
    rows: Rows  # the validation rows of all folds
    scores: np.ndarray  # out-of-fold scores of these rows, (rows, classes)
    # hyper-parameters, `top1` and `log_loss` of each trial, in which each photo counts once
    curve: Sequence[dict[str, Any]]
    folds: int = 0  # number of folds that were held out in turn
    solver: str | None = None  # `gram` or `stream`

    def to_metrics(self) -> dict[str, Any]:
        """Return the entries of `metrics.json`; accuracy and loss are None without folds."""
        names = ("C", "label_smoothing", "epochs", "folds", "solver")
        chosen = [self.label_smoothing, self.C, self.epochs]
        tried = (point for point in self.curve if _hyperparameters(point) == chosen)
        best = next(tried, {"top1": None, "log_loss": None})
        return {
            **{name: getattr(self, name) for name in names},
            "oof_top1": best["top1"],
            "oof_log_loss": best["log_loss"],
            "curve": self.curve,
        }


def make_folds(rows: Rows, n_folds: int, seed: int) -> list[np.ndarray]:
    """Return the indices of the validation rows of each fold, stratified by class.

    Photos of one group are always in the same fold. There are fewer folds if no class has
    `n_folds` groups.

    Raises:
        BilinearError: no class has two groups.
    """
    labels, group = rows.labels, rows.group
    classes = np.unique(labels)
    n_groups = np.array([len(np.unique(group[labels == k])) for k in classes])
    if n_groups.max() < 2:
        raise BilinearError(
            "cannot choose hyper-parameters by cross-validation: no class has two training photos "
            "(or, with groups, two groups). Add photos. Or set the values yourself: -C for svm and "
            "ridge, -C and --label-smoothing for softmax."
        )
    if n_groups.max() < n_folds:
        n_folds = int(n_groups.max())
        log.info("using %d folds: no class has more training photos or groups", n_folds)
    elif n_groups.min() < n_folds:
        small = abbreviate(rows.class_names[classes[n_groups < n_folds]])
        log.info("some of the %d folds have no validation photo of %s", n_folds, small)
    ungrouped = len(np.unique(group)) == len(group)
    splitter = StratifiedKFold if ungrouped else StratifiedGroupKFold
    k_fold = splitter(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # about small classes, which were logged above
        warnings.simplefilter("ignore", UserWarning)
        split = k_fold.split(labels, labels, None if ungrouped else group)
        return [val_indices for _, val_indices in split]


def cross_validate(
    rows: Rows,
    val_folds: Sequence[np.ndarray],
    smoothings: Sequence[float],
    trials: Callable[[float], Iterator[tuple[dict[str, Any], np.ndarray]]],
) -> Tuning:
    """Try hyper-parameters, and choose those with the highest accuracy, then the lowest log loss.

    If the rows have weights, these two are weighted.

    Args:
        rows: the training rows.
        val_folds: indices of the validation rows of each fold.
        smoothings: label smoothings to try.
        trials: label smoothing -> (hyper-parameters, scores (rows, classes)), by ascending C. It
            is not exhausted if a higher C hardly improves the accuracy.
    """
    val_indices = np.sort(np.concatenate(val_folds))
    val_rows, best_scores = rows.take(val_indices), np.empty((0, 0))
    curve: list[dict[str, Any]] = []
    ranks: list[tuple[float, float]] = []
    for smoothing in smoothings:
        top1s: list[float] = []
        for hyperparameters, scores in trials(smoothing):
            first, mean = average_views(val_rows.photo, scores[val_indices])
            labels, sample_weight = val_rows.labels[first], val_rows.take(first).sample_weight
            point = {"label_smoothing": smoothing, **hyperparameters}
            text = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in point.items())
            point |= {"top1": top1(mean, labels), "log_loss": log_loss_from_scores(mean, labels)}
            log.info("%s: out-of-fold accuracy %.4f", text, point["top1"])
            curve.append(point)
            top1s.append(top1(mean, labels, sample_weight))
            ranks.append((top1s[-1], -log_loss_from_scores(mean, labels, sample_weight)))
            if ranks.index(max(ranks)) == len(ranks) - 1:
                best_scores = scores[val_indices]
            n_photos = len(first) if sample_weight is None else float(sample_weight.sum())
            if _has_levelled_off(top1s, n_photos):
                break
    smoothing, C, epochs = _hyperparameters(curve[ranks.index(max(ranks))])
    return Tuning(smoothing, C, epochs, val_rows, best_scores, curve, len(val_folds))


def _has_levelled_off(top1s: Sequence[float], n_photos: float) -> bool:
    """Return whether the last accuracies, beyond decade 0, are hardly above those before them."""
    if DECADES[0] + len(top1s) <= PATIENCE:
        return False
    before = max(top1s[:-PATIENCE])
    standard_error = np.sqrt(before * (1 - before) / n_photos)
    return max(top1s[-PATIENCE:]) - before <= GAIN * standard_error


def _hyperparameters(point: dict[str, Any]) -> list[Any]:
    """Return label smoothing, C and epochs of a trial."""
    return [point.get(name) for name in ("label_smoothing", "C", "epochs")]


def grid(mean_squared_norm: float) -> list[float]:
    """Return the values of C to try, ascending, rounded to three digits.

    Their unit is one over the mean squared norm of the features.
    """
    return [float(f"{10.0**decade / mean_squared_norm:.3g}") for decade in DECADES]


def warm_start_Cs(C: float) -> list[float]:
    """Return C after four smaller values; the fit of each value starts from the fit before it."""
    return [C / 10.0**decades for decades in (4, 3, 2, 1, 0)]
