"""`BilinearPooling`: second-order pooling as one layer of any Keras network."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import keras
import tensorflow as tf

from bilinear_cli.poolings import functions
from bilinear_cli.poolings.registry import POOLINGS, get_pooling
from bilinear_cli.poolings.triangle import n_entries

OUTPUTS = ("triangle", "square")


class PoolingLayer(keras.layers.Layer):
    """Base class of layers: maps (batch, height, width, channels) -> float32 rows.

    The sub-layer `projection`, a 1x1 convolution, first projects to `channels`; None for none.
    """

    _pool: Callable[..., tf.Tensor]

    def __init__(self, channels: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_spec = keras.InputSpec(ndim=4)
        self.projection = channels and keras.layers.Conv2D(
            channels,
            1,
            use_bias=False,
            data_format="channels_last",
            dtype=self.dtype_policy,
            trainable=self.trainable,  # Keras passes on only what is set later
            name="projection",
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the projection's weights, and fix the number of channels."""
        n_channels = self.n_channels(input_shape)
        if self.projection:
            self.projection.build(input_shape)
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: n_channels})

    def n_channels(self, input_shape: tuple[int | None, ...]) -> int:
        """Return the number of channels of the maps, which must be known."""
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                f"`{type(self).__name__}` expects an input of shape (batch, height, width, "
                f"channels) with a known number of channels. Received: input_shape={input_shape}"
            )
        return input_shape[-1]

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Return the pooled maps, see the class."""
        maps = self.projection(maps) if self.projection else maps
        return self._pool(tf.cast(maps, tf.float32))

    def compute_output_spec(self, maps: keras.KerasTensor) -> keras.KerasTensor:
        """Return the shape and the dtype, which is float32 under any policy."""
        return keras.KerasTensor(self.compute_output_shape(maps.shape), dtype="float32")


@keras.saving.register_keras_serializable(package="bilinear")
class BilinearPooling(PoolingLayer):
    """Pools a feature map into how often two of its channels are active at the same location.

    With a map as a matrix X, one row per location, the layer computes Xᵀ X, then the signed square
    root of each element, and divides by the l2 norm. `covariance` subtracts the channels' means
    from X. `matrix-sqrt` takes the square root of the matrix before that of its elements.

    ```python
    x = keras.layers.Conv2D(256, 3, activation="relu")(x)
    x = BilinearPooling(channels=64)(x)  # in place of GlobalAveragePooling2D
    x = keras.layers.Dense(n_classes)(x)
    ```

    All gradients are finite, also of an all-zero map and of a map with fewer locations than
    channels; see `signed_sqrt`, whose floor differs a little between triangle and square, and
    `matrix_sqrt`.

    The layer needs Keras's TensorFlow backend. Keras compiles a model with `matrix-sqrt` without
    XLA, whose eigendecomposition on a CPU is about forty times slower than TensorFlow's, and warns
    if `jit_compile` was requested. If height and width are unknown when the network is built,
    `matrix-sqrt` decomposes a matrix of channels x channels, also for maps with fewer locations.

    Sources: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition",
    ICCV 2015; Lin, Maji, "Improved Bilinear Pooling with CNNs", BMVC 2017 (`matrix-sqrt`).

    Args:
        method: `bilinear`, `covariance` or `matrix-sqrt`; or another of `methods()`.
        channels: first project the maps to this number of channels, by a trained 1x1 convolution
            without bias, the sub-layer `projection`; None for no projection.
        output: `triangle`, the upper triangle row by row, with off-diagonal elements times the
            square root of two, so that inner products and norms are those of the whole matrix; or
            `square`, the whole matrix row by row.
        normalize: False for the plain matrix: the sum over the locations, not the mean.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input:
        (batch, height, width, channels), of any float dtype; height and width may be unknown.

    Output:
        float32 (batch, channels * (channels + 1) / 2), or (batch, channels * channels) for
        `square`. Under `mixed_bfloat16` and `mixed_float16` the projection is computed in half
        precision, as any convolution is; the sum over the locations and all later steps in float32.

    Raises:
        ValueError: an argument is invalid, the input does not have four dimensions, or its number
            of channels is unknown.
    """

    def __init__(
        self,
        method: str = "bilinear",
        channels: int | None = None,
        output: str = "triangle",
        normalize: bool = True,
        **kwargs: Any,
    ) -> None:
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(
                "`BilinearPooling` needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
                f"Received: backend={backend}"
            )
        check_argument("method", method, method in methods(), f"one of {methods()}")
        check_argument("output", output, output in OUTPUTS, f"one of {[*OUTPUTS]}")
        if channels is not None:
            expected = "a positive integer or None"
            check_argument("channels", channels, is_positive_integer(channels), expected)
            channels = int(channels)
        super().__init__(channels, **kwargs)
        self.method, self.channels = method, channels
        self.output_form = output  # `output` is a property of every layer
        self.normalize = normalize
        self.supports_jit = get_pooling(method).supports_xla
        self._pool = functions.pool_function(method, {}, self._pack)

    def _pack(self, matrices: tf.Tensor) -> tf.Tensor:
        """Return rows of matrices (batch, channels, channels)."""
        if self.output_form == "triangle":
            return functions.upper_triangle(matrices, self.normalize)
        rows = tf.reshape(matrices, (-1, matrices.shape[1] * matrices.shape[2]))
        return functions.l2_normalize(functions.signed_sqrt(rows)) if self.normalize else rows

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Return (batch, length of a row)."""
        n = self.channels or self.n_channels(input_shape)
        return input_shape[0], n_entries(n) if self.output_form == "triangle" else n * n

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        arguments = {"method": self.method, "channels": self.channels, "output": self.output_form}
        return {**super().get_config(), **arguments, "normalize": self.normalize}


def methods() -> list[str]:
    """Return the poolings that the layer offers: normalised matrices."""
    return [pooling.method for pooling in POOLINGS.values() if pooling.is_normalized_matrix]


def check_argument(name: str, value: Any, is_valid: bool, expected: str) -> None:
    """Raise a ValueError for an invalid argument of a layer."""
    if not is_valid:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={value!r}"
        )


def is_positive_integer(x: Any) -> bool:
    """Return whether `x` is an integer from 1 on; a boolean is not."""
    return isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= 1
