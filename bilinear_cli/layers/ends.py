"""What stands before and after the pooling in an exported model."""

from typing import Any

import keras
import tensorflow as tf

from bilinear_cli.networks.applications import preprocess_function
from bilinear_cli.poolings.functions import l2_normalize, signed_sqrt


@keras.saving.register_keras_serializable(package="bilinear")
class Preprocess(keras.layers.Layer):
    """RGB pixels, 0 to 255, (batch, height, width, 3) -> what a network of Keras's wants to see.

    Args:
        backbone: a name of `keras.applications` in small letters.
        mirrored: left for right.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, backbone: str, mirrored: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone, self.mirrored = backbone, mirrored

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Return the preprocessed pixels."""
        shown = pixels[:, :, ::-1] if self.mirrored else pixels
        return preprocess_function(self.backbone)(shown)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape, which stays as it is."""
        return input_shape

    def compute_output_spec(self, pixels: keras.KerasTensor) -> keras.KerasTensor:
        """Return the shape and the dtype."""
        return keras.KerasTensor(pixels.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**super().get_config(), "backbone": self.backbone, "mirrored": self.mirrored}


@keras.saving.register_keras_serializable(package="bilinear")
class SqrtL2(keras.layers.Layer):
    """Signed square root, then l2 norm one, of those numbers of rows (batch, d) that are kept.

    Attributes:
        kept: a weight that is not trained, (d,): 1 for what is kept, 0 for what becomes zero.
    """

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Keep everything, until the weight is set."""
        self.kept = self.add_weight(
            shape=input_shape[-1:], initializer="ones", trainable=False, name="kept"
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape, which stays as it is."""
        return input_shape

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the rows, normalised."""
        return l2_normalize(signed_sqrt(rows * self.kept))


@keras.saving.register_keras_serializable(package="bilinear")
class ClassProbabilities(keras.layers.Layer):
    """Scores (batch, classes) -> probabilities, 0 to 1, that sum up to one.

    Args:
        class_names: what the columns stand for; kept with the model, as that attribute.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, class_names: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = list(class_names)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape, which stays as it is."""
        return input_shape

    def call(self, scores: tf.Tensor) -> tf.Tensor:
        """Return the softmax."""
        return tf.nn.softmax(scores)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**super().get_config(), "class_names": self.class_names}
