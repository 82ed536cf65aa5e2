"""The network of stage 1, from its name to a function, without TensorFlow until it is needed."""

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilinear_cli.features.settings import Settings
    from bilinear_cli.features.weights import Tensors, Weights

log = logging.getLogger(__name__)


def load_weights(backbone: str, source: str) -> "Weights":
    """Return the weights of a network; of vgg16 without loading TensorFlow."""
    from bilinear_cli.features import weights

    if backbone == "vgg16":
        return weights.load_weights(source)
    load_tensorflow()
    from bilinear_cli.features.applications import load_weights_of

    return load_weights_of(backbone, source)


def load_tensorflow() -> None:
    """Import TensorFlow without the greeting that its C++ part writes to stderr.

    It does so before its own setting of a log level counts; what Python raises is not affected.
    """
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def load_network(tensors: "Tensors", settings: "Settings") -> Callable[[Any], Any]:
    """Load the network that `settings` name, and say what it runs on."""
    load_tensorflow()
    from bilinear_cli.features.backbone import load_backbone, use_devices

    device = ", ".join(use_devices())
    log.info("%s in %s, %d photos a batch", device, settings.precision, settings.batch_size)
    return load_backbone(tensors, settings.backbone, settings.layer, settings.precision)
