"""The built-in sample: twelve species of moth, drawn by code, to try the program without photos.

The set is made so that *co-occurrence* is all that counts, which is what bilinear pooling sees and
pooling each feature by itself does not. Every animal shows each of four colours and each of four
textures exactly once, on four wing zones of nearly equal area; a species is one of the twelve even
permutations texture -> colour. So all species consist of the same parts, every pair of a texture
and a colour occurs in exactly three of them, and only which texture goes *with* which colour tells
them apart. Two switches give the controls:

* without ink the textures are missing, and the pictures of all species have one distribution;
* in grey the colours are missing, and only their brightness and the neighbourhood of the textures
  are left as weak hints.

An animal is drawn with implicit functions on the pixel grid, negative inside a shape, which
`_inside` turns into smooth masks. It lives in a frame of its own: the body is the y axis, the head
at negative y, wings are about 1 long, and x is folded to |x|, which makes it symmetric.
"""

import colorsys
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bilinear_cli.errors import BilinearError
from bilinear_cli.files import atomic_write

Floats = NDArray[np.floating]

SIZE = 224
N_DRAWINGS = 40

# The even permutations in lexicographic order: species s shows texture t on colour PAIRINGS[s][t].
PAIRINGS = tuple(
    p for p in permutations(range(4)) if sum(a > b for a, b in combinations(p, 2)) % 2 == 0
)
SPECIES: tuple[str, ...] = (
    *("Arctia_ordinata", "Boarmia_vicina", "Catocala_permixta", "Diarsia_quaterna"),
    *("Euplagia_alternans", "Gnophos_mutuata", "Hypena_conjuncta", "Lycia_transposita"),
    *("Noctua_sociata", "Plusia_reversa", "Saturnia_cyclica", "Zygaena_geminella"),
)
N_SPECIES = len(SPECIES)

# Orange, blue, pink, green, in hue, saturation and value.
COLOURS = ((0.08, 0.88, 0.95), (0.61, 0.72, 0.92), (0.94, 0.75, 0.88), (0.20, 0.72, 0.78))
# Textures and their periods, in a unit of some 70 pixels. The periods differ so that all four have
# about the same length of edge: with equal ones, rings have twice as many pixels of half-tone as
# bars, and even a colour histogram could tell which colour they lie on.
TEXTURES = (("spots", 0.15), ("bars", 0.125), ("rings", 0.24), ("net", 0.165))
COVERAGE = 0.4
INK = 0.9  # share of the light that ink swallows

# A wing's outline in polar coordinates is a sum of bell curves: (height, angle, width) of each.
# The heights make the four wings equal in area.
FOREWING = ((1.22, 0.62, 0.34), (0.90, 0.10, 0.42))
HINDWING = ((1.06, -0.45, 0.48), (0.88, -1.05, 0.38))


def layout(species: int, form: int) -> tuple[list[int], list[int]]:
    """Say which texture and which colour lie on the zones of an animal.

    Colours have the same places in all species; the textures follow them. The four forms swap the
    wings, the halves, or both (a Klein four-group, which is what XOR does to the zone's two bits).

    Args:
        species: 0 to 11.
        form: 0 to 3; bit 1 swaps fore- and hindwing, bit 0 the inner and outer halves.

    Returns:
        The textures and the colours, 0 to 3 each, of the zones inner forewing, outer forewing,
        inner hindwing, outer hindwing.
    """
    colours = [zone ^ form for zone in range(4)]
    return [PAIRINGS[species].index(colour) for colour in colours], colours


