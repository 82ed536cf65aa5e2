"""The command that writes a trained run as a Keras model: export."""

import logging
from pathlib import Path

import click

from bilinear_cli.cli.base import cli, weights_option
from bilinear_cli.networks.load import import_tensorflow

log = logging.getLogger(__name__)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.keras")
@weights_option
@click.option("--overwrite", is_flag=True, help="Whatever is there.")
def export(run: Path, model: Path, weights: str, overwrite: bool) -> None:
    """Write a trained run as one Keras model, from pixels to probabilities.

    Its photos are RGB, 0 to 255, brought to size as for extraction; Keras loads it after
    `import bilinear_cli.layers`.

    \b
    bilinear export runs/birds-bilinear-softmax birds.keras
    """
    from bilinear_cli.predict import load_run_network
    from bilinear_cli.run import read_recipe

    recipe = read_recipe(run)
    tensors = load_run_network(run, recipe, weights).weights().tensors
    import_tensorflow()
    from bilinear_cli.export import export as write

    write(run, tensors, model, overwrite=overwrite)
    click.echo(model)
    size = recipe.image_size
    log.info("it takes RGB pixels, 0 to 255, %d x %d (%s)", size, size, recipe.resize)
