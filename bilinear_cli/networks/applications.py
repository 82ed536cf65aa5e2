"""The networks of `keras.applications`: by name, with their own preprocessing and weights."""

import hashlib
import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.messages import abbreviate, one_line
from bilinear_cli.networks.weights import Weights
from bilinear_cli.validation import validate_choice

# The names of Keras's functions, in small letters, without two families. The first EfficientNets:
# for weights "imagenet" Keras builds them with one layer more, and a normalisation among their
# weights has no effect when it is set. The NASNets: the number of layers depends on the photo size.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    name.lower(): getattr(keras.applications, name)
    for name in dir(keras.applications)
    if name[0].isupper() and not name.startswith(("EfficientNetB", "NASNet"))
}


def preprocess_function(backbone: str) -> Callable[[Any], Any]:
    """Return the function that prepares float32 RGB photos, 0 to 255; it may overwrite them."""
    return inspect.getmodule(_function(backbone)).preprocess_input  # type: ignore[union-attr]


def build(backbone: str, precision: str = "float32") -> keras.Model:
    """Return a network without its top, for photos of any size; its weights must still be set.

    Its precision is `float32`, `bfloat16` or `float16`. An unknown network is a UsageError.
    """
    policy = "float32" if precision == "float32" else f"mixed_{precision}"
    original = _original(backbone)
    names = _names(original)

    def with_policy(layer: keras.Operation) -> keras.Operation:
        config = layer.get_config() | {"name": names.get(layer.name, layer.name)}
        if isinstance(layer, keras.layers.Layer):
            config["dtype"] = policy
        return type(layer).from_config(config)

    return keras.models.clone_model(original, clone_function=with_policy, recursive=True)


@cache
def _original(backbone: str) -> keras.Model:
    return _function(backbone)(include_top=False, weights=None, input_shape=(None, None, 3))


def _function(backbone: str) -> Callable[..., keras.Model]:
    try:
        return NETWORKS[validate_choice("backbone", backbone, NETWORKS)]
    except UsageError as error:
        raise UsageError(f"{error}; or give the path of an ONNX network") from error


def _names(network: keras.Model) -> dict[str, str]:
    """Return layer name -> its name if the process had built no network before.

    Keras numbers layers without a name of their own through the whole process.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for layer in network.layers:
        kind, _, count = layer.name.rpartition("_")
        kind, count = (kind, count) if count.isdecimal() else (layer.name, "0")
        if kind.replace("_", "") == type(layer).__name__.lower():
            numbered.setdefault(kind, []).append((int(count), layer.name))
    return {
        name: f"{kind}_{i}" if i else kind
        for kind, layers in numbered.items()
        for i, (_, name) in enumerate(sorted(layers))
    }


def layer_shapes(backbone: str) -> dict[str, tuple[int | None, ...]]:
    """Return layer name -> shape of its output, in the network's order, without the input."""
    network = _original(backbone)
    names = _names(network)
    return {names.get(x.name, x.name): x.output.shape for x in network.layers[1:]}


def resolve_layer(backbone: str, layer: str | None) -> str:
    """Return the name of a layer whose output is maps. None stands for the last layer.

    Raises:
        UsageError: the layer or the network is unknown, or the layer's output are not maps.
    """
    shapes = layer_shapes(backbone)
    if layer is None:
        return list(shapes)[-1]
    if layer not in shapes:
        similar = [name for name in shapes if layer in name] or list(shapes)[-5:]
        raise UsageError(f"{backbone} has no layer {layer!r}, but has {abbreviate(similar)}")
    if len(shapes[layer]) != 4:
        raise UsageError(
            f"layer {layer} of {backbone} does not output maps (photos, height, width, channels): "
            f"its output has {len(shapes[layer])} dimensions. Choose another --layer."
        )
    return layer


def load_keras_weights(backbone: str, source: str) -> Weights:
    """Return the weights of a network, which are not verified.

    The source is `auto` or `keras` (ImageNet's, from Keras's host or its cache), `random` (always
    the same), or the path of a `.h5` or `.weights.h5` file of Keras, without the top.

    Raises:
        BilinearError: the weights cannot be fetched or read.
        UsageError: the network is unknown, or the source is `pypi`.
    """
    path = None
    if source in ("auto", "keras"):
        network = _fetch(backbone)
    elif source == "random":
        keras.utils.set_random_seed(0)
        network = _function(backbone)(include_top=False, weights=None)
    elif source == "pypi":
        raise UsageError("the package index has only the weights of vgg16. Use --weights PATH.")
    else:
        path = Path(source)
        network = _read(backbone, path)
    tensors = {x.path: np.asarray(x.numpy(), "<f4") for x in network.weights}
    digests = [hashlib.sha256(x.tobytes()).hexdigest() for x in tensors.values()]
    return Weights(tensors, hashlib.sha256("".join(digests).encode()).hexdigest(), (), path)


def _fetch(backbone: str) -> keras.Model:
    function = _function(backbone)
    try:
        # Keras prints its progress, and some networks warn that they are for photos of any size.
        with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            return function(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises it if the host is out of reach
        raise BilinearError(
            f"cannot fetch weights of {backbone} from Keras's host: {one_line(error)}. Give a file "
            "of them as --weights PATH."
        ) from error


def _read(backbone: str, path: Path) -> keras.Model:
    if not path.is_file():
        raise BilinearError(
            f"cannot read weights from {str(path)!r}. Give an existing .h5 file, or auto, keras or "
            "random."
        )
    network = build(backbone)
    try:
        network.load_weights(path)
    except Exception as error:  # of Keras, h5py or zipfile
        reason = one_line(error)[:200]
        raise BilinearError(f"cannot read {path} as weights of {backbone}: {reason}") from error
    return network