def write_sample(
    folder: Path,
    *,
    seed: int = 0,
    ink: bool = True,
    grey: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the set as `folder/train|test/<species>/<index>.jpg`, unless `folder` exists.

    `seed`, `ink` and `grey` are those of `draw_moth`; `progress` is told (done, total) pictures.

    Raises:
        BilinearError: it cannot be written.
    """
    if folder.exists():
        return folder
    try:
        with atomic_write(folder) as draft:
            for done in range(N_SPECIES * N_DRAWINGS):
                species, index = divmod(done, N_DRAWINGS)
                home = draft / ("test" if index % 2 else "train") / SPECIES[species]
                home.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(draw_moth(species, index, seed=seed, ink=ink, grey=grey))
                picture.save(home / f"{index:02d}.jpg", quality=95, subsampling=0)
                if progress:
                    progress(done + 1, N_SPECIES * N_DRAWINGS)
    except BilinearError:
        if not folder.is_dir():  # else another run was first: its set is the same
            raise
    return folder


def draw_moth(
    species: int, index: int, *, seed: int = 0, ink: bool = True, grey: bool = False
) -> NDArray[np.uint8]:
    """Draw one animal; the same arguments always give the same picture.

    Args:
        species: 0 to 11, the place in `SPECIES`.
        index: Number of the drawing, from 0 up.
        seed: Seed of the whole set.
        ink: Whether to draw the textures; nothing else changes without them.
        grey: Whether to replace the colours by their luminance.

    Returns:
        A picture of shape (224, 224, 3), uint8, RGB.
    """
    rng = np.random.default_rng((seed, species, index))
    textures, colours = layout(species, int(rng.integers(4)))
    x, y = _pose(rng)
    zones, lines = _wings(rng, x, y)
    patterns = [_pattern(rng, t, x, y, zone) for t, zone in zip(textures, zones, strict=True)]
    paints = np.array([_colour(rng, COLOURS[c], (0.02, 0.06, 0.06)) for c in colours])  # (4, 3)
    body, antennae = _body(rng, x, y)
    fur = _colour(rng, (0.08, 0.3, 0.4), (0.04, 0.2, 0.15))

    wings = zones.sum(axis=0)  # (224, 224)
    light = zones * (1 - INK * np.stack(patterns)) if ink else zones  # (4, 224, 224)
    picture = _shade(rng, _background(rng), np.maximum(wings, body))  # (224, 224, 3)
    picture = picture * (1 - wings)[..., None] + np.tensordot(light, paints, axes=(0, 0))
    picture = _over(picture, fur * 0.2, np.maximum(lines, antennae))
    photo = _photograph(rng, _over(picture, fur, body))
    return np.asarray(photo.convert("L").convert("RGB") if grey else photo)


def _inside(f: Floats) -> Floats:
    """Turn an implicit function into the share, 0 to 1, of each pixel on its negative side.

    Divided by its slope, any function is about the distance from its zero line in pixels.
    """
    slope = np.hypot(*np.gradient(f))
    return np.clip(0.5 - f / np.maximum(slope, 1e-6), 0, 1)


def _over(picture: Floats, paint: Floats, mask: Floats) -> Floats:
    """Paint a colour (3,) over a picture (224, 224, 3) where a mask (224, 224) is 1."""
    return picture + mask[..., None] * (paint - picture)


def _colour(rng: np.random.Generator, mean: Sequence[float], spread: Sequence[float]) -> Floats:
    """Draw an RGB colour (3,), 0 to 1, evenly from a box in HSV."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * spread + mean
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1)), np.float32)


