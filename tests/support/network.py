"""A small random network in place of VGG16: one strided convolution and a ReLU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bilinear_cli.networks.weights import Weights

PATCH = 8  # pixels, the size and the stride of the convolution
CHANNELS = 6


def random_kernel(channels: int = CHANNELS) -> np.ndarray:
    """Return float32 (8, 8, 3, channels), always the same."""
    shape = (PATCH, PATCH, 3, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) / 100


def small_network(
    watch: Callable[[np.ndarray], Any] | None = None,
    *,
    kernel: np.ndarray | None = None,
    stride: int = PATCH,
) -> Callable[[Any], Any]:
    """Return a network: uint8 photos (batch, size, size, 3) -> float32 maps.

    Args:
        watch: is called with each batch of photos, uint8, before the network sees it.
        kernel: of the convolution; `random_kernel()` by default.
        stride: of the convolution; 8 gives maps 4 x 4 of photos of 32 pixels.
    """
    import tensorflow as tf

    kernel = random_kernel() if kernel is None else kernel

    def watched(photos: np.ndarray) -> np.ndarray:
        watch(photos)
        return photos

    def forward(photos: tf.Tensor) -> tf.Tensor:
        if watch:
            same = tf.numpy_function(watched, [photos], tf.uint8)
            photos = tf.ensure_shape(same, photos.shape)
        return tf.nn.relu(tf.nn.conv2d(tf.cast(photos, tf.float32), kernel, stride, "VALID"))

    return forward


def small_maps(photo: np.ndarray, kernel: np.ndarray, stride: int = PATCH) -> np.ndarray:
    """Return the maps of one photo (size, size, 3) without TensorFlow, float64."""
    patches = np.lib.stride_tricks.sliding_window_view(photo.astype(float), (PATCH, PATCH), (0, 1))
    return np.maximum(np.einsum("ijcab,abcd->ijd", patches[::stride, ::stride], kernel), 0)


def use_small_network(patch: pytest.MonkeyPatch) -> None:
    """Let commands run the small network wherever they would load a network and its weights."""
    weights = Weights({}, "0" * 64, (), None)
    for commands in ("runs", "photos"):
        module = f"bilinear_cli.cli.{commands}"
        patch.setattr(f"{module}.load_weights", lambda backbone, source: weights)
        patch.setattr(f"{module}.load_network", lambda tensors, recipe: small_network())
