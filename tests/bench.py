"""Time both stages against their floors, in one process, as ratios: `make bench`.

Stage 1 against the same compiled graph fed from memory, and in each precision against float32;
stage 2's reduction against reading the features once. Medians of interleaved runs, since other work
on the machine comes and goes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import tensorflow as tf
from PIL import Image
from support.network import extract_photos

from bilinear_cli.extraction.graph import compile_pooling
from bilinear_cli.networks.backbone import load_backbone, resolve_batch_size, resolve_precision
from bilinear_cli.networks.weights import Tensors, load_vgg16_weights
from bilinear_cli.photos.images import read_photo
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.feature_transform import Features, fit_transforms
from bilinear_cli.training.reducers import reduce

POOLINGS = ("max", "bilinear")
PRECISIONS = ("float32", "bfloat16", "int8")  # the first is what the others are compared with


def main() -> None:
    """Run the benchmark and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default="sample")
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--limit", type=int, default=160)
    options.add_argument("--pairs", type=int, default=5)
    asked = options.parse_args()
    photo_set = load_photo_set(asked.data).limit(asked.limit)
    weights, precision = load_vgg16_weights(), resolve_precision("auto")
    recipe = Recipe(
        POOLINGS,
        "block5_conv3",
        asked.image_size,
        "squash",
        precision,
        resolve_batch_size(asked.image_size),
        weights.sha256,
    )
    forward = load_backbone(weights.tensors, recipe.backbone, recipe.layer, precision)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "x.h5"
        stage1 = time_stage1(photo_set, recipe, forward, output, asked.pairs)
        with FeatureFile(output) as file:
            stage2 = time_stage2(file, asked.pairs)
        precisions = time_precisions(photo_set, recipe, weights.tensors, output, asked.pairs)
        large = time_large_photo(
            photo_set.root / photo_set.paths[0], Path(folder), asked.image_size, asked.pairs
        )
    print(
        f"{len(photo_set)} photos at {asked.image_size} pixels, {precision}, batch "
        f"{recipe.batch_size}; medians of {asked.pairs} pairs"
    )
    print(
        "extract / network and pooling fed from memory:  {:.3f} ({:.1f} s / {:.1f} s)".format(
            *stage1[0]
        )
    )
    print(
        "the same / the network alone:                   {:.3f} ({:.1f} s / {:.1f} s)".format(
            *stage1[1]
        )
    )
    for name, ms, share in precisions:
        print(f"{f'extract in {name}, ms a photo / float32:':<49}{share:.3f} ({ms:.1f} ms)")
    print(
        "reduction / one pass over the features:         {:.1f} ({:.2f} s / {:.2f} s)".format(
            *stage2
        )
    )
    print(
        "12 megapixels decoded whole / as here:          {:.1f} ({:.3f} s / {:.3f} s)".format(
            *large
        )
    )


Times = tuple[float, float, float]


def time_stage1(
    photo_set: PhotoSet, recipe: Recipe, forward: Callable, output: Path, pairs: int
) -> tuple[Times, Times]:
    """Time extraction, photos on disk to features on disk, against what it cannot do without."""
    pooled, _ = compile_pooling(forward, POOLINGS, recipe.batch_size, recipe.parsed_views)
    shape = (recipe.batch_size, recipe.image_size, recipe.image_size, 3)
    signature = [tf.TensorSpec(shape, tf.uint8)]
    network = tf.function(forward, input_signature=signature).get_concrete_function()
    batch = np.zeros(shape, np.uint8)
    n_batches = -(-len(photo_set) // recipe.batch_size)

    def extraction() -> None:
        extract_photos(photo_set, recipe, output, lambda: forward, overwrite=True)

    def graph() -> None:
        for _ in range(n_batches):
            pooled({recipe.image_size: batch})

    def alone() -> None:
        for _ in range(n_batches):
            network(tf.constant(batch)).numpy()

    return ratio(extraction, graph, pairs), ratio(graph, alone, pairs)


def time_precisions(
    photo_set: PhotoSet, recipe: Recipe, tensors: Tensors, output: Path, pairs: int
) -> list[tuple[str, float, float]]:
    """Time extraction, photos on disk to features on disk, in each precision.

    Returns:
        Each precision, the milliseconds that a photo takes, and their ratio to float32's.
    """

    def timed(precision: str) -> Callable[[], object]:
        forward = load_backbone(tensors, "vgg16", recipe.layer, precision)
        made = replace(recipe, precision=precision)
        return lambda: extract_photos(photo_set, made, output, lambda: forward, overwrite=True)

    runs = [timed(name) for name in PRECISIONS]
    rounds = np.array([[seconds(run) for run in runs] for _ in range(pairs + 1)][1:])
    return [
        (name, 1000 * median(taken) / len(photo_set), median(taken / rounds[:, 0]))
        for name, taken in zip(PRECISIONS, rounds.T, strict=True)
    ]


def time_large_photo(photo: Path, folder: Path, size: int, pairs: int) -> Times:
    """Time the reading of a photo as a camera makes them, of all its pixels and as it is done."""
    rng = np.random.default_rng(0)
    with Image.open(photo) as image:
        large = np.asarray(image.convert("RGB").resize((4000, 3000)), np.int16)
    noisy = (large + rng.normal(0, 5, large.shape)).clip(0, 255).astype(np.uint8)
    path = folder / "large.jpg"
    Image.fromarray(noisy).save(path, quality=92)

    def decode_whole() -> None:
        with Image.open(path) as image:
            image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)

    return ratio(decode_whole, lambda: read_photo(path, [size]), pairs)


def time_stage2(file: FeatureFile, pairs: int) -> Times:
    """Time the reduction against reading."""
    rows = np.arange(len(file.labels))
    transforms = fit_transforms(file, ["bilinear"], rows)

    def one_pass() -> None:
        for _ in Features(file, transforms).columns(rows):
            pass

    return ratio(lambda: reduce(file, transforms, rows, "gram"), one_pass, pairs)


def ratio(slow: Callable[[], object], floor: Callable[[], object], pairs: int) -> Times:
    """Return the medians of slow / floor pair by pair, of slow and of floor in seconds."""
    timed = [(seconds(slow), seconds(floor)) for _ in range(pairs + 1)][1:]  # the first warms up
    return (
        median(a / b for a, b in timed),
        median(a for a, _ in timed),
        median(b for _, b in timed),
    )


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
