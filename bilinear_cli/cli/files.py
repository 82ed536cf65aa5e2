"""The commands info, merge and weights: feature files, and the file of VGG16's weights."""

import json
import sys
from pathlib import Path

import click

from bilinear_cli.cli.base import bar, cli
from bilinear_cli.cli.options import PATH, mix_option, overwrite_option, weights_option


@cli.command()
@click.argument("file", metavar="FILE|RUN", type=PATH)
@click.option("--by-class", is_flag=True, help="Print the number of photos of each class, too.")
def info(file: Path, by_class: bool) -> None:
    """Describe a feature file or a run, and how it was made.

    \b
    bilinear info x.h5
    bilinear info runs/x-bilinear-softmax
    """
    from bilinear_cli.report import describe, describe_run
    from bilinear_cli.store import FeatureFile, open_features

    if file.is_dir() and not any(file.glob("*.h5")):
        click.echo(describe_run(file, by_class))
        return
    shards = file.is_dir()
    with open_features([file]) if shards else FeatureFile(file, allow_partial=True) as features:
        click.echo(describe(features, by_class))


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

    with bar("merging", "row") as progress:
        write(
            shards,
            output,
            allow_mix=allow_precision_mix,
            overwrite=overwrite,
            attributes={"command": json.dumps(["bilinear", *sys.argv[1:]])},
            progress=progress,
        )
    click.echo(output)


@cli.command()
@weights_option
def weights(weights: str) -> None:
    """Fetch and verify VGG16's weights. Print their path, checksum and licence.

    \b
    bilinear weights
    """
    from bilinear_cli.networks.weights import LICENCE, load_vgg16_weights

    loaded = load_vgg16_weights(weights)
    click.echo(f"path     {loaded.path}")
    click.echo(f"sha256   {loaded.sha256} (of the tensors' SHA-256)")
    click.echo(f"differs  {', '.join(loaded.differing) or 'nothing: the published release'}")
    click.echo(f"licence  {LICENCE}")
