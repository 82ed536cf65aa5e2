"""ONNX networks: those of `data_files/onnx`, and small ones that a test writes."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bilinear_cli.networks.onnx import OnnxNetwork, default_layer
from bilinear_cli.networks.onnx_model import read_model

FOLDER = Path(__file__).parents[1] / "data_files" / "onnx"
PHOTOS = (FOLDER / "photo1.png", FOLDER / "photo2.png")
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/config.json"))

SIZE = 32  # pixels, of the photos of the small network
CHANNELS = 6
LAYER = "last_hidden_state"
PREPROCESSOR: Mapping[str, Any] = {
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def copy_network(name: str, folder: Path) -> Path:
    """Copy a network of `data_files/onnx`, and return the new folder."""
    return shutil.copytree(FOLDER / name, folder / name)


def load_network(path: Path, size: int | None = None) -> OnnxNetwork:
    """Return the network up to its default layer."""
    model = read_model(path)
    return OnnxNetwork(model, default_layer(model, size or model.preprocessing.size))


def random_kernel() -> np.ndarray:
    """Return float32 (channels, 3, 8, 8), of positive and negative numbers, always the same."""
    shape = (CHANNELS, 3, 8, 8)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) / 10


def convolution(output: str = LAYER, domain: str = "") -> onnx.NodeProto:
    """Return the node of the small network: maps 4 x 4 of photos of 32 pixels, with signs."""
    return helper.make_node("Conv", ["photos", "kernel"], [output], strides=[8, 8], domain=domain)


def make_graph(
    nodes: Sequence[onnx.NodeProto] | None = None,
    *,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Sequence[str] = (LAYER,),
    dtype: int = TensorProto.FLOAT,
    tensors: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    **options: Any,
) -> onnx.ModelProto:
    """Return a graph, by default of one convolution.

    Args:
        inputs: name -> dimensions; by default photos of any number and size.
        dtype: of inputs and outputs.
        tensors: name -> constant; by default the kernel of the convolution.
        options: of `onnx.helper.make_model`.
    """
    inputs = inputs or {"photos": ("batch", 3, "height", "width")}
    tensors = {"kernel": random_kernel()} if tensors is None else tensors
    graph = helper.make_graph(
        nodes or [convolution()],
        "small",
        [helper.make_tensor_value_info(name, dtype, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(x, name) for name, x in tensors.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **options)


def write_network(
    folder: Path,
    graph: onnx.ModelProto | None = None,
    config: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] = PREPROCESSOR,
) -> Path:
    """Write a network in the layout of Hugging Face, by default the small one, and return it."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    (folder / "onnx" / "model.onnx").write_bytes((graph or make_graph()).SerializeToString())
    config = {"hidden_sizes": [CHANNELS]} if config is None else config
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
