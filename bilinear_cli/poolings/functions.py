"""Maps -> vectors: pure TensorFlow functions over (batch, height, width, channels).

All of them take float32 maps and return float32; `graph.py` puts them into one graph with the
network, so that only what is stored leaves it.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.matrix_root import matrix_sqrt
from bilinear_cli.poolings.registry import TRIANGLE, get_pooling

Pool = Callable[[tf.Tensor], tf.Tensor]
SLOPE_FLOOR = 1e-3  # of the mean size of a map's numbers; the root of less is not steeper
ROUNDING = 1e-6  # of a mean over locations, relatively
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


def keep_maps(maps: tf.Tensor) -> tf.Tensor:
    """Return the maps as they are."""
    return tf.identity(maps)


# Matrices, (batch, channels, channels) --------------------------------------------------------


def outer_product_sum(maps: tf.Tensor) -> tf.Tensor:
    """Return the sum over the locations of x xᵀ, of which bilinear pooling takes the root.

    With a map as a matrix X, one row a location, this is the one product Xᵀ X; no outer product
    is ever formed.

    Source: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition",
    ICCV 2015, with one network in both roles.
    """
    x = location_matrix(maps)
    return tf.matmul(x, x, transpose_a=True)


def outer_product_mean(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean outer product: stored as it is, the control for the normalisation."""
    n_locations = tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], tf.float32)
    return outer_product_sum(maps) / n_locations


def centred_product_sum(maps: tf.Tensor) -> tf.Tensor:
    """Return `outer_product_sum` of channels less their mean over the locations.

    Source: Tuzel, Porikli, Meer, "Region Covariance: A Fast Descriptor for Detection and
    Classification", ECCV 2006, for covariance as a descriptor; the normalisation is Lin's.
    """
    return outer_product_sum(centre_channels(maps))


def outer_product_root(maps: tf.Tensor) -> tf.Tensor:
    """Return the square root of the matrix of `outer_product_sum`.

    The matrix root evens out the directions that the channels have in common, which else outweigh
    all others; the signed square root and the l2 norm follow as ever.

    Source: Lin, Maji, "Improved Bilinear Pooling with CNNs", BMVC 2017. With B = Xᵀ X and the
    smaller X Xᵀ = U Λ Uᵀ, its root is Yᵀ Y for Y = Λ^(-1/4) Uᵀ X: one eigendecomposition of as many
    rows as there are locations, where those are fewer than channels. It takes less
    time than as many steps of Newton and Schulz as come near it (`make poolings`).
    """
    return matrix_sqrt(location_matrix(maps))


def location_matrix(maps: tf.Tensor) -> tf.Tensor:
    """Return maps as matrices X, one row a location, (batch, height * width, channels)."""
    _, height, width, channels = maps.shape
    if height and width:
        return tf.reshape(maps, (-1, height * width, channels))
    return tf.reshape(maps, (tf.shape(maps)[0], -1, channels))


def centre_channels(maps: tf.Tensor) -> tf.Tensor:
    """Return maps less the mean of each channel over the locations; what is rounding, as zero."""
    mean = tf.reduce_mean(maps, axis=(1, 2), keepdims=True)
    centred = maps - mean
    return tf.where(tf.abs(centred) > ROUNDING * tf.abs(mean), centred, 0.0)


