"""The public functions: what the command line does, with the same words and defaults.

They neither print nor exit. Messages go to the logger `bilinear_cli`, and progress bars to stderr
or into the notebook.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilinear_cli import store
from bilinear_cli.errors import Progress, UsageError, validate_choice
from bilinear_cli.extraction.options import WITH_MAPS, ExtractOptions, maps_job, photos_job
from bilinear_cli.files import expand_path, expand_photo, expand_user
from bilinear_cli.networks.network import import_tensorflow, load_network
from bilinear_cli.photos.boxes.options import box_options
from bilinear_cli.predict import (
    Prediction,
    crop_photos,
    predict,
    predict_rows,
    warn_if_not_cropped,
)
from bilinear_cli.recipe import UNSHARDED
from bilinear_cli.run import read_metrics
from bilinear_cli.run_network import load_run_network, prediction_recipe
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.validation import integers

if TYPE_CHECKING:
    from bilinear_cli.photos.photo_set import PhotoSet
    from bilinear_cli.training.reducers import Workers

log = logging.getLogger(__name__)

LINE_SECONDS = 30  # between two lines of progress

StrPath = str | Path


def extract(
    data: StrPath = "sample",
    *,
    pooling: str | Sequence[str] = ("max", "sum", "bilinear"),
    output: StrPath | None = None,
    backbone: StrPath = "vgg16",
    layer: str | None = None,
    image_size: int | None = None,
    scales: Sequence[int] | None = None,
    flip: bool = False,
    resize: str | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    engine: str = "auto",
    weights: StrPath = "auto",
    limit: int | None = None,
    split_seed: int = 0,
    class_level: int | None = None,
    columns: Mapping[str, str] | None = None,
    boxes: StrPath | None = None,
    box: str = "all",
    margin: float = 0.1,
    no_box: str = "whole",
    min_confidence: float = 0.2,
    shard: str = UNSHARDED,
    reuse: StrPath | None = None,
    allow_precision_mix: bool = False,
    maps: StrPath | None = None,
    projection: StrPath | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    overwrite: bool = False,
    scheduler: StrPath | None = None,
    merge: bool = True,
    command: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Write pooled features of photos to a feature file, or resume an unfinished one.

        path = bilinear_cli.extract("photos", pooling=["max", "bilinear"], output="x.h5")

    Args:
        data: a photo set: `sample`, a folder with a folder for each class, a CUB-200-2011 folder, a
            CSV file, or `tfds:NAME`.
        pooling: what is stored, such as `bilinear` or `bilinear:144`; one or several.
        output: the file; None for a name in `features`.
        columns: of a CSV file, such as `{"path": "filename", "label": "species"}`.
        backbone: a name of `keras.applications`, or the path of an ONNX network.
        scheduler: of Dask, as the option of the command; None to work in this process.
        merge: of the shards of `scheduler`; without it, the folder of the shards is returned.
        command: words that the file records as the command.
        progress: whether to show progress bars.

    All others are the options of `bilinear extract`.

    Returns:
        The path of the feature file.

    Raises:
        BadPhotoError: a photo cannot be read; the rows before its batch are kept.
        BilinearError: a network, its weights or the photo set cannot be read.
        FeatureFileError: an existing output has other contents, or it cannot be written.
        UsageError: the options do not fit each other.
    """
    paths = {"output": output, "reuse": reuse, "maps": maps, "projection": projection}
    options = ExtractOptions(
        data=expand_user(data, "data"),
        pooling=[pooling] if isinstance(pooling, str) else tuple(pooling),
        backbone=expand_user(backbone, "backbone"),
        layer=layer,
        image_size=image_size,
        scales=None if scales is None else tuple(scales),
        flip=flip,
        resize=resize,
        batch_size=batch_size,
        precision=precision,
        engine=engine,
        weights=expand_user(weights, "weights"),
        limit=limit,
        split_seed=split_seed,
        class_level=class_level,
        columns=columns,
        shard=shard,
        allow_precision_mix=allow_precision_mix,
        seed=seed,
        skip_bad=skip_bad,
        overwrite=overwrite,
        boxes=_optional_spec(boxes, "boxes"),
        box=box,
        margin=margin,
        no_box=no_box,
        min_confidence=min_confidence,
        **{name: _optional_path(path, name) for name, path in paths.items()},
    )
    scheduler = _optional_spec(scheduler, "scheduler")
    if options.maps:
        _check_only_maps(options, scheduler, merge)
    return run_extraction(options, scheduler, merge, command, progress)


