"""The layers before and after the pooling in an exported model."""

from typing import Any

import keras
import tensorflow as tf

from bilinear_cli.networks.applications import preprocess_function
from bilinear_cli.poolings.functions import l2_normalize, signed_sqrt


@keras.saving.register_keras_serializable(package="bilinear")
class Preprocess(keras.layers.Layer):
    """RGB pixels, 0 to 255, (batch, height, width, 3) -> the input of a network of Keras.

    Args:
        backbone: a name of `keras.applications` in small letters.
        mirrored: whether to flip the photos left to right.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, backbone: str, mirrored: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone, self.mirrored = backbone, mirrored

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Return the preprocessed pixels."""
        return preprocess_function(self.backbone)(pixels[:, :, ::-1] if self.mirrored else pixels)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**super().get_config(), "backbone": self.backbone, "mirrored": self.mirrored}


@keras.saving.register_keras_serializable(package="bilinear")
class SqrtL2(keras.layers.Layer):
    """Select columns of rows (batch, d), take signed square roots, and normalise to l2 norm 1.

    Attributes:
        kept: a weight that is not trained, (d,): 1 for a selected column, 0 for others.
    """

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Make the weight, which first selects all columns."""
        self.kept = self.add_weight(
            shape=input_shape[-1:], initializer="ones", trainable=False, name="kept"
        )

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the normalised rows, 0 in the columns that are not selected."""
        return l2_normalize(signed_sqrt(rows * self.kept))


@keras.saving.register_keras_serializable(package="bilinear")
class ClassProbabilities(keras.layers.Layer):
    """Scores (batch, classes) -> probabilities, 0 to 1, that sum up to one.

    Args:
        class_names: of the columns; an attribute that is saved with the model.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, class_names: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_names = list(class_names)

    def call(self, scores: tf.Tensor) -> tf.Tensor:
        """Return the softmax."""
        return tf.nn.softmax(scores)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return {**super().get_config(), "class_names": self.class_names}


@keras.saving.register_keras_serializable(package="bilinear")
class Rarity(keras.layers.Layer):
    """Scores (batch, classes) -> how rare photos as unusual are among known ones, (batch,).

    The weights are the arrays of a `training.novelty.Novelty`, in its order, and are not trained.
    They are float64, like its own computation, because the distances are differences of large sums.

    Args:
        n_known: number of held-out photos.
        temperature: that scores are divided by to give probabilities.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, n_known: int, temperature: float, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float64", **kwargs})
        self.n_known, self.temperature = n_known, temperature

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Make the weights."""
        k = input_shape[-1]
        shapes = {"means": (k, k), "counts": (k,), "mean": (k,), "within": (k, k), "total": (k, k)}
        shapes["known"] = (self.n_known,)
        for name, shape in shapes.items():
            weight = self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)
            setattr(self, name, weight)

    def call(self, scores: tf.Tensor) -> tf.Tensor:
        """Return the share of the held-out photos that are at least as unusual, above 0 to 1."""
        x, means = scores - self.mean, self.means - self.mean
        weighted_x, weighted_means = x @ self.within, means @ self.within
        distances = tf.reduce_sum(x * weighted_x, axis=1, keepdims=True)
        distances -= 2 * tf.matmul(weighted_x, means, transpose_b=True)
        distances += tf.reduce_sum(means * weighted_means, axis=1)
        distances *= self.counts / (self.counts + 1)
        distances -= tf.reduce_sum(x * (x @ self.total), axis=1, keepdims=True)
        distances *= tf.cast(self.counts > 0, self.dtype)
        novelty = tf.reduce_sum(tf.nn.softmax(scores / self.temperature) * distances, axis=1)
        n_above = tf.reduce_sum(tf.cast(self.known >= novelty[:, None], self.dtype), axis=1)
        return (1 + n_above) / (1 + self.n_known)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        arguments = {"n_known": self.n_known, "temperature": self.temperature}
        return {**super().get_config(), **arguments}
