"""The command that shows what spoke for a class: explain."""

import logging
from pathlib import Path

import click

from bilinear_cli.cli.base import cli, weights_option
from bilinear_cli.errors import UsageError, printable
from bilinear_cli.files import atomic_write

log = logging.getLogger(__name__)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--class", "name", help="To explain.  [default: the likeliest]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Picture.  [default: PHOTO-explained.png, here]",
)
@weights_option
def explain(run: Path, photo: Path, name: str | None, output: Path | None, weights: str) -> None:
    """Show which places of a photo, and which pairs of channels, spoke for a class.

    In the picture that is written orange spoke for it, blue against it. The shares add up to the
    score exactly. For bilinear pooling with a linear classifier, and for conv1x1.

    \b
    bilinear explain runs/birds-bilinear-softmax new.jpg
    bilinear explain runs/birds-bilinear-softmax new.jpg --class wren -o why.png
    """
    from bilinear_cli.explain import explain as shares
    from bilinear_cli.explain import overlay
    from bilinear_cli.predict import load_run_network
    from bilinear_cli.run import read_recipe

    recipe = read_recipe(run)
    network = load_run_network(run, recipe, weights)
    why = shares(run, photo, lambda pixels: network.load(recipe)(pixels), name)
    if len(recipe.views) > 1:
        log.info("of the photo as it is: predict takes the mean over %s", ", ".join(recipe.views))
    output = output or Path(f"{photo.stem}-explained.png")
    try:
        with atomic_write(output) as new:
            overlay(why).save(new)
    except ValueError as error:  # no suffix of a picture
        raise UsageError(f"cannot write {output}: {error}") from error
    above = why.heat[why.heat > 0].sum()
    click.echo(f"{printable(why.name)} {why.probability:.3f}")
    click.echo(
        f"score {why.score:.4f} = intercept {why.intercept:.4f} + places {why.heat.sum():.4f}"
    )
    click.echo(f"places for it {above:.4f}, against it {why.heat.sum() - above:.4f}")
    for first, second, share in why.pairs:
        click.echo(f"channels {first} and {second}: {share:+.4f}")
    click.echo(output)
