"""The layer of any pooling, made from its entry."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bilinear_cli.layers.bilinear import BilinearPooling, projection_layer
from bilinear_cli.layers.compact import CompactPooling
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.poolings.registry import get_pooling
from bilinear_cli.poolings.sizes import SKETCH


@keras.saving.register_keras_serializable(package="bilinear")
class MapPooling(keras.layers.Layer):
    """A pooling that takes nothing beside the maps but a projection of the channels.

    Args:
        spec: as of `bilinear extract --pooling`.
        **kwargs: of `keras.layers.Layer`.

    Input:
        (batch, height, width, channels).

    Output:
        float32, rows as a feature file stores them, but for their rounding.
    """

    def __init__(self, spec: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec, kind = spec, get_pooling(spec)
        self.supports_jit = kind.xla
        self.projection = projection_layer(kind.size, self) if kind.size else None
        self._pool = pool_function(kind.method, {})

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the projection's weights."""
        if self.projection is not None:
            self.projection.build(input_shape)

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Return the pooled maps."""
        maps = maps if self.projection is None else self.projection(maps)
        return self._pool(tf.cast(maps, tf.float32))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**super().get_config(), "spec": self.spec}


def pooling_layer(spec: str, parameters: Mapping[str, np.ndarray]) -> keras.layers.Layer:
    """Return the layer, maps -> rows as a feature file stores them, but for their rounding.

    Args:
        spec: the pooling.
        parameters: what the poolings take beside the maps, see `poolings/parameters.py`.
    """
    kind = get_pooling(spec)
    arrays = [parameters[name] for name in kind.arguments]
    if kind.sized is SKETCH and kind.size:
        hashes, signs = arrays
        return CompactPooling(kind.size, hashes, signs)
    if kind.is_normalized_matrix:
        layer = BilinearPooling(kind.method, kind.size, trainable=False)
    else:
        layer = MapPooling(spec, trainable=False)
    for projection in arrays:
        layer.build((None, None, None, len(projection)))
        layer.set_weights([projection[None, None]])
    return layer
