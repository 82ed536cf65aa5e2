"""Time each pooling of maps in memory beside the network that makes them: `make poolings`.

Batches as in extraction, rows as they are stored; medians of interleaved rounds, since other work
on the machine comes and goes.
"""

import argparse
import time
from statistics import median

import numpy as np
import tensorflow as tf

from bilinear_cli.features.backbone import load_backbone, resolve_batch_size, resolve_precision
from bilinear_cli.features.graph import compile_maps
from bilinear_cli.features.parameters import make_parameters
from bilinear_cli.features.settings import Settings
from bilinear_cli.features.specs import row_dtype
from bilinear_cli.features.weights import load_weights

POOLINGS = ("max", "avg", "bilinear", "covariance", "matrix-sqrt", "compact:8192", "bilinear:144")
SIZE = 224


def main() -> None:
    """Run the benchmark and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    weights, precision, batch = load_weights(), resolve_precision("auto"), resolve_batch_size(SIZE)
    settings = Settings(POOLINGS, "block5_conv3", SIZE, "squash", precision, batch, weights.sha256)
    forward = load_backbone(weights.tensors, "vgg16", settings.layer, precision)
    photos = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    network = tf.function(forward)
    maps = network(tf.constant(photos)).numpy()
    moment = np.eye(maps.shape[-1])
    parameters = make_parameters(settings, maps.shape[-1], {}, lambda: moment)
    compiled = {spec: compile_maps([spec], maps.shape[1:], parameters) for spec in POOLINGS}
    times: dict[str, list[float]] = {"the network": [], **{spec: [] for spec in POOLINGS}}
    for _ in range(rounds + 1):
        times["the network"].append(seconds(lambda: network(tf.constant(photos)).numpy()))
        for spec, (compute, _) in compiled.items():
            times[spec].append(seconds(lambda compute=compute: compute(maps)))
    floor = median(times["the network"][1:])  # the first of each warms up
    print(f"{batch} photos of {SIZE} pixels a batch, network in {precision}; {rounds} rounds\n")
    print("| pooling | numbers a photo | bytes a photo | ms a photo | of the network's |")
    print("|---|---:|---:|---:|---:|")
    print(f"| the network | | | {1000 * floor / batch:.1f} | |")
    for spec, (_, shapes) in compiled.items():
        found, n = median(times[spec][1:]), int(np.prod(shapes[spec]))
        size = n * row_dtype(shapes[spec]).itemsize
        print(f"| {spec} | {n:,} | {size:,} | {1000 * found / batch:.2f} | {found / floor:.3f} |")


def seconds(work: object) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
