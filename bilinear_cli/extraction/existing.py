"""What a new run takes from existing feature files: options, rows, a projection."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bilinear_cli.errors import FeatureFileError, UsageError
from bilinear_cli.extraction.job import Batch, Input, Job
from bilinear_cli.networks.engines import MEASURED_ENGINES, measured_difference, with_precision
from bilinear_cli.networks.network import import_tensorflow
from bilinear_cli.photos.photo_set import entry_keys
from bilinear_cli.poolings.registry import FITTED_ON, get_pooling
from bilinear_cli.recipe import (
    UNSHARDED,
    Recipe,
    check_same,
    differences,
    distinct_sizes,
    mixed_engines,
    mixed_with,
)
from bilinear_cli.store import FeatureFile, partial_path

if TYPE_CHECKING:
    from bilinear_cli.extraction.from_photos import MapNetwork

log = logging.getLogger(__name__)

REUSE_ADVICE = "its rows cannot be reused"
NETWORK_ATTRIBUTES = ("backbone", "layer", "weights_sha256")  # they decide what a channel is

# The recipe ------------------------------------------------------------------------------


def resolve_locally(recipe: Recipe, network: "MapNetwork | None" = None) -> Recipe:
    """Return the recipe with a precision, an engine and a batch size that suit this machine.

    The memory that an ONNX `network` needs is measured.
    """
    if recipe.is_resolved:
        return recipe
    import_tensorflow()
    from bilinear_cli.networks import backbone

    precision = backbone.resolve_precision(recipe.precision)
    engine = backbone.resolve_engine(recipe.engine, recipe.backbone, precision)
    size = max(distinct_sizes(recipe.parsed_views))
    batch_size = recipe.batch_size
    if not batch_size:
        measured = network.measure_memory(recipe.layer, size) if network else None
        photo_bytes = measured or backbone.BYTES_PER_PIXEL[engine] * size**2
        batch_size = backbone.resolve_batch_size(size, photo_bytes)
    return replace(recipe, precision=precision, engine=engine, batch_size=batch_size)


def resolve_recipe(
    job: Job[Input],
    existing_recipe: Recipe | None,
    reused_recipe: Recipe | None,
    resolve: Callable[[Recipe, "MapNetwork | None"], Recipe] = resolve_locally,
) -> Recipe:
    """Return the recipe of a job; existing files, or else `resolve`, choose what it leaves open.

    Args:
        existing_recipe, reused_recipe: of the existing output and of the file of `job.reuse`.
        resolve: replaces precision and engine `auto` and batch size 0 if no file decides them.
    """
    recipe = job.recipe
    if stored := existing_recipe or reused_recipe:
        precision = stored.precision if recipe.precision == "auto" else recipe.precision
        batch_size = recipe.batch_size or stored.batch_size
        recipe = replace(recipe, batch_size=batch_size)
        if recipe.pooled_from == "photos":  # stored maps have the colours of their own file
            recipe = replace(recipe, colours=stored.colours)
        recipe = with_precision(recipe, precision)
    if existing_recipe:
        engine = existing_recipe.engine if recipe.engine == "auto" else recipe.engine
        recipe = replace(recipe, engine=engine, mixed_engines=existing_recipe.mixed_engines)
    if job.allow_precision_mix and reused_recipe:
        mixed = mixed_with(recipe.attributes(), [reused_recipe.attributes()])
        recipe = replace(recipe, mixed_with=mixed)
        if mixed:
            difference = measured_difference(recipe.precision, *mixed.split())
            message = "%s has rows in %s. The new file will mix them with rows in %s: %s"
            log.warning(message, job.reuse, mixed, recipe.precision, difference)
    return resolve(recipe, getattr(job.input, "network", None))


def with_mixed_engines(recipe: Recipe, reused: Recipe | None, path: Path | None) -> Recipe:
    """Return a resolved recipe with the engines of the reused rows; log how far they are apart."""
    sources = [x.attributes() for x in (recipe, reused) if x]
    mixed = mixed_engines(recipe.attributes(), sources)
    if reused and mixed:
        message = "%s has rows by %s. The new file will mix them with rows by %s: %s"
        log.info(message, path, mixed, recipe.engine, MEASURED_ENGINES)
    return replace(recipe, mixed_engines=mixed)


def log_shard_options(recipe: Recipe, requested: Recipe) -> None:
    """Log the options that the other shards need, if they were left open for this one."""
    triples = [(x.precision, x.engine, x.batch_size) for x in (recipe, requested)]
    if recipe.shard != UNSHARDED and triples[0] != triples[1]:
        options = f"--batch-size {recipe.batch_size} --precision {recipe.precision}"
        options += f" --engine {recipe.engine}"
        log.info("use the same options for all shards, on every machine: %s", options)


# Reuse -----------------------------------------------------------------------------------


def open_reused(
    job: Job[Input], complete: bool = False
) -> AbstractContextManager[FeatureFile | None]:
    """Open the file of `job.reuse`, finished or not.

    If the output is complete, the file is opened only where its precision matters.

    Raises:
        FeatureFileError: the file cannot be read.
        UsageError: the file is the unfinished output.
    """
    if not job.reuse or (complete and not job.allow_precision_mix):
        return nullcontext()
    path = job.reuse if job.reuse.exists() else partial_path(job.reuse)
    if path.resolve() == partial_path(job.output).resolve():
        raise UsageError(f"--reuse {path} is the file to write. Name another --output.")
    return FeatureFile(job.reuse, allow_partial=True)


def check_reusable(file: FeatureFile, recipe: Recipe) -> None:
    """Raise a FeatureFileError unless rows of a file can be copied to a file of this recipe."""
    stored, requested = file.recipe.comparable_attributes(), recipe.comparable_attributes()
    check_same(
        differences(stored, requested, "reuse", allow_precision_mix=True), file.path, REUSE_ADVICE
    )
    if not recipe.mixed_with:
        advice = f"{REUSE_ADVICE} without --allow-precision-mix"
        check_same(differences(stored, requested, "reuse"), file.path, advice)
    missing = set(recipe.specs) - file.shapes.keys()
    if missing:
        raise FeatureFileError(
            f"{file.path} has no features of the pooling {', '.join(sorted(missing))}. Leave out "
            "--reuse, or this --pooling."
        )


def match_reusable_rows(
    file: FeatureFile,
    shapes: Mapping[str, tuple[int, ...]],
    keys: Sequence[str],
    contents: np.ndarray,
) -> dict[str, int]:
    """Return key -> first row in a reusable file, of the photos whose bytes and boxes it has.

    `contents`, str (photos,), are `entry_keys` of the SHA-256 and the box of each photo.

    Raises:
        FeatureFileError: rows of the file have other shapes than `shapes`, spec -> (rows, ...).
    """
    for spec, shape in shapes.items():
        stored = file.shapes[spec][1:]
        if stored != shape[1:]:
            raise FeatureFileError(
                f"a row of {spec} has the shape {stored} in {file.path}, and should have "
                f"{shape[1:]}. Leave out --reuse."
            )
    done = np.flatnonzero(file.photo[: file.rows_done : file.n_views] >= 0) * file.n_views
    stored = entry_keys(file.sha256, file.box)[done].tolist()
    first_rows = dict(zip(stored, done.tolist(), strict=True))
    pairs = zip(keys, contents.tolist(), strict=True)
    reused = {key: first_rows[content] for key, content in pairs if content in first_rows}
    log.info("%d of %d photos are in %s", len(reused), len(keys), file.path)
    return reused


def reused_batches(
    file: FeatureFile, specs: Iterable[str], batch_size: int, first_rows: Sequence[int]
) -> Iterator[Batch]:
    """Yield the stored rows of photos; `first_rows` are the index of each photo's first row."""
    for start in range(0, len(first_rows), batch_size):
        first = np.array(first_rows[start : start + batch_size])
        indices = (first[:, None] + np.arange(file.n_views)).ravel()
        rows = {spec: file.read_stored(spec, indices) for spec in specs}
        yield Batch(file.sha256[first].tolist(), [None] * len(first), rows)


def read_projection(path: Path | None, recipe: Recipe) -> dict[str, np.ndarray]:
    """Return the projections of channels that the poolings take from a file, finished or not.

    Raises:
        FeatureFileError: the file cannot be read, lacks a projection, or is of another network.
    """
    if not path:
        return {}
    projected = [x for x in map(get_pooling, recipe.specs) if x.is_projected]
    names = {name for pooling in projected for name in pooling.parameter_names}
    with FeatureFile(path, allow_partial=True) as file:
        recipes = (file.recipe, recipe)
        stored, requested = ({n: getattr(x, n) for n in NETWORK_ATTRIBUTES} for x in recipes)
        differing = differences(stored, requested, "projection")
        check_same(differing, path, "its projection cannot be used")
        if not names:
            raise FeatureFileError(
                f"--projection {path} has no effect: no --pooling has a projection. Remove it."
            )
        if missing := sorted(names - file.parameters.keys() - {FITTED_ON}):
            size = missing[0].rpartition("-")[2]
            raise FeatureFileError(
                f"{path} has no {', '.join(missing)}. Give a file that has a pooling of this size, "
                f"such as bilinear:{size}."
            )
        return {name: file.parameters[name] for name in names}
