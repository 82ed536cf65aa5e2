"""VGG16 in 8 bits on a CPU, by LiteRT (TensorFlow Lite's successor).

Kernels are quantised channel by channel, activations by the fixed ranges of `int8.json`, so that
the network is the same for every photo, batch, shard and machine. Sums of integers are exact.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

from bilinear_cli.errors import BilinearError
from bilinear_cli.files import atomic_write
from bilinear_cli.home import CACHE_ADVICE, cache_folder
from bilinear_cli.machine import n_cpus
from bilinear_cli.messages import one_line
from bilinear_cli.networks.engines import ALTERNATIVES, int8_sha256, int8_table
from bilinear_cli.networks.network import silent_stderr
from bilinear_cli.networks.vgg16 import graph_function, layers_up_to, mean_colour

log = logging.getLogger(__name__)


def load_int8(tensors: Mapping[str, np.ndarray], layer: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the 8-bit network up to a layer, as `load_backbone` does; it is built only once.

    Raises:
        BilinearError: LiteRT refuses the network.
        UsageError: the layer is unknown.
    """
    model = _load_or_build(tensors, layers_up_to(layer))
    try:
        _interpreter(model, (1, 34, 34, 3))
    except (ImportError, RuntimeError, ValueError) as error:
        reason = one_line(error)[:200]
        raise BilinearError(
            f"ai-edge-litert cannot load the network: {reason}. Run pip install --upgrade "
            f"'bilinear-cli[int8]'. {ALTERNATIVES}"
        ) from error
    return graph_function(partial(run_int8, model), layer)


def build_int8(
    tensors: Mapping[str, np.ndarray], names: Sequence[str], ranges: Mapping[str, float]
) -> bytes:
    """Return the network of these layers as a LiteRT model.

    It takes uint8 RGB photos of any size in a frame, see `pad_with_mean_colour`, and returns
    float32 maps; all else is in 8 bits. The first bias subtracts the mean colour, so photos are
    not rounded.
    """
    # the converter reads its ranges from these operations
    fake_quant = tf.quantization.fake_quant_with_min_max_args
    first, mean = names[0], mean_colour()

    @tf.function(input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)])
    def network(x: tf.Tensor) -> tf.Tensor:
        x = fake_quant(x, 0, 255)
        for name in names:
            if name.endswith("pool"):
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
                continue
            kernel, bias = tensors[f"{name}/kernel"], tensors[f"{name}/bias"]
            if name == first:
                kernel = kernel[:, :, ::-1]  # of BGR
                bias = bias - np.einsum("hwio,i->o", kernel, mean)
            x = tf.nn.conv2d(x, kernel, 1, "VALID" if name == first else "SAME")
            x = fake_quant(tf.nn.relu(tf.nn.bias_add(x, bias)), 0, ranges[name])
        return x

    handlers = logging.root.handlers[:]  # the converter adds one, which repeats each line
    with silent_stderr():
        graph = network.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], tf.Module())
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = tf.uint8
        model = converter.convert()
    logging.root.handlers[:] = handlers
    return model


def pad_with_mean_colour(photos: np.ndarray) -> np.ndarray:
    """Return photos with a frame of one pixel of the rounded mean colour, the network's zero."""
    n, height, width, channels = photos.shape
    frame = np.full((n, height + 2, width + 2, channels), np.rint(mean_colour()), np.uint8)
    frame[:, 1:-1, 1:-1] = photos
    return frame


def _load_or_build(tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> bytes:
    """Return the model from the cache; build it if it is missing, damaged or outdated."""
    path = cache_folder() / f"vgg16-int8-{names[-1]}.tflite"
    try:
        line, newline, model = path.read_bytes().partition(b"\n")
        if line + newline == _cache_header(model):
            return model
    except OSError:  # the file does not exist yet
        pass
    log.info("quantising VGG16, once; the result is kept in %s", path)
    model = build_int8(tensors, names, int8_table()["ranges"])
    try:
        with atomic_write(path, advice=CACHE_ADVICE) as new:
            new.write_bytes(_cache_header(model) + model)
    except BilinearError as error:
        log.warning("VGG16 will be quantised in each run: %s", error)
    return model


def _cache_header(model: bytes) -> bytes:
    """Return the first line of a cached model: the network, TensorFlow, and the model's SHA-256."""
    digest = hashlib.sha256(model).hexdigest()
    return f"{int8_sha256()} tensorflow {tf.__version__} {digest}\n".encode()


def run_int8(model: bytes, photos: np.ndarray) -> np.ndarray:
    """Return the float32 maps of uint8 RGB photos (batch, height, width, 3), or a MemoryError."""
    pixels = pad_with_mean_colour(photos)
    try:
        network = _interpreter(model, pixels.shape)
        network.set_tensor(network.get_input_details()[0]["index"], pixels)
        network.invoke()
    except RuntimeError as error:  # a model that was loaded fails only for lack of memory
        raise MemoryError(str(error)) from error
    return network.get_tensor(network.get_output_details()[0]["index"])


@lru_cache(maxsize=32)  # the sizes of a photo's views
def _interpreter(model: bytes, shape: tuple[int, ...]) -> Any:
    """Return an interpreter of the model for photos of this shape."""
    from ai_edge_litert.interpreter import Interpreter

    with silent_stderr():
        network = Interpreter(model_content=model, num_threads=n_cpus())
        network.resize_tensor_input(network.get_input_details()[0]["index"], shape)
        network.allocate_tensors()
    return network
