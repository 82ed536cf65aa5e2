"""Time extraction and training against a lower bound, in one process, as ratios: `make bench`.

Extraction is compared with the same compiled graph on batches from memory. The reduction of the
training rows is compared with one pass over the features. All values are medians of interleaved
runs, because other work on the machine comes and goes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import tensorflow as tf
from PIL import Image
from support.network import extract_photos

from bilinear_cli.extraction.existing import resolve_locally
from bilinear_cli.extraction.graph import compile_pooling
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.weights import Tensors, load_vgg16_weights
from bilinear_cli.photos.photo_set import PhotoSet, load_photo_set
from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.feature_transform import Features, fit_feature_transforms
from bilinear_cli.training.reducers import LocalReducer

Times = tuple[float, float, float]  # ratio, and both times in seconds


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--limit", type=int, default=160)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    pairs, photo_set = options.pairs, load_photo_set(options.data).limit(options.limit)
    recipe, tensors = vgg16_recipe(("max", "bilinear"), options.image_size)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "x.h5"
        stage1 = time_stage1(photo_set, recipe, tensors, output, pairs)
        with FeatureFile(output) as file:
            stage2 = time_stage2(file, pairs)
        large = time_large_photo(photo_set.root / photo_set.paths[0], recipe.image_size, pairs)
    print(
        f"{len(photo_set)} photos at {recipe.image_size} pixels, {recipe.precision} by "
        f"{recipe.engine}, batch {recipe.batch_size}; medians of {pairs} pairs"
    )
    seconds = "{:.3f} ({:.1f} s / {:.1f} s)"
    print_row("extract / network and pooling, from memory", seconds, stage1[0])
    print_row("network and pooling / network alone", seconds, stage1[1])
    print_row("reduction / one pass over the features", "{:.1f} ({:.2f} s / {:.2f} s)", stage2)
    print_row("12 megapixels: full decoding / read_photo", "{:.1f} ({:.3f} s / {:.3f} s)", large)


def print_row(label: str, template: str, values: Sequence[float]) -> None:
    """Print one row of the table."""
    print(f"{label + ':':<48}{template.format(*values)}")


def vgg16_recipe(specs: tuple[str, ...], image_size: int) -> tuple[Recipe, Tensors]:
    """Return a recipe for VGG16 as `auto` resolves it here, and its weights."""
    weights, layer, resize = load_vgg16_weights(), "block5_conv3", "squash"
    recipe = Recipe(specs, layer, image_size, resize, "auto", 0, weights.sha256, engine="auto")
    return resolve_locally(recipe), weights.tensors


def time_stage1(
    photo_set: PhotoSet, recipe: Recipe, tensors: Tensors, output: Path, pairs: int
) -> tuple[Times, Times]:
    """Time extraction from disk to disk against the graph alone, and that against the network."""
    forward = load_backbone(tensors, recipe.backbone, recipe.layer, recipe.precision, recipe.engine)
    pooled, _ = compile_pooling(forward, recipe.specs, recipe.batch_size, recipe.parsed_views)
    shape = (recipe.batch_size, recipe.image_size, recipe.image_size, 3)
    signature = [tf.TensorSpec(shape, tf.uint8)]
    network = tf.function(forward, input_signature=signature).get_concrete_function()
    batch = np.zeros(shape, np.uint8)
    n_batches = -(-len(photo_set) // recipe.batch_size)

    def run_extraction() -> None:
        extract_photos(photo_set, recipe, output, lambda: forward, overwrite=True)

    def run_graph() -> None:
        for _ in range(n_batches):
            pooled({recipe.image_size: batch})

    def run_network() -> None:
        for _ in range(n_batches):
            network(tf.constant(batch)).numpy()

    return ratio(run_extraction, run_graph, pairs), ratio(run_graph, run_network, pairs)


def time_large_photo(photo: Path, size: int, pairs: int) -> Times:
    """Time reading a photo of 12 megapixels: decoding all pixels against `read_photo`."""
    rng = np.random.default_rng(0)
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB").resize((4000, 3000)), np.int16)
    noisy = (pixels + rng.normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)

    def decode_all(path: Path) -> None:
        with Image.open(path) as image:
            image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)

    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        path = Path(file.name)
        Image.fromarray(noisy).save(path, quality=92)
        return ratio(lambda: decode_all(path), lambda: read_photo(path, [size]), pairs)


def time_stage2(file: FeatureFile, pairs: int) -> Times:
    """Time the reduction against reading."""
    rows = np.arange(len(file.labels))
    transforms = fit_feature_transforms(file, ["bilinear"], rows)

    def one_pass() -> None:
        for _ in Features(file, transforms).columns(rows):
            pass

    reducer = LocalReducer(Features(file, transforms), rows)
    return ratio(lambda: reducer.reduce("gram"), one_pass, pairs)


def ratio(work: Callable[[], object], reference: Callable[[], object], pairs: int) -> Times:
    """Return the medians of work / reference in pairs, and of both times in seconds."""
    times = [(seconds(work), seconds(reference)) for _ in range(pairs + 1)][1:]  # first: warm-up
    return (median(a / b for a, b in times), *map(median, zip(*times, strict=True)))


def seconds(work: Callable[[], object]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
