"""Time each pooling of maps in memory beside the network that computes them: `make poolings`.

Batches are as in extraction, rows as they are stored. All times are medians of interleaved rounds,
because other work on the machine comes and goes.
"""

import argparse
from functools import partial
from statistics import median

import numpy as np
import tensorflow as tf
from bench import seconds, vgg16_recipe

from bilinear_cli.extraction.graph import compile_maps
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.poolings.functions import matrix_sqrt
from bilinear_cli.poolings.parameters import make_parameters
from bilinear_cli.poolings.registry import storage_dtype

POOLINGS = ("max", "avg", "bilinear", "covariance", "matrix-sqrt", "compact:8192", "bilinear:144")
SIZE = 224


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    recipe, tensors = vgg16_recipe(POOLINGS, SIZE)
    batch_size, precision = recipe.batch_size, recipe.precision
    network = tf.function(load_backbone(tensors, recipe.backbone, recipe.layer, precision))
    photos = np.random.default_rng(0).integers(0, 256, (batch_size, SIZE, SIZE, 3), np.uint8)
    maps = network(tf.constant(photos)).numpy()
    channels = maps.shape[-1]
    parameters = make_parameters(recipe, channels, {}, lambda: (np.eye(channels), []))
    poolings = {spec: compile_maps([spec], maps.shape[1:], parameters) for spec in POOLINGS}
    work = {spec: partial(compute, maps) for spec, (compute, _) in poolings.items()}
    work["network"] = lambda: network(tf.constant(photos)).numpy()
    times = [{name: seconds(call) for name, call in work.items()} for _ in range(rounds + 1)]
    ms = {name: 1000 * median(x[name] for x in times[1:]) / batch_size for name in work}
    print(
        f"Values per photo: {batch_size} photos of {SIZE} pixels per batch, network in "
        f"{precision}, medians of {rounds} rounds\n"
    )
    print("| pooling | numbers | bytes | ms | share of the network's time |")
    print("|---|---:|---:|---:|---:|")
    print(f"| the network | | | {ms['network']:.1f} | |")
    for spec, (_, shapes) in poolings.items():
        n = int(np.prod(shapes[spec]))
        n_bytes, share = n * storage_dtype(shapes[spec]).itemsize, ms[spec] / ms["network"]
        print(f"| {spec} | {n:,} | {n_bytes:,} | {ms[spec]:.2f} | {share:.3f} |")
    compare_roots(maps, rounds)


def compare_roots(maps: np.ndarray, rounds: int) -> None:
    """Print time and error of the matrix root by eigendecomposition and by Newton-Schulz."""
    x = maps.reshape(len(maps), -1, maps.shape[-1])
    exact = np.stack([root_in_double(photo) for photo in x])
    methods = {"eigendecomposition": tf.function(matrix_sqrt)}
    for steps in (5, 10, 15):
        methods[f"Newton-Schulz, {steps} steps"] = tf.function(partial(newton_schulz, steps=steps))
    print("\n| matrix root | ms per photo | relative error |\n|---|---:|---:|")
    for name, root in methods.items():
        error = np.linalg.norm(root(x) - exact, axis=(1, 2)) / np.linalg.norm(exact, axis=(1, 2))
        times = [seconds(lambda root=root: root(x).numpy()) for _ in range(rounds)]
        print(f"| {name} | {1000 * median(times) / len(x):.1f} | {error.max():.0e} |")


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


if __name__ == "__main__":
    main()
