"""The options of `bilinear extract` -> the job that they describe."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.files import portable_name
from bilinear_cli.networks.engines import check_int8, check_ncnn, with_precision
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.onnx_model import is_onnx, is_onnx_path, onnx_name
from bilinear_cli.progress import Progress
from bilinear_cli.recipe import (
    CHOICES,
    PROCESSOR,
    SRGB,
    UNSHARDED,
    Recipe,
    distinct_sizes,
    view_names,
)

if TYPE_CHECKING:
    from bilinear_cli.extraction.from_maps import MapInput
    from bilinear_cli.extraction.from_photos import PhotoInput
    from bilinear_cli.extraction.job import Job


def maps_job(options: ExtractOptions, command: Sequence[str] = ()) -> "Job[MapInput]":
    """Return the job that pools stored maps; the file records `command`.

    The rows equal those of the photos except for the rounding of the maps to float16.

    Raises:
        FeatureFileError: the maps or a projection cannot be read.
        UsageError: a pooling is unknown, the file has no maps, or the output is the file or a
            folder.
    """
    from bilinear_cli.extraction.existing import read_projection
    from bilinear_cli.extraction.from_maps import MapInput
    from bilinear_cli.extraction.job import Job
    from bilinear_cli.poolings.registry import MAPS, check_class_token
    from bilinear_cli.store import FeatureFile

    path, specs = options.maps, _specs(options)
    check_class_token(specs, has_class_token=False)
    assert path
    output = _output(options, f"{path.stem}-{portable_name('-'.join(specs))}.h5")
    with FeatureFile(path) as file:
        if MAPS not in file.shapes:
            stored = ", ".join(file.shapes)
            raise UsageError(f"{path} has no maps, but {stored}. Extract --pooling {MAPS} first.")
        if output.resolve() == file.path.resolve():
            raise UsageError(f"--maps {path} is the file to write. Name another --output.")
        recipe = replace(file.recipe, specs=specs, seed=options.seed, pooled_from="maps")
    return Job(
        MapInput(path),
        recipe,
        output,
        parameters=read_projection(options.projection, recipe),
        attributes={"command": json.dumps([*command])},
        overwrite=options.overwrite,
    )


def photos_job(
    options: ExtractOptions, command: Sequence[str] = (), progress: Progress | None = None
) -> "Job[PhotoInput]":
    """Return the job that runs a network over photos; the file records `command`.

    `progress` is called while photos are drawn or unpacked.

    Raises:
        BilinearError: the photo set does not exist, or the weights cannot be fetched.
        UsageError: the options do not fit each other.
    """
    from bilinear_cli.extraction.existing import read_projection
    from bilinear_cli.extraction.from_photos import PhotoInput
    from bilinear_cli.extraction.job import Job
    from bilinear_cli.photos.boxes.cropped_set import crop_photo_set
    from bilinear_cli.photos.photo_set import load_photo_set

    _specs(options)  # raises before photos are read
    photo_set = load_photo_set(
        options.data,
        split_seed=options.split_seed,
        class_level=options.class_level,
        columns=options.columns,
        progress=progress,
    )
    if options.limit:
        photo_set = photo_set.limit(options.limit)
    network = make_network(options)
    recipe = make_recipe(options, network)
    if options.box_options:
        photo_set, crop, boxes_sha256 = crop_photo_set(photo_set, options.box_options)
        recipe = replace(recipe, crop=str(crop), boxes_sha256=boxes_sha256)
    output = _output(options, _file_name(photo_set.name, recipe))
    return Job(
        PhotoInput(photo_set, network),
        recipe,
        output,
        parameters=read_projection(options.projection, recipe),
        reuse=options.reuse,
        allow_precision_mix=options.allow_precision_mix,
        attributes={
            "command": json.dumps([*command]),
            "limit": options.limit or 0,
            "weights_differing": " ".join(network.differing()),
            **({"backbone_path": network.source} if is_onnx(network.backbone) else {}),
        },
        overwrite=options.overwrite,
        skip_bad=options.skip_bad,
    )


def _specs(options: ExtractOptions) -> tuple[str, ...]:
    from bilinear_cli.poolings.registry import MAPS, get_pooling

    specs = tuple(dict.fromkeys(get_pooling(spec).spec for spec in options.pooling))
    if MAPS in specs and len(options.scales or ()) > 1:
        raise UsageError("maps (conv5) of several --scales differ in shape. Use one size.")
    return specs


def make_network(options: ExtractOptions) -> Network:
    """Return the network; its files do not depend on the folder of the process.

    Raises:
        BilinearError: an engine or a precision needs a library that is missing.
        UsageError: the options do not fit the network.
    """
    path = Path(options.backbone)
    if is_onnx_path(options.backbone):
        _check_onnx_options(options)
        return Network(onnx_name(path), str(path.absolute()))
    if options.resize == PROCESSOR:
        raise UsageError(
            f"--resize {PROCESSOR} is for ONNX networks. Use {', '.join(CHOICES['resize'])}."
        )
    backbone, source = options.backbone.lower(), Path(options.weights)
    if options.precision == "int8":
        check_int8(backbone)  # before weights are fetched
    if options.engine == "ncnn":
        check_ncnn(backbone, options.precision)
    return Network(backbone, str(source.resolve()) if source.is_file() else options.weights)


def _check_onnx_options(options: ExtractOptions) -> None:
    """Raise a UsageError for an option that an ONNX network decides itself."""
    fixed = {"precision": options.precision, "engine": options.engine, "weights": options.weights}
    for name, value in fixed.items():
        if value not in ("auto", "float32"):
            raise UsageError(
                f"--{name} {value} does not fit the ONNX network {options.backbone}, whose file "
                "decides this. Remove the option."
            )


def make_recipe(options: ExtractOptions, network: Network) -> Recipe:
    """Return the recipe of these options; `auto` and batch size 0 are left to be resolved.

    Raises:
        BilinearError: the weights cannot be fetched, or an ONNX network cannot be loaded.
        UsageError: the options do not fit each other.
    """
    defaults = network.defaults(options.layer, options.image_size)
    sizes = options.scales or (options.image_size or defaults.image_size,)
    resize = options.resize or PROCESSOR
    precision = "float32" if options.engine == "ncnn" else options.precision
    recipe = Recipe(
        specs=_specs(options),
        layer=defaults.layer,
        image_size=sizes[0],
        resize=defaults.resize if resize == PROCESSOR else resize,
        precision=defaults.precision or precision,
        batch_size=options.batch_size or 0,
        weights_sha256=network.sha256(),  # raises for an unknown network
        backbone=network.backbone,
        views=view_names(sizes, options.flip),
        shard=options.shard,
        seed=options.seed,
        engine=defaults.engine or options.engine,
        colours=SRGB,
    )
    return with_precision(recipe, recipe.precision)


def _output(options: ExtractOptions, default: str) -> Path:
    output = options.output or Path("features") / default
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder. Give --output a file name.")
    return output


def _file_name(name: str, recipe: Recipe) -> str:
    network = [] if recipe.backbone == "vgg16" else [recipe.backbone]
    sizes = distinct_sizes(recipe.parsed_views)
    flip = ["flip"] if any(view.flip for view in recipe.parsed_views) else []
    boxes = ["boxes"] if recipe.crop else []
    words = [name, *network, recipe.layer, *map(str, sizes), *flip, *boxes]
    if recipe.shard != UNSHARDED:
        words.append("shard" + recipe.shard.replace("/", "of"))
    return portable_name("-".join(words)) + ".h5"
