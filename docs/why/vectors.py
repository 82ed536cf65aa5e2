"""Maps -> the vectors that are compared: the information that they keep, and their normalisation.

Except for the shuffles, these are TensorFlow functions over maps (batch, height, width, channels).
They use `bilinear_cli.poolings.functions`. `upper_triangle` packs matrices at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import tensorflow as tf

from bilinear_cli.poolings import functions as pooling

BOTH = "square root and l2"  # square root of each number, then division by the l2 norm
NORMS = {"plain": "not normalised", "root": "square root", "l2": "l2", "both": BOTH}


# Vectors (batch, channels) or matrices (batch, channels, channels) of maps -----------------------


def mean_product(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean of x xᵀ over the locations, the bilinear matrix."""
    n_locations = tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], tf.float32)
    return pooling.outer_product_sum(maps) / n_locations


def diagonal(maps: tf.Tensor) -> tf.Tensor:
    """Return the bilinear matrix's diagonal: the mean square of each channel."""
    return pooling.avg_pool(maps**2)


def off_diagonal(maps: tf.Tensor) -> tf.Tensor:
    """Return the bilinear matrix with zeros on its diagonal."""
    matrices = mean_product(maps)
    return tf.linalg.set_diag(matrices, tf.zeros_like(matrices[..., 0]))


def product_of_means(maps: tf.Tensor) -> tf.Tensor:
    """Return m mᵀ of the channel means m: as many values, but no more information than m."""
    return mean_product(pooling.avg_pool(maps)[:, None, None, :])


def unrelated(maps: tf.Tensor) -> tf.Tensor:
    """Return the mean bilinear matrix over all shuffles of the channels.

    Its diagonal is the mean squares, which no shuffle changes. The other entries are products of
    means.
    """
    return tf.linalg.set_diag(product_of_means(maps), diagonal(maps))


# Normalisation -----------------------------------------------------------------------------------


def normalized(pooled: tf.Tensor, norm: str) -> tf.Tensor:
    """Return vectors, or packed symmetric matrices, after one of `NORMS`, (batch, values)."""
    if norm in ("root", "both"):
        pooled = pooling.signed_sqrt(pooled)
    if len(pooled.shape) == 3:
        pooled = pooling.upper_triangle(pooled)
    return pooling.l2_normalize(pooled) if norm in ("l2", "both") else pooled


# Shuffles ----------------------------------------------------------------------------------------


def shuffled(maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move the values of each channel to random locations, independently of other channels.

    A channel keeps its values, and so its maximum, mean, sum and sum of squares. Co-occurrence of
    channels at one location becomes random.
    """
    rows = maps.reshape(len(maps), -1, maps.shape[-1])  # (batch, locations, channels)
    return rng.permuted(rows, axis=1).reshape(maps.shape)


def shuffled_together(maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move whole locations: in the same way for all channels, independently for each photo."""
    rows = maps.reshape(len(maps), -1, maps.shape[-1])
    order = rng.permuted(np.tile(np.arange(rows.shape[1]), (len(rows), 1)), axis=1)
    return np.take_along_axis(rows, order[:, :, None], axis=1).reshape(maps.shape)


# The variants ------------------------------------------------------------------------------------

Pool = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Variant:
    """One method to compute vectors from maps."""

    key: str  # prefix of the keys of its results
    label: str  # in tables and pictures
    pool: Pool  # maps -> vectors or matrices
    norm: str = "both"  # one of `NORMS`
    spec: str = "bilinear"  # in the feature file; of vectors: `max` or `avg`
    normalize: str = "none"  # option of training: `none` or `standard`
    shuffle: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    seeds: int = 1  # repetitions of a shuffle

    def rows(self, maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return float32 (batch, values) of float32 maps."""
        maps = self.shuffle(maps, rng) if self.shuffle else maps
        return _graph(self.pool, self.norm, maps.shape[1:])(tf.constant(maps)).numpy()


@cache
def _graph(pool: Pool, norm: str, shape: tuple[int, ...]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compile for maps of one shape, for any batch size."""
    signature = [tf.TensorSpec((None, *shape), tf.float32)]
    graph = tf.function(lambda maps: normalized(pool(maps), norm), input_signature=signature)
    return graph.get_concrete_function()


BASELINE, FULL = "average-both", "bilinear-both"
SHUFFLED, UNRELATED = "shuffled", "unrelated"
MAX, AVERAGE = pooling.max_pool, pooling.avg_pool
VARIANTS = {
    variant.key: variant
    for variant in (
        Variant("max-standard", "max, standardised", MAX, "plain", "max", "standard"),
        Variant("max-both", f"max, {BOTH}", MAX, "both", "max"),
        Variant("average-standard", "average, standardised", AVERAGE, "plain", "avg", "standard"),
        *(
            Variant(f"average-{norm}", f"average, {label}", AVERAGE, norm, "avg")
            for norm, label in NORMS.items()
        ),
        *(
            Variant(f"bilinear-{norm}", f"bilinear, {label}", mean_product, norm)
            for norm, label in NORMS.items()
        ),
        Variant("diagonal", "diagonal only", diagonal, spec="avg"),
        Variant("off-diagonal", "without the diagonal", off_diagonal),
        Variant("means", "outer product of the means", product_of_means),
        Variant(UNRELATED, "product of means, true diagonal", unrelated),
        Variant(SHUFFLED, "each channel shuffled", mean_product, shuffle=shuffled, seeds=3),
        Variant("together", "channels shuffled together", mean_product, shuffle=shuffled_together),
    )
}
