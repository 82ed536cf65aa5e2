"""A small random network in place of VGG16, and untrained ones in place of the mlp and conv1x1."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bilinear_cli.extraction.extract import extract
from bilinear_cli.extraction.from_photos import PhotoInput
from bilinear_cli.extraction.job import Job
from bilinear_cli.extraction.make_job import maps_job
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.weights import Weights
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.progress import Progress
from bilinear_cli.recipe import Recipe
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear

PATCH = 8  # pixels, the size and the stride of the convolution
CHANNELS = 6
SHA256 = "0" * 64


def random_kernel(channels: int = CHANNELS) -> np.ndarray:
    """Return float32 (8, 8, 3, channels), always the same."""
    shape = (PATCH, PATCH, 3, channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) / 100


def relu_maps(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random maps, float32 (*shape), like ReLU output: half of the values are zero."""
    return np.maximum(np.random.default_rng(seed).normal(size=shape), 0).astype(np.float32)


def small_network(
    watch: Callable[[np.ndarray], Any] | None = None,
    *,
    kernel: np.ndarray | None = None,
    stride: int = PATCH,
) -> Callable[[Any], Any]:
    """Return a network: uint8 photos (batch, size, size, 3) -> float32 maps.

    It calls `watch` with each batch of photos. A stride of 8 gives maps 4 x 4 of photos of 32
    pixels.
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


def extract_photos(
    photo_set: PhotoSet,
    recipe: Recipe,
    output: Path,
    load: Callable[[], Any] = small_network,
    progress: Progress | None = None,
    **options: Any,
) -> None:
    """Extract from photos; `load` returns the network, `options` are those of a `Job`."""
    network = SimpleNamespace(load=lambda recipe: load(), sha256=lambda: SHA256)
    extract(Job(PhotoInput(photo_set, network), recipe, output, **options), progress)


def pool_maps(
    maps: Path,
    poolings: tuple[str, ...],
    output: Path,
    progress: Progress | None = None,
    **options: Any,
) -> None:
    """Pool stored maps; `options` are those of the command."""
    options = ExtractOptions(maps=maps, pooling=poolings, output=output, **options)
    extract(maps_job(options), progress)


def use_small_network(patch: pytest.MonkeyPatch) -> None:
    """Let commands run the small network instead of the network that they would load."""
    patch.setattr(Network, "weights", lambda self: Weights({}, SHA256, (), None))
    patch.setattr(Network, "load", lambda self, recipe: small_network())


def use_untrained_networks(patch: pytest.MonkeyPatch) -> None:
    """Let training return fixed random weights for networks, instead of seconds of Keras."""
    patch.setattr("bilinear_cli.training.mlp.fit_mlp", _fit_mlp)
    patch.setattr("bilinear_cli.training.conv1x1.fit_conv1x1", _fit_conv1x1)


def _fit_mlp(z: np.ndarray, targets: np.ndarray, options: TrainOptions, *_: Any, **__: Any) -> Any:
    first = _random_linear(z.shape[1], options.hidden)
    return first, _random_linear(options.hidden, targets.shape[1]), 1


def _fit_conv1x1(read: Any, train: Any, options: TrainOptions, **__: Any) -> Any:
    (indices, targets, *_), channels = train, options.channels
    kernel = _random_linear(read(indices[:1]).shape[-1], channels).weights
    head = _random_linear(channels * (channels + 1) // 2, targets.shape[1])
    return kernel, head, 1


def _random_linear(n_inputs: int, n_outputs: int) -> Linear:
    rng = np.random.default_rng(n_inputs)
    weights, intercept = rng.normal(size=(n_inputs, n_outputs)), rng.normal(size=n_outputs)
    return Linear(weights.astype(np.float32), intercept.astype(np.float32))
