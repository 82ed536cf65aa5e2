"""Photos, or stored maps -> a feature file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_cli.api.files import StrPath, optional_path, optional_spec
from bilinear_cli.api.progress import progress_bar
from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.make_job import maps_job, photos_job
from bilinear_cli.extraction.options import ExtractOptions, check_options_with_maps
from bilinear_cli.home import expand_spec
from bilinear_cli.recipe import UNSHARDED

if TYPE_CHECKING:
    from bilinear_cli.extraction.from_photos import PhotoInput
    from bilinear_cli.extraction.job import Job


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
        data=_photo_set_spec(data),
        pooling=[pooling] if isinstance(pooling, str) else _tuple(pooling, "pooling"),
        backbone=expand_spec(backbone, "backbone"),
        layer=layer,
        image_size=image_size,
        scales=None if scales is None else _tuple(scales, "scales"),
        flip=flip,
        resize=resize,
        batch_size=batch_size,
        precision=precision,
        engine=engine,
        weights=expand_spec(weights, "weights"),
        limit=limit,
        split_seed=split_seed,
        class_level=class_level,
        columns=columns,
        shard=shard,
        allow_precision_mix=allow_precision_mix,
        seed=seed,
        skip_bad=skip_bad,
        overwrite=overwrite,
        boxes=optional_spec(boxes, "boxes"),
        box=box,
        margin=margin,
        no_box=no_box,
        min_confidence=min_confidence,
        **{name: optional_path(path, name) for name, path in paths.items()},
    )
    scheduler = optional_spec(scheduler, "scheduler")
    if options.maps:
        names = [x.name for x in fields(options) if getattr(options, x.name) != x.default]
        names += ["scheduler"] if scheduler is not None else []
        names += [] if merge else ["no_merge"]
        check_options_with_maps(names)
    return run_extraction(options, scheduler, merge, command, progress)


def _photo_set_spec(data: StrPath) -> str:
    """Return the spec of a photo set; raise a UsageError for a list of photos."""
    if not isinstance(data, str | PathLike):
        raise UsageError(
            "data is one photo set, such as a folder, a CSV file or 'sample', and not "
            f"{type(data).__name__}. For a list of photos, write a CSV file with the columns path "
            "and label, or use bilinear_cli.transformers.PhotoFeatures."
        )
    return expand_spec(data, "data")


def _tuple(values: Any, name: str) -> tuple:
    """Return the values of a list; raise a UsageError if it is no list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"{name} has to be a list, and not {type(values).__name__}")
    return tuple(values)


def run_extraction(
    options: ExtractOptions,
    scheduler: str | None,
    merge: bool,
    command: Sequence[str],
    show_progress: bool,
) -> Path:
    """Do as `extract`, with all options in one object."""
    if options.maps:
        return _run_here(maps_job(options, command), "pooling", show_progress)
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
        return _run_here(job, "extracting", show_progress)
    return _run_on_cluster(job, scheduler, merge, show_progress)


def _run_here(job: "Job[Any]", label: str, show_progress: bool) -> Path:
    """Extract in this process; return the feature file."""
    from bilinear_cli.extraction.extract import extract as extract_job

    with progress_bar(label, "photo", show_progress) as progress:
        extract_job(job, progress)
    return job.output


def _run_on_cluster(
    job: "Job[PhotoInput]", scheduler: str, merge: bool, show_progress: bool
) -> Path:
    """Extract on Dask's workers; return the feature file, or without `merge` its shards."""
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
