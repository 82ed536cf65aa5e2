"""What the implementations of VGG16 outside TensorFlow share: layers, mean colour, graph node."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bilinear_cli.networks.applications import layer_shapes, preprocess_function, resolve_layer


def layers_up_to(last: str) -> list[str]:
    """Return the names of VGG16's layers up to the last, or raise a UsageError."""
    names = list(layer_shapes("vgg16"))
    return names[: names.index(resolve_layer("vgg16", last)) + 1]


def mean_colour() -> np.ndarray:
    """Return the RGB colour that VGG16 subtracts from its photos, float32 (3,)."""
    return -preprocess_function("vgg16")(np.zeros(3, np.float32))[::-1]


def graph_function(
    run: Callable[[np.ndarray], np.ndarray], layer: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function for TensorFlow's graphs that calls `run` with NumPy arrays.

    Args:
        run: uint8 RGB photos (batch, height, width, 3) -> float32 maps of the layer.
    """
    n_pools = sum(name.endswith("pool") for name in layers_up_to(layer))
    channels = layer_shapes("vgg16")[layer][-1]

    def forward(photos: tf.Tensor) -> tf.Tensor:
        maps = tf.numpy_function(run, [photos], tf.float32)
        n, *sides, _ = photos.shape
        return tf.ensure_shape(maps, (n, *(s and s // 2**n_pools for s in sides), channels))

    return forward
