"""conv5 maps -> vectors: pure TensorFlow functions over (batch, height, width, channels).

All of them take float32 maps and return float32; `compile_pooling` puts them into one graph with
the network, so that only what is stored leaves it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.features.specs import row_dtype
from bilinear_cli.features.views import View, sizes_of

Compute = Callable[[Mapping[int, np.ndarray]], dict[str, np.ndarray]]
RANK_TOLERANCE = 1e-7  # of the largest eigenvalue
EPSILON = 1e-12  # smaller squared norms count as zero, as in `tf.math.l2_normalize`


def max_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return the largest value of each channel, (batch, channels)."""
    return tf.reduce_max(maps, axis=(1, 2))


def avg_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean of each channel over the locations, (batch, channels)."""
    return tf.reduce_mean(maps, axis=(1, 2))


def sum_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return the sum of each channel over the locations, (batch, channels)."""
    return tf.reduce_sum(maps, axis=(1, 2))


def outer_product_sum(maps: tf.Tensor) -> tf.Tensor:
    """Return the sum over the locations of x xᵀ, (batch, channels, channels).

    With a map as a matrix X, one row a location, this is the one product Xᵀ X; no outer product
    is ever formed.
    """
    x = location_matrix(maps)
    return tf.matmul(x, x, transpose_a=True)


def location_matrix(maps: tf.Tensor) -> tf.Tensor:
    """Return maps as matrices X, one row a location, (batch, height * width, channels)."""
    batch, height, width, channels = tf.unstack(tf.shape(maps))
    return tf.reshape(maps, (batch, height * width, maps.shape[-1] or channels))


def signed_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Return sign(x) sqrt(|x|), element by element."""
    return tf.sign(x) * tf.sqrt(tf.abs(x))


def upper_triangle(matrices: tf.Tensor) -> tf.Tensor:
    """Pack symmetric matrices so that inner products and norms stay what they were.

    Args:
        matrices: (batch, channels, channels).

    Returns:
        (batch, channels * (channels + 1) / 2): the upper triangle row by row, as
        `np.triu_indices` has it, the off-diagonal entries times the square root of two.
    """
    channels = matrices.shape[-1]
    rows, columns = np.triu_indices(channels)
    flat = tf.reshape(matrices, (-1, channels * channels))
    scale = np.where(rows == columns, 1, np.sqrt(2)).astype(np.float32)
    return tf.gather(flat, (rows * channels + columns).astype(np.int32), axis=1) * scale


def l2_normalize(x: tf.Tensor) -> tf.Tensor:
    """Return the rows of (batch, d) divided by their l2 norm; a row of zeros stays one."""
    return tf.math.l2_normalize(x, axis=1, epsilon=EPSILON)


def bilinear_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return the bilinear feature: outer products summed, signed square root, l2 norm one.

    Source: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition",
    ICCV 2015, with one network in both roles.

    Args:
        maps: (batch, height, width, channels).

    Returns:
        (batch, channels * (channels + 1) / 2), see `upper_triangle`; 131,328 numbers for 512.
    """
    return l2_normalize(upper_triangle(signed_sqrt(outer_product_sum(maps))))


def bilinear_plain_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean outer product as it is: the control for what the normalisation brings.

    Args:
        maps: (batch, height, width, channels).

    Returns:
        (batch, channels * (channels + 1) / 2), see `upper_triangle`.
    """
    n_locations = tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], tf.float32)
    return upper_triangle(outer_product_sum(maps) / n_locations)


def covariance_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return `bilinear_pool` of channels less their mean over the locations.

    Source: Tuzel, Porikli, Meer, "Region Covariance: A Fast Descriptor for Detection and
    Classification", ECCV 2006, for covariance as a descriptor; the normalisation is Lin's.

    Args:
        maps: (batch, height, width, channels).

    Returns:
        (batch, channels * (channels + 1) / 2), see `upper_triangle`.
    """
    return bilinear_pool(maps - tf.reduce_mean(maps, axis=(1, 2), keepdims=True))


