"""Stage 2: feature file -> selection -> classifier -> figures."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilinear_cli.errors import BilinearError, UsageError, one_of
from bilinear_cli.photos.dataset import Dataset
from bilinear_cli.poolings.parameters import check_unseen
from bilinear_cli.poolings.registry import MAPS, canonical, pooling
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import classifiers, inputs
from bilinear_cli.training.calibration import fit_temperature
from bilinear_cli.training.columns import Linear
from bilinear_cli.training.conv1x1 import Conv1x1, fit_conv1x1
from bilinear_cli.training.facts import facts, figures
from bilinear_cli.training.inputs import Part
from bilinear_cli.training.metrics import by_photo
from bilinear_cli.training.model import Model
from bilinear_cli.training.problem import Problem, choose_solver, pose
from bilinear_cli.training.rows import Rows, choose_rows
from bilinear_cli.training.select import Choice, Options, choose, folds
from bilinear_cli.training.sums import Progress, Workers

log = logging.getLogger(__name__)

CLASSIFIERS = ("softmax", "svm", "ridge", "mlp", "conv1x1")
CHECKED_AT_ONCE = 32  # maps


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        metrics: what `metrics.json` says, but for where the run is and by which command.
        model: the classifier.
        scored: `oof` and `test` -> rows, and their scores (rows, classes).
        rows: all rows, for training and for testing.
    """

    metrics: dict[str, Any]
    model: Model
    scored: dict[str, tuple[Rows, np.ndarray]]
    rows: Rows


