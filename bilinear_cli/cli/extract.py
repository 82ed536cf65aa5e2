"""The command `extract`: feature files of photos or of stored maps."""

import logging
import sys
from typing import Any

import click
from click.core import ParameterSource

from bilinear_cli.cli.base import cli, is_quiet
from bilinear_cli.cli.options import (
    PATH,
    PIXELS,
    SPEC,
    backbone_option,
    class_level_option,
    columns_option,
    crop_options,
    data_option,
    engine_option,
    image_size_option,
    mix_option,
    option,
    split_seed_option,
    weights_option,
)
from bilinear_cli.errors import BadPhotoError
from bilinear_cli.extraction.options import (
    PRECISIONS,
    RESIZES,
    ExtractOptions,
    check_options_with_maps,
)
from bilinear_cli.messages import command_line

log = logging.getLogger(__name__)


class Sizes(click.ParamType):
    """Several sizes in pixels, separated by commas; in TOML also a list."""

    name = "pixels,pixels,..."
    toml_type = list

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the sizes, a tuple of int."""
        texts = map(str, value) if isinstance(value, list) else str(value).split(",")
        return tuple(PIXELS.convert(text, param, ctx) for text in texts)


class PoolingOption(click.Option):
    """The option --pooling. Only a call for help imports the registry, which has the texts."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names of the option and its help."""
        from bilinear_cli.poolings.registry import poolings_help

        self.help = poolings_help()
        return super().get_help_record(ctx)


@cli.command()
@data_option
@option("--pooling", cls=PoolingOption, multiple=True)
@option("-o", "--output", type=PATH, help="Feature file to write.  [default: features/NAME.h5]")
@backbone_option
@option(
    "--layer",
    help="Layer whose maps are pooled; of an ONNX network any tensor, see bilinear info PATH.  "
    "[default: block5_conv3 for vgg16, else the last]",
)
@image_size_option
@option(
    "--scales",
    type=Sizes(),
    help="Several sizes instead of --image-size, such as 224,320. predict averages their scores.",
)
@option("--flip", help="Add a mirrored view of each photo. predict averages the scores of both.")
@option(
    "--resize",
    type=click.Choice(RESIZES),
    help="How photos become square: squash them, crop the centre, pad them with borders, or as the "
    "publisher of an ONNX network does (processor).  [default: squash; processor for ONNX]",
)
@option(
    "--batch-size",
    help="Number of photos in a batch of the network.  [default: by image size and memory]",
)
@option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the network. auto takes bfloat16 where the device supports it, else "
    "float32. int8 is for VGG16 on a CPU, see docs/int8.md.",
)
@engine_option
@weights_option
@option(
    "--limit",
    help="Maximum number of photos, taken in turn from each class and split.",
)
@split_seed_option
@class_level_option
@columns_option
@crop_options
@option("--shard", metavar="I/N", help="Extract only the I-th of N shards, for bilinear merge.")
@option(
    "--reuse",
    type=PATH,
    metavar="OLD.h5",
    help="Copy the rows of unchanged photos from an earlier feature file, and compute only the "
    "others.",
)
@mix_option
@option(
    "--maps",
    type=PATH,
    metavar="X.h5",
    help="Pool the maps in a file instead of running a network.",
)
@option(
    "--projection",
    type=PATH,
    metavar="X.h5",
    help="Take the projection of channels from a file, for poolings such as bilinear:144.",
)
@option(
    "--seed",
    help="Seed of sketches, and of the photos that a projection is fitted on.",
)
@option(
    "--scheduler",
    type=SPEC,
    metavar="ADDRESS",
    help="Distribute the work over the workers of a Dask scheduler: tcp://host:8786, a scheduler "
    "file, or local:4 for four processes on this machine.",
)
@option("--no-merge", is_flag=True, help="Keep the shards of --scheduler in OUTPUT.shards.")
@option("--skip-bad", help="Leave out files that cannot be read as photos.")
@option("--overwrite", help="Start again and replace an existing file.")
@click.pass_context
def extract(context: click.Context, scheduler: str | None, no_merge: bool, **options: Any) -> None:
    """Write pooled features of photos to an HDF5 file.

    A frozen network runs once over each photo. After an interruption, run the same command again
    to resume.

    \b
    bilinear extract --pooling bilinear -o x.h5
    bilinear extract --data CUB_200_2011 --image-size 448 --pooling max --pooling bilinear
    bilinear extract --data photos --reuse old.h5 -o new.h5
    bilinear extract --data photos --backbone dinov2-small --pooling cls --pooling avg
    bilinear extract --maps maps.h5 --pooling compact:8192 -o y.h5
    bilinear extract --data /shared/photos --scheduler tcp://host:8786 -o /shared/x.h5
    """
    extract_options = ExtractOptions(**options)
    command = ["bilinear", *(word for word in sys.argv[1:] if word != "--overwrite")]
    from bilinear_cli.api.extract import run_extraction

    if extract_options.maps:
        names = [str(x.name) for x in context.command.params]
        typed = ParameterSource.COMMANDLINE
        check_options_with_maps(x for x in names if context.get_parameter_source(x) == typed)
    try:
        written = run_extraction(extract_options, scheduler, not no_merge, command, not is_quiet())
    except KeyboardInterrupt as interruption:
        event = "interrupted" if type(interruption) is KeyboardInterrupt else "ended by SIGTERM"
        without = " without --overwrite" if extract_options.overwrite else ""
        message = f"{event}: run the same command{without} again to resume"
        raise type(interruption)(message) from None
    except BadPhotoError as error:
        if not extract_options.overwrite:
            raise
        raise BadPhotoError(f"{error} Leave out --overwrite to keep them.") from error
    click.echo(written)
    log.info("next: bilinear train --features %s", command_line([str(written)]))
