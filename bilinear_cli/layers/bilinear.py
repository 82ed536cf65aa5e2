"""`BilinearPooling`: second-order pooling as one layer of any Keras network."""

from numbers import Integral
from typing import Any

import keras
import tensorflow as tf

from bilinear_cli.poolings.functions import (
    l2_normalize,
    matrix_function,
    normalized_triangle,
    signed_sqrt,
    upper_triangle,
)
from bilinear_cli.poolings.registry import POOLINGS, get_pooling
from bilinear_cli.poolings.triangle import n_entries

OUTPUTS = ("triangle", "square")


@keras.saving.register_keras_serializable(package="bilinear")
class BilinearPooling(keras.layers.Layer):
    """Pools a feature map into how often which two of its channels are active at one place.

    With a map as a matrix X, one row a location, that is one matrix product, Xᵀ X (of which
    `covariance` takes the channels' means off first, and `matrix-sqrt` the square root of the
    matrix); then the signed square root of each number; then division by the l2 norm.

    ```python
    x = keras.layers.Conv2D(256, 3, activation="relu")(x)
    x = BilinearPooling(channels=64)(x)  # in place of GlobalAveragePooling2D
    x = keras.layers.Dense(n_classes)(x)
    ```

    All gradients are finite, those of an all-zero map and of a map with fewer locations than
    channels too; see `signed_sqrt`, whose floor differs a little between triangle and square, and
    `matrix_sqrt`.

    It needs Keras's TensorFlow backend. XLA's eigendecomposition takes some forty times as long on
    a CPU as TensorFlow's, so a model with `matrix-sqrt` declares that it does not support
    `jit_compile`: Keras then compiles it without XLA, with a warning where that was asked for.
    Where height and width are unknown when the network is built, `matrix-sqrt` decomposes a matrix
    of as many rows as there are channels, also where there are fewer locations.

    Sources: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition",
    ICCV 2015; Lin, Maji, "Improved Bilinear Pooling with CNNs", BMVC 2017 (`matrix-sqrt`).

    Args:
        method: `bilinear`, `covariance` or `matrix-sqrt`; or another of `methods()`.
        channels: project to so many channels first, by a trained 1x1 convolution without bias, the
            sub-layer `projection`; None for none. The output grows as the square of it.
        output: `triangle`, the upper triangle row by row, off-diagonal numbers times the square
            root of two, by which inner products and norms stay those of the whole matrix; or
            `square`, the whole matrix row by row.
        normalize: False for the plain matrix: summed, not averaged, over the locations.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input:
        (batch, height, width, channels), of any float dtype; height and width may be unknown.

    Output:
        float32 (batch, channels * (channels + 1) / 2), or (batch, channels * channels) for
        `square`. Under `mixed_bfloat16` and `mixed_float16` the projection is computed in half
        precision as any convolution is, but the sum over the locations and all that follows in
        float32, and so is the output.

    Raises:
        ValueError: an argument is none of those above, the input has not four dimensions, or its
            number of channels is unknown.
    """

    def __init__(
        self,
        method: str = "bilinear",
        channels: int | None = None,
        output: str = "triangle",
        normalize: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_arguments(method, channels, output)
        self.method = method
        self.channels = None if channels is None else int(channels)
        self.output_form = output  # `output` is a property of every layer
        self.normalize = normalize
        self.projection = projection_layer(channels, self) if channels else None
        self.input_spec = keras.InputSpec(ndim=4)
        self.supports_jit = get_pooling(method).xla

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the projection's weights, and fix the number of channels."""
        n_channels = _n_channels(input_shape)
        if self.projection is not None:
            self.projection.build(input_shape)
        self.input_spec = keras.InputSpec(ndim=4, axes={-1: n_channels})

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Return the pooled maps, see the class."""
        if self.projection is not None:
            maps = self.projection(maps)
        matrices = matrix_function(self.method)(tf.cast(maps, tf.float32))
        if self.output_form == "triangle":
            return normalized_triangle(matrices) if self.normalize else upper_triangle(matrices)
        rows = tf.reshape(matrices, (-1, matrices.shape[1] * matrices.shape[2]))
        return l2_normalize(signed_sqrt(rows)) if self.normalize else rows

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Return (batch, how many numbers a map is pooled to)."""
        n = self.channels or _n_channels(input_shape)
        return input_shape[0], n_entries(n) if self.output_form == "triangle" else n * n

    def compute_output_spec(self, maps: keras.KerasTensor) -> keras.KerasTensor:
        """Return the shape and the dtype, which is float32 under any policy."""
        return keras.KerasTensor(self.compute_output_shape(maps.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {
            **super().get_config(),
            "method": self.method,
            "channels": self.channels,
            "output": self.output_form,
            "normalize": self.normalize,
        }


def methods() -> list[str]:
    """Return the poolings that the layer offers: of matrices, with the normalisation."""
    return [kind.method for kind in POOLINGS.values() if kind.is_normalized_matrix]


def _check_arguments(method: str, channels: int | None, output: str) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`BilinearPooling` needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow). "
            f"Received: backend={keras.backend.backend()}"
        )
    for name, value, allowed in (("method", method, methods()), ("output", output, OUTPUTS)):
        if value not in allowed:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected one of {list(allowed)}. "
                f"Received: {name}={value!r}"
            )
    whole = isinstance(channels, Integral) and not isinstance(channels, bool)
    if channels is not None and not (whole and channels >= 1):
        raise ValueError(
            "Invalid value for argument `channels`. Expected a positive integer or None. "
            f"Received: channels={channels!r}"
        )


def projection_layer(channels: int, layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return the convolution by which a layer projects its input's channels."""
    return keras.layers.Conv2D(
        channels,
        1,
        use_bias=False,
        data_format="channels_last",
        dtype=layer.dtype_policy,
        trainable=layer.trainable,  # which Keras hands on only when it is set later
        name="projection",
    )


def _n_channels(input_shape: tuple[int | None, ...]) -> int:
    if len(input_shape) != 4:
        raise ValueError(
            "`BilinearPooling` expects an input of shape (batch, height, width, channels). "
            f"Received: input_shape={input_shape}"
        )
    if input_shape[-1] is None:
        raise ValueError(
            "The number of channels, the last dimension of the input of `BilinearPooling`, must "
            f"be known. Found None. Received: input_shape={input_shape}"
        )
    return input_shape[-1]