def fit_and_score(
    file: FeatureFile,
    spec: str,
    options: Options,
    *,
    dataset: Dataset | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> Trained:
    """Fit a classifier on a pooling, and score the test photos once.

    Args:
        file: the features.
        spec: a pooling of the file, or several joined by `+`.
        options: how.
        dataset: labels, split and groups to take instead of the file's, by the photos' SHA-256.
        progress: told (done, total) while the features are read.
        workers: who takes the sums over rows, and scores them, if not this process; what selects
            and normalises columns is fitted here.

    Raises:
        BilinearError: there is nothing to learn from.
        UsageError: the options do not fit the file.
    """
    began = time.perf_counter()
    one_of("classifier", options.classifier, CLASSIFIERS)
    specs = _specs(file, spec, options)
    rows = choose_rows(file, dataset, options.min_photos)
    is_train = rows.split == "train"
    check_unseen(
        _parameters(file, specs), file.sha256[rows.number[~is_train]], "extract again, with --data"
    )
    learn, test = rows.take(is_train), rows.take(~is_train)
    choice, model = fit_model(file, specs, learn, options, progress=progress, workers=workers)
    scores = score_rows(file, model, test, workers)
    temperature = _temperature(choice)
    metrics = {
        **figures(test, scores, temperature),
        **facts(file, spec, options, learn, test, model),
        **choice.report(),
    }
    refit = options.refit_all and len(test.number) > 0
    if refit:
        log.info("fitting the final model on all photos")
        _, model = fit_model(file, specs, rows, options, choice, progress, workers)
    model = replace(model, temperature=temperature)
    if workers:
        metrics["workers"] = workers.n
    metrics["fitted_on"] = "train and test" if refit else "train"
    metrics["seconds"] = round(time.perf_counter() - began, 2)
    scored = {"oof": (choice.rows, choice.scores), "test": (test, scores)}
    return Trained(metrics, model, scored, rows)


def _specs(file: FeatureFile, spec: str, options: Options) -> list[str]:
    specs = spec.split("+")
    for name in specs:
        one_of(f"pooling in {file.path}", name, file.shapes)
    if len(set(map(canonical, specs))) < len(specs):
        raise UsageError(f"--pooling {spec} names one twice")
    if options.top_variance and len(specs) > 1:
        raise UsageError("--top-variance takes one pooling, not several side by side")
    if (options.classifier == "conv1x1") != ([*map(canonical, specs)] == [MAPS]):
        raise UsageError("--classifier conv1x1 takes --pooling maps, and only it does")
    return specs


def fit_model(
    file: FeatureFile,
    specs: Sequence[str],
    rows: Rows,
    options: Options,
    choice: Choice | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> tuple[Choice, Model]:
    """Fit on rows, with the settings of `choice`, or such as are chosen on folds of them.

    Args:
        file: the features.
        specs: poolings of the file, to be taken side by side.
        rows: those to learn from, and no others.
        options: how.
        choice: settings that were chosen before; None: to be chosen.
        progress: told (done, total) while the features are read.
        workers: who takes the sums over rows, if not this process; of conv1x1 it is none.

    Returns:
        The settings, and the model.
    """
    if options.classifier == "conv1x1":
        return _learn_conv1x1(file, specs[0], rows, options, choice, progress)
    parts = inputs.fit_parts(
        file, specs, rows.number, normalize=options.normalize, top_variance=options.top_variance
    )
    d = sum(part.n_features for part in parts)
    solver = choose_solver(options.solver, len(rows.number), d, len(rows.class_names))
    if solver == "stream" and options.classifier == "mlp":
        raise BilinearError(
            "an mlp is fitted on the reduced rows, which do not fit the memory that is free: take "
            "--top-variance, another --classifier, or --solver gram all the same"
        )
    problem = pose(file, parts, rows.number, solver, progress, workers)
    if choice is None:
        choice = replace(_choose(problem, rows, options, solver), solver=solver)
    fitted = classifiers.fit(problem, rows, options, choice)
    weights = problem.weights(fitted.first.weights)
    intercept = fitted.first.intercept - problem.mean @ weights
    linear, taken = Linear(weights, intercept), _parameters(file, specs)
    return choice, Model(linear, fitted.second, parts, rows.class_names, taken)


def _parameters(file: FeatureFile, specs: Sequence[str]) -> dict[str, np.ndarray]:
    names = [name for spec in specs for name in pooling(spec).parameters]
    return {name: file.parameters[name] for name in names}


def _learn_conv1x1(
    file: FeatureFile,
    spec: str,
    rows: Rows,
    options: Options,
    choice: Choice | None,
    progress: Progress | None,
) -> tuple[Choice, Model]:
    """Choose the smoothing and the epochs on one fold; then train on all rows for as long."""
    widest = file.shapes[spec][-1]
    if options.channels > widest:
        raise UsageError(f"--channels {options.channels} is more than the maps' {widest}")

    def read(which: np.ndarray) -> np.ndarray:
        return file.read(spec, rows.number[which])

    def fit(which: np.ndarray, goal: np.ndarray, **rest: Any) -> Conv1x1:
        rest |= {"channels": options.channels, "frozen": options.frozen, "seed": options.seed}
        return fit_conv1x1(read, which, goal[which], progress=progress, **rest)

    def model(net: Conv1x1) -> Model:
        part = Part(spec, None, len(net.head.weights), "none", kernel=net.kernel)
        return Model(net.head, None, [part], rows.class_names)

    every = np.arange(len(rows.number))
    for _ in file.batches(spec, rows.number, CHECKED_AT_ONCE):
        pass  # of what is wrong with a row TensorFlow would make a traceback of its own
    if choice is None:
        held_out = folds(rows, options.folds, options.seed)[0]
        seen = np.setdiff1d(every, held_out)

        def trials(smoothing: float) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
            goal = classifiers.targets(rows, "conv1x1", smoothing)
            net = fit(seen, goal, stop_on=(held_out, goal[held_out]))
            scores = np.zeros(goal.shape, np.float32)
            scores[held_out] = score_rows(file, model(net), rows.take(held_out))
            yield {"epochs": net.epochs}, scores

        choice = choose(rows, [held_out], options.smoothings, trials)
    goal = classifiers.targets(rows, "conv1x1", choice.label_smoothing)
    return choice, model(fit(every, goal, epochs=choice.epochs))


def _choose(problem: Problem, rows: Rows, options: Options, solver: str) -> Choice:
    """Tune on folds; on one where each step is a pass over the file; on none if all is given."""
    (smoothing, *others), C = options.smoothings, options.C
    try:
        held_out = folds(rows, options.folds, options.seed)
    except BilinearError:
        if C is None or others:
            raise
        log.warning("no class has two training photos, or groups: nothing is held out")
        nothing = np.arange(0)
        return Choice(smoothing, C, None, rows.take(nothing), np.empty((0, 0)), [])
    return classifiers.tune(problem, rows, held_out[: 1 if solver == "stream" else None], options)


def score_rows(
    file: FeatureFile, model: Model, rows: Rows, workers: Workers | None = None
) -> np.ndarray:
    """Return scores (rows, classes) of rows, read in batches, here or by workers."""
    if workers and len(rows.number):
        return workers.scores(model, rows.number)
    scores = [np.empty((0, len(model.class_names)), np.float32)]
    scores += [model(x) for _, x in inputs.batches(model.parts, file, rows.number)]
    return np.concatenate(scores)


def _temperature(choice: Choice) -> float:
    """Return that of the scores of photos that fits had not seen, their views averaged."""
    first, mean = by_photo(choice.rows.photo, choice.scores)
    return fit_temperature(mean, choice.rows.labels[first])
