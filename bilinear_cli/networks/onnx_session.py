"""An ONNX graph in ONNX Runtime, and photos as its input."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.machine import n_cpus
from bilinear_cli.messages import abbreviate, one_line
from bilinear_cli.networks.onnx_graph import EXTRA, external_locations, load_graph
from bilinear_cli.networks.onnx_model import OnnxModel

if TYPE_CHECKING:
    import onnx
    import onnxruntime

GPU_PROVIDERS = ("CUDAExecutionProvider", "ROCMExecutionProvider", "DmlExecutionProvider")


def open_session(path: Path, layer: str | None = None) -> "onnxruntime.InferenceSession":
    """Load a graph into ONNX Runtime, with a tensor inside it as one more output.

    Raises:
        BilinearError: ONNX Runtime is not installed, or refuses the graph.
        UsageError: the graph has no tensor of this name.
    """
    graph = load_graph(path)
    outputs = [output.name for output in graph.graph.output]
    if layer and layer not in outputs:
        names = [name for node in graph.graph.node for name in node.output]
        if layer not in names:
            similar = [name for name in names if layer in name] or outputs
            raise UsageError(f"{path} has no tensor {layer!r}, but has {abbreviate(similar)}")
        graph.graph.output.add().name = layer
    return start_session(graph, path)


def start_session(graph: "onnx.ModelProto", path: Path) -> "onnxruntime.InferenceSession":
    """Return a session of a graph; its external weights are beside `path`.

    Raises:
        BilinearError: ONNX Runtime is not installed, or refuses the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BilinearError(f"ONNX networks need onnxruntime. Run {EXTRA}.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_cpus()
    options.log_severity_level = 4  # its errors are also raised
    folder = _follow_links(graph, path)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    available = onnxruntime.get_available_providers()
    providers = [name for name in GPU_PROVIDERS if name in available] + ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers)
    except Exception as error:  # ONNX Runtime's own
        raise BilinearError(
            f"ONNX Runtime cannot load {path}: {one_line(error)[:300]}. A newer version may: run "
            "pip install --upgrade onnxruntime."
        ) from error


def _follow_links(graph: "onnx.ModelProto", path: Path) -> str:
    """Return the folder of the graph's external weights; the graph gets their paths in it.

    In Hugging Face's cache these files are links, which ONNX Runtime does not follow.
    """
    entries = [(x, (path.parent / x.value).resolve()) for x in external_locations(graph)]
    folders = [file.parent for _, file in entries] or [path.parent.absolute()]
    folder = os.path.commonpath(folders)
    for entry, file in entries:
        entry.value = file.relative_to(folder).as_posix()
    return folder


def photo_feed(
    session: "onnxruntime.InferenceSession", model: OnnxModel, photos: np.ndarray
) -> dict[str, np.ndarray]:
    """Return uint8 photos (batch, size, size, 3) as the input of the graph."""
    (graph_input,) = session.get_inputs()
    x = model.preprocessing.normalize(photos).transpose(0, 3, 1, 2)
    dtype = np.float16 if "float16" in graph_input.type else np.float32
    return {graph_input.name: np.ascontiguousarray(x, dtype)}
