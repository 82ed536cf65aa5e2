"""What feature files that are there say of how they were made, and what of it is kept to."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.networks.precision import int8_sha256
from bilinear_cli.poolings.specs import FITTED_ON, pooling
from bilinear_cli.recipe import Recipe, recipe_of
from bilinear_cli.store import FeatureFile, damage, partial_path

NETWORK = ("backbone", "layer", "weights_sha256")  # what of a recipe decides what a channel is


def stored_recipe(output: Path | None, reuse: Path | None = None) -> Recipe | None:
    """Return what a run that writes `output` has to keep to; None if it is free.

    Args:
        output: which may be there, unfinished or finished; None if that does not count.
        reuse: a file whose rows are to be taken.
    """
    for path in ([partial_path(output), output] if output else []) + ([reuse] if reuse else []):
        if path.is_file() or path == reuse:
            with FeatureFile(path, allow_partial=True) as file:
                return recipe_of_file(file)
    return None


def kept(recipe: Recipe, stored: Recipe | None) -> Recipe:
    """Return the recipe, with what is left open (precision `auto`, batch size 0) as stored."""
    if not stored:
        return recipe
    precision = stored.precision if recipe.precision == "auto" else recipe.precision
    batch_size = recipe.batch_size or stored.batch_size
    return with_precision(replace(recipe, batch_size=batch_size), precision)


def with_precision(recipe: Recipe, precision: str) -> Recipe:
    """Return the recipe with this precision, and the digest that goes with it."""
    digest = int8_sha256() if precision == "int8" else ""
    return replace(recipe, precision=precision, int8_sha256=digest)


def recipe_of_file(file: FeatureFile) -> Recipe:
    """Return the recipe that a feature file was made with.

    Raises:
        FeatureFileError: it does not say them.
    """
    with damage(file.path):
        return recipe_of(file.attributes, tuple(file.shapes))


def read_projection(path: Path, recipe: Recipe) -> dict[str, np.ndarray]:
    """Return the projections that a feature file, finished or not, keeps.

    Raises:
        FeatureFileError: it cannot be read, has not those that the poolings need, or is of another
            network.
    """
    taken = [pooling(spec).parameters for spec in recipe.poolings]
    wanted = {name for names in taken for name in names if names[-1] == FITTED_ON}
    with FeatureFile(path, allow_partial=True) as file:
        made = recipe_of_file(file)
        for name in NETWORK:
            was, asked = getattr(made, name), getattr(recipe, name)
            if was != asked:
                raise FeatureFileError(
                    f"the projection of {path} is of another network: its {name} is {was}, and "
                    f"here it is {asked}"
                )
        lacking = sorted(wanted - file.parameters.keys() - {FITTED_ON})
        if lacking or not wanted:
            what = ", ".join(lacking) or "projection to be used: no --pooling takes one"
            raise FeatureFileError(f"{path} has no {what}")
        return {name: file.parameters[name] for name in wanted}
