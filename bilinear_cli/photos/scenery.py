"""The surroundings of the drawn animals: ground, litter, shadow, light and camera."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.floating]

SIZE = 224


def background(rng: np.random.Generator) -> Floats:
    """Return the ground (224, 224, 3): two colours mixed by noise, and litter on it."""
    first, second = (draw_colour(rng, (0, 0.3, 0.5), (0.5, 0.2, 0.3)) for _ in range(2))
    rows, columns = rng.integers(1, 4, 2)  # unequal numbers look like bark or grass
    octaves = [_noise(rng, n * rows, n * columns) / n**0.3 for n in (2, 5, 12, 28)]
    relief = rng.normal() + rng.uniform(0.5, 1.5) * np.sum(octaves, axis=0)
    ground = blend(np.tile(first, (SIZE, SIZE, 1)), (first + second) / 2, 1 / (1 + np.exp(-relief)))
    ground *= 1 + rng.uniform(0.02, 0.08) * _noise(rng, SIZE // 2, SIZE // 2)[..., None]
    return _litter(rng, ground)


def _litter(rng: np.random.Generator, ground: Floats) -> Floats:
    """Scatter leaves, twigs and pebbles; drawn at double size, they have smooth edges."""
    image = _image(ground).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    t = np.linspace(-1, 1, 25)
    shapes = ((90, 0.3 * (1 - t**2)), (160, 0.02 + 0 * t), (30, 0.7 * np.sqrt(1 - t**2)))
    for shape in rng.integers(3, size=rng.integers(4, 12)):
        length, width = shapes[shape]  # half the length; half the width as a share of it
        axis = length * rng.uniform(0.5, 1) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        bend = 1j * rng.uniform(-0.3, 0.3) * t**2
        spine = complex(*rng.uniform(0, 2 * SIZE, 2)) + axis * (t + bend)
        side = 1j * axis * width * rng.uniform(0.6, 1.2)
        paint = 255 * draw_colour(rng, (0.2, 0.4, 0.45), (0.25, 0.3, 0.3))
        for edge, light in ((spine + side, 1), (spine - side, 0.75)):
            outline = np.concatenate([spine, edge[::-1]])
            red, green, blue = (int(channel * light) for channel in paint)
            draw.polygon([(z.real, z.imag) for z in outline], (red, green, blue))
    return np.asarray(image.reduce(2), np.float32) / 255


def _noise(rng: np.random.Generator, *cells: int) -> Floats:
    """Return smooth noise (224, 224) of about unit variance, drawn on a grid of `cells`."""
    grid = Image.fromarray(rng.standard_normal(cells, np.float32))
    return np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def shade(rng: np.random.Generator, ground: Floats, mask: Floats) -> Floats:
    """Cast the animal's shadow on the ground: the mask (224, 224), moved and blurred."""
    image = _image(mask).filter(ImageFilter.GaussianBlur(rng.uniform(2, 5)))
    shadow = np.roll(np.asarray(image), rng.integers(-7, 8, 2), axis=(0, 1))
    return ground * (1 - rng.uniform(0.3, 0.6) / 255 * shadow[..., None].astype(np.float32))


def photograph(rng: np.random.Generator, picture: Floats) -> Image.Image:
    """Light a drawing from one side, blur it, and add the noise of a camera."""
    down, across = rng.uniform(-0.15, 0.15, (2, 1)) * np.linspace(-1, 1, SIZE)
    light = rng.uniform(0.85, 1.1) * (1 + down[:, None] + across)
    noise = rng.uniform(0.008, 0.024) * rng.standard_normal(picture.shape, np.float32)
    image = _image(picture * light[..., None])
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    return _image(np.asarray(image, np.float32) / 255 + noise)


def draw_colour(rng: np.random.Generator, mean: Sequence[float], spread: Sequence[float]) -> Floats:
    """Return a random RGB colour (3,), 0 to 1, uniform in a box in HSV."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * spread + mean
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1)), np.float32)


def blend(picture: Floats, paint: Floats, mask: Floats) -> Floats:
    """Paint a colour (3,) over a picture (224, 224, 3) where a mask (224, 224) is 1."""
    return picture + mask[..., None] * (paint - picture)


def _image(values: Floats) -> Image.Image:
    """Return values from 0 to 1, (224, 224) or (224, 224, 3), as a greyscale or RGB image."""
    return Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))
