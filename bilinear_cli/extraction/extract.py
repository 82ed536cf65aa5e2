"""Stage 1: photos -> network -> poolings -> feature file."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import BadPhotoError, BilinearError, UsageError
from bilinear_cli.extraction.fit import fit_parameters
from bilinear_cli.extraction.resume import (
    begin_or_go_on,
    begun_with,
    photos_done,
    versions,
    warn_of_versions,
)
from bilinear_cli.extraction.reuse import StoredPhotos
from bilinear_cli.photos.dataset import Dataset
from bilinear_cli.photos.images import empty_batch, lay_in, read_batches, read_photo
from bilinear_cli.poolings.parameters import Parameters, agreed, check_unseen
from bilinear_cli.recipe import Recipe, shard_photos
from bilinear_cli.store import WHOLE, FeatureWriter, locked, partial_path
from bilinear_cli.views import sizes_of

log = logging.getLogger(__name__)

UNSEEN = "extract without that projection (--reuse or --projection)"
Arrays = dict[str, np.ndarray]
Forward = Callable[[Any], Any]
Progress = Callable[[int, int], None]


def extract(
    dataset: Dataset,
    recipe: Recipe,
    output: Path,
    load_forward: Callable[[], Forward],
    *,
    reuse: Path | None = None,
    parameters: Parameters | None = None,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the feature file of a photo set, or go on with one that was broken off.

    Args:
        dataset: the photos.
        recipe: what to make of them.
        output: the file; until it is complete it is `partial_path(output)`.
        load_forward: called if there is something to do; returns the network: uint8 photos
            (batch, size, size, 3) -> float32 maps (batch, height, width, channels), in TensorFlow.
        reuse: a feature file, finished or not, whose rows are taken for the photos that it has.
        parameters: of the poolings, to be kept to; those that are not there are made.
        attributes: more root attributes, to keep a record.
        overwrite: begin again, whatever is there.
        skip_bad: leave out what cannot be read as a photo instead of stopping there.
        progress: told (photos done, photos in all).

    Raises:
        BadPhotoError: a photo cannot be read; the rows before its batch are kept.
        FeatureFileError: a file is there and was made otherwise, or cannot be written.
        InUseError: another run is writing it.
        UsageError: a pooling does not suit the network's maps, or there is nothing to take its
            projection from.
    """
    photos = shard_photos(recipe.shard, len(dataset), recipe.batch_size)
    part = dataset.take(np.arange(photos.start, photos.stop))
    with ExitStack() as open_now:
        open_now.enter_context(locked(output))
        sha256 = part.sha256()
        by_path = dict(zip(part.paths, sha256, strict=True))
        have = begun_with(output, recipe, by_path, parameters or {}, overwrite)
        if have is None:
            return
        old = open_now.enter_context(_open_reused(reuse, recipe, output)) if reuse else None
        if old:
            have = agreed(have, old.parameters, old.path)
        forward = load_forward()
        have = fit_parameters(dataset, recipe, forward, have, skip_bad)
        check_unseen(have, sha256[part.split == "test"], UNSEEN)
        from bilinear_cli.extraction.graph import compile_pooling

        compute, shapes = compile_pooling(
            forward, recipe.poolings, recipe.batch_size, recipe.shown, have
        )
        columns = _columns(part, photos.start, recipe.views, sha256)
        record = record_of(dataset, recipe) | (attributes or {})
        writer = open_now.enter_context(
            begin_or_go_on(output, shapes, columns, dataset.class_names, record, have, overwrite)
        )
        _run(dataset.root, recipe, writer, compute, old, skip_bad, progress)
        if recipe.shard == WHOLE and (writer.photo < 0).all():
            raise BadPhotoError(f"not one file of {dataset.spec} can be read as a photo")
        writer.finish(_reasons(dataset.root, recipe, writer))


def _open_reused(reuse: Path, recipe: Recipe, output: Path) -> StoredPhotos:
    old = StoredPhotos(reuse, recipe)
    warn_of_versions(old.path, old.versions, old.precision)
    if old.path.resolve() == partial_path(output).resolve():
        with old:
            raise UsageError(f"--reuse {old.path} is what is to be written: name another --output")
    return old


