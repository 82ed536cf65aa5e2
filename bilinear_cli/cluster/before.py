"""What the client settles before workers begin: what is there, and what is left open."""

import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Client

from bilinear_cli.cluster.folder import Begun, shards_folder
from bilinear_cli.cluster.premises import resolve_on_worker
from bilinear_cli.errors import FeatureFileError
from bilinear_cli.extraction.resume import begun_with
from bilinear_cli.extraction.stored import kept, stored_recipe
from bilinear_cli.photos.dataset import Dataset
from bilinear_cli.poolings.parameters import Parameters
from bilinear_cli.recipe import Recipe, check_same
from bilinear_cli.store import OWN, partial_path
from bilinear_cli.views import sizes_of

log = logging.getLogger(__name__)

OTHERWISE = "give another --output, or --overwrite"


def is_complete(dataset: Dataset, recipe: Recipe, output: Path, given: Parameters) -> bool:
    """Say whether there is nothing to do; raise if what is there is something else."""
    if partial_path(output).exists():
        raise FeatureFileError(
            f"{partial_path(output)} was begun without --scheduler: finish it so, or {OTHERWISE}"
        )
    if not output.exists():
        return False
    shards = [*shards_folder(output).glob("*.h5"), *shards_folder(output).glob("*.h5.partial")]
    written = max((shard.stat().st_mtime_ns for shard in shards), default=0)
    if written > output.stat().st_mtime_ns:  # they are to replace it, as --overwrite has begun
        return False
    recipe = kept(recipe, stored_recipe(output))
    sha256 = dict(zip(dataset.paths, dataset.sha256(), strict=True))
    complete = begun_with(output, recipe, sha256, given, overwrite=False) is None
    if complete and shards:
        log.info("%s is older than %s: it can be removed", shards_folder(output), output)
    return complete


def a_photo(dataset: Dataset) -> tuple[Path, int] | None:
    """Return a photo that can be seen from here, and its size."""
    for path in dataset.paths:
        with contextlib.suppress(OSError):
            return dataset.root / path, (dataset.root / path).stat().st_size
    return None


def settled(client: Client, recipe: Recipe) -> Recipe:
    """Return the recipe with a precision and a batch size that suit all workers."""
    if recipe.precision != "auto" and recipe.batch_size:
        return recipe
    size = max(sizes_of(recipe.shown))
    found = [*client.run(resolve_on_worker, recipe.precision, size).values()]
    precisions = {precision for precision, _ in found}
    precision = precisions.pop() if len(precisions) == 1 else "float32"
    batch_size = recipe.batch_size or min(batch_size for _, batch_size in found)
    return replace(recipe, precision=precision, batch_size=batch_size)


def check_begun(begun: Begun, recipe: Recipe, record: dict[str, Any]) -> None:
    """Raise a FeatureFileError if shards made now would not belong together with earlier ones."""
    check_same(begun.recipe, recipe, begun.path, OTHERWISE, but=("shard",))
    for name, value in record.items():
        was = begun.attributes.get(name)
        if name in OWN or was == value:
            continue
        if name == "data_sha256":
            raise FeatureFileError(
                f"the photos, their labels or split are not those that {begun.path} was begun "
                f"with: {OTHERWISE}"
            )
        raise FeatureFileError(
            f"{begun.path} was begun with {name} {was}, and now it is {value}: {OTHERWISE}"
        )
