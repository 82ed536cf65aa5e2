"""The command `merge`: the shards of a photo set in one file."""

import json
import sys
from pathlib import Path

import click

from bilinear_cli.cli.base import cli, progress_bar
from bilinear_cli.cli.options import PATH, mix_option, overwrite_option


@cli.command()
@click.argument("shards", metavar="SHARD|FOLDER...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Feature file to write.")
@mix_option
@overwrite_option
def merge(
    shards: tuple[Path, ...], output: Path, allow_precision_mix: bool, overwrite: bool
) -> None:
    """Merge the shards of a photo set into one file.

    The result equals the file of a single run. A folder stands for the feature files in it.

    \b
    bilinear extract --data photos --shard 1/2 -o a.h5
    bilinear extract --data photos --shard 2/2 -o b.h5
    bilinear merge a.h5 b.h5 -o x.h5
    """
    from bilinear_cli.store import merge as write

    with progress_bar("merging", "row") as progress:
        write(
            shards,
            output,
            allow_precision_mix=allow_precision_mix,
            overwrite=overwrite,
            attributes={"command": json.dumps(["bilinear", *sys.argv[1:]])},
            progress=progress,
        )
    click.echo(output)