@tf.custom_gradient
def signed_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Return sign(x) sqrt(|x|), element by element, with a gradient that has a bound.

    The true slope, 1 / (2 sqrt(|x|)), is infinite at zero, where two channels that are never active
    together have their number. Numbers below `SLOPE_FLOOR` times the mean |x| of their row are
    given the slope at that floor, the numbers of an all-zero row the slope zero. So the gradient is
    exact for all others, and a step on the brightness of the map stays what it is.

    Args:
        x: (batch, ...).
    """
    size = tf.abs(x)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(size, axis=tuple(range(1, size.shape.rank)), keepdims=True)
        held = tf.sqrt(tf.maximum(size, SLOPE_FLOOR * mean))
        return tf.math.divide_no_nan(0.5 * upstream, held)

    root = tf.sqrt(size)
    with tf.control_dependencies([root]):  # the sign can then take the memory of x
        return root * tf.sign(x), gradient


def upper_triangle(matrices: tf.Tensor) -> tf.Tensor:
    """Pack symmetric matrices so that inner products and norms stay what they were.

    Args:
        matrices: (batch, channels, channels).

    Returns:
        (batch, channels * (channels + 1) / 2), see `triangle.py`.
    """
    entries, scale = _upper_entries(matrices)
    return entries * scale


def normalized_triangle(matrices: tf.Tensor) -> tf.Tensor:
    """Pack the signed square roots of symmetric matrices as `upper_triangle`, to l2 norm one.

    Args:
        matrices: (batch, channels, channels).

    Returns:
        (batch, channels * (channels + 1) / 2).
    """
    entries, scale = _upper_entries(matrices)  # before the root: half the work and memory
    return l2_normalize(signed_sqrt(entries) * scale)


def _upper_entries(matrices: tf.Tensor) -> tuple[tf.Tensor, np.ndarray]:
    """Return the upper triangle row by row, and what its numbers are to be multiplied by."""
    channels = matrices.shape[-1]
    rows, columns = triangle.indices(channels)
    flat = tf.reshape(matrices, (-1, channels * channels))
    scale = triangle.scale(channels).astype(np.float32)
    return tf.gather(flat, (rows * channels + columns).astype(np.int32), axis=1), scale


def l2_normalize(x: tf.Tensor) -> tf.Tensor:
    """Return the rows of (batch, d) divided by their l2 norm; a row of zeros stays one."""
    return tf.math.l2_normalize(x, axis=1, epsilon=EPSILON)


def tensor_sketch(
    matrices: tf.Tensor, hashes: np.ndarray, signs: np.ndarray, size: int
) -> tf.Tensor:
    """Sketch symmetric matrices so that inner products are kept on average.

    Entry (i, j) is added to number h₀(i) + h₁(j) modulo `size`, with the sign s₀(i) s₁(j). Over
    random hashes and signs the inner product of two sketches has the mean of that of the matrices.

    Source: Pham, Pagh, "Fast and Scalable Polynomial Kernels via Explicit Feature Maps", KDD 2013.
    A sketch is linear, so that of a sum of outer products is one signed addition of its entries,
    without the Fourier transforms that single vectors need.

    Args:
        matrices: (batch, channels, channels).
        hashes: int (2, channels), from 0 to size - 1.
        signs: int (2, channels), of -1 and 1.
        size: numbers of a sketch.

    Returns:
        (batch, size).
    """
    channels = hashes.shape[1]
    numbers = ((hashes[0][:, None] + hashes[1]) % size).ravel()
    order = np.argsort(numbers, kind="stable")  # what adds up lies together: twice as fast
    ordered = numbers[order].astype(np.int32)
    sign = (signs[0][:, None] * signs[1]).ravel().astype(np.float32)
    entries = tf.transpose(tf.reshape(matrices, (-1, channels * channels)) * sign)
    sums = tf.math.segment_sum(tf.gather(entries, order.astype(np.int32)), ordered)
    whole = tf.pad(sums, [[0, size - 1 - ordered[-1]], [0, 0]])
    return tf.reshape(tf.transpose(whole), (-1, size))


def compact_pool(maps: tf.Tensor, hashes: np.ndarray, signs: np.ndarray, size: int) -> tf.Tensor:
    """Return the sketch of the matrix of `outer_product_sum`, its signed square root, l2 norm one.

    Source: Gao, Beijbom, Zhang, Darrell, "Compact Bilinear Pooling", CVPR 2016.

    Args:
        maps: (batch, height, width, channels).
        hashes, signs, size: of `tensor_sketch`.

    Returns:
        (batch, size).
    """
    sketch = tensor_sketch(outer_product_sum(maps), hashes, signs, size)
    return l2_normalize(signed_sqrt(sketch))


def project(maps: tf.Tensor, projection: np.ndarray) -> tf.Tensor:
    """Return maps whose channels are projected, (batch, height, width, fewer channels).

    Args:
        maps: (batch, height, width, channels).
        projection: float32 (channels, fewer).
    """
    return tf.tensordot(maps, projection, 1)


def matrix_function(method: str) -> Pool:
    """Return the function of a pooling of matrices, maps -> (batch, channels, channels)."""
    return globals()[get_pooling(method).function]


def pool_function(spec: str, parameters: Mapping[str, np.ndarray]) -> Pool:
    """Return the function of a pooling, of maps alone.

    Args:
        spec: the pooling.
        parameters: of `parameters.py`; those that it takes must be there.
    """
    kind = get_pooling(spec)
    function = globals()[kind.function]
    arguments = [parameters[name] for name in kind.arguments]
    pack = normalized_triangle if kind.is_normalized_matrix else upper_triangle

    def pool(maps: tf.Tensor) -> tf.Tensor:
        if kind.is_projected:
            rows = function(project(maps, *arguments))
        else:
            rows = function(maps, *arguments, *([kind.size] if kind.size else []))
        return pack(rows) if kind.layout == TRIANGLE else rows

    return pool
