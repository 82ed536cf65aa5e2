"""The command `explain`: which parts of a photo raise or lower the score of a class."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bilinear_cli.cli.base import cli
from bilinear_cli.cli.options import (
    PATH,
    boxes_option,
    min_confidence_option,
    run_backbone_option,
    weights_option,
)
from bilinear_cli.errors import UsageError
from bilinear_cli.files import atomic_write
from bilinear_cli.messages import printable

log = logging.getLogger(__name__)


@cli.command()
@click.argument("run", type=PATH)
@click.argument("photo", type=PATH)
@click.option("--class", "name", help="Class to explain.  [default: the most probable]")
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Picture to write.  [default: PHOTO-explained.png in the working folder]",
)
@run_backbone_option
@weights_option
@boxes_option
@min_confidence_option
def explain(
    run: Path,
    photo: Path,
    name: str | None,
    output: Path | None,
    backbone: Path | None,
    weights: str,
    boxes: str | None,
    min_confidence: float,
) -> None:
    """Show which parts of a photo raise or lower a class's score.

    The command writes a picture with the locations that raise the score in orange, and those that
    lower it in blue. It prints the sums of the positive and of the negative shares of the
    locations, and the pairs of channels with the largest shares. The shares of all locations and
    the intercept add up to the score exactly. The run must be of bilinear or bilinear:K with
    softmax, svm or ridge, or of conv1x1, trained on one pooling and with --normalize auto or none.
    With --boxes, it explains the most confident box, and shows it within the photo.

    \b
    bilinear explain runs/birds-bilinear-softmax new.jpg
    bilinear explain runs/birds-bilinear-softmax new.jpg --class wren -o why.png
    """
    from bilinear_cli.explain import explain as explain_score
    from bilinear_cli.explain import overlay, within_frame
    from bilinear_cli.photos.boxes.options import box_options
    from bilinear_cli.predict import crop_photos
    from bilinear_cli.run import read_recipe
    from bilinear_cli.run_network import load_run_network, prediction_recipe

    options = box_options(boxes, min_confidence=min_confidence)
    one_box = options and replace(options, box="most-confident")
    ((_, crop),) = crop_photos(run, [photo], one_box)

    def forward(pixels: Any) -> Any:  # called when the run, the class and the photo are right
        recipe = prediction_recipe(run)
        return load_run_network(run, recipe, weights, backbone).load(recipe)(pixels)

    explanation = explain_score(run, photo, forward, name, crop)
    if len(all_views := read_recipe(run).views) > 1:
        views = ", ".join(all_views)
        log.info("this explains the original view alone; predict takes the mean over %s", views)
    output = output or Path(f"{photo.stem}-explained.png")
    try:
        with atomic_write(output) as path:
            picture = overlay(explanation)
            (within_frame(picture, photo, crop) if crop else picture).save(path)
    except ValueError as error:  # Pillow knows no format of this suffix
        raise UsageError(f"cannot write {output}: {error}") from error
    heatmap, intercept = explanation.heatmap, explanation.intercept
    total, positive = heatmap.sum(), heatmap[heatmap > 0].sum()
    click.echo(f"{printable(explanation.name)} {explanation.probability:.3f}")
    click.echo(f"score {explanation.score:.4f} = intercept {intercept:.4f} + locations {total:.4f}")
    click.echo(
        f"sum of the locations that raise the score: {positive:.4f}, that lower it: "
        f"{total - positive:.4f}"
    )
    for first, second, share in explanation.pairs:
        click.echo(f"channels {first} and {second}: {share:+.4f}")
    click.echo(output)
