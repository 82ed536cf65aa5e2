"""The square root of the matrix Xᵀ X, and its gradient."""

import numpy as np
import tensorflow as tf

RANK_TOLERANCE = 1e-7  # of the largest eigenvalue


@tf.custom_gradient
def matrix_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Return the square root of Xᵀ X, with a gradient that has a bound.

    The gradient through the eigendecomposition divides by differences of eigenvalues, of which
    those of a map with more channels than locations are equal, all zero. The true one does not:
    see `_matrix_sqrt_gradient`.

    Args:
        x: (batch, locations, channels).

    Returns:
        (batch, channels, channels), symmetric.
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

    With G the gradient with respect to F, made symmetric, F dF + dF F = d(Xᵀ X) gives 2 X P with
    F P + P F = G (Lin and Maji 2017). In the basis of V, extended to one of the whole space,
    P_ij = (Vᵀ G V)_ij / (s_i + s_j), so that the rows of Uᵀ (2 X P) are those of Vᵀ G, in that
    basis each number times 2 s_i / (s_i + s_j) = 2 - 2 s_j / (s_i + s_j): between 0 and 2.

    Args:
        u: (batch, locations, k).
        s: (batch, 1, k), zero where they are rounding, as is then that column of `u` or `v`.
        v: (batch, channels, k).
        upstream: G, (batch, channels, channels).
    """
    g = tf.matmul(v, upstream + tf.linalg.matrix_transpose(upstream), transpose_a=True)
    share = tf.math.divide_no_nan(s, s + tf.linalg.matrix_transpose(s))
    return tf.matmul(u, g - tf.matmul(share * tf.matmul(g, v), v, transpose_b=True))


def _power(eigenvalues: tf.Tensor, exponent: float) -> tf.Tensor:
    """Return powers (batch, 1, n) of ascending eigenvalues; zero for those that are rounding."""
    sound = eigenvalues > RANK_TOLERANCE * eigenvalues[:, -1:]
    powers = tf.pow(tf.where(sound, eigenvalues, 1.0), exponent)
    return tf.where(sound, powers, 0.0)[:, None]
