"""The command `info`: the description of a feature file or a run."""

from pathlib import Path

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.cli.options import PATH
from bilinear_cli.networks.onnx_model import has_graph


@cli.command()
@click.argument("path", metavar="FILE|RUN|NETWORK", type=PATH)
@click.option("--by-class", is_flag=True, help="Print the number of photos of each class, too.")
def info(path: Path, by_class: bool) -> None:
    """Describe a feature file, a run, or an ONNX network.

    The command prints how a file or a run was made, and the layers of a network.

    \b
    bilinear info x.h5
    bilinear info runs/x-bilinear-softmax
    bilinear info dinov2-small
    """
    from bilinear_cli.report.text import describe, describe_run, format_facts
    from bilinear_cli.store import FeatureFile, open_features

    if has_graph(path):
        from bilinear_cli.networks.onnx_info import describe_network

        click.echo(format_facts(describe_network(path)))
        return
    if path.is_dir() and not any(path.glob("*.h5")):
        click.echo(describe_run(path, by_class))
        return
    shards = path.is_dir()
    with open_features([path]) if shards else FeatureFile(path, allow_partial=True) as features:
        click.echo(describe(features, by_class))
