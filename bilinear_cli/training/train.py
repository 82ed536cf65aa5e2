"""Stage 2: transform and reduce the rows of a feature file, tune, fit and test a classifier."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.machine import package_versions
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.poolings.parameters import check_not_fitted_on_test
from bilinear_cli.poolings.registry import canonical_spec, get_pooling, split_specs
from bilinear_cli.progress import Progress
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry
from bilinear_cli.training.estimator import Estimator, TrainingData
from bilinear_cli.training.feature_transform import Features, fit_feature_transforms
from bilinear_cli.training.metrics import average_views, calibration, evaluate, fit_temperature
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.training.novelty import Novelty, fit_novelty
from bilinear_cli.training.open_set import evaluate_open_set
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.reducers import LocalReducer, Workers
from bilinear_cli.training.rows import Rows, select_rows
from bilinear_cli.training.tuning import Tuning
from bilinear_cli.validation import validate_choice

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "numpy", "scipy", "scikit-learn", "h5py")


@dataclass(frozen=True)
class TrainingResult:
    """A trained classifier."""

    metrics: dict[str, Any]  # the entries of `metrics.json`, without the run folder and the command
    model: Model  # the final model
    scores: dict[str, tuple[Rows, np.ndarray]]  # `oof`, `test` -> rows, scores (rows, classes)
    rows: Rows  # all training and test rows


def fit_and_score(
    file: FeatureFile,
    pooling: str,
    options: TrainOptions,
    *,
    photo_set: PhotoSet | None = None,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> TrainingResult:
    """Tune and fit a classifier on the training rows, and score the test rows once.

    Args:
        pooling: one of the file, or several joined by `+`.
        photo_set: replaces labels, split and groups of the file, matched by the photos' SHA-256.
        progress: called with (done, total) while features are read, or epochs are trained.
        workers: compute the sums over rows and the test scores, instead of this process. Columns
            are always selected and normalised by this process.

    Raises:
        BilinearError: the rows cannot be trained on.
        UsageError: the options do not fit the file.
    """
    start_time, specs = time.perf_counter(), _split_pooling(file, pooling, options)
    rows = select_rows(file, photo_set, options.min_photos)
    train, test = rows.take(rows.split == "train"), rows.take(rows.split != "train")
    names = [name for x in specs for name in get_pooling(x).parameter_names]
    parameters = {name: file.parameters[name] for name in names}
    advice = "run extract again with this --data, to fit a new one"
    check_not_fitted_on_test(parameters, file.sha256[test.indices], advice)
    reducer = partial(workers.reducer if workers else LocalReducer, progress=progress)
    estimator, data = reduce_rows(file, specs, train, options, reducer)
    tuning = estimator.tune(data)
    model = estimator.fit(data, tuning)
    open_set = _open_set_metrics(estimator, data, tuning) if options.novelty else {}
    del data  # before the test, and before another fit
    first, mean = average_views(tuning.rows.photo, tuning.scores)
    photos = tuning.rows.take(first)
    temperature = fit_temperature(mean, photos.labels, photos.sample_weight)
    novelty = _fit_novelty(photos, mean, temperature)
    indices = test.indices
    scores = workers.scores(model, indices) if workers else model.score_rows(file, indices)
    metrics = {
        **_test_metrics(test, scores, temperature),
        **_describe(file, pooling, options, rows, model),
        **tuning.to_metrics(),
        **open_set,
    }
    refit = options.refit_all and len(test.indices) > 0
    if refit:
        log.info("fitting the final model on all photos")
        _, model = fit_model(file, specs, rows, options, tuning, reducer)
    if options.class_weight != "none":
        metrics["class_weight"] = options.class_weight
    if workers:
        metrics["workers"] = workers.n_workers
    metrics["fitted_on"] = "train and test" if refit else "train"
    metrics["seconds"] = round(time.perf_counter() - start_time, 2)
    model = replace(model, parameters=parameters, temperature=temperature, novelty=novelty)
    all_scores = {"oof": (tuning.rows, tuning.scores), "test": (test, scores)}
    return TrainingResult(metrics, model, all_scores, rows)


def fit_model(
    file: FeatureFile,
    specs: Sequence[str],
    rows: Rows,
    options: TrainOptions,
    tuning: Tuning | None = None,
    reducer: Callable[..., LocalReducer] = LocalReducer,
) -> tuple[Tuning, Model]:
    """Fit on these rows, with the hyper-parameters of `tuning`, or tune on these rows first."""
    estimator, data = reduce_rows(file, specs, rows, options, reducer)
    tuning = tuning or estimator.tune(data)
    return tuning, estimator.fit(data, tuning)


def reduce_rows(
    file: FeatureFile,
    specs: Sequence[str],
    rows: Rows,
    options: TrainOptions,
    reducer: Callable[..., LocalReducer] = LocalReducer,
) -> tuple[Estimator, TrainingData]:
    """Return the classifier, and these rows in the form that it tunes and fits on."""
    estimator = registry.get_classifier(options.classifier).load()
    if options.class_weight == "balanced":
        rows = replace(rows, sample_weight=compute_sample_weight("balanced", rows.labels))
    transforms = fit_feature_transforms(
        file, specs, rows.indices, normalize=options.normalize, top_variance=options.top_variance
    )
    source = reducer(Features(file, transforms), rows.indices, sample_weight=rows.sample_weight)
    reduced = estimator.reduce(source, len(rows.class_names), options)
    return estimator, TrainingData(reduced, rows, options, transforms)


def _open_set_metrics(
    estimator: Estimator, data: TrainingData, tuning: Tuning
) -> dict[str, dict[str, Any]]:
    """Return the entry of the metrics that `--novelty` adds; none if it cannot be measured."""
    try:
        return {"novelty": evaluate_open_set(estimator, data, tuning)}
    except BilinearError as error:
        log.warning("--novelty measures nothing: %s", error)
        return {}


def _fit_novelty(photos: Rows, scores: np.ndarray, temperature: float) -> Novelty | None:
    """Return the novelty from out-of-fold scores of photos; None if it cannot be fitted."""
    if not len(scores):  # which was logged
        return None
    try:
        return fit_novelty(scores, photos.labels, photos.group, temperature)
    except BilinearError as error:
        log.warning("this run cannot say how unusual a photo is: %s", error)
        return None


def _split_pooling(file: FeatureFile, pooling: str, options: TrainOptions) -> list[str]:
    """Split at each `+`; raise a UsageError if the poolings do not fit file and options."""
    specs = split_specs(pooling)
    for name in specs:
        validate_choice(f"pooling in {file.path}", name, file.shapes)
    if len(set(map(canonical_spec, specs))) < len(specs):
        raise UsageError(f"--pooling {pooling} has a pooling twice: leave out one of them")
    if options.top_variance and len(specs) > 1:
        raise UsageError(f"--top-variance takes a single pooling, not --pooling {pooling}")
    maps = [name for name in specs if len(file.shapes[name]) != 2]
    flag = f"--classifier {options.classifier}"
    on_maps = [x.name for x in registry.CLASSIFIERS.values() if x.on_maps]
    if options.classifier not in on_maps and maps:
        raise UsageError(f"{flag} cannot use --pooling {maps[0]}: only {', '.join(on_maps)} can")
    if options.classifier in on_maps and specs != maps[:1]:
        raise UsageError(f"{flag} needs --pooling maps alone, not --pooling {pooling}")
    return specs


def _test_metrics(test: Rows, scores: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return the metrics on the test photos; without test photos they are None."""
    if not len(test.indices):
        log.warning("no test photos: only the out-of-fold accuracy is known")
        names = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
        return {**dict.fromkeys(names), "confused": [], "temperature": temperature}
    first, mean = average_views(test.photo, scores)
    labels = test.labels[first]
    before, after = (calibration(to_probabilities(mean, t), labels) for t in (1, temperature))
    return {
        **evaluate(mean, labels, test.class_names),
        "temperature": temperature,
        "calibration": {"before": before, "after": after},
    }


