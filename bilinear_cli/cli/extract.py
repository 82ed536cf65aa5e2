"""The command that makes feature files."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bilinear_cli.cli.base import bar, cli, data_option, mix_option, weights_option
from bilinear_cli.cluster.connect import import_dask
from bilinear_cli.errors import UsageError
from bilinear_cli.extraction.options import ExtractOptions, maps_job, photos_job
from bilinear_cli.recipe import CHOICES

log = logging.getLogger(__name__)

DEFAULTS = ExtractOptions()
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


class PoolingOption(click.Option):
    """The option whose help is made from the registry, which is read when help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names of the option and its help."""
        from bilinear_cli.poolings.registry import poolings_help

        self.help = poolings_help()
        return super().get_help_record(ctx)


@cli.command()
@data_option
@click.option("--pooling", cls=PoolingOption, multiple=True, default=DEFAULTS.pooling)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Feature file to write.")
@click.option(
    "--backbone",
    default=DEFAULTS.backbone,
    help="A network of keras.applications: resnet50, mobilenetv2, ...",
)
@click.option(
    "--layer", help="Whose maps are pooled.  [default: block5_conv3 of vgg16; of others the last]"
)
@click.option(
    "--image-size",
    type=click.IntRange(32),
    default=DEFAULTS.image_size,
    help="Pixels; 448 for whole-frame photos.",
)
@click.option("--scales", type=Sizes(), help="Several sizes, instead of --image-size: 224,320.")
@click.option("--flip", is_flag=True, help="Mirrored too: rows for it, and scores are averaged.")
@click.option("--resize", type=click.Choice(CHOICES["resize"]), default=DEFAULTS.resize)
@click.option("--batch-size", type=click.IntRange(1), help="[default: by image size and memory]")
@click.option(
    "--precision",
    type=click.Choice(["auto", *CHOICES["precision"]]),
    default=DEFAULTS.precision,
    help="What the network multiplies in; auto: bfloat16 where the device has it, else float32. "
    "int8: VGG16 on a CPU, see docs/int8.md.",
)
@weights_option
@click.option("--limit", type=click.IntRange(1), help="Take only so many photos, of all classes.")
@click.option("--split-seed", type=int, default=0, help="For a set that has no split of its own.")
@click.option(
    "--shard", default=DEFAULTS.shard, metavar="I/N", help="Only the I-th of N parts; see merge."
)
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    metavar="OLD.h5",
    help="Take the rows of photos that an earlier file has already.",
)
@mix_option
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    metavar="X.h5",
    help="Pool the maps of this feature file, instead of running the network over --data.",
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
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Share the work among the workers of a Dask scheduler: tcp://host:8786, a scheduler file, "
    "or local:4 for four processes here.",
)
@click.option(
    "--no-merge",
    is_flag=True,
    help="With --scheduler: leave the shards in OUTPUT.shards.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out files that are no photos.")
@click.option("--overwrite", is_flag=True, help="Begin again, whatever is there.")
@click.pass_context
def extract(context: click.Context, scheduler: str | None, no_merge: bool, **options: Any) -> None:
    """Run a network over photos and write pooled features to an HDF5 file.

    A run that was broken off goes on where it stopped when the same command is given again.

    \b
    bilinear extract --pooling bilinear -o x.h5
    bilinear extract --data CUB_200_2011 --image-size 448 --pooling max --pooling bilinear
    bilinear extract --data photos --reuse old.h5 -o new.h5
    bilinear extract --maps maps.h5 --pooling compact:8192 -o y.h5
    bilinear extract --data /shared/photos --scheduler tcp://host:8786 -o /shared/x.h5
    """
    extract_options = ExtractOptions(**options)
    command = ["bilinear", *(word for word in sys.argv[1:] if word != "--overwrite")]
    with _how_to_resume(extract_options.overwrite):
        if extract_options.maps:
            _check_alone(context)
            written = _extract_maps(extract_options, command)
        elif scheduler is not None:
            written = _extract_on_workers(extract_options, command, scheduler, no_merge)
        elif no_merge:
            raise UsageError("--no-merge is for --scheduler, whose shards it keeps")
        else:
            written = _extract(extract_options, command)
    click.echo(written)
    log.info("next: bilinear train --features %s", shlex.quote(str(written)))


@contextmanager
def _how_to_resume(overwrite: bool) -> Iterator[None]:
    """Say of an interrupted run how it is resumed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        again = "the same command" + (" without --overwrite" if overwrite else "")
        what = "interrupted" if type(stop) is KeyboardInterrupt else "ended by SIGTERM"
        raise type(stop)(f"{what}; {again} goes on from there") from None


def _check_alone(context: click.Context) -> None:
    """Raise if an option is typed that the stored maps have settled."""
    for option in context.command.params:
        typed = context.get_parameter_source(str(option.name)) == ParameterSource.COMMANDLINE
        if typed and option.name not in WITH_MAPS:
            raise UsageError(f"--maps settles {option.opts[0]}: leave it out")


def _extract_maps(options: ExtractOptions, command: list[str]) -> Path:
    from bilinear_cli.extraction.extract import extract as run

    job = maps_job(options, command)
    with bar("pooling", "photo") as progress:
        run(job, progress)
    return job.output


def _extract(options: ExtractOptions, command: list[str]) -> Path:
    from bilinear_cli.extraction.extract import extract as run

    with bar("preparing photos", "photo") as progress:
        job = photos_job(options, command, progress)
    with bar("extracting", "photo") as progress:
        run(job, progress)
    return job.output


def _extract_on_workers(
    options: ExtractOptions, command: list[str], scheduler: str, no_merge: bool
) -> Path:
    """Return the feature file, or with `no_merge` the folder of its shards."""
    if options.shard != DEFAULTS.shard:
        raise UsageError("--scheduler cuts the set into shards by itself: leave out --shard")
    import_dask()
    from bilinear_cli.cluster.extract import extract_shards, merge_shards
    from bilinear_cli.cluster.shards_folder import shards_folder

    with bar("preparing photos", "photo") as progress:
        job = photos_job(options, command, progress)
    with bar("extracting", "photo") as progress:
        shards = extract_shards(job, scheduler, progress)
    if shards is None:
        return job.output
    if no_merge:
        return shards_folder(job.output)
    with bar("merging", "row") as progress:
        merge_shards(shards, job.output, progress)
    return job.output