def _optional_spec(spec: StrPath | None, name: str) -> str | None:
    return None if spec is None else expand_user(spec, name)


def _optional_path(path: StrPath | None, name: str) -> Path | None:
    return None if path is None else expand_path(path, name)


def _check_only_maps(options: ExtractOptions, scheduler: str | None, merge: bool) -> None:
    """Raise a UsageError for an argument that the stored maps determine."""
    for field in fields(options):
        name = field.name
        if name not in WITH_MAPS and getattr(options, name) != field.default:
            raise UsageError(f"{name} cannot be used with maps, which determine it. Remove it.")
    if scheduler is not None or not merge:
        raise UsageError("maps are pooled in this process: remove scheduler and merge")


def run_extraction(
    options: ExtractOptions,
    scheduler: str | None = None,
    merge: bool = True,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> Path:
    """Do as `extract`, with all options in one object."""
    from bilinear_cli.extraction.extract import extract as extract_job

    if options.maps:
        job: Any = maps_job(options, command)
        with progress_bar("pooling", "photo", show_progress) as progress:
            extract_job(job, progress)
        return job.output
    if scheduler is None and not merge:
        raise UsageError("--no-merge has no effect without --scheduler: remove it")
    if scheduler is not None:
        if options.shard != UNSHARDED:
            raise UsageError("--shard cannot be used with --scheduler, which cuts its own shards")
        from bilinear_cli.cluster.connect import import_dask

        import_dask()
    with progress_bar("preparing photos", "photo", show_progress) as progress:
        job = photos_job(options, command, progress)
    if scheduler is None:
        with progress_bar("extracting", "photo", show_progress) as progress:
            extract_job(job, progress)
        return job.output
    from bilinear_cli.cluster.extract import extract_shards, merge_shards
    from bilinear_cli.cluster.shards_folder import shards_folder

    with progress_bar("extracting", "photo", show_progress) as progress:
        shards = extract_shards(job, scheduler, progress)
    if shards is None:
        return job.output
    if not merge:
        return shards_folder(job.output)
    with progress_bar("merging", "row", show_progress) as progress:
        merge_shards(shards, job.output, progress)
    return job.output


def open_features(path: StrPath | Sequence[StrPath]) -> FeatureFile:
    """Open a feature file, or all shards of a photo set as one file.

        with bilinear_cli.open_features("x.h5") as features:
            X, y = features.X("bilinear", "train"), features.y("train")

    Raises:
        FeatureFileError: a file cannot be read, or the files do not belong together.
    """
    paths = [path] if isinstance(path, str | Path) else path
    return store.open_features([expand_path(path) for path in paths])


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
) -> "Run":
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
    train_options = TrainOptions(classifier=classifier, **options)
    folder = expand_path(output, "output")
    photo_set = replacing_photo_set(
        _optional_spec(data, "data"),
        split_seed=split_seed,
        class_level=class_level,
        columns=columns,
    )
    with open_features(features) as file:
        specs = trainable_poolings(file, (pooling,) if pooling else (), train_options)
        if len(specs) > 1:
            raise UsageError(f"{file.path} has {', '.join(specs)}. Name one as the pooling.")
        (metrics,) = train_on_poolings(
            file,
            specs,
            train_options,
            folder,
            photo_set=photo_set,
            scheduler=_optional_spec(scheduler, "scheduler"),
            show_progress=progress,
        )
    return Run(Path(metrics["run"]))


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
    from bilinear_cli.poolings.registry import MAPS

    classifier = registry.get_classifier(options.classifier)
    for spec in specs:
        for name in spec.split("+"):
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
    from bilinear_cli.run import train as fit_and_write

    classifier = registry.get_classifier(options.classifier)
    if scheduler and not classifier.distributed:
        raise UsageError(f"--scheduler cannot be used with --classifier {classifier.name}")
    if classifier.tensorflow:
        import_tensorflow()
    runs = []
    with _workers(scheduler, file) as workers:
        for spec in specs:
            with progress_bar(f"training on {spec}", "step", show_progress) as progress:
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


