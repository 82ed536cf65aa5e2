"""The command `export`: a run as one Keras model."""

import logging
from pathlib import Path

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.cli.options import PATH, overwrite_option, weights_option
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.networks.network import import_tensorflow
from bilinear_cli.networks.onnx_model import is_onnx

log = logging.getLogger(__name__)


@cli.command()
@click.argument("run", type=PATH)
@click.argument("output", type=PATH, metavar="MODEL.keras")
@click.option(
    "--rarity",
    is_flag=True,
    help="Write a model of two outputs, probabilities and rarity: how unusual a photo is, as in "
    "predict.",
)
@weights_option
@overwrite_option
def export(run: Path, output: Path, rarity: bool, weights: str, overwrite: bool) -> None:
    """Write a run as one Keras model, from pixels to probabilities.

    The input of the model is RGB pixels, 0 to 255, resized as for extraction. Keras can load the
    model after `import bilinear_cli.layers`.

    \b
    bilinear export runs/birds-bilinear-softmax birds.keras
    """
    from bilinear_cli.run import load_model, read_recipe, require_novelty
    from bilinear_cli.run_network import load_run_network

    _check_output(output, overwrite)
    recipe = read_recipe(run)
    if is_onnx(recipe.backbone):
        raise BilinearError(
            f"{run} uses the ONNX network {recipe.backbone}, which cannot become part of a Keras "
            "model. Use bilinear predict."
        )
    model = load_model(run)
    if rarity:
        require_novelty(run, model, "--rarity")  # before weights are fetched
    tensors = load_run_network(run, recipe, weights).weights().tensors
    import_tensorflow()
    from bilinear_cli.export import export as write

    write(model, recipe, tensors, output, rarity=rarity)
    click.echo(output)
    size = recipe.image_size
    log.info("input: RGB pixels, 0 to 255, %d x %d (%s)", size, size, recipe.resize)
    if recipe.crop_options:
        log.info("crop photos to boxes first, with a margin of %g", recipe.crop_options.margin)


def _check_output(output: Path, overwrite: bool) -> None:
    """Raise unless a model may be written to this file; called before a network is loaded."""
    if output.suffix != ".keras":
        raise UsageError(f"cannot write a Keras model to {output}: its name must end in .keras")
    if output.exists() and not overwrite:
        raise BilinearError(f"{output} exists: use another name, or --overwrite to replace it")
