"""Maps -> vectors: pure TensorFlow functions of float32 maps (batch, height, width, channels).

All return float32. `extraction/graph.py` puts them into one graph with the network, so that only
the stored rows leave it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import tensorflow as tf

from bilinear_cli.poolings import triangle
from bilinear_cli.poolings.registry import TRIANGLE, get_pooling

SLOPE_FLOOR = 1e-3  # times the mean |x| of a row: the slope of the root is constant below
MEAN_TOLERANCE = 1e-6  # relative error of a mean over locations
RANK_TOLERANCE = 1e-7  # smaller eigenvalues, relative to the largest, are rounding errors


# The largest value, the mean and the sum of each channel over the locations, (batch, channels).
max_pool = partial(tf.reduce_max, axis=(1, 2))
avg_pool = partial(tf.reduce_mean, axis=(1, 2))
sum_pool = partial(tf.reduce_sum, axis=(1, 2))
keep_maps = tf.identity


def class_token(maps: tf.Tensor, class_token: tf.Tensor) -> tf.Tensor:
    """Return the class token, (batch, d)."""
    return class_token


# Rows (batch, d) divided by their l2 norm; a row of zeros stays zero.
l2_normalize = partial(tf.math.l2_normalize, axis=1)

# Matrices, (batch, channels, channels) --------------------------------------------------------


def outer_product_sum(maps: tf.Tensor) -> tf.Tensor:
    """Return the sum over the locations of x xᵀ: bilinear pooling before the normalisation.

    With a map as a matrix X, one row per location, this is Xᵀ X. No outer product is ever formed.

    Source: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition",
    ICCV 2015, with one network in both roles.
    """
    x = location_matrix(maps)
    return tf.matmul(x, x, transpose_a=True)


def outer_product_mean(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean outer product, which is not normalised: a control."""
    n_locations = tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], tf.float32)
    return outer_product_sum(maps) / n_locations


def centred_product_sum(maps: tf.Tensor) -> tf.Tensor:
    """Return `outer_product_sum` after subtracting each channel's mean over the locations.

    Source: Tuzel, Porikli, Meer, "Region Covariance: A Fast Descriptor for Detection and
    Classification", ECCV 2006, for covariance as a descriptor; the normalisation is Lin's.
    """
    mean = tf.reduce_mean(maps, axis=(1, 2), keepdims=True)
    centred = maps - mean
    is_signal = tf.abs(centred) > MEAN_TOLERANCE * tf.abs(mean)
    return outer_product_sum(tf.where(is_signal, centred, 0.0))


def outer_product_root(maps: tf.Tensor) -> tf.Tensor:
    """Return the square root of the matrix of `outer_product_sum`.

    It reduces the weight of directions that the channels have in common, which otherwise outweigh
    all others. The signed square root and the l2 norm follow as in `bilinear`.

    Source: Lin, Maji, "Improved Bilinear Pooling with CNNs", BMVC 2017.
    """
    return matrix_sqrt(location_matrix(maps))


@tf.custom_gradient
def matrix_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Return the square root of Xᵀ X, symmetric (batch, channels, channels).

    With X Xᵀ = U Λ Uᵀ, it is Yᵀ Y for Y = Λ^(-1/4) Uᵀ X. If a map has fewer locations than
    channels, the smaller matrix is decomposed. That takes less time than the steps of Newton and
    Schulz that reach a similar accuracy (`make poolings`).

    The gradient through the eigendecomposition would divide by differences of eigenvalues, which
    are zero in a map with fewer locations than channels. The true gradient is bounded, see
    `_matrix_sqrt_gradient`. `x` has the shape (batch, locations, channels).
    """
    if (x.shape[1] or np.inf) < x.shape[2]:
        values, left = tf.linalg.eigh(tf.matmul(x, x, transpose_b=True))
        y = tf.matmul(left * _power(values, -0.25), x, transpose_a=True)
        right = None
    else:
        values, right = tf.linalg.eigh(tf.matmul(x, x, transpose_a=True))
        y = tf.linalg.matrix_transpose(right * _power(values, 0.25))
        left = None

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        inverse = _power(values, -0.5)
        u = tf.matmul(x, right * inverse) if left is None else left
        v = tf.matmul(x, left * inverse, transpose_a=True) if right is None else right
        return _matrix_sqrt_gradient(u, _power(values, 0.5), v, upstream)

    return tf.matmul(y, y, transpose_a=True), gradient


def _matrix_sqrt_gradient(
    u: tf.Tensor, s: tf.Tensor, v: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    """Return the gradient with respect to X = U S Vᵀ of a function of F = (Xᵀ X)^(1/2).

    Let G be the symmetric gradient with respect to F. F dF + dF F = d(Xᵀ X) gives 2 X P with
    F P + P F = G (Lin and Maji 2017). In the basis of V, extended to the whole space,
    P_ij = (Vᵀ G V)_ij / (s_i + s_j). So Uᵀ (2 X P) is Vᵀ G in that basis, with each element times
    2 s_i / (s_i + s_j) = 2 - 2 s_j / (s_i + s_j), which is between 0 and 2.

    Args:
        u: (batch, locations, k).
        s: (batch, 1, k); zero for rounding errors, whose column of `u` or `v` is then zero too.
        v: (batch, channels, k).
        upstream: G, (batch, channels, channels).
    """
    g = tf.matmul(v, upstream + tf.linalg.matrix_transpose(upstream), transpose_a=True)
    ratio = tf.math.divide_no_nan(s, s + tf.linalg.matrix_transpose(s))
    return tf.matmul(u, g - tf.matmul(ratio * tf.matmul(g, v), v, transpose_b=True))


def _power(eigenvalues: tf.Tensor, exponent: float) -> tf.Tensor:
    """Return powers (batch, 1, n) of ascending eigenvalues; zero for rounding errors."""
    is_nonzero = eigenvalues > RANK_TOLERANCE * eigenvalues[:, -1:]
    powers = tf.pow(tf.where(is_nonzero, eigenvalues, 1.0), exponent)
    return tf.where(is_nonzero, powers, 0.0)[:, None]


def location_matrix(maps: tf.Tensor) -> tf.Tensor:
    """Return the maps as matrices, one row per location, (batch, height * width, channels)."""
    _, height, width, channels = maps.shape
    if height and width:
        return tf.reshape(maps, (-1, height * width, channels))
    return tf.reshape(maps, (tf.shape(maps)[0], -1, channels))


@tf.custom_gradient
def signed_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Return sign(x) sqrt(|x|) of each element of x (batch, ...), with a bounded gradient.

    The true slope, 1 / (2 sqrt(|x|)), is infinite at zero, the value of two channels that are never
    active together. Elements below `SLOPE_FLOOR` times the mean |x| of their row get the slope at
    that floor, and elements of an all-zero row get the slope zero. All other slopes are exact. The
    floor is relative, so the unit of a map does not matter.
    """
    magnitude = tf.abs(x)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(magnitude, axis=tuple(range(1, magnitude.shape.rank)), keepdims=True)
        clipped_root = tf.sqrt(tf.maximum(magnitude, SLOPE_FLOOR * mean))
        return tf.math.divide_no_nan(0.5 * upstream, clipped_root)

    root = tf.sqrt(magnitude)
    with tf.control_dependencies([root]):  # the sign can then take the memory of x
        return root * tf.sign(x), gradient


