"""What the client settles before workers begin: what is there, and what is left open."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Client

from bilinear_cli.cluster.requirements import resolve_on_worker
from bilinear_cli.cluster.shards_folder import ExistingShards, shards_folder
from bilinear_cli.errors import FeatureFileError
from bilinear_cli.extraction.existing import ADVICE, check_resumable, open_reused, resolve_recipe
from bilinear_cli.extraction.job import Job, Origin
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.poolings.parameters import merge_parameters
from bilinear_cli.recipe import PRECISION_ATTRIBUTES, Recipe, check_same, differences
from bilinear_cli.store import FeatureFile, partial_path
from bilinear_cli.views import distinct_sizes

log = logging.getLogger(__name__)


def is_complete(job: Job[Origin]) -> bool:
    """Say whether there is nothing to do.

    Raises:
        FeatureFileError: what is there is not what is asked for.
    """
    output = job.output
    if job.overwrite:
        return False
    if partial_path(output).exists():
        raise FeatureFileError(
            f"{partial_path(output)} was begun without --scheduler: finish it so, or {ADVICE}"
        )
    shards = [*shards_folder(output).glob("*.h5"), *shards_folder(output).glob("*.h5.partial")]
    written = max((shard.stat().st_mtime_ns for shard in shards), default=0)
    # younger shards are to replace the file, as --overwrite has begun
    if not output.exists() or written > output.stat().st_mtime_ns:
        return False
    with open_reused(job, complete=True) as old, FeatureFile(output) as file:
        recipe = resolve_recipe(job, file.recipe, old.recipe if old else None)
        with job.origin.open(recipe, job.skip_bad) as source:
            check_resumable(file, source, recipe)
        merge_parameters(job.parameters, file.parameters, output)
    if shards:
        log.info("%s is older than %s: it can be removed", shards_folder(output), output)
    return True


def a_photo(photo_set: PhotoSet) -> tuple[Path, int] | None:
    """Return a photo that can be seen from here, and its size."""
    for path in photo_set.paths:
        with contextlib.suppress(OSError):
            return photo_set.root / path, (photo_set.root / path).stat().st_size
    return None


def on_workers(client: Client, recipe: Recipe) -> Recipe:
    """Return the recipe with precision and batch size as suits all workers."""
    if recipe.precision != "auto" and recipe.batch_size:
        return recipe
    size = max(distinct_sizes(recipe.parsed_views))
    found = [*client.run(resolve_on_worker, recipe.precision, size).values()]
    precisions = {precision for precision, _ in found}
    precision = precisions.pop() if len(precisions) == 1 else "float32"
    batch_size = recipe.batch_size or min(batch_size for _, batch_size in found)
    return replace(recipe, precision=precision, batch_size=batch_size)


def check_shards(begun: ExistingShards, record: Mapping[str, Any]) -> None:
    """Raise a FeatureFileError if shards made now would not belong together with earlier ones.

    Args:
        begun: the earlier ones.
        record: the root attributes, and the poolings, of new ones.
    """
    stored = {name: begun.facts.get(name, "") for name in (*record, *PRECISION_ATTRIBUTES)}
    differing = differences(stored, record, "merge")
    if any(name == "data_sha256" for name, *_ in differing[:1]):
        raise FeatureFileError(
            f"the photos, their labels or split are not those that {begun.path} was begun with: "
            f"{ADVICE}"
        )
    check_same(differing, begun.path, ADVICE)
