"""Time `BilinearPooling` against the post's procedure, and take both's memory: `make bench`.

Times are medians of interleaved pairs; memory is the most that a process of its own has had above
what it had after a small call. Both are compiled into a graph.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from bench import ratio, seconds
from keras.src.legacy import backend as K

from bilinear_cli.layers import BilinearPooling
from bilinear_cli.layers.bilinear import methods

SIDE, CHANNELS = 14, 512
N_TIMED = 9


def bili_pooling(x: tf.Tensor) -> tf.Tensor:
    """Pool as the post does, word for word."""
    shp = K.shape(x)
    bsz, w, h, c = shp[0], shp[1], shp[2], shp[3]
    # Bilinear pooling
    b1 = K.reshape(x, (bsz * w * h, c, 1))
    b2 = K.reshape(x, (bsz * w * h, 1, c))
    d = K.reshape(K.batch_dot(b1, b2), (bsz, w * h, c, c))
    d = K.sum(d, 1)
    # Flatten
    d = K.reshape(d, (bsz, c * c))
    # Normalize
    d = K.sqrt(K.relu(d))
    d = K.l2_normalize(d, -1)
    return d


def maps(batch: int, side: int = SIDE) -> tf.Tensor:
    """Return random maps as after a ReLU."""
    x = np.random.default_rng(0).normal(size=(batch, side, side, CHANNELS))
    return tf.constant(np.maximum(x, 0), tf.float32)


def compiled(work: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the work as a graph for maps of any size."""
    return tf.function(work, input_signature=[tf.TensorSpec((None, None, None, CHANNELS))])


PROCEDURES = {
    "the post's": bili_pooling,
    "BilinearPooling, square": BilinearPooling(output="square"),
    "BilinearPooling": BilinearPooling(),
}


def peak(name: str, batch: int) -> float:
    """Return how many MiB of memory a call takes, measured in a process of its own."""
    command = [sys.executable, __file__, "--batch", str(batch), "--peak", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak(name: str, batch: int) -> float:
    """Return how many MiB this process has at most in a call, above what it had before."""
    work, x = compiled(PROCEDURES[name]), maps(batch)
    work(maps(1, 1))
    Path("/proc/self/clear_refs").write_text("5")  # from now on; else building x counts too
    before = most()
    work(x)
    return most() - before


def most() -> float:
    """Return the most MiB that this process has had; `ru_maxrss` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def with_gradient(layer: keras.layers.Layer) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the gradient of something of the layer's output, with respect to the maps."""

    def work(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = tf.reduce_sum(layer(x)[:, ::7])
        return tape.gradient(found, x)

    return work


def milliseconds(work: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> float:
    """Return the median time a map; the graph is made for this size of maps."""
    graph = tf.function(work).get_concrete_function(x)
    timed = [seconds(lambda: graph(x)) for _ in range(N_TIMED + 1)][1:]
    return 1000 * float(np.median(timed)) / len(x)


def main() -> None:
    """Run the benchmark and print two tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--peak", choices=PROCEDURES)
    asked = options.parse_args()
    if asked.peak:
        print(own_peak(asked.peak, asked.batch))
        return
    x = maps(asked.batch)
    post = compiled(bili_pooling)
    whole = peak("the post's", asked.batch)
    print(f"{asked.batch} maps of {SIDE} x {SIDE} x {CHANNELS}; medians of {asked.pairs} pairs\n")
    print("| | s | the post's / it | peak MiB | the post's / it |\n|---|---:|---:|---:|---:|")
    for name, procedure in PROCEDURES.items():
        layer = compiled(procedure)
        times = ratio(lambda: post(x), lambda layer=layer: layer(x), asked.pairs)
        memory = peak(name, asked.batch)
        print(
            f"| {name} | {times[2]:.4f} | {times[0]:.0f} | {memory:,.1f} | {whole / memory:.0f} |"
        )
    print()
    print("| method | ms a map | with gradient |\n|---|---:|---:|")
    for method in methods():
        pooling = BilinearPooling(method)
        timed = [milliseconds(work, x) for work in (pooling, with_gradient(pooling))]
        print("| {} | {:.1f} | {:.1f} |".format(method, *timed))


if __name__ == "__main__":
    main()
