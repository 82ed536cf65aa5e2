"""Stage 1: photos or stored maps -> poolings -> feature file."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.extraction import existing, resume
from bilinear_cli.extraction.job import Batch, Input, Job, Source, warn_if_versions_differ
from bilinear_cli.photos.photo_set import entry_keys
from bilinear_cli.poolings.parameters import Parameters, check_not_fitted_on_test, merge_parameters
from bilinear_cli.poolings.registry import FITTED_ON
from bilinear_cli.progress import Progress
from bilinear_cli.recipe import UNSHARDED, Recipe
from bilinear_cli.store import BOX, FeatureFile, FeatureWriter, create, locked

log = logging.getLogger(__name__)


def extract(job: Job[Input], progress: Progress | None = None) -> None:
    """Write a feature file, or resume an unfinished one.

    The network is loaded only if there is work to do. Progress counts photos.

    Raises:
        BadPhotoError: a photo cannot be read; the rows before its batch are kept.
        BilinearError: a row is not finite, the memory does not suffice, or the network cannot run.
        FeatureFileError: the existing output has other contents, or it cannot be written.
        InUseError: another run is writing it.
        UsageError: a pooling does not suit the maps, or a projection has no photos to fit on.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(job.output))
        stored = stack.enter_context(resume.open_existing(job.output, job.overwrite))
        writer = stored if isinstance(stored, FeatureWriter) else None
        complete = stored is not None and writer is None
        reused = stack.enter_context(existing.open_reused(job, complete))
        stored_recipe, reused_recipe = (x.recipe if x else None for x in (stored, reused))
        recipe = existing.resolve_recipe(job, stored_recipe, reused_recipe)
        recipe = existing.with_mixed_engines(recipe, reused_recipe, job.reuse)
        source = stack.enter_context(job.input.open(recipe, job.skip_bad))
        existing.log_shard_options(recipe, job.recipe)
        parameters = job.parameters
        if stored and resume.check_resumable(stored, source, recipe):
            parameters = merge_parameters(parameters, stored.parameters, stored.path)
        elif writer:
            writer.close()
            writer = None  # a new file replaces it
        if complete:
            return
        if reused:
            parameters = merge_parameters(parameters, reused.parameters, reused.path)
            existing.check_reusable(reused, recipe)
            warn_if_versions_differ(reused)
        with _prepare(job, source, parameters, writer) as writer:
            _fill(writer, _missing_rows(writer, source, reused, recipe.batch_size), progress)
            _finish(writer, source, recipe)


def _prepare(
    job: Job[Input], source: Source, parameters: Parameters, writer: FeatureWriter | None
) -> FeatureWriter:
    """Fit missing parameters, compile the poolings, and create the file unless it is resumed."""
    parameters, header = source.fit_parameters(parameters), source.header(writer)
    if FITTED_ON in parameters:
        columns = header.row_columns
        keys = entry_keys(columns["paths"], columns.get(BOX))[columns["split"] == "test"]
        sha256 = source.sha256([*dict.fromkeys(keys.tolist())])
        advice = "use --overwrite, without --reuse and --projection, to fit a new projection"
        check_not_fitted_on_test(parameters, np.array(sha256, str), advice)
    shapes = source.compile(parameters)
    attributes = {**header.attributes, **job.attributes}
    header = replace(header, attributes=attributes, parameters=parameters)
    return resume.with_photos(writer, header) if writer else create(job.output, shapes, header)


def _missing_rows(
    writer: FeatureWriter, source: Source, reused_file: FeatureFile | None, batch_size: int
) -> Iterator[Batch]:
    """Yield the rows that are not done, in order: reused rows, and whole computed batches."""
    keys = writer.keys[:: writer.n_views][writer.photos_done :].tolist()
    if not reused_file:
        yield from source.batches(keys)
        return
    box = None if writer.box is None else writer.box[:: writer.n_views][writer.photos_done :]
    contents = entry_keys(np.array(source.sha256(keys), str), box)
    reused = existing.match_reusable_rows(reused_file, writer.shapes, keys, contents)
    computed, batch = source.batches([key for key in keys if key not in reused]), None
    for is_reused, consecutive_keys in groupby(keys, reused.__contains__):
        if is_reused:
            first_rows = [reused[key] for key in consecutive_keys]
            yield from existing.reused_batches(reused_file, writer.shapes, batch_size, first_rows)
            continue
        n_photos = len([*consecutive_keys])
        while n_photos:
            first, rest = (batch or next(computed)).split(n_photos)
            n_photos -= len(first.errors)
            batch = rest if rest.errors else None
            yield first


def _fill(writer: FeatureWriter, batches: Iterator[Batch], progress: Progress | None) -> None:
    """Write batches to the file; each survives a kill."""
    n_views = writer.n_views
    n_photos = len(writer.paths) // n_views
    progress = progress or (lambda done, total: None)
    progress(writer.photos_done, n_photos)
    try:
        for batch in batches:
            for error in filter(None, batch.errors):
                log.warning("skipped: %s", error)
            _check_finite(batch, writer)
            bad = np.repeat([error is not None for error in batch.errors], n_views)
            sha256 = np.repeat(batch.sha256, n_views)
            writer.append(batch.rows, np.flatnonzero(bad).tolist(), sha256)
            progress(writer.photos_done, n_photos)
    except BadPhotoError as error:
        done = f"{writer.photos_done} of {n_photos} photos are done and kept."
        raise BadPhotoError(f"{error} {done}") from error


def _check_finite(batch: Batch, writer: FeatureWriter) -> None:
    """Raise a BilinearError that names the first photo whose row is not finite."""
    for spec, values in batch.rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            key = writer.keys[writer.rows_done + np.argmin(finite)]
            raise BilinearError(
                f"the {spec} features of {key} exceed the range of {values.dtype}. Remove that "
                "photo and run the same command again. If you used --precision float16, "
                "--overwrite --precision float32 may suffice."
            )


def _finish(writer: FeatureWriter, source: Source, recipe: Recipe) -> None:
    """Give the file its final name, without the rows of bad photos."""
    bad = dict.fromkeys(writer.keys[writer.photo < 0].tolist())
    if recipe.shard == UNSHARDED and (writer.photo < 0).all():
        raise BadPhotoError(f"no file of {writer.attributes['data']} can be read as a photo")
    writer.finish({key: source.read_error(key) for key in bad})
