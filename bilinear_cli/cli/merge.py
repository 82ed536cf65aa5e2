"""The command that joins the shards of a photo set: merge."""

import json
import sys
from pathlib import Path

import click

from bilinear_cli.cli.base import bar, cli, mix_option


@cli.command()
@click.argument("parts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Feature file to write.",
)
@mix_option
@click.option("--overwrite", is_flag=True, help="Whatever is there.")
def merge(
    parts: tuple[Path, ...], output: Path, allow_precision_mix: bool, overwrite: bool
) -> None:
    """Write the shards of a photo set to one file, as a single run would have made it.

    \b
    bilinear extract --data photos --shard 1/2 -o a.h5
    bilinear extract --data photos --shard 2/2 -o b.h5
    bilinear merge a.h5 b.h5 -o x.h5

    A folder stands for the files in it.
    """
    from bilinear_cli.store import merge as run

    record = {"command": json.dumps(["bilinear", *sys.argv[1:]])}
    with bar("merging", "row") as progress:
        run(
            parts,
            output,
            allow_mix=allow_precision_mix,
            overwrite=overwrite,
            attributes=record,
            progress=progress,
        )
    click.echo(output)
