"""`CompactPooling`: a sketch of second-order pooling as one layer of any Keras network."""

from numbers import Integral
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bilinear_cli.poolings.functions import compact_pool
from bilinear_cli.poolings.sizes import sketch_parameters


@keras.saving.register_keras_serializable(package="bilinear")
class CompactPooling(keras.layers.Layer):
    """Pools a feature map to a sketch of `BilinearPooling`'s matrix, of any size.

    The same signed square root and l2 norm follow. Where the map has many channels it is much
    shorter: 8,192 numbers do nearly as well as the 131,328 of 512 channels.

    It needs Keras's TensorFlow backend. XLA has not the sum that a sketch is, so a model with this
    layer declares that it does not support `jit_compile`, and Keras compiles it without.

    Sources: see `compact_pool` and `tensor_sketch`.

    Args:
        size: numbers of the sketch.
        hashes: int (2, channels) from 0 to size - 1, and
        signs: int (2, channels) of -1 and 1; both None to draw them when the layer is built.
        seed: of the drawing.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`.

    Input:
        (batch, height, width, channels), of any float dtype; height and width may be unknown.

    Output:
        float32 (batch, size), under any dtype policy.

    Raises:
        ValueError: the size is not positive, or the number of channels is unknown or another than
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
        super().__init__(**kwargs)
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(
                "Invalid value for argument `size`. Expected a positive integer. "
                f"Received: size={size!r}"
            )
        self.supports_jit = False
        self.size, self.seed = int(size), seed
        self.hashes: Any = None if hashes is None else np.asarray(hashes, np.int64)
        self.signs: Any = None if signs is None else np.asarray(signs, np.int64)
        self.input_spec = keras.InputSpec(ndim=4)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Draw the hashes if they are not given."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The number of channels, the last dimension of the input of `CompactPooling`, must "
                f"be known. Found None. Received: input_shape={input_shape}"
            )
        if self.hashes is None or self.signs is None:
            drawn = sketch_parameters(channels, self.size, self.seed)
            self.hashes, self.signs = drawn[f"hash-{self.size}"], drawn[f"sign-{self.size}"]
        if not self.hashes.shape == self.signs.shape == (2, channels):
            raise ValueError(
                f"Expected hashes and signs of shape {(2, channels)}. Received: "
                f"{self.hashes.shape} and {self.signs.shape}"
            )
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: channels})

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Return the sketches, see the class."""
        return compact_pool(tf.cast(maps, tf.float32), self.hashes, self.signs, self.size)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Return (batch, size)."""
        return input_shape[0], self.size

    def compute_output_spec(self, maps: keras.KerasTensor) -> keras.KerasTensor:
        """Return the shape and the dtype, which is float32 under any policy."""
        return keras.KerasTensor(self.compute_output_shape(maps.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name, with the hashes that are in use."""
        drawn = {"hashes": self.hashes, "signs": self.signs}
        lists = {name: None if x is None else x.tolist() for name, x in drawn.items()}
        return {**super().get_config(), "size": self.size, "seed": self.seed, **lists}
