"""A feature file -> trained run folders."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_cli.api.files import StrPath, open_features, optional_spec
from bilinear_cli.api.progress import progress_bar
from bilinear_cli.api.run import Run
from bilinear_cli.errors import UsageError
from bilinear_cli.home import expand_path
from bilinear_cli.messages import closest_match
from bilinear_cli.networks.network import import_tensorflow
from bilinear_cli.poolings.registry import MAPS, split_specs
from bilinear_cli.run import run_name
from bilinear_cli.run import train as fit_and_write
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.validation import validate_choice

if TYPE_CHECKING:
    from bilinear_cli.photos.photo_set import PhotoSet
    from bilinear_cli.training.reducers import Workers

log = logging.getLogger(__name__)


def train(
    features: StrPath | Sequence[StrPath],
    *,
    pooling: str | None = None,
    classifier: str = "softmax",
    output: StrPath = "runs",
    data: StrPath | None = None,
    split_seed: int = 0,
    class_level: int | None = None,
    columns: Mapping[str, str] | None = None,
    scheduler: StrPath | None = None,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Train a classifier on stored features, score the test photos once, and write a run folder.

        run = bilinear_cli.train("x.h5", pooling="bilinear")
        run.metrics["top1"]

    Args:
        features: a feature file, the folder of its shards, or all shards.
        pooling: to train on; `max+sum` concatenates two. None if the file has only one.
        classifier: `softmax`, `svm`, `ridge`, `mlp` or `conv1x1`.
        output: the folder for run folders.
        data: a photo set whose labels, split and groups replace those of the file.
        split_seed, class_level, columns: of this photo set.
        scheduler: of Dask, whose workers compute the sums over rows.
        progress: whether to show progress bars.
        options: of `TrainOptions`, such as `C`, `normalize`, `folds` or `seed`.

    Raises:
        BilinearError: the rows are too few to train on, or the folder cannot be written.
        FeatureFileError: a file cannot be read.
        TypeError: an option is unknown.
        UsageError: an option is invalid.
    """
    _check_names(options)
    train_options = TrainOptions(classifier=classifier, **options)
    folder = expand_path(output, "output")
    photo_set = replacing_photo_set(
        optional_spec(data, "data"),
        split_seed=split_seed,
        class_level=class_level,
        columns=columns,
    )
    with open_features(features) as file:
        specs = trainable_poolings(file, () if pooling is None else (pooling,), train_options)
        if len(specs) > 1:
            raise UsageError(f"{file.path} has {', '.join(specs)}. Name one as the pooling.")
        existing = folder / run_name(file, specs[0], train_options)
        if existing.exists():
            warnings.warn(
                f"train replaces the run {existing}. To keep both, give another output.",
                stacklevel=2,
            )
        (metrics,) = train_on_poolings(
            file,
            specs,
            train_options,
            folder,
            photo_set=photo_set,
            scheduler=optional_spec(scheduler, "scheduler"),
            show_progress=progress,
        )
    return Run(Path(metrics["run"]))


def _check_names(options: Mapping[str, Any]) -> None:
    """Raise a TypeError for an option that `train` does not have; it names the nearest."""
    names = [field.name for field in fields(TrainOptions)]
    for name in options:
        if name not in names:
            suggestion = closest_match(name, [*signature(train).parameters, *names])
            hint = f" Did you mean {suggestion!r}?" if suggestion else ""
            raise TypeError(f"train() has no option {name!r}.{hint}")


def replacing_photo_set(
    data: str | None,
    *,
    split_seed: int,
    class_level: int | None,
    columns: Mapping[str, str] | None,
) -> "PhotoSet | None":
    """Return the photo set whose labels replace those of a feature file, if there is one.

    Raises:
        BilinearError: as `load_photo_set`.
        UsageError: an option of a photo set is given without one.
    """
    from bilinear_cli.photos.photo_set import load_photo_set

    if data:
        return load_photo_set(data, split_seed=split_seed, class_level=class_level, columns=columns)
    for option, value in (("--class-level", class_level), ("--columns", columns)):
        if value:
            raise UsageError(f"{option} is for a photo set: give its --data, or remove {option}")
    return None


def trainable_poolings(
    file: FeatureFile, specs: Sequence[str], options: TrainOptions
) -> tuple[str, ...]:
    """Return the poolings to train on; without `specs` all that the classifier takes.

    Raises:
        UsageError: the file lacks one, or has none for the classifier.
    """
    classifier = registry.get_classifier(options.classifier)
    for spec in specs:
        for name in split_specs(spec):
            validate_choice(f"pooling in {file.path}", name, file.shapes)
    specs = tuple(specs) or tuple(x for x in file.shapes if (x == MAPS) == classifier.on_maps)
    if not specs:
        advice = "has no maps: use extract --pooling maps"
        if not classifier.on_maps:
            advice = "has only maps: use train --classifier conv1x1"
        raise UsageError(f"{file.path} {advice}")
    return specs


def train_on_poolings(
    file: FeatureFile,
    specs: Sequence[str],
    options: TrainOptions,
    output: Path,
    *,
    photo_set: "PhotoSet | None" = None,
    scheduler: str | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> list[dict[str, Any]]:
    """Train on each of some poolings; return the content of each run's `metrics.json`."""
    classifier = registry.get_classifier(options.classifier)
    if scheduler and not classifier.distributed:
        raise UsageError(f"--scheduler cannot be used with --classifier {classifier.name}")
    if classifier.tensorflow:
        import_tensorflow()
    runs = []
    with _workers(scheduler, file) as workers:
        for spec in specs:
            with progress_bar(f"training on {spec}", show=show_progress) as progress:
                metrics = fit_and_write(
                    file,
                    spec,
                    options,
                    output,
                    photo_set=photo_set,
                    command=json.dumps([*command]),
                    progress=progress,
                    workers=workers,
                )
            runs.append(metrics)
    if options.class_weight == "none":
        _warn_if_unequal(runs[0]["n_train_per_class"])
    return runs


def _warn_if_unequal(n_train: Sequence[int]) -> None:
    from bilinear_cli.photos.photo_set import MAX_CLASS_RATIO, is_unequal

    if is_unequal(n_train):
        log.warning(
            "the classes have from %d to %d training photos, which is more than %d : 1. top-1 "
            "hides errors on small classes: look at the mean class accuracy, and try "
            "--class-weight balanced",
            *n_train,
            MAX_CLASS_RATIO,
        )


@contextmanager
def _workers(scheduler: str | None, file: FeatureFile) -> "Iterator[Workers | None]":
    """Yield the workers that compute the sums over a file's rows; None for this process."""
    if scheduler is None:
        yield None
        return
    from bilinear_cli.cluster.connect import connect

    with connect(scheduler) as client:  # raises if Dask is not installed
        from bilinear_cli.cluster.reducer import Workers

        yield Workers(client, file)
