"""The classifiers: how each is tuned on folds, and then fitted on all training rows."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bilinear_cli.training import losses, ridge
from bilinear_cli.training.columns import Linear
from bilinear_cli.training.gram import Coordinates
from bilinear_cli.training.mlp import fit_mlp
from bilinear_cli.training.problem import Problem
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.select import Choice, Options, by_way_of, choose, grid

FOLD_TOLERANCE = 1e-4  # leaves the objective within about a thousandth of its optimum
TOLERANCE = 1e-7
LOSSES = {"softmax": losses.cross_entropy, "svm": losses.squared_hinge, "ridge": losses.squares}

Trials = Iterator[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True)
class Fitted:
    """A classifier, on the problem that it was fitted on.

    Attributes:
        first: its first layer: coefficients, as the problem has them, and the intercept for
            features less their mean.
        second: an mlp's second layer, or None.
    """

    first: Linear
    second: Linear | None = None


def tune(problem: Problem, rows: Rows, held_out: Sequence[np.ndarray], options: Options) -> Choice:
    """Choose what the options leave open.

    Args:
        problem: the training rows.
        rows: what is known of them.
        held_out: the folds.
        options: of `train`.
    """
    trials: Callable[[float], Trials]
    if options.classifier == "mlp":
        trials = partial(_mlp_trials, _coordinates(problem), rows, held_out[0], options)
        held_out = held_out[:1]
    elif options.classifier == "ridge" and problem.coordinates:
        trials = partial(_ridge_trials, problem, rows, held_out, options)
    else:
        trials = partial(_path_trials, problem, rows, held_out, options)
    return choose(rows, held_out, options.smoothings, trials)


def fit(problem: Problem, rows: Rows, options: Options, choice: Choice) -> Fitted:
    """Fit on all training rows with the settings that were chosen.

    Args:
        problem: the training rows.
        rows: what is known of them.
        options: of `train`.
        choice: the settings.
    """
    goal = targets(rows, options.classifier, choice.label_smoothing)
    if options.classifier == "mlp":
        assert choice.epochs
        reduced = _coordinates(problem)
        mlp = _fit_mlp(options)(reduced.z.astype(np.float32), goal, epochs=choice.epochs)
        return Fitted(_of_axes(problem, mlp.first), mlp.second)
    assert choice.C
    if options.classifier == "ridge" and problem.coordinates:
        on_axes = ridge.fit_ridge(problem.coordinates(), goal, choice.C)
        return Fitted(_of_axes(problem, on_axes))
    *way, C = by_way_of(choice.C)
    steps = [*_coarsely(way), (C, TOLERANCE)]
    path = problem.form.path(np.arange(problem.n), goal, LOSSES[options.classifier], steps)
    (last,) = deque(path, maxlen=1)
    return Fitted(problem.form.coefficients(last))  # type: ignore[arg-type]


def targets(rows: Rows, classifier: str, smoothing: float) -> np.ndarray:
    """Return what the scores of rows are to be, float32 (n, classes)."""
    if classifier in ("svm", "ridge"):
        return losses.signs(rows.labels, len(rows.class_names))
    return losses.one_hot(rows.labels, len(rows.class_names), smoothing)


def _of_axes(problem: Problem, linear: Linear) -> Linear:
    assert problem.of_axes
    return Linear(problem.of_axes(linear.weights), linear.intercept)


def _coordinates(problem: Problem) -> Coordinates:
    assert problem.coordinates, "an mlp is fitted on reduced rows"
    return problem.coordinates()


def _coarsely(Cs: Sequence[float]) -> list[tuple[float, float]]:
    return [(C, FOLD_TOLERANCE) for C in Cs]


def _Cs(problem: Problem, options: Options) -> Sequence[float]:
    return grid(problem.mean_square) if options.C is None else [options.C]


def _path_trials(
    problem: Problem, rows: Rows, held_out: Sequence[np.ndarray], options: Options, smoothing: float
) -> Trials:
    """Fit every fold at one C after another."""
    goal = targets(rows, options.classifier, smoothing)
    Cs = _Cs(problem, options) if options.C is None else by_way_of(options.C)
    paths = []
    for fold in held_out:
        seen = np.setdiff1d(np.arange(problem.n), fold)
        make_loss = LOSSES[options.classifier]
        paths.append(problem.form.path(seen, goal[seen], make_loss, _coarsely(Cs)))
    for C, fits in zip(Cs, zip(*paths, strict=True), strict=True):
        if options.C not in (None, C):
            continue
        scores = np.empty(goal.shape, np.float32)
        for fold, fold_fit in zip(held_out, fits, strict=True):
            scores[fold] = problem.form.scores(fold_fit, fold)
        yield {"C": C}, scores


def _ridge_trials(
    problem: Problem, rows: Rows, held_out: Sequence[np.ndarray], options: Options, smoothing: float
) -> Trials:
    assert problem.coordinates
    reduced = problem.coordinates()
    scores = ridge.out_of_fold(reduced, targets(rows, "ridge", smoothing), held_out)
    for C in _Cs(problem, options):
        yield {"C": C}, scores(C)


def _fit_mlp(options: Options) -> Callable[..., Any]:
    return partial(fit_mlp, hidden=options.hidden, dropout=options.dropout, seed=options.seed)


def _mlp_trials(
    reduced: Coordinates, rows: Rows, held_out: np.ndarray, options: Options, smoothing: float
) -> Trials:
    """Train until the held-out fold is named no better."""
    goal, z = targets(rows, "mlp", smoothing), reduced.z.astype(np.float32)
    seen = np.setdiff1d(np.arange(len(goal)), held_out)
    mlp = _fit_mlp(options)(z[seen], goal[seen], stop_on=(z[held_out], goal[held_out]))
    scores = np.zeros(goal.shape, np.float32)
    scores[held_out] = mlp(z[held_out])
    yield {"epochs": mlp.epochs}, scores
