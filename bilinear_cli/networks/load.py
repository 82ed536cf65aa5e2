"""The network of stage 1, from its name to a function, without TensorFlow until it is needed."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bilinear_cli.networks.precision import check_int8
from bilinear_cli.networks.quiet import load_tensorflow

if TYPE_CHECKING:
    from bilinear_cli.networks.weights import Tensors, Weights
    from bilinear_cli.recipe import Recipe

log = logging.getLogger(__name__)


def load_weights(backbone: str, source: str) -> "Weights":
    """Return the weights of a network; of vgg16 without loading TensorFlow."""
    from bilinear_cli.networks import weights

    if backbone == "vgg16":
        return weights.load_weights(source)
    load_tensorflow()
    from bilinear_cli.networks.applications import load_weights_of

    return load_weights_of(backbone, source)


def load_network(tensors: "Tensors", recipe: "Recipe") -> Callable[[Any], Any]:
    """Load the network that `recipe` name, and say what it runs on."""
    load_tensorflow()
    from bilinear_cli.networks.backbone import load_backbone, use_devices

    devices = use_devices()
    if recipe.precision == "int8":
        check_int8(recipe.backbone, recipe.weights_sha256, devices)
    device = ", ".join(devices)
    log.info("%s in %s, %d photos a batch", device, recipe.precision, recipe.batch_size)
    return load_backbone(tensors, recipe.backbone, recipe.layer, recipe.precision)
