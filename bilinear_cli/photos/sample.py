"""The built-in sample: twelve species of moth, drawn by code, to try the program without photos.

Only the *co-occurrence* of features tells the species apart: bilinear pooling sees it, and pooling
each feature by itself does not. Every animal shows each of four colours and each of four textures
exactly once, on four wing zones of nearly equal area. A species is one of the twelve even
permutations texture -> colour: every pair of a texture and a colour occurs in exactly three
species. Two options give the controls:

* without ink the textures are missing, and the pictures of all species have one distribution;
* in grey the colours are missing; their brightness and the order of the textures are weak hints.

An animal is drawn with implicit functions on the pixel grid, negative inside a shape, which
`_inside` turns into smooth masks. In the animal's own frame the body is the y axis, the head is at
negative y, wings are about 1 long, and x is folded to |x|, which makes the animal symmetric.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bilinear_cli.photos import scenery
from bilinear_cli.photos.scenery import SIZE, Floats, blend, draw_colour

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
# Textures and their periods, in units of about 70 pixels. With these periods all four have about
# the same length of edges. With equal periods, rings have twice as many half-tone pixels as bars,
# and even a colour histogram could tell which colour they lie on.
TEXTURES = (("spots", 0.15), ("bars", 0.125), ("rings", 0.24), ("net", 0.165))
COVERAGE = 0.4
INK = 0.9  # share of the light that ink absorbs

# A wing's outline in polar coordinates is a sum of bell curves (height, angle, width). These
# heights make the areas of the four wings equal.
FOREWING = ((1.22, 0.62, 0.34), (0.90, 0.10, 0.42))
HINDWING = ((1.06, -0.45, 0.48), (0.88, -1.05, 0.38))


def arrange_zones(species: int, arrangement: int) -> tuple[list[int], list[int]]:
    """Return the textures and the colours, 0 to 3 each, of the four zones of an animal.

    The zones are inner and outer forewing, inner and outer hindwing. The colours depend on the
    arrangement alone; the textures follow them. Bit 1 of the arrangement (0 to 3) swaps fore- and
    hindwing, bit 0 the inner and outer halves (a Klein four-group: XOR on the two bits of a zone).
    """
    colours = [zone ^ arrangement for zone in range(4)]
    return [PAIRINGS[species].index(colour) for colour in colours], colours


def drawings(seed: int, ink: bool, grey: bool) -> Iterator[tuple[str, bytes]]:
    """Yield path `train|test/<species>/<index>.jpg` and content of each photo of the sample."""
    for species, index in product(range(N_SPECIES), range(N_DRAWINGS)):
        picture = Image.fromarray(draw_moth(species, index, seed=seed, ink=ink, grey=grey))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95, subsampling=0)
        split = "test" if index % 2 else "train"
        yield f"{split}/{SPECIES[species]}/{index:02d}.jpg", file.getvalue()


def draw_moth(
    species: int, index: int, *, seed: int = 0, ink: bool = True, grey: bool = False
) -> NDArray[np.uint8]:
    """Draw one animal; the same arguments always give the same picture.

    Args:
        species: 0 to 11, index into `SPECIES`.
        index: of the drawing, from 0.
        seed: of the sample.
        ink: draw the textures; nothing else changes without them.
        grey: replace the colours by their luminance.

    Returns:
        uint8 (224, 224, 3), RGB.
    """
    rng = np.random.default_rng((seed, species, index))
    textures, colours = arrange_zones(species, int(rng.integers(4)))
    x, y = _pose(rng)
    zones, outlines = _wings(rng, x, y)
    patterns = [_pattern(rng, t, x, y, zone) for t, zone in zip(textures, zones, strict=True)]
    paints = np.array([draw_colour(rng, COLOURS[c], (0.02, 0.06, 0.06)) for c in colours])  # (4, 3)
    body, antennae = _body(rng, x, y)
    fur = draw_colour(rng, (0.08, 0.3, 0.4), (0.04, 0.2, 0.15))

    wings = zones.sum(axis=0)  # (224, 224)
    light = zones * (1 - INK * np.stack(patterns)) if ink else zones  # (4, 224, 224)
    picture = scenery.shade(rng, scenery.background(rng), np.maximum(wings, body))  # (224, 224, 3)
    picture = picture * (1 - wings)[..., None] + np.tensordot(light, paints, axes=(0, 0))
    picture = blend(picture, fur * 0.2, np.maximum(outlines, antennae))
    photo = scenery.photograph(rng, blend(picture, fur, body))
    return np.asarray(photo.convert("L").convert("RGB") if grey else photo)


def _inside(f: Floats) -> Floats:
    """Return the share, 0 to 1, of each pixel that is on the negative side of a function.

    Divided by its slope, any function is about the distance from its zero line in pixels.
    """
    slope = np.hypot(*np.gradient(f))
    return np.clip(0.5 - f / np.maximum(slope, 1e-6), 0, 1)


def _pose(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return |x| and y of every pixel, (224, 224) each, in the frame of a randomly posed animal."""
    scale = SIZE / 2 * rng.uniform(0.57, 0.68) * np.exp(1j * np.radians(rng.normal(0, 35)))
    centre = SIZE / 2 + rng.uniform(-12, 12, 2)
    width, height = rng.uniform(0.8, 1, 2)  # foreshortening
    rows, columns = np.mgrid[:SIZE, :SIZE] - centre[:, None, None]
    z = ((columns + 1j * rows) / scale).astype(np.complex64)  # single precision for speed
    return np.abs(z.real / float(width)), z.imag / float(height)


