"""The precisions that a network multiplies in, without TensorFlow; mostly the 8-bit network.

`int8.json` beside this file has the largest activation of each convolution of VGG16, measured by
`.ci/ranges.py`. The 8-bit network clips larger activations.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.recipe import Recipe

# By `.ci/agreement.py`; see docs/int8.md.
MEASURED = {
    "bfloat16": "gave bilinear rows with a cosine of 0.99996 to those in float32 (at least 0.9998)",
    "int8": "gave rows with a mean cosine of 0.988 (matrix-sqrt) to 0.9997 (avg) to those in "
    "float32, and models that were trained in float32 were up to 0.9 points worse on birds in "
    "int8, and 2.5 on drawn moths",
}
BUILDER = 2  # raise it when `int8.py` makes another network of the same weights and ranges
ALTERNATIVES = "Use bfloat16 or float32; auto chooses the faster one."


@cache
def int8_table() -> dict[str, Any]:
    """Return `ranges`, layer -> largest activation, and `weights_sha256`, of the weights."""
    return json.loads(files("bilinear_cli.networks").joinpath("int8.json").read_text())


def int8_sha256() -> str:
    """Return what identifies the 8-bit network: the SHA-256 of weights, ranges and builder."""
    table = int8_table()
    identity = [BUILDER, table["weights_sha256"], table["ranges"]]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def check_int8(
    backbone: str, weights_sha256: str | None = None, devices: Sequence[str] = ("CPU",)
) -> None:
    """Raise unless the network exists in 8 bits and can run; None is for unknown weights.

    Raises:
        BilinearError: LiteRT is not installed.
        UsageError: the network is not vgg16, its weights are not those that the ranges were
            measured with, or TensorFlow has a GPU.
    """
    if backbone != "vgg16":
        raise UsageError(f"--precision int8 needs vgg16, and not {backbone}. {ALTERNATIVES}")
    if weights_sha256 not in (None, int8_table()["weights_sha256"]):
        raise UsageError(
            "--precision int8 needs VGG16's published weights, because its ranges were measured "
            f"with them. {ALTERNATIVES}"
        )
    if [*devices] != ["CPU"]:
        raise UsageError(
            f"--precision int8 needs a CPU, and not {', '.join(devices)}. {ALTERNATIVES}"
        )
    if find_spec("ai_edge_litert") is None:
        raise BilinearError(
            "--precision int8 needs ai-edge-litert, which is missing. Run pip install '.[int8]'."
        )


def with_precision(recipe: Recipe, precision: str) -> Recipe:
    """Return the recipe with this precision, and with the digest of the 8-bit network for int8."""
    digest = int8_sha256() if precision == "int8" else ""
    return replace(recipe, precision=precision, int8_sha256=digest)


def measured_difference(*precisions: str) -> str:
    """Return how far these precisions were measured to be from float32, for a message."""
    names = sorted({*precisions} - {"float32"})
    return "; ".join(f"{name} {MEASURED.get(name, 'was not measured')}" for name in names)
