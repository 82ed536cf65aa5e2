"""What a recipe leaves open: as an earlier run has it, or as suits this machine."""

import logging
from collections.abc import Callable
from dataclasses import replace

from bilinear_cli.extraction.job import Job, Origin
from bilinear_cli.networks.load import import_tensorflow
from bilinear_cli.networks.precision import measured_difference, with_precision
from bilinear_cli.recipe import UNSHARDED, Recipe, mixed_with
from bilinear_cli.views import distinct_sizes

log = logging.getLogger(__name__)


def resolve_locally(recipe: Recipe) -> Recipe:
    """Return the recipe with precision and batch size as suits this machine."""
    if recipe.precision != "auto" and recipe.batch_size:
        return recipe
    import_tensorflow()
    from bilinear_cli.networks.backbone import resolve_batch_size, resolve_precision

    batch_size = recipe.batch_size or resolve_batch_size(max(distinct_sizes(recipe.parsed_views)))
    return replace(recipe, precision=resolve_precision(recipe.precision), batch_size=batch_size)


def resolve_recipe(
    job: Job[Origin],
    begun: Recipe | None,
    old: Recipe | None,
    resolve: Callable[[Recipe], Recipe] = resolve_locally,
) -> Recipe:
    """Return the recipe of a job with precision and batch size.

    Args:
        job: its recipe may leave both open.
        begun: of what is there of its output.
        old: of the file whose rows are to be copied.
        resolve: fills in what none of them decides.
    """
    recipe = fill_from_stored(job.recipe, begun or old)
    if job.allow_mix and old:
        mixed = mixed_with(recipe.attributes(), [old.attributes()])
        recipe = replace(recipe, mixed_with=mixed)
        if mixed:
            difference = measured_difference(recipe.precision, *mixed.split())
            log.warning("rows of %s are in %s; %s", job.reuse, mixed, difference)
    recipe, left_open = resolve(recipe), job.recipe
    settled = (recipe.precision, recipe.batch_size)
    if recipe.shard != UNSHARDED and settled != (left_open.precision, left_open.batch_size):
        same = f"--batch-size {recipe.batch_size} --precision {recipe.precision}"
        log.info("all shards must have the same, on whatever machine: %s", same)
    return recipe


def fill_from_stored(recipe: Recipe, stored: Recipe | None) -> Recipe:
    """Return the recipe; what it leaves open (precision `auto`, batch size 0) as stored."""
    if not stored:
        return recipe
    precision = stored.precision if recipe.precision == "auto" else recipe.precision
    batch_size = recipe.batch_size or stored.batch_size
    return with_precision(replace(recipe, batch_size=batch_size), precision)
