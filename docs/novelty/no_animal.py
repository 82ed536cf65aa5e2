"""Count how many pictures of no animal a run names as unknown:

    python docs/novelty/no_animal.py --data FOLDER RUN...

FOLDER is laid out like CUB-200-2011, with bounding boxes. Squares of background are cut from its
test photos, outside the boxes: leaves, sky, water. Noise, gradients and text are drawn.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import bilinear_cli

N_PICTURES = 60  # of background, and drawn
MIN_SIDE = 150  # pixels of a square of background
RARITIES = (0.01, 0.05)
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


def backgrounds(folder: Path) -> Iterator[Image.Image]:
    """Yield the largest square beside the box of each test photo that has room, shuffled."""
    names, is_train, boxes = (
        [line.split()[1:] for line in (folder / f"{name}.txt").read_text("utf-8").splitlines()]
        for name in ("images", "train_test_split", "bounding_boxes")
    )
    test = np.flatnonzero(np.array(is_train)[:, 0] == "0")
    for i in np.random.default_rng(0).permutation(test):
        photo = Image.open(folder / "images" / names[i][0]).convert("RGB")
        x, y, width, height = map(float, boxes[i])
        square = square_beside((x, y, x + width, y + height), *photo.size)
        if square[2] - square[0] >= MIN_SIDE:
            yield photo.crop(tuple(map(int, square)))


def square_beside(box: Rectangle, width: int, height: int) -> Rectangle:
    """Return the largest square of a photo in a corner on one side of the box."""
    left, top, right, bottom = box
    rectangles = [
        *((0, 0, left, height), (right + 1, 0, width, height)),
        *((0, 0, width, top), (0, bottom + 1, width, height)),
    ]
    x, y, x_end, y_end = max(rectangles, key=lambda r: min(r[2] - r[0], r[3] - r[1]))
    side = min(x_end - x, y_end - y)
    return x, y, x + side, y + side


def drawn(i: int) -> Image.Image:
    """Return noise, a gradient between two colours, or a page of text, by turns."""
    rng = np.random.default_rng(i)
    if i % 3 == 0:
        return Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8))
    if i % 3 == 1:
        first, last = rng.integers(0, 256, (2, 3))
        share = np.linspace(0, 1, 224)[:, None, None]
        gradient = (first * (1 - share) + last * share).repeat(224, axis=1)
        return Image.fromarray(gradient.astype(np.uint8))
    page = Image.new("RGB", (224, 224), "white")
    for y in range(8, 210, 14):
        text = "".join(rng.choice([*"abcdefghiklmnoprstuvw     "], 34))
        ImageDraw.Draw(page).text((8, y), text, "black")
    return page


def main() -> None:
    """Make the pictures, and print how many are unusual for each run."""
    parser = argparse.ArgumentParser("no_animal", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    found = backgrounds(arguments.data)
    kinds = {
        "background": [picture for picture, _ in zip(found, range(N_PICTURES), strict=False)],
        "drawn": [drawn(i) for i in range(N_PICTURES)],
    }
    for folder in arguments.runs:
        run = bilinear_cli.load_run(folder)
        for kind, pictures in kinds.items():
            rarity = np.array([x.rarity for x in run.predict(pictures)])
            shares = ", ".join(f"{np.mean(rarity <= p):.3f} at {p}" for p in RARITIES)
            print(f"{folder.name}: {len(pictures)} pictures, {kind}: {shares}")


if __name__ == "__main__":
    main()
