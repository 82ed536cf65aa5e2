"""The command `info`: the description of a feature file or a run."""

from pathlib import Path

import click

from bilinear_cli.cli.base import PATH, cli


@cli.command()
@click.argument("file", metavar="FILE|RUN", type=PATH)
@click.option("--by-class", is_flag=True, help="Print the number of photos of each class, too.")
def info(file: Path, by_class: bool) -> None:
    """Describe a feature file or a run, and how it was made.

    \b
    bilinear info x.h5
    bilinear info runs/x-bilinear-softmax
    """
    from bilinear_cli.report.text import describe, describe_run
    from bilinear_cli.store import FeatureFile, open_features

    if file.is_dir() and not any(file.glob("*.h5")):
        click.echo(describe_run(file, by_class))
        return
    shards = file.is_dir()
    with open_features([file]) if shards else FeatureFile(file, allow_partial=True) as features:
        click.echo(describe(features, by_class))