def matrix_sqrt_pool(maps: tf.Tensor) -> tf.Tensor:
    """Return the square root of the matrix of `bilinear_pool`, then its normalisation.

    The matrix root evens out the directions that the channels have in common, which else outweigh
    all others; the signed square root and the l2 norm follow as ever.

    Source: Lin, Maji, "Improved Bilinear Pooling with CNNs", BMVC 2017. With B = Xᵀ X and the
    smaller X Xᵀ = U Λ Uᵀ, its root is Yᵀ Y for Y = Λ^(-1/4) Uᵀ X: one eigendecomposition of as many
    rows as there are locations, where those are fewer than channels. It is exact to 2e-4 and takes
    less than the 15 steps of Newton and Schulz that come within 3e-3.

    Args:
        maps: (batch, height, width, channels).

    Returns:
        (batch, channels * (channels + 1) / 2), see `upper_triangle`.
    """
    x = location_matrix(maps)
    if (x.shape[1] or np.inf) < x.shape[2]:
        values, vectors = tf.linalg.eigh(tf.matmul(x, x, transpose_b=True))
        y = tf.matmul(vectors * _power(values, -0.25), x, transpose_a=True)
    else:
        values, vectors = tf.linalg.eigh(tf.matmul(x, x, transpose_a=True))
        y = tf.linalg.matrix_transpose(vectors * _power(values, 0.25))
    return l2_normalize(upper_triangle(signed_sqrt(tf.matmul(y, y, transpose_a=True))))


def _power(eigenvalues: tf.Tensor, exponent: float) -> tf.Tensor:
    """Return powers (batch, 1, n) of ascending eigenvalues; zero for those that are rounding."""
    sound = eigenvalues > RANK_TOLERANCE * eigenvalues[:, -1:]
    powers = tf.pow(tf.where(sound, eigenvalues, 1.0), exponent)
    return tf.where(sound, powers, 0.0)[:, None]


FUNCTIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "max": max_pool,
    "avg": avg_pool,
    "sum": sum_pool,
    "bilinear": bilinear_pool,
    "bilinear-plain": bilinear_plain_pool,
    "covariance": covariance_pool,
    "matrix-sqrt": matrix_sqrt_pool,
    "conv5": tf.identity,
}


def _out_of_memory(batch_size: int) -> str:
    said = f"the device has not the memory for {batch_size} photos at a time"
    if batch_size == 1:
        return f"{said}: take a smaller --image-size"
    return f"{said}: end what else runs, or begin again with --batch-size {batch_size // 2}"


def compile_pooling(
    forward: Callable[[tf.Tensor], tf.Tensor],
    specs: Sequence[str],
    batch_size: int,
    views: Sequence[View],
) -> tuple[Compute, dict[str, tuple[int, ...]]]:
    """Compile the network and the poolings of its maps into one graph for each size of photos.

    Args:
        forward: uint8 photos (batch, size, size, 3) -> maps (batch, height, width, channels).
        specs: the poolings.
        batch_size: photos in a batch; every batch must have as many.
        views: how each photo is shown.

    Returns:
        A function, size -> uint8 photos (batch, size, size, 3) -> spec -> rows as they are stored,
        photo by photo and of each its views; and spec -> shape of a row.

    Raises:
        UsageError: rows of views of several sizes would differ in shape.
    """

    def pooled(photos: tf.Tensor) -> dict[str, tf.Tensor]:
        maps = tf.cast(forward(photos), tf.float32)
        found = {spec: FUNCTIONS[spec](maps) for spec in specs}
        return {spec: tf.cast(x, row_dtype(x.shape[1:])) for spec, x in found.items()}

    graphs: dict[int, Callable[..., Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for size in sizes_of(views):
        signature = [tf.TensorSpec((batch_size, size, size, 3), tf.uint8)]
        graph = tf.function(pooled, input_signature=signature).get_concrete_function()
        graphs[size] = graph
        for spec, x in graph.structured_outputs.items():
            if shapes.setdefault(spec, tuple(x.shape[1:])) != tuple(x.shape[1:]):
                raise UsageError(f"{spec} of photos of several sizes has several shapes")

    def compute(photos: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            shown = [graphs[view.size](tf.constant(view.of(photos[view.size]))) for view in views]
        except tf.errors.ResourceExhaustedError as error:
            raise BilinearError(_out_of_memory(batch_size)) from error
        if len(views) == 1:
            return {spec: x.numpy() for spec, x in shown[0].items()}
        rows = {spec: np.stack([found[spec] for found in shown], axis=1) for spec in specs}
        return {spec: x.reshape(-1, *shapes[spec]) for spec, x in rows.items()}

    return compute, shapes
