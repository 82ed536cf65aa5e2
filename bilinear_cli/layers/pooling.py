"""The layer of any pooling, made from its entry in the registry."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bilinear_cli.layers.bilinear import BilinearPooling, PoolingLayer
from bilinear_cli.layers.compact import CompactPooling
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.poolings.registry import get_pooling


@keras.saving.register_keras_serializable(package="bilinear")
class MapPooling(PoolingLayer):
    """A pooling that takes only the maps, and perhaps a projection of their channels.

    Args:
        spec: as of `bilinear extract --pooling`.
        **kwargs: of `keras.layers.Layer`.

    Input:
        (batch, height, width, channels).

    Output:
        float32 rows, equal to those of a feature file except for rounding.
    """

    def __init__(self, spec: str, **kwargs: Any) -> None:
        pooling = get_pooling(spec)
        super().__init__(pooling.size, **kwargs)
        self.spec, self._pooling = spec, pooling
        self.supports_jit = pooling.supports_xla
        self._pool = pool_function(pooling.method, {})

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the maps, or (batch, length of a row)."""
        row = (self._pooling.row_length(self.n_channels(input_shape)),)
        return input_shape if self._pooling.ndim == 3 else (input_shape[0], *row)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**super().get_config(), "spec": self.spec}


def pooling_layer(spec: str, parameters: Mapping[str, np.ndarray]) -> keras.layers.Layer:
    """Return the layer, maps -> rows as in a feature file except for rounding.

    `parameters` are at least those that the pooling takes, see `poolings/parameters.py`.
    """
    pooling = get_pooling(spec)
    arrays = [parameters[name] for name in pooling.argument_names]
    if pooling.size and not pooling.is_projected:
        hashes, signs = arrays
        return CompactPooling(pooling.size, hashes, signs)
    if pooling.is_normalized_matrix:
        layer = BilinearPooling(pooling.method, pooling.size, trainable=False)
    else:
        layer = MapPooling(spec, trainable=False)
    for projection in arrays:
        layer.build((None, None, None, len(projection)))
        layer.set_weights([projection[None, None]])
    return layer
