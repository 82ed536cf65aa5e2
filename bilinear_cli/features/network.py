"""The network of stage 1, from its name to a function, without TensorFlow until it is needed."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bilinear_cli.features.precision import check_int8

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

    It does so before its own setting of a log level counts.
    """
    with silent_stderr():
        import tensorflow  # noqa: F401


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Keep from stderr what is written to it, even by C++; what Python raises is not affected."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def load_network(tensors: "Tensors", settings: "Settings") -> Callable[[Any], Any]:
    """Load the network that `settings` name, and say what it runs on."""
    load_tensorflow()
    from bilinear_cli.features.backbone import load_backbone, use_devices

    devices = use_devices()
    if settings.precision == "int8":
        check_int8(settings.backbone, settings.weights_sha256, devices)
    device = ", ".join(devices)
    log.info("%s in %s, %d photos a batch", device, settings.precision, settings.batch_size)
    return load_backbone(tensors, settings.backbone, settings.layer, settings.precision)
