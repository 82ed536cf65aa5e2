"""What the network multiplies in, known without TensorFlow: the 8-bit network and who gets it.

`int8.json` beside this file has the largest activation that each convolution of VGG16 can give, as
`.ci/ranges.py` measured them; what is larger is cut off.
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
    "bfloat16": "was measured to give bilinear rows at a cosine of 0.99996 to float32's (least "
    "0.9998)",
    "int8": "was measured to give rows at a mean cosine of 0.988 (matrix-sqrt) to 0.9997 (avg) to "
    "float32's, and models that were trained in float32 to be up to 0.9 points worse on birds in "
    "int8, and 2.5 on drawn moths",
}
# Of `int8.py`: to be raised with what makes another network of the same weights and ranges.
BUILDER = 2
ELSE = "take bfloat16 or float32, of which auto takes the faster"


@cache
def int8_table() -> dict[str, Any]:
    """Return the table: `ranges`, layer -> largest activation, and `weights_sha256`, whose."""
    return json.loads(files("bilinear_cli.networks").joinpath("int8.json").read_text())


def int8_sha256() -> str:
    """Return what identifies the 8-bit network: the SHA-256 of weights, ranges and builder."""
    table = int8_table()
    parts = [BUILDER, table["weights_sha256"], table["ranges"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_int8(
    backbone: str, weights_sha256: str | None = None, devices: Sequence[str] = ("CPU",)
) -> None:
    """Raise unless there is an 8-bit network of this one, and what runs it.

    Args:
        backbone: the network.
        weights_sha256: of it; None if it is not known yet.
        devices: what TensorFlow runs on.

    Raises:
        BilinearError: LiteRT is not installed.
        UsageError: the network is another, or has weights with which the ranges were not measured,
            or there is a GPU.
    """
    if backbone != "vgg16":
        raise UsageError(f"--precision int8 is for vgg16 alone, not for {backbone}: {ELSE}")
    if weights_sha256 not in (None, int8_table()["weights_sha256"]):
        raise UsageError(
            "--precision int8 is for VGG16's published weights, with which its ranges were "
            f"measured, not for these: {ELSE}"
        )
    if [*devices] != ["CPU"]:
        raise UsageError(f"--precision int8 is for a CPU, not for {', '.join(devices)}: {ELSE}")
    if find_spec("ai_edge_litert") is None:
        raise BilinearError(
            "--precision int8 needs ai-edge-litert, which is not installed: pip install '.[int8]'"
        )


def with_precision(recipe: Recipe, precision: str) -> Recipe:
    """Return the recipe with this precision, and the digest that goes with it."""
    digest = int8_sha256() if precision == "int8" else ""
    return replace(recipe, precision=precision, int8_sha256=digest)


def measured_difference(*precisions: str) -> str:
    """Return how far from float32 these precisions were measured to be, for a message."""
    names = [name for name in sorted({*precisions}) if name != "float32"]
    said = [f"{name} {MEASURED.get(name, 'was not measured')}" for name in names]
    return "; ".join(said)
