"""How `extract` runs: over stored maps, over photos in this process, or on a cluster's workers."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_cli.cli.base import bar
from bilinear_cli.cluster.load import load_dask
from bilinear_cli.errors import UsageError
from bilinear_cli.networks.load import load_network, load_weights
from bilinear_cli.networks.quiet import load_tensorflow

if TYPE_CHECKING:
    from bilinear_cli.networks.weights import Weights
    from bilinear_cli.photos.dataset import Dataset
    from bilinear_cli.poolings.parameters import Parameters
    from bilinear_cli.recipe import Recipe

log = logging.getLogger(__name__)


def pool_maps(
    maps: Path,
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    """Pool stored maps, as `extract --maps` does; return the file."""
    load_tensorflow()
    from bilinear_cli.extraction.from_maps import pool_maps as run

    output = output or Path("features") / f"{maps.stem}-{'-'.join(specs).replace(':', '-')}.h5"
    with bar("pooling", "row") as progress:
        run(
            maps,
            specs,
            output,
            seed=given["seed"],
            projection=given["projection"],
            attributes={"command": json.dumps(command)},
            overwrite=overwrite,
            progress=progress,
        )
    return output


def run_network(
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    """Run the network over photos in this process, as `extract` does; return the file."""
    from bilinear_cli.extraction.extract import extract as run
    from bilinear_cli.extraction.stored import stored_recipe

    asked = _asked(specs, output, overwrite, given)
    stored = stored_recipe(None if overwrite else asked.output, given["reuse"])
    recipe = _on_this_machine(asked.recipe, stored)
    if recipe.shard != "1/1":
        same = f"--batch-size {recipe.batch_size} --precision {recipe.precision}"
        log.info("all shards must have the same, on whatever machine: %s", same)
    with bar("extracting", "photo") as progress:
        run(
            asked.dataset,
            recipe,
            asked.output,
            lambda: load_network(asked.weights.tensors, recipe),
            reuse=given["reuse"],
            parameters=_projection(given, recipe),
            attributes=asked.record(command, given),
            overwrite=overwrite,
            skip_bad=given["skip_bad"],
            progress=progress,
        )
    return asked.output


def run_on_workers(
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    """Share the photos among workers, as `extract --scheduler` does; return file or folder."""
    if given["shard"] != "1/1":
        raise UsageError("--scheduler cuts the set into shards by itself: leave out --shard")
    load_dask()
    from bilinear_cli.cluster.extract import extract_shards, merge_shards
    from bilinear_cli.cluster.folder import shards_folder
    from bilinear_cli.cluster.premises import Network

    asked = _asked(specs, output, overwrite, given)
    source = given["weights"]
    if Path(source).is_file():
        source = str(Path(source).resolve())
    with bar("extracting", "photo") as progress:
        shards = extract_shards(
            given["scheduler"],
            asked.dataset,
            asked.recipe,
            asked.output,
            Network(asked.recipe.backbone, source),
            reuse=given["reuse"],
            parameters=_projection(given, asked.recipe),
            attributes=asked.record(command, given),
            overwrite=overwrite,
            skip_bad=given["skip_bad"],
            progress=progress,
        )
    if shards is None:
        return asked.output
    if given["no_merge"]:
        return shards_folder(asked.output)
    with bar("merging", "row") as progress:
        merge_shards(shards, asked.output, progress)
    return asked.output


@dataclass(frozen=True)
class Asked:
    """What the options ask for.

    Attributes:
        dataset: the photos.
        weights: of the network.
        recipe: with a precision `auto` and a batch size 0 where they are left open.
        output: the file to write.
    """

    dataset: "Dataset"
    weights: "Weights"
    recipe: "Recipe"
    output: Path

    def record(self, command: list[str], given: dict[str, Any]) -> dict[str, Any]:
        """Return root attributes that keep a record."""
        return {
            "command": json.dumps(command),
            "limit": given["limit"] or 0,
            "weights_differing": " ".join(self.weights.differing),
        }


def _asked(
    specs: tuple[str, ...], output: Path | None, overwrite: bool, given: dict[str, Any]
) -> Asked:
    from bilinear_cli.extraction.reuse import allow_mix
    from bilinear_cli.extraction.stored import with_precision
    from bilinear_cli.networks.precision import check_int8
    from bilinear_cli.photos.dataset import load_dataset
    from bilinear_cli.recipe import Recipe
    from bilinear_cli.views import view_names

    sizes, flip = given["scales"] or (given["image_size"],), given["flip"]
    if "conv5" in specs and len(sizes) > 1:
        raise UsageError("conv5 of several --scales has rows of several shapes: name one size")
    with bar("preparing photos", "photo") as progress:
        dataset = load_dataset(given["data"], split_seed=given["split_seed"], progress=progress)
    if given["limit"]:
        dataset = dataset.limit(given["limit"])
    backbone = given["backbone"].lower()
    if given["precision"] == "int8":
        check_int8(backbone)  # before anything is fetched
    weights = load_weights(backbone, given["weights"])
    recipe = Recipe(
        poolings=specs,
        layer=given["layer"] or _default_layer(backbone),
        image_size=sizes[0],
        resize=given["resize"],
        precision=given["precision"],
        batch_size=given["batch_size"] or 0,
        weights_sha256=weights.sha256,
        backbone=backbone,
        views=view_names(sizes, flip),
        shard=given["shard"],
        seed=given["seed"],
    )
    recipe = with_precision(recipe, given["precision"])
    output = output or Path("features") / _file_name(dataset.name, recipe, sizes, flip)
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder: give --output a file name")
    if given["reuse"] and given["allow_precision_mix"]:
        recipe = allow_mix(recipe, given["reuse"], None if overwrite else output)
    return Asked(dataset, weights, recipe, output)


def _projection(given: dict[str, Any], recipe: "Recipe") -> "Parameters":
    from bilinear_cli.extraction.stored import read_projection

    return read_projection(given["projection"], recipe) if given["projection"] else {}


def _default_layer(backbone: str) -> str:
    if backbone == "vgg16":
        return "block5_conv3"
    from bilinear_cli.networks.applications import layer_of

    return layer_of(backbone, None)


def _file_name(name: str, recipe: "Recipe", sizes: tuple[int, ...], flip: bool) -> str:
    network = [] if recipe.backbone == "vgg16" else [recipe.backbone]
    words = [name, *network, recipe.layer, *map(str, sizes), *(["flip"] if flip else [])]
    if recipe.shard != "1/1":
        words.append("shard" + recipe.shard.replace("/", "of"))
    return "-".join(words) + ".h5"


def _on_this_machine(recipe: "Recipe", stored: "Recipe | None") -> "Recipe":
    """Return the recipe; what is open as it is stored, or else as suits this machine."""
    from bilinear_cli.extraction.stored import kept

    recipe = kept(recipe, stored)
    if recipe.precision != "auto" and recipe.batch_size:
        return recipe
    load_tensorflow()
    from bilinear_cli.networks.backbone import resolve_batch_size, resolve_precision
    from bilinear_cli.views import sizes_of

    precision = resolve_precision(recipe.precision)
    batch_size = recipe.batch_size or resolve_batch_size(max(sizes_of(recipe.shown)))
    return replace(recipe, precision=precision, batch_size=batch_size)
