"""Maps -> the vectors that are compared: the information that is kept, and its normalisation.

Except for the shuffles, these are TensorFlow functions over maps (batch, height, width, channels).
They use `bilinear_cli.poolings.functions`. `upper_triangle` packs matrices at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import tensorflow as tf

from bilinear_cli.poolings import functions as pooling

NORMS = ("plain", "root", "l2", "both")  # square root of each number, division by the l2 norm


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


def normalized(kept: tf.Tensor, norm: str) -> tf.Tensor:
    """Return normalised rows (batch, values).

    Args:
        kept: vectors (batch, channels) or symmetric matrices (batch, channels, channels).
        norm: one of `NORMS`.
    """
    if norm in ("root", "both"):
        kept = pooling.signed_sqrt(kept)
    if len(kept.shape) == 3:
        kept = pooling.upper_triangle(kept)
    return pooling.l2_normalize(kept) if norm in ("l2", "both") else kept


# Shuffles ----------------------------------------------------------------------------------------


def shuffled(maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move the values of each channel to random locations, independently of other channels.

    A channel keeps its values, and so its maximum, mean, sum and sum of squares. Co-occurrence of
    channels at one location becomes random.
    """
    batch, height, width, channels = maps.shape
    moved = rng.permuted(maps.reshape(batch, height * width, channels), axis=1)
    return moved.reshape(maps.shape)


def shuffled_together(maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move whole locations: in the same way for all channels, independently for each photo."""
    batch, height, width, channels = maps.shape
    order = rng.permuted(np.tile(np.arange(height * width), (batch, 1)), axis=1)
    rows = maps.reshape(batch, height * width, channels)
    return np.take_along_axis(rows, order[:, :, None], axis=1).reshape(maps.shape)


# The variants ------------------------------------------------------------------------------------

Kept = Callable[[tf.Tensor], tf.Tensor]
Move = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Variant:
    """One method to compute vectors from maps.

    Attributes:
        key: a short name, the key of its results.
        says: its name in tables.
        kept: maps -> vectors or matrices.
        norm: one of `NORMS`.
        spec: the name of the vectors in a feature file. It depends on their shape only: `avg` for
            vectors, `bilinear` for packed matrices.
        normalize: scaling in training: `none`, or `standard` (each value minus its mean, divided
            by its standard deviation, both over the training photos).
        move: a shuffle of the maps before pooling.
        seeds: the number of repetitions if `move` is random.
    """

    key: str
    says: str
    kept: Kept
    norm: str = "both"
    spec: str = "bilinear"
    normalize: str = "none"
    move: Move | None = None
    seeds: int = 1

    def rows(self, maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return float32 (batch, values) of float32 maps."""
        moved = maps if self.move is None else self.move(maps, rng)
        return _graph(self.kept, self.norm, maps.shape[1:])(tf.constant(moved)).numpy()


@cache
def _graph(kept: Kept, norm: str, shape: tuple[int, ...]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compile for maps of one shape, for any batch size."""
    signature = [tf.TensorSpec((None, *shape), tf.float32)]
    graph = tf.function(lambda maps: normalized(kept(maps), norm), input_signature=signature)
    return graph.get_concrete_function()


BOTH = "square root and l2"
SAYS = {"plain": "not normalised", "root": "square root", "l2": "l2", "both": BOTH}
BASELINE, FULL = "average-both", "bilinear-both"
SHUFFLED, UNRELATED = "shuffled", "unrelated"
VARIANTS = {
    variant.key: variant
    for variant in (
        Variant("max-standard", "max, standardised", pooling.max_pool, "plain", "max", "standard"),
        Variant("max-both", f"max, {BOTH}", pooling.max_pool, "both", "max"),
        Variant(
            "average-standard",
            "average, standardised",
            pooling.avg_pool,
            "plain",
            "avg",
            "standard",
        ),
        *(
            Variant(f"average-{norm}", f"average, {SAYS[norm]}", pooling.avg_pool, norm, "avg")
            for norm in NORMS
        ),
        *(
            Variant(f"bilinear-{norm}", f"bilinear, {SAYS[norm]}", mean_product, norm)
            for norm in NORMS
        ),
        Variant("diagonal", "diagonal only", diagonal, spec="avg"),
        Variant("off-diagonal", "without the diagonal", off_diagonal),
        Variant("means", "outer product of the means", product_of_means),
        Variant(UNRELATED, "product of means, true diagonal", unrelated),
        Variant(SHUFFLED, "each channel shuffled", mean_product, move=shuffled, seeds=3),
        Variant("together", "channels shuffled together", mean_product, move=shuffled_together),
    )
}
