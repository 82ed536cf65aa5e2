"""Time `BilinearPooling` against the blog post's code, and measure their memory: `make bench`.

Times are medians of interleaved pairs. Memory is the peak of a separate process during a call,
minus its memory after a small call. Both procedures are compiled into a graph.
"""

import argparse
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
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
POST = "the blog post's code"
Pool = Callable[[tf.Tensor], tf.Tensor]


def bili_pooling(x: tf.Tensor) -> tf.Tensor:
    """Pool with the code of the blog post, word for word."""
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


def compiled(pool: Pool) -> Pool:
    """Compile for maps of any size."""
    return tf.function(pool, input_signature=[tf.TensorSpec((None, None, None, CHANNELS))])


PROCEDURES = {
    POST: bili_pooling,
    "BilinearPooling, square": BilinearPooling(output="square"),
    "BilinearPooling": BilinearPooling(),
}


def peak(name: str, batch: int) -> float:
    """Return the peak of this process during a call, minus its memory before, in MiB."""
    pool, x = compiled(PROCEDURES[name]), maps(batch)
    pool(maps(1, 1))
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which includes building x
    before = peak_of_process()
    pool(x)
    return peak_of_process() - before


def peak_of_process() -> float:
    """Return the peak memory of this process in MiB; `ru_maxrss` would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def with_gradient(layer: keras.layers.Layer) -> Pool:
    """Return a function: maps -> gradient of a sum of outputs with respect to the maps."""

    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer(x)[:, ::7])
        return tape.gradient(total, x)

    return gradient


def milliseconds(pool: Pool, x: tf.Tensor) -> float:
    """Return the median time per map, with a graph for this size of maps."""
    graph = tf.function(pool).get_concrete_function(x)
    times = [seconds(lambda: graph(x)) for _ in range(N_TIMED + 1)][1:]
    return 1000 * float(np.median(times)) / len(x)


def main() -> None:
    """Run the benchmark and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    x, post = maps(options.batch), compiled(bili_pooling)
    print(f"{len(x)} maps of {SIDE} x {SIDE} x {CHANNELS}; medians of {options.pairs} pairs\n")
    print("| procedure | s | speed-up | peak MiB | memory reduction |\n|---|---:|---:|---:|---:|")
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as executor:
        peaks = executor.map(peak, PROCEDURES, repeat(options.batch))
        memory = dict(zip(PROCEDURES, peaks, strict=True))
    for name, procedure in PROCEDURES.items():
        pool, share = compiled(procedure), memory[POST] / memory[name]
        speed, _, time = ratio(lambda: post(x), lambda pool=pool: pool(x), options.pairs)
        print(f"| {name} | {time:.4f} | {speed:.0f} | {memory[name]:,.1f} | {share:.0f} |")
    print("\n| method | ms per map | with gradient |\n|---|---:|---:|")
    for method in methods():
        layer = BilinearPooling(method)
        times = [milliseconds(pool, x) for pool in (layer, with_gradient(layer))]
        print("| {} | {:.1f} | {:.1f} |".format(method, *times))


if __name__ == "__main__":
    main()
