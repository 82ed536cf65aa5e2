"""How well unknown classes are told from known ones, by leaving classes out of the training.

In each round a fifth of the classes is left out, and a fifth of the photos of the others. The
classifier is refitted on the rest with the hyper-parameters of the run, the novelty is fitted on
its out-of-fold scores within the rest, and the photos that were left out are scored.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.training.estimator import Estimator, TrainingData
from bilinear_cli.training.metrics import CONFIDENCE, N_RESAMPLES, average_views, fit_temperature
from bilinear_cli.training.novelty import METHOD, Novelty, assign_folds, fit_novelty
from bilinear_cli.training.tuning import Tuning

N_ROUNDS = 5
CAUGHT = 0.95  # share of the unknown photos that `false_alarms_at_95` catches


@dataclass(frozen=True)
class LeftOut:
    """Photos that a round left out; each array is (photos,)."""

    labels: np.ndarray  # of all classes of the run
    unknown: np.ndarray  # bool, whether the class of the photo was left out
    novelty: np.ndarray


def evaluate_open_set(estimator: Estimator, data: TrainingData, tuning: Tuning) -> dict[str, Any]:
    """Leave classes and photos out of the training rows in turn, and return `novelty_metrics`.

    Raises:
        BilinearError: there are fewer than five classes, or too few photos.
    """
    rows = data.rows
    n_classes = len(rows.class_names)
    if not tuning.folds:
        raise BilinearError("no class has two training photos or groups")
    if n_classes < N_ROUNDS:
        raise BilinearError(f"it needs at least {N_ROUNDS} classes, and there are {n_classes}")
    rng = np.random.default_rng(data.options.seed)
    class_fold = rng.permutation(n_classes) % N_ROUNDS
    photo_fold = assign_folds(rows.labels, rows.group, N_ROUNDS, rng)
    rounds = []
    for i in range(N_ROUNDS):
        unknown = class_fold[rows.labels] == i
        rounds.append(_round(estimator, data, tuning, unknown, unknown | (photo_fold == i)))
    return novelty_metrics(rounds)


def _round(
    estimator: Estimator,
    data: TrainingData,
    tuning: Tuning,
    unknown: np.ndarray,
    left_out: np.ndarray,
) -> LeftOut:
    """Refit without some rows, given by masks (n,); `unknown` are those of a class left out."""
    labels = data.rows.labels
    classes = np.unique(labels[~unknown])
    known = replace(
        data.rows,
        labels=np.where(unknown, 0, np.searchsorted(classes, labels)),  # those are never fitted
        class_names=data.rows.class_names[classes],
    )
    data = replace(data, rows=known)
    rest, test = np.flatnonzero(~left_out), np.flatnonzero(left_out)
    novelty = _novelty_of_rest(estimator, data, tuning, rest)
    first, scores = average_views(known.photo[test], estimator.refit(data, tuning, rest, test))
    photos = test[first]
    return LeftOut(labels[photos], unknown[photos], novelty.score(scores))


def _novelty_of_rest(
    estimator: Estimator, data: TrainingData, tuning: Tuning, rest: np.ndarray
) -> Novelty:
    """Fit the novelty on the out-of-fold scores of the rows that are not left out."""
    options, rows = data.options, data.rows
    n_folds = tuning.folds if tuning.folds > 1 else options.folds
    rng = np.random.default_rng(options.seed)
    fold = assign_folds(rows.labels[rest], rows.group[rest], n_folds, rng)
    held_out = [rest[fold == i] for i in range(tuning.folds)]
    scores = [estimator.refit(data, tuning, np.setdiff1d(rest, val), val) for val in held_out]
    held_rows = rows.take(np.concatenate(held_out))
    first, mean = average_views(held_rows.photo, np.concatenate(scores))
    photos = held_rows.take(first)
    temperature = fit_temperature(mean, photos.labels, photos.sample_weight)
    return fit_novelty(mean, photos.labels, photos.group, temperature)


def novelty_metrics(rounds: list[LeftOut]) -> dict[str, Any]:
    """Return how well photos of unknown classes are told from those of known classes.

    Returns:
        `auroc`: how often an unknown photo is more unusual than a known one of the same round, 0
        to 1; `auroc_ci95`, from a bootstrap over classes; `false_alarms_at_95`: the share of the
        known photos that are as unusual as the 95 % most unusual of the unknown; `method`; the
        numbers `classes`, `known` and `unknown`, of photos.
    """
    labels, unknown, novelty = (
        np.concatenate([getattr(x, name) for x in rounds])
        for name in ("labels", "unknown", "novelty")
    )
    if unknown.all() or not np.isfinite(novelty).all():
        raise BilinearError("no photo of the other classes could be left out")
    wins, pairs = _count_pairs(rounds, int(labels.max()) + 1)
    threshold = np.quantile(novelty[unknown], 1 - CAUGHT)
    return {
        "auroc": float(wins.sum() / pairs.sum()),
        "auroc_ci95": _interval(wins, pairs),
        "false_alarms_at_95": float(np.mean(novelty[~unknown] >= threshold)),
        "method": METHOD,
        "classes": len(np.unique(labels)),
        "known": int(np.sum(~unknown)),
        "unknown": int(np.sum(unknown)),
    }


def _count_pairs(rounds: list[LeftOut], n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of an unknown and a known photo of one round, by their classes, both (k, k).

    The first are the pairs whose unknown photo is more unusual, where a tie counts as a half. The
    second are all pairs. Rows are the class of the unknown photo.
    """
    wins, pairs = np.zeros((n_classes, n_classes)), np.zeros((n_classes, n_classes))
    for x in rounds:
        for known in np.unique(x.labels[~x.unknown]):
            other = np.sort(x.novelty[~x.unknown & (x.labels == known)])
            sides = (np.searchsorted(other, x.novelty[x.unknown], s) for s in ("left", "right"))
            np.add.at(wins[:, known], x.labels[x.unknown], sum(sides) / 2)
            np.add.at(pairs[:, known], x.labels[x.unknown], len(other))
    return wins, pairs


def _interval(wins: np.ndarray, pairs: np.ndarray) -> list[float]:
    """Return the percentiles of the AUROC over classes that are drawn again with replacement."""
    n, rng = len(wins), np.random.default_rng(0)
    values: list[float] = []
    while len(values) < N_RESAMPLES:
        count = np.bincount(rng.integers(0, n, n), minlength=n)
        if total := count @ pairs @ count:  # the drawn classes may be of one fold
            values.append(count @ wins @ count / total)
    tail = (1 - CONFIDENCE) / 2
    return [float(x) for x in np.quantile(values, [tail, 1 - tail])]
