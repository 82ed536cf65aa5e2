"""`CompactPooling`: a sketch of second-order pooling as one layer of any Keras network."""

from functools import partial
from numbers import Integral
from typing import Any

import keras
import numpy as np

from bilinear_cli.layers.bilinear import PoolingLayer, check_argument, is_positive_integer
from bilinear_cli.poolings.functions import compact_pool
from bilinear_cli.poolings.parameters import sketch_parameters


@keras.saving.register_keras_serializable(package="bilinear")
class CompactPooling(PoolingLayer):
    """Pools a feature map to a sketch of `BilinearPooling`'s matrix, of any length.

    The same signed square root and l2 norm follow. A sketch of maps with many channels is much
    shorter than the matrix: 8,192 numbers do nearly as well as the 131,328 of 512 channels.

    The layer needs Keras's TensorFlow backend. Keras compiles a model with it without XLA, which
    does not have the sum that a sketch needs.

    Sources: see `compact_pool` and `tensor_sketch`.

    Args:
        size: the length of the sketch.
        hashes: int (2, channels) from 0 to size - 1, and
        signs: int (2, channels) of -1 and 1; both None to draw them when the layer is built.
        seed: of the random hashes and signs.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`.

    Input:
        (batch, height, width, channels), of any float dtype; height and width may be unknown.

    Output:
        float32 (batch, size), under any dtype policy.

    Raises:
        ValueError: the size is not positive, or the number of channels is unknown or differs from
            that of the hashes.
    """

    def __init__(
        self,
        size: Integral | int = 8192,
        hashes: Any = None,
        signs: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(None, **kwargs)
        check_argument("size", size, is_positive_integer(size), "a positive integer")
        self.supports_jit = False
        self.size, self.seed = int(size), seed
        self.hashes: Any = None if hashes is None else np.asarray(hashes, np.int64)
        self.signs: Any = None if signs is None else np.asarray(signs, np.int64)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Draw the hashes and signs if they are None."""
        super().build(input_shape)
        channels = self.n_channels(input_shape)
        if self.hashes is None or self.signs is None:
            self.hashes, self.signs = sketch_parameters(channels, self.size, self.seed).values()
        if not self.hashes.shape == self.signs.shape == (2, channels):
            raise ValueError(
                f"Expected hashes and signs of shape {(2, channels)}. Received: "
                f"{self.hashes.shape} and {self.signs.shape}"
            )
        self._pool = partial(compact_pool, hashes=self.hashes, signs=self.signs, size=self.size)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Return (batch, size)."""
        return input_shape[0], self.size

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name, with the hashes and signs that are in use."""
        arrays = {"hashes": self.hashes, "signs": self.signs}
        lists = {name: None if x is None else x.tolist() for name, x in arrays.items()}
        return {**super().get_config(), "size": self.size, "seed": self.seed, **lists}