def _run(
    root: Path,
    recipe: Recipe,
    writer: FeatureWriter,
    compute: Callable[[dict[int, np.ndarray]], Arrays],
    old: StoredPhotos | None,
    skip_bad: bool,
    progress: Progress | None,
) -> None:
    """Fill the file from where it stands, in its own order of photos."""
    n_views, sizes = writer.n_views, sizes_of(recipe.shown)
    paths, sha256 = writer.paths[::n_views], writer.sha256[::n_views]
    n_photos, done = len(paths), photos_done(writer)
    known = old.find(sha256) if old else np.full(n_photos, -1)
    new = done + np.flatnonzero(known[done:] < 0)
    if old:
        old.check_shapes(writer.shapes)
        log.info("%d of %d photos are in %s", (known[done:] >= 0).sum(), n_photos - done, old.path)

    def read(photo: int) -> list[np.ndarray]:
        return read_photo(root / paths[photo], sizes, recipe.resize, sha256[photo])

    def tell() -> None:
        if progress:
            progress(photos_done(writer), n_photos)

    def copy_upto(photo: int) -> None:
        for start in range(photos_done(writer), photo, recipe.batch_size):
            assert old
            stop = min(start + recipe.batch_size, photo)
            rows = old.rows(known[start:stop])
            check_finite(rows, np.repeat(paths[start:stop], n_views))
            writer.append(rows)
            tell()

    tell()
    pixels = empty_batch(sizes, recipe.batch_size)
    for n_batch, batch in enumerate(read_batches(new.tolist(), recipe.batch_size, read)):
        numbers = new[n_batch * recipe.batch_size :][: len(batch)]
        bad = lay_in(pixels, batch)
        for error in (photo for photo in batch if isinstance(photo, BadPhotoError)):
            if not skip_bad:
                raise BadPhotoError(
                    f"{error}; {photos_done(writer)} of {n_photos} photos are kept: mend it and "
                    "run again, or leave such files out with --skip-bad"
                )
            log.warning("skipped: %s", error)
        computed = compute(pixels)
        check_finite(computed, np.repeat(paths[numbers], n_views))
        for run in np.split(np.arange(len(batch)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            copy_upto(numbers[run[0]])
            rows = slice(run[0] * n_views, (run[-1] + 1) * n_views)
            unread = np.flatnonzero(np.repeat(np.isin(run, bad), n_views))
            writer.append(
                {spec: values[rows] for spec, values in computed.items()}, unread.tolist()
            )
            tell()
    copy_upto(n_photos)


def check_finite(rows: Arrays, names: np.ndarray) -> None:
    """Raise a BilinearError that names the first of the photos whose row is not finite.

    Args:
        rows: spec -> rows as they are stored.
        names: of the photo of each row; there may be more rows.
    """
    for spec, values in rows.items():
        finite = np.isfinite(values[: len(names)]).reshape(len(names), -1).all(axis=1)
        if not finite.all():
            raise BilinearError(
                f"{spec} of {names[np.argmin(finite)]} is beyond what {values.dtype} can hold: "
                "begin again (--overwrite) without that photo, or, after float16, "
                "with --precision float32"
            )


def _reasons(root: Path, recipe: Recipe, writer: FeatureWriter) -> dict[str, str]:
    """Return path -> what is wrong with it, for the photos that were skipped, now or earlier."""
    reasons = {}
    for path in dict.fromkeys(writer.paths[writer.photo < 0]):
        reasons[path] = "could not be read when its turn came"
        try:
            read_photo(root / path, sizes_of(recipe.shown), recipe.resize)
        except BadPhotoError as error:
            reasons[path] = str(error)
    return reasons


# The file ---------------------------------------------------------------------------------


def _columns(part: Dataset, first: int, view_names: tuple[str, ...], sha256: np.ndarray) -> Arrays:
    """Return what a feature file says of its rows, photo by photo and of each its views."""
    photos = {
        "photo": first + np.arange(len(part)),
        "labels": part.labels,
        "paths": part.paths,
        "sha256": sha256,
        "split": part.split,
        "group": part.group,
    }
    rows = {name: np.repeat(values, len(view_names)) for name, values in photos.items()}
    return rows | {"view": np.tile(view_names, len(part))}


def record_of(dataset: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Return the root attributes that say how a feature file is made."""
    return {
        **recipe.attributes(),
        "versions": versions(recipe.precision),
        "data": dataset.spec,
        "data_kind": dataset.kind,
        "data_root": str(dataset.root),
        "data_sha256": dataset.fingerprint(),
        "split_seed": -1 if dataset.split_seed is None else dataset.split_seed,
    }
