"""Stage 1 without the network: pools maps that a feature file has stored."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.extract import UNSEEN, Progress, check_finite
from bilinear_cli.extraction.resume import begin_or_go_on, begun_with, versions
from bilinear_cli.extraction.stored import read_projection, recipe_of_file
from bilinear_cli.poolings.parameters import Parameters, check_unseen, make_parameters
from bilinear_cli.poolings.projection import sample_of, second_moment
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import ROW_COLUMNS, FeatureFile, locked

log = logging.getLogger(__name__)

MAPS = "conv5"
N_SAMPLED = 1000  # maps that a projection is fitted on; they cost nothing but reading


def pool_maps(
    maps: Path,
    poolings: tuple[str, ...],
    output: Path,
    *,
    seed: int = 0,
    projection: Path | None = None,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a feature file of other poolings of stored maps, or go on with one.

    The rows are those of `extract` but for the rounding of the maps to float16.

    Args:
        maps: a complete feature file with the pooling `conv5`.
        poolings: specs.
        output: the file; until it is complete it is `partial_path(output)`.
        seed: of sketches, and of the sample of maps that a projection is taken from.
        projection: a feature file whose projection of channels is taken.
        attributes: root attributes to keep a record.
        overwrite: begin again, whatever is there.
        progress: told (rows done, rows in all).

    Raises:
        FeatureFileError: the maps cannot be read; or the output is there and was made otherwise,
            or cannot be written.
        UsageError: there are no maps in the file, or a pooling does not suit them.
    """
    with ExitStack() as open_now:
        open_now.enter_context(locked(output))
        file = open_now.enter_context(open_maps(maps, output))
        recipe = replace(recipe_of_file(file), poolings=poolings, seed=seed, pooled_from="maps")
        sha256 = dict(zip(file.paths, file.sha256, strict=True))
        given: Parameters = read_projection(projection, recipe) if projection else {}
        have = begun_with(output, recipe, sha256, given, overwrite)
        if have is None:
            return
        shape = file.shapes[MAPS][1:]
        parameters = make_parameters(recipe, shape[-1], have, lambda: _sample(file, recipe))
        check_unseen(parameters, file.sha256[file.split == "test"], UNSEEN)
        from bilinear_cli.extraction.graph import compile_maps  # loads TensorFlow

        compute, shapes = compile_maps(poolings, shape, parameters)
        columns = {name: getattr(file, name) for name in ROW_COLUMNS}
        record = _record(file, recipe) | (attributes or {})
        writer = open_now.enter_context(
            begin_or_go_on(
                output,
                shapes,
                columns,
                file.class_names,
                record,
                parameters,
                overwrite,
                file.skipped,
            )
        )
        which = np.arange(writer.rows_done, len(writer.paths))
        for places, x in file.batches(MAPS, which, recipe.batch_size * file.n_views):
            rows = compute(x)
            check_finite(rows, file.paths[which[places]])
            writer.append(rows)
            if progress:
                progress(writer.rows_done, len(writer.paths))
        writer.finish()


def _record(file: FeatureFile, recipe: Recipe) -> dict[str, Any]:
    """Return what the file of the maps says of itself, with what is different now."""
    record = {name: x for name, x in file.attributes.items() if name != "created"}
    return record | recipe.attributes() | {"versions": versions(recipe.precision)}


def open_maps(maps: Path, output: Path) -> FeatureFile:
    """Open the file that has the maps.

    Raises:
        FeatureFileError: it cannot be read.
        UsageError: it has no maps, or is the output.
    """
    file = FeatureFile(maps)
    if MAPS in file.shapes and output.resolve() != file.path.resolve():
        return file
    has = ", ".join(file.shapes)
    file.close()
    if MAPS not in file.shapes:
        raise UsageError(f"{maps} has no maps: it has {has}; extract --pooling {MAPS} first")
    raise UsageError(f"--maps {maps} is what is to be written: name another --output")


def _sample(file: FeatureFile, recipe: Recipe) -> tuple[np.ndarray, list[str]]:
    """Return the second moment of some training maps, and the SHA-256 of their photos."""
    sample = sample_of(np.flatnonzero(file.split == "train"), N_SAMPLED, recipe.seed)
    log.info("fitting the projection of channels on %d training maps", len(sample))

    def maps() -> Iterator[np.ndarray]:
        for _, x in file.batches(MAPS, sample, recipe.batch_size):
            yield x

    return second_moment(maps()), file.sha256[sample].tolist()
