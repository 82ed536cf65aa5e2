"""Stage 2: feature file -> rows -> features -> reduced -> chosen, fitted, scored, reported."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilinear_cli.errors import UsageError, validate_choice
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.poolings.parameters import check_not_fitted_on_test
from bilinear_cli.poolings.registry import canonical_spec, get_pooling
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry
from bilinear_cli.training.calibration import fit_temperature
from bilinear_cli.training.estimator import Training
from bilinear_cli.training.feature_transform import fit_transforms
from bilinear_cli.training.metrics import average_views
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.reducers import LOCAL, Progress, Reading, Workers
from bilinear_cli.training.results import facts, figures
from bilinear_cli.training.rows import Rows, select_rows
from bilinear_cli.training.tuning import Tuning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
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
    options: TrainOptions,
    *,
    photo_set: PhotoSet | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> TrainingResult:
    """Fit a classifier on a pooling, and score the test photos once.

    Args:
        file: the features.
        spec: a pooling of the file, or several joined by `+`.
        options: how.
        photo_set: labels, split and groups to take instead of the file's, by the photos' SHA-256.
        progress: told (done, total) while the features are read.
        workers: who takes the sums over rows, and scores them, if not this process; what selects
            and normalises columns is fitted here.

    Raises:
        BilinearError: there is nothing to learn from.
        UsageError: the options do not fit the file.
    """
    began, reading = time.perf_counter(), Reading(progress, workers)
    specs = _specs(file, spec, options)
    rows = select_rows(file, photo_set, options.min_photos)
    is_train = rows.split == "train"
    learn, test = rows.take(is_train), rows.take(~is_train)
    check_not_fitted_on_test(
        _parameters(file, specs), file.sha256[test.indices], "extract again, with --data"
    )
    choice, model = fit_model(file, specs, learn, options, reading=reading)
    scores = score_rows(file, model, test, workers)
    temperature = _temperature(choice)
    metrics = {
        **figures(test, scores, temperature),
        **facts(file, spec, options, learn, test, model),
        **choice.report(),
    }
    refit = options.refit_all and len(test.indices) > 0
    if refit:
        log.info("fitting the final model on all photos")
        _, model = fit_model(file, specs, rows, options, choice, reading)
    if workers:
        metrics["workers"] = workers.n
    metrics["fitted_on"] = "train and test" if refit else "train"
    metrics["seconds"] = round(time.perf_counter() - began, 2)
    scored = {"oof": (choice.rows, choice.scores), "test": (test, scores)}
    return TrainingResult(metrics, replace(model, temperature=temperature), scored, rows)


def fit_model(
    file: FeatureFile,
    specs: Sequence[str],
    rows: Rows,
    options: TrainOptions,
    choice: Tuning | None = None,
    reading: Reading = LOCAL,
) -> tuple[Tuning, Model]:
    """Fit on rows, with the settings of `choice`, or such as are chosen on folds of them.

    Args:
        file: the features.
        specs: poolings of the file, to be taken side by side.
        rows: those to learn from, and no others.
        options: how.
        choice: settings that were chosen before; None: to be chosen.
        reading: how the rows are read.

    Returns:
        The settings, and the model.
    """
    estimator = registry.get_classifier(options.classifier).load()
    transforms = fit_transforms(
        file,
        specs,
        rows.indices,
        normalize=options.normalize,
        top_variance=options.top_variance,
    )
    reduced = estimator.reduce(file, transforms, rows, options, reading)
    training = Training(reduced, rows, options, transforms)
    choice = choice or estimator.choose(training)
    return choice, replace(estimator.fit(training, choice), parameters=_parameters(file, specs))


def score_rows(
    file: FeatureFile, model: Model, rows: Rows, workers: Workers | None = None
) -> np.ndarray:
    """Return scores (rows, classes) of rows, read in batches, here or by workers."""
    if workers and len(rows.indices):
        return workers.scores(model, rows.indices)
    return model.score_rows(file, rows.indices)


def _specs(file: FeatureFile, spec: str, options: TrainOptions) -> list[str]:
    specs = spec.split("+")
    for name in specs:
        validate_choice(f"pooling in {file.path}", name, file.shapes)
    if len(set(map(canonical_spec, specs))) < len(specs):
        raise UsageError(f"--pooling {spec} names one twice")
    if options.top_variance and len(specs) > 1:
        raise UsageError("--top-variance takes one pooling, not several side by side")
    maps = [name for name in specs if len(file.shapes[name]) != 2]
    wanted = specs[:1] if registry.get_classifier(options.classifier).on_maps else []
    if maps != wanted or (wanted and len(specs) > 1):
        on_maps = [x.name for x in registry.CLASSIFIERS.values() if x.on_maps]
        raise UsageError(
            f"--pooling {spec} is not for --classifier {options.classifier}: "
            f"{', '.join(on_maps)} takes --pooling maps, and only it does"
        )
    return specs


def _parameters(file: FeatureFile, specs: Sequence[str]) -> dict[str, np.ndarray]:
    names = [name for spec in specs for name in get_pooling(spec).parameters]
    return {name: file.parameters[name] for name in names}


def _temperature(choice: Tuning) -> float:
    """Return that of the scores of photos that fits had not seen, their views averaged."""
    first, mean = average_views(choice.rows.photo, choice.scores)
    return fit_temperature(mean, choice.rows.labels[first])