def _pose(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Give every pixel's |x| and y, (224, 224) each, in the frame of an animal at a random pose."""
    unit = SIZE / 2 * rng.uniform(0.57, 0.68) * np.exp(1j * np.radians(rng.normal(0, 35)))
    centre = SIZE / 2 + rng.uniform(-12, 12, 2)
    wide, high = rng.uniform(0.8, 1, 2)  # foreshortening
    rows, columns = np.mgrid[:SIZE, :SIZE] - centre[:, None, None]
    place = ((columns + 1j * rows) / unit).astype(np.complex64)  # single precision for speed
    return np.abs(place.real / float(wide)), place.imag / float(high)


def _wings(rng: np.random.Generator, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Draw the wings: masks (4, 224, 224) of the zones, and one (224, 224) of their outlines.

    A circle about its root cuts each wing at the median distance: the halves have equal areas.
    """
    zones, lines, free = [], np.zeros_like(x), np.ones_like(x)
    for bells, root in ((FOREWING, -0.10), (HINDWING, 0.02)):
        r, angle = np.hypot(x, y - root), np.arctan2(root - y, x)
        shape = r - _outline(rng, angle, bells)
        wing = _inside(shape) * free  # the forewing lies over the hindwing
        cut = r - np.median(r[wing > 0.5])
        inner = _inside(cut)
        zones += [wing * inner, wing * (1 - inner)]
        lines += wing * np.maximum(_inside(-0.025 - shape), _inside(np.abs(cut) - 0.01))
        free -= wing
    return np.stack(zones), lines


def _outline(
    rng: np.random.Generator, angle: Floats, bells: Sequence[tuple[float, float, float]]
) -> Floats:
    """Give the distance of a wing's edge from its root, in the directions `angle`."""
    edge = np.zeros_like(angle)
    for height, middle, width in bells:
        offset = angle - middle - rng.normal(0, 0.03)
        edge += height * np.exp(-((offset / (width * rng.uniform(0.93, 1.07))) ** 2))
    waves = np.sin(rng.uniform(8, 20) * angle + rng.uniform(0, 2 * np.pi))
    edge *= 1 + rng.uniform(0, 0.03) * waves
    return edge


def _pattern(rng: np.random.Generator, texture: int, x: Floats, y: Floats, zone: Floats) -> Floats:
    """Draw a texture as a mask (224, 224) that covers the share `COVERAGE` of a zone."""
    kind, period = TEXTURES[texture]
    turn = np.exp(1j * rng.uniform(0, np.pi)) / (period * rng.uniform(0.9, 1.1))
    place = (x + 1j * y) * turn.astype(np.complex64)
    u, v = place.real + rng.uniform(), place.imag + rng.uniform()
    u += 0.12 * np.sin(2.5 * v + rng.uniform(0, 2 * np.pi))  # nothing on a wing is quite straight
    height = _distance(kind, u, v)
    return _inside(height - np.quantile(height[zone > 0.5], COVERAGE))


def _distance(kind: str, u: Floats, v: Floats) -> Floats:
    """Give the distance from the nearest line or dot of a texture of period 1."""
    if kind == "bars":
        return _gap(u)
    if kind == "net":
        return np.minimum(_gap(u), _gap(v))
    root = 3**0.5  # a hexagonal lattice is two rectangular ones of sides 1 and root
    one, other = (np.hypot(_gap(u + s), root * _gap(v / root + s)) for s in (0, 0.5))
    spots = np.minimum(one, other)
    return np.abs(spots - 0.33) if kind == "rings" else spots


def _gap(u: Floats) -> Floats:
    """Give the distance from the nearest whole number."""
    return np.abs(u - np.round(u))


def _body(rng: np.random.Generator, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Draw head, thorax and abdomen as one mask (224, 224), and the antennae as another."""
    stout, long = map(float, rng.uniform(0.85, 1.2, 2))
    parts = ((-0.27, 0.050, 0.05), (-0.10, 0.075, 0.15), (0.16 * long, 0.055, 0.24 * long))
    body = [np.hypot(x / (wide * stout), (y - middle) / high) - 1 for middle, wide, high in parts]
    spread, reach, bow = rng.uniform(0.15, 0.35), rng.uniform(0.3, 0.42), rng.uniform(1, 1.8)
    along = (-0.28 - y) / reach  # 0 at the head, 1 at the tip
    thread = np.abs(x - spread * np.clip(along, 0, 1) ** bow) - 0.011
    thread = np.maximum(thread, np.abs(along - 0.5) - 0.5)
    club = np.hypot(x - spread, y + 0.28 + reach) - 0.028
    return _inside(np.min(body, axis=0)), _inside(np.minimum(thread, club))


def _noise(rng: np.random.Generator, *cells: int) -> Floats:
    """Smooth noise (224, 224) of about unit variance on a grid of so many rows and columns."""
    grid = Image.fromarray(rng.standard_normal(cells, np.float32))
    return np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _background(rng: np.random.Generator) -> Floats:
    """Draw the ground (224, 224, 3), two colours mixed by noise, and what lies about on it."""
    first, second = (_colour(rng, (0, 0.3, 0.5), (0.5, 0.2, 0.3)) for _ in range(2))
    rows, columns = rng.integers(1, 4, 2)  # unequal numbers look like bark or grass
    octaves = [_noise(rng, n * rows, n * columns) / n**0.3 for n in (2, 5, 12, 28)]
    relief = rng.normal() + rng.uniform(0.5, 1.5) * np.sum(octaves, axis=0)
    ground = _over(np.tile(first, (SIZE, SIZE, 1)), (first + second) / 2, 1 / (1 + np.exp(-relief)))
    ground *= 1 + rng.uniform(0.02, 0.08) * _noise(rng, SIZE // 2, SIZE // 2)[..., None]
    return _litter(rng, ground)


def _litter(rng: np.random.Generator, ground: Floats) -> Floats:
    """Scatter leaves, twigs and pebbles, drawn at double size for the sake of smooth edges."""
    image = _image(ground).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    t = np.linspace(-1, 1, 25)
    kinds = ((90, 0.3 * (1 - t**2)), (160, 0.02 + 0 * t), (30, 0.7 * np.sqrt(1 - t**2)))
    for kind in rng.integers(3, size=rng.integers(4, 12)):
        length, width = kinds[kind]  # half the length, and half the width as a share of that
        turn = length * rng.uniform(0.5, 1) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        bend = 1j * rng.uniform(-0.3, 0.3) * t**2
        spine = complex(*rng.uniform(0, 2 * SIZE, 2)) + turn * (t + bend)
        side = 1j * turn * width * rng.uniform(0.6, 1.2)
        paint = 255 * _colour(rng, (0.2, 0.4, 0.45), (0.25, 0.3, 0.3))
        for edge, light in ((spine + side, 1), (spine - side, 0.75)):
            outline = np.concatenate([spine, edge[::-1]])
            red, green, blue = (int(channel * light) for channel in paint)
            draw.polygon([(z.real, z.imag) for z in outline], (red, green, blue))
    return np.asarray(image.reduce(2), np.float32) / 255


def _shade(rng: np.random.Generator, ground: Floats, mask: Floats) -> Floats:
    """Cast the animal's shadow on the ground: its mask (224, 224), moved and blurred."""
    image = _image(mask).filter(ImageFilter.GaussianBlur(rng.uniform(2, 5)))
    shadow = np.roll(np.asarray(image), rng.integers(-7, 8, 2), axis=(0, 1))
    return ground * (1 - rng.uniform(0.3, 0.6) / 255 * shadow[..., None].astype(np.float32))


def _photograph(rng: np.random.Generator, picture: Floats) -> Image.Image:
    """Light a drawing from one side, blur it, and add the noise of a camera."""
    down, across = rng.uniform(-0.15, 0.15, (2, 1)) * np.linspace(-1, 1, SIZE)
    light = rng.uniform(0.85, 1.1) * (1 + down[:, None] + across)
    noise = rng.uniform(0.008, 0.024) * rng.standard_normal(picture.shape, np.float32)
    image = _image(picture * light[..., None])
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    return _image(np.asarray(image, np.float32) / 255 + noise)


def _image(values: Floats) -> Image.Image:
    """Turn values from 0 to 1, (224, 224) or (224, 224, 3), into a greyscale or RGB image."""
    return Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))