def _describe(
    file: FeatureFile, pooling: str, options: TrainOptions, rows: Rows, model: Model
) -> dict[str, Any]:
    """Return what the classifier was trained on and how."""
    supported = registry.get_classifier(options.classifier).options
    first = np.unique(rows.photo, return_index=True)[1]
    labels, is_train = rows.labels[first], rows.split[first] == "train"
    n_train = np.bincount(labels[is_train], minlength=len(rows.class_names))
    n_bytes = 0  # that are read for a row
    for x in model.transforms:
        n_values = x.n_features if x.kernel is None else int(np.prod(file.shapes[x.spec][1:]))
        n_bytes += n_values * file.row_dtype(x.spec).itemsize
    return {
        **{name: getattr(options, name) for name in registry.NETWORK_OPTIONS if name in supported},
        "classifier": options.classifier,
        "pooling": pooling,
        "normalize": options.normalize,
        "top_variance": options.top_variance,
        "n_train": int(is_train.sum()),
        "n_train_per_class": [int(n_train.min()), int(n_train.max())],
        "n_test": int((~is_train).sum()),
        "n_rows": len(rows.indices),
        "n_features": sum(x.n_features for x in model.transforms),
        "bytes": n_bytes,
        "n_classes": len(rows.class_names),
        "seed": options.seed,
        "versions": package_versions(PACKAGES),
        "features_file": " ".join(map(str, file.files)),
        "extraction": file.attributes,
    }
