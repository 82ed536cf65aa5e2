"""Time each pooling of maps in memory beside the network that makes them: `make poolings`.

Batches as in extraction, rows as they are stored; medians of interleaved rounds, since other work
on the machine comes and goes.
"""

import argparse
import time
from functools import partial
from statistics import median

import numpy as np
import tensorflow as tf

from bilinear_cli.extraction.graph import compile_maps
from bilinear_cli.networks.backbone import load_backbone, resolve_batch_size, resolve_precision
from bilinear_cli.networks.weights import load_vgg16_weights
from bilinear_cli.poolings.functions import matrix_sqrt
from bilinear_cli.poolings.parameters import make_parameters
from bilinear_cli.poolings.registry import storage_dtype
from bilinear_cli.recipe import Recipe

POOLINGS = ("max", "avg", "bilinear", "covariance", "matrix-sqrt", "compact:8192", "bilinear:144")
SIZE = 224


def main() -> None:
    """Run the benchmark and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    weights, precision, batch = (
        load_vgg16_weights(),
        resolve_precision("auto"),
        resolve_batch_size(SIZE),
    )
    recipe = Recipe(POOLINGS, "block5_conv3", SIZE, "squash", precision, batch, weights.sha256)
    forward = load_backbone(weights.tensors, "vgg16", recipe.layer, precision)
    photos = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    network = tf.function(forward)
    maps = network(tf.constant(photos)).numpy()
    channels = maps.shape[-1]
    parameters = make_parameters(recipe, channels, {}, lambda: (np.eye(channels), []))
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
        size = n * storage_dtype(shapes[spec]).itemsize
        print(f"| {spec} | {n:,} | {size:,} | {1000 * found / batch:.2f} | {found / floor:.3f} |")
    compare_roots(maps, rounds)


def compare_roots(maps: np.ndarray, rounds: int) -> None:
    """Print cost and error of the matrix root, as it is and by Newton and Schulz."""
    x = maps.reshape(len(maps), -1, maps.shape[-1])
    exact = np.stack([root_in_double(one) for one in x])
    ways = {"eigendecomposition": tf.function(matrix_sqrt)}
    for steps in (5, 10, 15):
        ways[f"Newton-Schulz, {steps} steps"] = tf.function(partial(newton_schulz, steps=steps))
    print("\n| matrix root | ms a photo | error, of the root's norm |\n|---|---:|---:|")
    for name, root in ways.items():
        error = np.linalg.norm(root(x) - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2))
        timed = [seconds(lambda root=root: root(x).numpy()) for _ in range(rounds)]
        print(f"| {name} | {1000 * median(timed) / len(x):.1f} | {error.max():.0e} |")


def root_in_double(x: np.ndarray) -> np.ndarray:
    """Return the root of XᵀX of one map (locations, channels), by singular values."""
    _, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    return (vt.T * s) @ vt


def newton_schulz(x: tf.Tensor, steps: int) -> tf.Tensor:
    """Return the roots of XᵀX as Xᵀ (XXᵀ)^(-1/2) X (Li et al., CVPR 2018, for the iteration)."""
    small = tf.matmul(x, x, transpose_b=True)
    trace = tf.linalg.trace(small)[:, None, None]
    identity = tf.eye(small.shape[-1])
    y, z = small / trace, tf.broadcast_to(identity, tf.shape(small))
    for _ in range(steps):
        t = 1.5 * identity - 0.5 * tf.matmul(z, y)
        y, z = tf.matmul(y, t), tf.matmul(t, z)
    return tf.matmul(tf.matmul(x, z, transpose_a=True), x) / tf.sqrt(trace)


def seconds(work: object) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
