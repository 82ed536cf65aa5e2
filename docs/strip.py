"""Draw docs/strip.png: photos, the names that a run gives them, and the reasons for the first.

    python docs/strip.py runs/moths-bilinear-softmax PHOTO...

The run is of `bilinear extract --pooling bilinear -o moths.h5` and `bilinear train` on the sample.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import bilinear_cli
from bilinear_cli.explain import explain, overlay
from bilinear_cli.networks.network import load_network
from bilinear_cli.run_network import load_run_network, prediction_recipe

SIDE, GAP, TEXT = 190, 10, 230  # pixels
FONT, HEAD = ImageFont.load_default(16), ImageFont.load_default(15)
BAR = (255, 150, 60)


def draw_names(draw: ImageDraw.ImageDraw, x: int, y: int, top: list[tuple[str, float]]) -> None:
    """Draw class names with probabilities, each above a bar."""
    for i, (name, probability) in enumerate(top):
        line = y + 12 + i * 58
        draw.text((x, line), f"{name.replace('_', ' ')}  {probability:.2f}", "black", FONT)
        draw.rectangle((x, line + 24, x + TEXT - 20, line + 34), "#eeeeee")
        draw.rectangle((x, line + 24, x + round((TEXT - 20) * probability), line + 34), BAR)


def strip(run: Path, photos: list[Path]) -> Image.Image:
    """Return the picture, with a row for each photo: narrow enough for a phone."""
    recipe = prediction_recipe(run)
    forward = load_network(load_run_network(run, recipe, "auto"), recipe)
    x, top = GAP, 2 * GAP + 18
    size = (2 * SIDE + TEXT + 3 * GAP, top + len(photos) * (SIDE + GAP))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    heads = (("photo", x), ("names", x + SIDE + GAP), ("reasons", x + SIDE + GAP + TEXT))
    for text, left in heads:
        draw.text((left, GAP), text, "#555555", HEAD)
    for i, prediction in enumerate(bilinear_cli.load_run(run).predict(photos, top=3)):
        y = top + i * (SIDE + GAP)
        explanation = explain(run, photos[i], forward)
        pixels = Image.fromarray(np.asarray(explanation.pixels))
        picture.paste(pixels.resize((SIDE, SIDE)), (x, y))
        draw_names(draw, x + SIDE + GAP, y, prediction.top)
        picture.paste(overlay(explanation).resize((SIDE, SIDE)), (x + SIDE + GAP + TEXT, y))
    return picture


if __name__ == "__main__":
    run, *photos = map(Path, sys.argv[1:])
    strip(run, photos).quantize(128).save(Path(__file__).with_suffix(".png"), optimize=True)
