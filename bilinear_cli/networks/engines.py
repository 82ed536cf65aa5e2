"""The precisions and engines of a network: which can run here, and how far apart their rows are.

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
from bilinear_cli.messages import one_line
from bilinear_cli.recipe import Recipe

# By `.ci/agreement.py`; see docs/int8.md.
MEASURED = {
    "bfloat16": "bilinear rows had a cosine of 0.99996 (at least 0.9998) to float32 rows in the "
    "authors' tests",
    "int8": "rows had a mean cosine of 0.988 (matrix-sqrt) to 0.9997 (avg) to float32 rows in the "
    "authors' tests, and int8 cost float32 models up to 0.9 points of accuracy on birds, and 2.5 "
    "on drawn moths",
}
MEASURED_ENGINES = (
    "in the authors' tests, 97 % (matrix-sqrt) to 99.98 % (bilinear) of the float16 numbers were "
    "equal or neighbours, and rows had a cosine of at least 0.99998 (matrix-sqrt) and 0.9999999 "
    "(other poolings)"
)
# Raise it when `int8.py` makes another network of the same weights and ranges.
INT8_NETWORK_VERSION = 2
ALTERNATIVES = "Use bfloat16 or float32; auto chooses the faster one."


def with_precision(recipe: Recipe, precision: str) -> Recipe:
    """Return the recipe with this precision, and with the digest of the 8-bit network for int8."""
    digest = int8_sha256() if precision == "int8" else ""
    return replace(recipe, precision=precision, int8_sha256=digest)


def measured_difference(*precisions: str) -> str:
    """Return how far these precisions were measured to be from float32, for a message."""
    names = sorted({*precisions} - {"float32"})
    return "; ".join(f"{name} {MEASURED.get(name, 'rows were not compared')}" for name in names)


@cache
def int8_table() -> dict[str, Any]:
    """Return `ranges`, layer -> largest activation, and `weights_sha256`, of the weights."""
    table = files("bilinear_cli.networks").joinpath("int8.json")
    return json.loads(table.read_text(encoding="utf-8"))


def int8_sha256() -> str:
    """Return what identifies the 8-bit network: the SHA-256 of weights, ranges and builder."""
    table = int8_table()
    identity = [INT8_NETWORK_VERSION, table["weights_sha256"], table["ranges"]]
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
            "--precision int8 needs ai-edge-litert, which is missing. "
            "Run pip install 'bilinear-cli[int8]'."
        )


def check_ncnn(backbone: str, precision: str, devices: Sequence[str] = ("CPU",)) -> None:
    """Raise unless ncnn serves the network here; precision `auto` becomes float32.

    Raises:
        BilinearError: ncnn is not installed, or cannot be imported.
        UsageError: the network is not vgg16 in float32, or TensorFlow has a GPU.
    """
    if backbone != "vgg16" or precision not in ("auto", "float32") or [*devices] != ["CPU"]:
        network = f"{backbone} in {precision} on {', '.join(devices)}"
        raise UsageError(
            f"--engine ncnn needs vgg16 in float32 on a CPU, and not {network}. "
            "Use --engine tensorflow."
        )
    if fault := ncnn_fault():
        raise BilinearError(f"{fault}, or use --engine tensorflow for a new file.")


def ncnn_fault() -> str | None:
    """Return why ncnn cannot be used here and what to do, or None."""
    try:
        import ncnn  # noqa: F401
    except ModuleNotFoundError as error:
        advice = "Run pip install 'bilinear-cli[fast]'"
        return f"the engine ncnn needs {error.name}, which is missing. {advice}"
    except (ImportError, OSError) as error:  # of a wheel for another machine, for instance
        advice = "Run pip install --upgrade 'bilinear-cli[fast]'"
        return f"ncnn cannot be imported: {one_line(error)[:200]}. {advice}"
    return None
