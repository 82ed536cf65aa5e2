"""The square root of the matrix Xᵀ X, and its gradient."""

import numpy as np
import tensorflow as tf

RANK_TOLERANCE = 1e-7  # of the largest eigenvalue


@tf.custom_gradient
def matrix_sqrt(x: tf.Tensor) -> tf.Tensor:
    """Return the square root of Xᵀ X, symmetric (batch, channels, channels).

    With X Xᵀ = U Λ Uᵀ, it is Yᵀ Y for Y = Λ^(-1/4) Uᵀ X. If a map has fewer locations than
    channels, the smaller matrix is decomposed. That takes less time than the steps of Newton and
    Schulz that reach a similar accuracy (`make poolings`).

    The gradient through the eigendecomposition would divide by differences of eigenvalues, which
    are zero in a map with fewer locations than channels. The true gradient is bounded, see
    `_matrix_sqrt_gradient`.

    Args:
        x: (batch, locations, channels).
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
