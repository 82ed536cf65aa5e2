"""Stage 1: photos or stored maps -> poolings -> feature file. The one orchestration of it."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.extraction.job import Batch, Job, Origin, Progress, Shapes, Source
from bilinear_cli.extraction.resolve import resolve_recipe
from bilinear_cli.extraction.resume import check_resumable, open_existing, photos_done
from bilinear_cli.extraction.reuse import ReusedRows, check_not_output, open_reused
from bilinear_cli.poolings.parameters import Parameters, check_not_fitted_on_test, merge_parameters
from bilinear_cli.poolings.registry import FITTED_ON
from bilinear_cli.recipe import UNSHARDED, Recipe
from bilinear_cli.store import FeatureWriter, create, locked

log = logging.getLogger(__name__)

UNSEEN = "extract without that projection (--reuse or --projection)"


def extract(job: Job[Origin], progress: Progress | None = None) -> None:
    """Write a feature file, or resume one that a stopped run left.

    The network is loaded only if there is something to do.

    Args:
        job: of what, how and where to.
        progress: is called with (photos done, photos in all).

    Raises:
        BadPhotoError: a photo cannot be read; the rows before its batch are kept.
        FeatureFileError: a file is there and was made otherwise, or cannot be written.
        InUseError: another run is writing it.
        UsageError: a pooling does not suit the maps, or there is nothing to fit its projection on.
    """
    with ExitStack() as stack:
        stack.enter_context(locked(job.output))
        check_not_output(job)
        begun = stack.enter_context(open_existing(job.output, job.overwrite))
        complete = begun is not None and not isinstance(begun, FeatureWriter)
        old = stack.enter_context(open_reused(job, complete))
        recipe = resolve_recipe(job, begun.recipe if begun else None, old.recipe if old else None)
        with job.origin.open(recipe, job.skip_bad) as source:
            if begun:
                check_resumable(begun, source, recipe)
            parameters = job.parameters
            for file in filter(None, (begun, None if complete else old)):
                parameters = merge_parameters(parameters, file.parameters, file.path)
            if complete:
                return
            earlier = ReusedRows(old, recipe) if old else None
            parameters = source.parameters(parameters)
            if FITTED_ON in parameters:
                check_not_fitted_on_test(parameters, source.test_sha256(), UNSEEN)
            shapes = source.compile(parameters)
            resumed = begun if isinstance(begun, FeatureWriter) else None
            with resumed or _create(job, source, shapes, parameters) as writer:
                _fill(writer, _in_order(writer, source, earlier), progress)
                _finish(writer, source, recipe)


def _create(
    job: Job[Origin], source: Source, shapes: Shapes, parameters: Parameters
) -> FeatureWriter:
    header = source.header()
    record = {**header.attributes, **job.attributes}
    return create(job.output, shapes, replace(header, attributes=record, parameters=parameters))


def _finish(writer: FeatureWriter, source: Source, recipe: Recipe) -> None:
    """Give the file its final name, without the rows of bad photos."""
    bad = dict.fromkeys(writer.paths[writer.photo < 0].tolist())
    if recipe.shard == UNSHARDED and (writer.photo < 0).all():
        data = writer.attributes["data"]
        raise BadPhotoError(f"not one file of {data} can be read as a photo")
    writer.finish({path: source.reason(path) for path in bad})


def _in_order(writer: FeatureWriter, source: Source, earlier: ReusedRows | None) -> Iterator[Batch]:
    """Yield the rows that are missing in the file's order of photos.

    Those that the earlier file has stand among those that the source computes, whole batches at a
    time.
    """
    paths = writer.paths[:: writer.n_views][photos_done(writer) :].tolist()
    if earlier:
        earlier.check_shapes(writer.shapes)
        earlier.find(paths, source.sha256(paths))
    known = earlier.sha256 if earlier else {}
    computed, batch = source.batches([path for path in paths if path not in known]), None
    for is_known, run in groupby(paths, known.__contains__):
        if earlier and is_known:
            yield from earlier.batches([*run])
            continue
        n_wanted = len([*run])
        while n_wanted:
            taken, batch = (batch or next(computed)).split(n_wanted)
            n_wanted -= len(taken.paths)
            batch = batch if batch.paths else None
            yield taken


def _fill(writer: FeatureWriter, batches: Iterator[Batch], progress: Progress | None) -> None:
    """Write batches to the file, each so that it survives a kill."""
    n_views = writer.n_views
    n_photos = len(writer.paths) // n_views
    progress = progress or (lambda done, total: None)
    progress(photos_done(writer), n_photos)
    try:
        for batch in batches:
            for error in filter(None, batch.errors):
                log.warning("skipped: %s", error)
            _check_finite(batch, n_views)
            bad = np.repeat([error is not None for error in batch.errors], n_views)
            sha256 = np.repeat(batch.sha256, n_views)
            writer.append(batch.rows, np.flatnonzero(bad).tolist(), sha256)
            progress(photos_done(writer), n_photos)
    except BadPhotoError as error:
        done = f"{photos_done(writer)} of {n_photos} photos are kept"
        raise BadPhotoError(f"{error} ({done})") from error


def _check_finite(batch: Batch, n_views: int) -> None:
    """Raise a BilinearError that names the first photo whose row is not finite."""
    for spec, values in batch.rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            path = batch.paths[int(np.argmin(finite)) // n_views]
            raise BilinearError(
                f"{spec} of {path} is beyond what {values.dtype} can hold: begin again "
                "(--overwrite) without that photo, or, after float16, with --precision float32"
            )
