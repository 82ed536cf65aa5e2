"""How well unknown classes are recognised, by leaving classes out of the training.

In each round a fifth of the classes is left out, and a fifth of the photos of the others. The
classifier is refitted on the rest with the hyper-parameters of the run, the novelty is fitted on
its out-of-fold scores within the rest, and the photos that were left out are scored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.training.estimator import Estimator, TrainingData
from bilinear_cli.training.metrics import CONFIDENCE, N_RESAMPLES, average_views, fit_temperature
from bilinear_cli.training.novelty import METHOD, assign_folds, fit_novelty
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.tuning import Tuning

N_ROUNDS = 5
CAUGHT = 0.95  # share of the unknown photos that `false_alarms_at_95` catches


@dataclass(frozen=True)
class Round:
    """Scores of photos that were left out, and of those that the novelty is fitted on."""

    data: TrainingData  # of all rows; their labels are those of the classes that are not left out
    rest: np.ndarray  # indices of the rows that the classifier is fitted on
    held_out: Rows  # photos of the rest with out-of-fold scores
    held_out_scores: np.ndarray  # (held-out photos, classes)
    temperature: float  # fitted on these scores
    left_out: Rows  # photos that are not fitted on; their labels are those of all classes
    unknown: np.ndarray  # bool, whether the class of these photos was left out, too
    scores: np.ndarray  # of these photos, (photos, classes)


def evaluate_open_set(estimator: Estimator, data: TrainingData, tuning: Tuning) -> dict[str, Any]:
    """Leave classes and photos out of the training rows in turn, and return `novelty_metrics`.

    Raises:
        BilinearError: there are fewer than five classes, or too few photos.
    """
    rounds, values = [], []
    for x in leave_out(estimator, data, tuning):
        photos, temperature = x.held_out, x.temperature
        novelty = fit_novelty(x.held_out_scores, photos.labels, photos.group, temperature)
        rounds.append(x)
        values.append(novelty.score(x.scores))
    return {"method": METHOD} | novelty_metrics(rounds, values)


def leave_out(estimator: Estimator, data: TrainingData, tuning: Tuning) -> Iterator[Round]:
    """Leave out a fifth of the classes, and a fifth of the photos of the others, in turn.

    Raises:
        BilinearError: there are fewer than five classes, or nothing was held out.
    """
    rows, rng = data.rows, np.random.default_rng(data.options.seed)
    n_classes = len(rows.class_names)
    if n_classes < N_ROUNDS:
        raise BilinearError(f"it needs at least {N_ROUNDS} classes, and there are {n_classes}")
    if not tuning.folds:
        raise BilinearError("no class has two training photos or groups")
    class_fold = rng.permutation(n_classes) % N_ROUNDS
    photo_fold = assign_folds(rows.labels, rows.group, N_ROUNDS, rng)
    for i in range(N_ROUNDS):
        unknown = class_fold[rows.labels] == i
        yield _round(estimator, data, tuning, unknown, unknown | (photo_fold == i))


def _round(
    estimator: Estimator,
    data: TrainingData,
    tuning: Tuning,
    unknown: np.ndarray,
    left_out: np.ndarray,
) -> Round:
    """Refit without some rows, given by masks (n,); `unknown` are those of a class left out."""
    rows, labels = data.rows, data.rows.labels
    rest = np.flatnonzero(~left_out)
    classes = np.unique(labels[rest])
    trained = np.isin(labels, classes)  # the only photo of a small class may be left out
    test = np.flatnonzero(left_out & (unknown | trained))
    known_labels = np.where(trained, np.searchsorted(classes, labels), 0)  # the 0 is never fitted
    known = replace(rows, labels=known_labels, class_names=rows.class_names[classes])
    data = replace(data, rows=known)
    held_out, held_out_scores = _out_of_fold(estimator, data, tuning, rest)
    temperature = fit_temperature(held_out_scores, held_out.labels, held_out.sample_weight)
    first, scores = average_views(rows.photo[test], estimator.refit(data, tuning, rest, test))
    photos = test[first]
    return Round(
        data=data,
        rest=rest,
        held_out=held_out,
        held_out_scores=held_out_scores,
        temperature=temperature,
        left_out=rows.take(photos),
        unknown=unknown[photos],
        scores=scores,
    )


def _out_of_fold(
    estimator: Estimator, data: TrainingData, tuning: Tuning, rest: np.ndarray
) -> tuple[Rows, np.ndarray]:
    """Return photos of the rest, and their scores by fits on other folds of the rest."""
    options, rows = data.options, data.rows
    n_folds = tuning.folds if tuning.folds > 1 else options.folds
    rng = np.random.default_rng(options.seed)
    fold = assign_folds(rows.labels[rest], rows.group[rest], n_folds, rng)
    if fold.min() == fold.max():
        raise BilinearError("too few training photos or groups are left")
    val_folds = [rest[fold == i] for i in np.unique(fold)[: tuning.folds]]
    scores = [estimator.refit(data, tuning, np.setdiff1d(rest, x), x) for x in val_folds]
    held_out = rows.take(np.concatenate(val_folds))
    first, mean = average_views(held_out.photo, np.concatenate(scores))
    return held_out.take(first), mean


def novelty_metrics(rounds: Sequence[Round], novelty: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return how well photos of unknown classes are told apart from those of known classes.

    The novelty is that of the photos that each round left out.

    Returns:
        `auroc`: how often an unknown photo is more unusual than a known one of the same round, 0
        to 1; `auroc_ci95`, from a bootstrap over classes; `false_alarms_at_95`: the share of the
        known photos that are as unusual as the 95 % most unusual of the unknown; the numbers
        `classes`, `known` and `unknown`, of photos.

    Raises:
        BilinearError: no known photo was left out, or a novelty is not finite.
    """
    labels = np.concatenate([x.left_out.labels for x in rounds])
    unknown = np.concatenate([x.unknown for x in rounds])
    all_novelty = np.concatenate(novelty)
    if unknown.all() or not np.isfinite(all_novelty).all():
        raise BilinearError("too few training photos, or their scores are not finite")
    wins, pairs = _count_pairs(rounds, novelty, int(labels.max()) + 1)
    threshold = np.quantile(all_novelty[unknown], 1 - CAUGHT)
    return {
        "auroc": float(wins.sum() / pairs.sum()),
        "auroc_ci95": _interval(wins, pairs),
        "false_alarms_at_95": float(np.mean(all_novelty[~unknown] >= threshold)),
        "classes": len(np.unique(labels)),
        "known": int(np.sum(~unknown)),
        "unknown": int(np.sum(unknown)),
    }


def _count_pairs(
    rounds: Sequence[Round], novelty: Sequence[np.ndarray], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of an unknown and a known photo of one round, by their classes, both (k, k).

    The first are the pairs whose unknown photo is more unusual, where a tie counts as a half. The
    second are all pairs. Rows are the class of the unknown photo.
    """
    wins, pairs = np.zeros((n_classes, n_classes)), np.zeros((n_classes, n_classes))
    for x, values in zip(rounds, novelty, strict=True):
        unknown, labels = values[x.unknown], x.left_out.labels[x.unknown]
        for known in np.unique(x.left_out.labels[~x.unknown]):
            others = np.sort(values[~x.unknown & (x.left_out.labels == known)])
            below, up_to = (np.searchsorted(others, unknown, side) for side in ("left", "right"))
            np.add.at(wins[:, known], labels, (below + up_to) / 2)
            np.add.at(pairs[:, known], labels, len(others))
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