def upper_triangle(matrices: tf.Tensor, normalize: bool = False) -> tf.Tensor:
    """Pack symmetric matrices into (batch, channels * (channels + 1) / 2), see `triangle.py`.

    `matrices` are (batch, channels, channels). `normalize` also takes signed square roots, and
    divides by the l2 norm.
    """
    channels = matrices.shape[-1]
    rows, columns = np.triu_indices(channels)
    flat = tf.reshape(matrices, (-1, channels * channels))
    scale = triangle.scale(channels).astype(np.float32)
    # before the root: half the work and memory
    entries = tf.gather(flat, (rows * channels + columns).astype(np.int32), axis=1)
    return l2_normalize(signed_sqrt(entries) * scale) if normalize else entries * scale


def tensor_sketch(
    matrices: tf.Tensor, hashes: np.ndarray, signs: np.ndarray, size: int
) -> tf.Tensor:
    """Sketch symmetric matrices (batch, channels, channels) to rows (batch, size).

    Entry (i, j) is added to element h₀(i) + h₁(j) modulo `size`, with the sign s₀(i) s₁(j), where
    h are the hashes, int (2, channels) from 0 to size - 1, and s the signs, -1 or 1. The inner
    products of sketches are unbiased. A sketch is linear: a sum of outer products needs none of
    the Fourier transforms of the paper.

    Source: Pham, Pagh, "Fast and Scalable Polynomial Kernels via Explicit Feature Maps", KDD 2013.
    """
    channels = hashes.shape[1]
    elements = ((hashes[0][:, None] + hashes[1]) % size).ravel()
    order = np.argsort(elements, kind="stable")  # a sum of neighbours is twice as fast
    segments = elements[order].astype(np.int32)
    sign = (signs[0][:, None] * signs[1]).ravel().astype(np.float32)
    entries = tf.transpose(tf.reshape(matrices, (-1, channels * channels)) * sign)
    sums = tf.math.segment_sum(tf.gather(entries, order.astype(np.int32)), segments)
    padded = tf.pad(sums, [[0, size - 1 - segments[-1]], [0, 0]])
    return tf.reshape(tf.transpose(padded), (-1, size))


def compact_pool(maps: tf.Tensor, hashes: np.ndarray, signs: np.ndarray, size: int) -> tf.Tensor:
    """Return the normalised `tensor_sketch` of `outer_product_sum`, (batch, size).

    Source: Gao, Beijbom, Zhang, Darrell, "Compact Bilinear Pooling", CVPR 2016.
    """
    sketch = tensor_sketch(outer_product_sum(maps), hashes, signs, size)
    return l2_normalize(signed_sqrt(sketch))


def pool_function(
    spec: str,
    parameters: Mapping[str, np.ndarray],
    pack: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> Callable[..., tf.Tensor]:
    """Return the function of a pooling.

    Args:
        parameters: at least those that the pooling takes, see `parameters.py`.
        pack: of a pooling of matrices, what turns (batch, channels, channels) into rows; by default
            the upper triangle, normalised if the pooling is.

    Returns:
        A function of maps, and of the class token (batch, d) if the network has one, which only
        poolings with `uses_class_token` receive.
    """
    pooling = get_pooling(spec)
    function = globals()[pooling.function_name]
    arguments = [parameters[name] for name in pooling.argument_names]
    pack = pack or partial(upper_triangle, normalize=pooling.is_normalized_matrix)

    def pool(maps: tf.Tensor, class_token: tf.Tensor | None = None) -> tf.Tensor:
        token = {"class_token": class_token} if pooling.uses_class_token else {}
        if pooling.is_projected:
            rows = function(tf.tensordot(maps, *arguments, 1), **token)
        else:
            rows = function(maps, *arguments, *([pooling.size] if pooling.size else []), **token)
        return pack(rows) if pooling.layout == TRIANGLE else rows

    return pool