@contextmanager
def progress_bar(label: str, unit: str, show: bool = True) -> Iterator[Progress]:
    """Yield a progress callback (done, total) that draws a bar, if `show`.

    Where stderr is neither a terminal nor a notebook, such as a log file, it prints lines instead.
    """
    from tqdm.asyncio import tqdm as text_bar
    from tqdm.auto import tqdm

    show = show and sys.stderr is not None  # as it is if the process began with stderr closed
    if show and tqdm is text_bar and not sys.stderr.isatty():
        yield _progress_lines(label, unit)
        return
    bar: Any = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=label, total=total, initial=done, unit=unit, disable=not show)
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            bar = None

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def _progress_lines(label: str, unit: str) -> Progress:
    """Return a progress callback that prints a line on stderr every half minute."""
    from tqdm import tqdm

    last = time.monotonic()
    start: tuple[int, float] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal start, last
        now = time.monotonic()
        first, began = start = start or (done, now)
        if now - last >= LINE_SECONDS:
            elapsed = now - began
            line = tqdm.format_meter(
                done, total, elapsed, ncols=0, prefix=label, unit=unit, initial=first
            )
            print(line, file=sys.stderr)
            last = now
        if done == total:
            start = None

    return progress


@dataclass(frozen=True)
class Run:
    """A trained run: its metrics, and predictions with its model.

    Attributes:
        path: the run folder.
    """

    path: Path

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`, such as `top1`, 0 to 1."""
        return read_metrics(self.path)

    def predict(
        self,
        photos: Any,
        *,
        top: int = 5,
        precision: str | None = None,
        engine: str = "auto",
        backbone: StrPath | None = None,
        weights: StrPath = "auto",
        allow_precision_mix: bool = False,
        boxes: StrPath | None = None,
        no_box: str = "whole",
        min_confidence: float = 0.2,
    ) -> list[Prediction]:
        """Return the most probable classes of photos.

            [prediction.name for prediction in run.predict(["a.jpg", "b.jpg"])]

        Args:
            photos: one photo or several: paths, uint8 RGB arrays (height, width, 3), or images of
                Pillow; or the path of a feature file (`.h5`), whose rows are taken.
            top: number of classes for each photo.

        The other arguments are the options of `bilinear predict`.

        Returns:
            A prediction for each photo, or with `boxes` for each box, in order. A photo that cannot
            be read has an `error`.

        Raises:
            BilinearError: the network cannot be loaded, or is another one.
            FeatureFileError: the feature file cannot be read, or suits another run.
            UsageError: something is no photo, or `top` is below 1.
        """
        top = integers(1).validate("top", top)
        source = _optional_spec(boxes, "boxes")
        options = box_options(source, no_box=no_box, min_confidence=min_confidence)
        if isinstance(photos, str | Path) and Path(photos).suffix == ".h5":
            if options:
                raise UsageError("boxes cannot be used with a feature file, whose rows have theirs")
            return [*predict_rows(self.path, expand_path(photos), top)]
        items: Iterable[Any] = map(expand_photo, [photos] if _is_one_photo(photos) else photos)
        if options:
            items = crop_photos(self.path, _paths_of(items), options)
        else:
            warn_if_not_cropped(self.path)
        recipe = prediction_recipe(self.path, precision, allow_precision_mix, engine)
        network = load_run_network(
            self.path,
            recipe,
            expand_user(weights, "weights"),
            _optional_path(backbone, "backbone"),
        )
        return [*predict(self.path, items, load_network(network, recipe), top=top)]

    def report(self, path: StrPath) -> Path:
        """Write a report, `.html` or `.md` by the suffix of the path; return the path."""
        from bilinear_cli.report.write import write_report

        report = expand_path(path)
        write_report([self.path], report)
        return report


def _paths_of(photos: Iterable[Any]) -> list[StrPath]:
    """Return a list of photos that are paths, or raise a UsageError."""
    photos = [*photos]
    if not all(isinstance(photo, str | PathLike) for photo in photos):
        raise UsageError("boxes are matched to photos by their paths: give paths, or crop arrays")
    return photos


def _is_one_photo(photos: Any) -> bool:
    """Return whether this is one photo, or at least no sequence; a 4-D array is a batch."""
    if isinstance(photos, np.ndarray):
        return photos.ndim == 0 or (photos.ndim == 3 and photos.dtype == np.uint8)
    return isinstance(photos, str | bytes | Path) or not isinstance(photos, Iterable)


def load_run(folder: StrPath) -> Run:
    """Return the run of a folder, or raise a BilinearError if it is not one."""
    run = Run(expand_path(folder, "folder"))
    run.metrics  # noqa: B018 - raises
    return run