def _wings(rng: np.random.Generator, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return masks of the four zones, (4, 224, 224), and of their outlines, (224, 224).

    A circle around its root cuts each wing at the median distance: the halves have equal areas.
    """
    zones, outlines, free = [], np.zeros_like(x), np.ones_like(x)
    for bells, root in ((FOREWING, -0.10), (HINDWING, 0.02)):
        r, angle = np.hypot(x, y - root), np.arctan2(root - y, x)
        shape = r - _outline(rng, angle, bells)
        wing = _inside(shape) * free  # the forewing lies over the hindwing
        cut = r - np.median(r[wing > 0.5])
        inner = _inside(cut)
        zones += [wing * inner, wing * (1 - inner)]
        outlines += wing * np.maximum(_inside(-0.025 - shape), _inside(np.abs(cut) - 0.01))
        free -= wing
    return np.stack(zones), outlines


def _outline(
    rng: np.random.Generator, angle: Floats, bells: Sequence[tuple[float, float, float]]
) -> Floats:
    """Return the distance of a wing's edge from its root, in the directions `angle`."""
    edge = np.zeros_like(angle)
    for height, middle, width in bells:
        offset = angle - middle - rng.normal(0, 0.03)
        edge += height * np.exp(-((offset / (width * rng.uniform(0.93, 1.07))) ** 2))
    waves = np.sin(rng.uniform(8, 20) * angle + rng.uniform(0, 2 * np.pi))
    edge *= 1 + rng.uniform(0, 0.03) * waves
    return edge


def _pattern(rng: np.random.Generator, texture: int, x: Floats, y: Floats, zone: Floats) -> Floats:
    """Return a texture as a mask (224, 224) that covers the share `COVERAGE` of a zone."""
    kind, period = TEXTURES[texture]
    factor = np.exp(1j * rng.uniform(0, np.pi)) / (period * rng.uniform(0.9, 1.1))
    z = (x + 1j * y) * factor.astype(np.complex64)
    u, v = z.real + rng.uniform(), z.imag + rng.uniform()
    u += 0.12 * np.sin(2.5 * v + rng.uniform(0, 2 * np.pi))  # no line on a wing is straight
    height = _distance(kind, u, v)
    return _inside(height - np.quantile(height[zone > 0.5], COVERAGE))


def _distance(kind: str, u: Floats, v: Floats) -> Floats:
    """Return the distance from the nearest line or dot of a texture of period 1."""
    if kind == "bars":
        return _gap(u)
    if kind == "net":
        return np.minimum(_gap(u), _gap(v))
    side = 3**0.5  # a hexagonal lattice is two rectangular lattices of sides 1 and 3 ** 0.5
    lattices = [np.hypot(_gap(u + s), side * _gap(v / side + s)) for s in (0, 0.5)]
    spots = np.minimum(*lattices)
    return np.abs(spots - 0.33) if kind == "rings" else spots


def _gap(u: Floats) -> Floats:
    """Return the distance from the nearest integer."""
    return np.abs(u - np.round(u))


def _body(rng: np.random.Generator, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return masks (224, 224) of the body (head, thorax and abdomen) and of the antennae."""
    girth, length = map(float, rng.uniform(0.85, 1.2, 2))
    ellipses = ((-0.27, 0.050, 0.05), (-0.10, 0.075, 0.15), (0.16 * length, 0.055, 0.24 * length))
    body = [np.hypot(x / (a * girth), (y - centre) / b) - 1 for centre, a, b in ellipses]
    spread, reach, bow = rng.uniform(0.15, 0.35), rng.uniform(0.3, 0.42), rng.uniform(1, 1.8)
    t = (-0.28 - y) / reach  # 0 at the head, 1 at the tip
    thread = np.abs(x - spread * np.clip(t, 0, 1) ** bow) - 0.011
    thread = np.maximum(thread, np.abs(t - 0.5) - 0.5)
    club = np.hypot(x - spread, y + 0.28 + reach) - 0.028
    return _inside(np.min(body, axis=0)), _inside(np.minimum(thread, club))
