"""The options of `bilinear extract`, and the job that they ask for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_cli.errors import UsageError
from bilinear_cli.networks.load import Network
from bilinear_cli.networks.precision import check_int8, with_precision
from bilinear_cli.recipe import UNSHARDED, Recipe
from bilinear_cli.views import view_names

if TYPE_CHECKING:
    from bilinear_cli.extraction.from_maps import Maps
    from bilinear_cli.extraction.from_photos import Photos
    from bilinear_cli.extraction.job import Job, Progress
    from bilinear_cli.poolings.parameters import Parameters

FOLDER = Path("features")  # of files without a name


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract; see the help of `bilinear extract` for each.

    Attributes:
        data: spec of a photo set, see `load_photo_set`.
        pooling: specs.
        output: the feature file; None: named by the photos and the recipe, in `features`.
        backbone, layer, image_size, resize, precision, shard, seed: see `Recipe`; no layer is the
            network's default.
        batch_size: photos that go through the network together; None: by image size and memory.
        scales: several sizes instead of `image_size`.
        flip: mirrored, too.
        weights: where the network's weights come from, see `Network`.
        limit: take so many photos, of all classes; None for all.
        split_seed: for a set without a split of its own.
        maps: pool the maps of this feature file, instead of running the network.
        reuse, allow_precision_mix, skip_bad, overwrite: see `Job`.
        projection: feature file whose projection of channels is used.
    """

    data: str = "sample"
    pooling: Sequence[str] = ("max", "sum", "bilinear")
    output: Path | None = None
    backbone: str = "vgg16"
    layer: str | None = None
    image_size: int = 224
    scales: tuple[int, ...] | None = None
    flip: bool = False
    resize: str = "squash"
    batch_size: int | None = None
    precision: str = "auto"
    weights: str = "auto"
    limit: int | None = None
    split_seed: int = 0
    shard: str = UNSHARDED
    reuse: Path | None = None
    allow_precision_mix: bool = False
    maps: Path | None = None
    projection: Path | None = None
    seed: int = 0
    skip_bad: bool = False
    overwrite: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width and height that photos are resized to, in pixels; the first is the main one."""
        return self.scales or (self.image_size,)


def maps_job(options: ExtractOptions, command: Sequence[str] = ()) -> "Job[Maps]":
    """Return the job of pooling stored maps.

    Args:
        options: with `maps`.
        command: to be recorded.

    Raises:
        FeatureFileError: the maps or a projection cannot be read.
        UsageError: a pooling is unknown, or the file has no maps, or is the output.
    """
    from bilinear_cli.extraction.from_maps import Maps, recipe_for_maps
    from bilinear_cli.extraction.job import Job

    assert options.maps
    specs = _specs(options)
    name = f"{options.maps.stem}-{'-'.join(specs).replace(':', '-')}.h5"
    output = options.output or FOLDER / name
    recipe = recipe_for_maps(options.maps, specs, options.seed, output)
    return Job(
        Maps(options.maps),
        recipe,
        output,
        parameters=_projection(options, recipe),
        attributes={"command": json.dumps([*command])},
        overwrite=options.overwrite,
    )


def photos_job(
    options: ExtractOptions, command: Sequence[str] = (), progress: "Progress | None" = None
) -> "Job[Photos]":
    """Return the job of running a network over photos.

    Args:
        options: without `maps`.
        command: to be recorded.
        progress: is called with (done, total) while a set's photos are drawn or unpacked.

    Raises:
        BilinearError: there is no such photo set, or the weights cannot be fetched.
        UsageError: the options do not fit each other.
    """
    from bilinear_cli.extraction.from_photos import Photos
    from bilinear_cli.extraction.job import Job
    from bilinear_cli.photos.photo_set import load_photo_set
    from bilinear_cli.poolings.registry import MAPS

    specs = _specs(options)
    if MAPS in specs and len(options.sizes) > 1:
        raise UsageError(
            "maps (conv5) of several --scales has rows of several shapes: name one size"
        )
    photo_set = load_photo_set(options.data, split_seed=options.split_seed, progress=progress)
    if options.limit:
        photo_set = photo_set.limit(options.limit)
    backbone = options.backbone.lower()
    if options.precision == "int8":
        check_int8(backbone)  # before anything is fetched
    network = Network(backbone, _resolved(options.weights))
    recipe = _recipe(options, specs, backbone, network.sha256())
    output = options.output or FOLDER / _file_name(photo_set.name, recipe, options)
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder: give --output a file name")
    return Job(
        Photos(photo_set, network),
        recipe,
        output,
        parameters=_projection(options, recipe),
        reuse=options.reuse,
        allow_mix=options.allow_precision_mix,
        attributes=_record(options, network, command),
        overwrite=options.overwrite,
        skip_bad=options.skip_bad,
    )


def _recipe(
    options: ExtractOptions, specs: tuple[str, ...], backbone: str, weights_sha256: str
) -> Recipe:
    recipe = Recipe(
        poolings=specs,
        layer=options.layer or _default_layer(backbone),
        image_size=options.sizes[0],
        resize=options.resize,
        precision=options.precision,
        batch_size=options.batch_size or 0,
        weights_sha256=weights_sha256,
        backbone=backbone,
        views=view_names(options.sizes, options.flip),
        shard=options.shard,
        seed=options.seed,
    )
    return with_precision(recipe, options.precision)


def _specs(options: ExtractOptions) -> tuple[str, ...]:
    from bilinear_cli.poolings.registry import get_pooling

    return tuple(dict.fromkeys(get_pooling(spec).spec for spec in options.pooling))


def _resolved(source: str) -> str:
    """Return a source of weights that does not depend on the folder of the process."""
    return str(Path(source).resolve()) if Path(source).is_file() else source


def _record(options: ExtractOptions, network: Network, command: Sequence[str]) -> Mapping[str, Any]:
    return {
        "command": json.dumps([*command]),
        "limit": options.limit or 0,
        "weights_differing": " ".join(network.weights().differing),
    }


def _projection(options: ExtractOptions, recipe: Recipe) -> "Parameters":
    from bilinear_cli.extraction.reuse import read_projection

    return read_projection(options.projection, recipe) if options.projection else {}


def _default_layer(backbone: str) -> str:
    if backbone == "vgg16":
        return "block5_conv3"
    from bilinear_cli.networks.applications import resolve_layer

    return resolve_layer(backbone, None)


def _file_name(name: str, recipe: Recipe, options: ExtractOptions) -> str:
    network = [] if recipe.backbone == "vgg16" else [recipe.backbone]
    flip = ["flip"] if options.flip else []
    words = [name, *network, recipe.layer, *map(str, options.sizes), *flip]
    if recipe.shard != UNSHARDED:
        words.append("shard" + recipe.shard.replace("/", "of"))
    return "-".join(words) + ".h5"
