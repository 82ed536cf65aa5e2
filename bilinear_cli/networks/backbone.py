"""Photos -> maps of VGG16 (Simonyan and Zisserman 2015) or another network.

Also the devices, the precision and the batch size that suit them.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bilinear_cli.machine import free_memory, n_cpus
from bilinear_cli.networks.applications import build, preprocess_function, resolve_layer
from bilinear_cli.networks.engines import ncnn_fault
from bilinear_cli.networks.int8 import load_int8
from bilinear_cli.networks.winograd import load_winograd
from bilinear_cli.recipe import ENGINE

log = logging.getLogger(__name__)

MAX_BATCH_SIZE = 64
# Per photo of a batch, for vgg16 in float32 on a CPU. ncnn computes one photo at a time.
BYTES_PER_PIXEL = {"tensorflow": 700, "ncnn": 70}
BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16"}  # of CPUs, by Linux's names
BFLOAT16_COMPUTE_CAPABILITY = (8, 0)


def load_backbone(
    weights: Mapping[str, np.ndarray],
    backbone: str,
    layer: str,
    precision: str,
    engine: str = ENGINE,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Build a network up to a layer.

    Args:
        weights: float32, in the order of the network's own list of weights; names do not matter.
        backbone: a name of `keras.applications` in small letters.
        layer: the last layer, whose output after its activation is returned; of vgg16
            `block5_conv3` (the paper's relu5_3) or `block5_pool` (the post's, the network's end).
        precision: in which the network multiplies: `float32`, `bfloat16`, `float16` or, of vgg16,
            `int8`.
        engine: `tensorflow`, or of vgg16 in float32 on a CPU `ncnn`.

    Returns:
        A function of uint8 RGB photos (batch, size, size, 3) -> float32 maps (batch, height,
        width, channels), for use in a graph; of vgg16 (batch, size // 16, size // 16, 512), or
        // 32 after `block5_pool`.

    Raises:
        UsageError: the network or the layer is unknown, or the layer's output are not maps.
    """
    if precision == "int8":
        return load_int8(weights, layer)
    if engine == "ncnn":
        return load_winograd(weights, layer)
    preprocess = preprocess_function(backbone)
    network = build(backbone, precision)
    network.set_weights(list(weights.values()))
    network = keras.Model(network.input, network.get_layer(resolve_layer(backbone, layer)).output)

    def forward(photos: tf.Tensor) -> tf.Tensor:
        x = preprocess(tf.cast(photos, tf.float32))
        return tf.cast(network(x, training=False), tf.float32)

    return forward


def configure_devices() -> list[str]:
    """Let TensorFlow take the threads of `n_cpus`, and a GPU's memory as needed; name the devices.

    Call it before anything else uses TensorFlow.
    """
    with suppress(RuntimeError):  # TensorFlow has started, and cannot change its threads
        tf.config.threading.set_intra_op_parallelism_threads(n_cpus())
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    return [gpu.get("device_name") or "GPU" for gpu in _gpus()] or ["CPU"]


def resolve_precision(precision: str) -> str:
    """Return the precision; for `auto` bfloat16 if the device multiplies in it, else float32.

    On other devices bfloat16 can be twenty times slower than float32. `auto` is never float16: the
    activations of VGG16 come near its limit of 65,504.
    """
    if precision != "auto":
        return precision
    return "bfloat16" if _has_bfloat16() else "float32"


def resolve_engine(engine: str, backbone: str, precision: str) -> str:
    """Return the engine; for `auto` ncnn where it is installed and serves the network.

    For VGG16 in float32, ncnn was the faster engine on each CPU that was tried, see docs/speed.md.
    """
    if engine != "auto":
        return engine
    if (backbone, precision) != ("vgg16", "float32") or _gpus():
        return ENGINE
    if fault := ncnn_fault():
        log.info("%s. With ncnn, VGG16 takes 0.5 to 0.7 of the time.", fault)
        return ENGINE
    return "ncnn"


def _gpus() -> list[dict[str, Any]]:
    """Return TensorFlow's details of each GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def _has_bfloat16() -> bool:
    if gpus := _gpus():
        capabilities = [gpu.get("compute_capability", (0, 0)) for gpu in gpus]
        return min(capabilities) >= BFLOAT16_COMPUTE_CAPABILITY
    # Not `archspec.cpu.host`, which names a lesser CPU if a virtual machine hides some features.
    from archspec.cpu.detect import detected_info

    with warnings.catch_warnings(action="ignore"):  # of a system whose CPU it cannot tell
        return not BFLOAT16_FEATURES.isdisjoint(detected_info().features)


def resolve_batch_size(image_size: int, photo_bytes: int) -> int:
    """Return a batch size of about 800,000 pixels (16 photos at 224), less if memory is short.

    Args:
        image_size: width and height of the photos in pixels.
        photo_bytes: memory that a photo of a batch takes.
    """
    n = min(16 * 224**2 // image_size**2, free_memory() // 2 // photo_bytes)
    return int(np.clip(n, 1, MAX_BATCH_SIZE))
