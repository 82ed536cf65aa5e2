"""Measure the ranges of the 8-bit network's activations, and write bilinear_cli/networks/int8.json.

    python .ci/ranges.py cub100 sample

The script chooses random training photos of each set. On every second photo, it measures the
largest activation and two quantiles in each layer. Several rules compute one range from these
values. The script compares the rules on the other photos, by the cosine between each pooling's rows
and those of the float32 network, and keeps the rule with the best mean.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from bilinear_cli.networks.applications import build, preprocess_function
from bilinear_cli.networks.int8 import build_int8, run_int8
from bilinear_cli.networks.weights import Tensors, load_vgg16_weights
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.poolings.functions import pool_function

TABLE = Path(__file__).parent.parent / "bilinear_cli" / "networks" / "int8.json"
POOLINGS = ("max", "avg", "bilinear", "covariance", "matrix-sqrt")
QUANTILES = (1, 0.9999, 0.999)
RULES = {  # name -> function of float (photos, layers, quantiles)
    "the largest of all photos": lambda x: x[..., 0].max(axis=0),
    "the mean of the photos' largest": lambda x: x[..., 0].mean(axis=0),
    "the largest of the photos' 99.99 %": lambda x: x[..., 1].max(axis=0),
    "the mean of the photos' 99.99 %": lambda x: x[..., 1].mean(axis=0),
    "the mean of the photos' 99.9 %": lambda x: x[..., 2].mean(axis=0),
}


def main() -> None:
    """Measure the ranges, compare the rules, and write the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--photos", type=int, default=120, help="number per set")
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args()
    sets = {data: photos(data, options.photos, options.image_size) for data in options.data}
    weights = load_vgg16_weights()
    layers = [layer.name for layer in build("vgg16").layers[1:-1]]  # to the last convolution
    convolutions = [layer for layer in layers if "conv" in layer]
    activations = activation_function(weights.tensors, convolutions)
    quantiles = np.array(
        [
            [np.quantile(maps, QUANTILES) for maps in activations(photo)]
            for pixels in sets.values()
            for photo in pixels[::2]
        ]
    )
    ranges = {
        rule: dict(zip(convolutions, compute(quantiles).round(1).tolist(), strict=True))
        for rule, compute in RULES.items()
    }
    models = {rule: build_int8(weights.tensors, layers, ranges[rule]) for rule in RULES}
    scores = {rule: [] for rule in RULES}
    for data, pixels in sets.items():
        exact = [rows(activations(photo)[-1]) for photo in pixels[1::2]]
        for rule, model in models.items():
            int8 = [rows(run_int8(model, photo[None])) for photo in pixels[1::2]]
            scores[rule].append(compare(f"{data}, {rule}", exact, int8))
    best = max(RULES, key=lambda rule: np.mean(scores[rule]))
    n_photos = ", ".join(f"{len(x[::2])} of {Path(data).name}" for data, x in sets.items())
    table = {
        "measured": f"{best}, training photos at {options.image_size} pixels: {n_photos}",
        "weights_sha256": weights.sha256,
        "ranges": ranges[best],
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    print(TABLE.read_text())


def photos(data: str, n: int, size: int) -> np.ndarray:
    """Return random training photos of a set, uint8 (n, size, size, 3)."""
    photo_set = load_photo_set(data)
    train = np.random.default_rng(0).permutation(np.flatnonzero(photo_set.split == "train"))[:n]
    return np.stack([read_photo(photo_set.root / photo_set.paths[i], [size])[0] for i in train])


def activation_function(
    tensors: Tensors, layers: list[str]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function: photo (height, width, 3) -> float32 outputs of these layers of VGG16."""
    network = build("vgg16")
    network.set_weights(list(tensors.values()))
    outputs = [network.get_layer(layer).output for layer in layers]
    model = tf.function(keras.Model(network.input, outputs))
    preprocess = preprocess_function("vgg16")
    return lambda photo: [
        maps.numpy() for maps in model(preprocess(tf.constant(photo[None], tf.float32)))
    ]


def compare(label: str, exact: list[list[np.ndarray]], int8: list[list[np.ndarray]]) -> float:
    """Print the mean cosine of each pooling and the minimum of bilinear; return the mean of all."""
    cosines = np.array([list(map(np.dot, *pair)) for pair in zip(exact, int8, strict=True)])
    means = ", ".join(map("{} {:.5f}".format, POOLINGS, cosines.mean(axis=0)))
    print(f"{label}: {means}; least bilinear {cosines[:, 2].min():.5f}", flush=True)
    return cosines.mean()


def rows(maps: np.ndarray) -> list[np.ndarray]:
    """Return a unit vector per pooling for the maps of a photo (1, height, width, channels)."""
    vectors = [pool_function(spec, {})(tf.constant(maps)).numpy()[0] for spec in POOLINGS]
    return [x / np.linalg.norm(x) for x in vectors]


if __name__ == "__main__":
    main()
