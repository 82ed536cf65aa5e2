"""The command `weights`: VGG16's weights."""

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.cli.options import weights_option


@cli.command()
@weights_option
def weights(weights: str) -> None:
    """Fetch and verify VGG16's weights. Print their path, checksum and licence.

    \b
    bilinear weights
    """
    from bilinear_cli.networks.weights import LICENCE, load_vgg16_weights

    loaded = load_vgg16_weights(weights)
    differing = ", ".join(loaded.differing)
    click.echo(f"path       {loaded.path or 'none'}")
    click.echo(f"sha256     {loaded.sha256} (of the list of all tensors' SHA-256)")
    click.echo(f"published  {f'no, these tensors differ: {differing}' if differing else 'yes'}")
    click.echo(f"licence    {LICENCE}")
