"""The graph of an ONNX network: read it, and check it.

A file from a stranger is data. A graph with operators that ONNX Runtime does not have, or with
weights outside its folder, is refused before anything runs.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bilinear_cli.errors import BilinearError, UsageError

if TYPE_CHECKING:  # the command line names networks without this library
    import onnx

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}  # of ONNX Runtime's own operators
DYNAMIC_QUANTIZATION = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
EXTRA = "pip install 'bilinear-cli[onnxruntime]'"


def load_graph(path: Path) -> "onnx.ModelProto":
    """Return the graph without external weights.

    Raises:
        BilinearError: the file cannot be read, or is not ONNX; or `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BilinearError(f"ONNX networks need {error.name}. Run {EXTRA}.") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise BilinearError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, ValueError, RuntimeError) as error:
        raise BilinearError(f"{path} is not an ONNX file, or is damaged") from error
    if not model.graph.node:
        raise BilinearError(f"{path} is not an ONNX file, or is empty")
    return model


def check_graph(path: Path, model: "onnx.ModelProto") -> list[Path]:
    """Raise unless the graph is safe to run; return the files of its external weights."""
    _check_inputs(path, model.graph)
    domains = {node.domain for node in _nodes(model)} - DOMAINS
    domains -= {function.domain for function in model.functions}
    if domains:
        raise BilinearError(
            f"{path} has custom operators ({', '.join(sorted(domains))}), which are not run. "
            "Export the network with standard operators."
        )
    locations = {entry.value for entry in external_locations(model)}
    return [_external_file(path, location) for location in sorted(locations)]


def _check_inputs(path: Path, graph: "onnx.GraphProto") -> None:
    """Raise a UsageError unless the graph takes photos, and nothing else."""
    from onnx import TensorProto

    constants = {tensor.name for tensor in graph.initializer}
    inputs = {x.name: x.type.tensor_type for x in graph.input if x.name not in constants}
    if len(inputs) == 1:
        (photos,) = inputs.values()
        channels = [dim.dim_value for dim in photos.shape.dim[1:2]]
        is_float = photos.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        if is_float and len(photos.shape.dim) == 4 and channels[0] in (0, 3):  # 0: not fixed
            return
    advice = "Export the network of images alone."
    if {"input_ids", "token_type_ids"} & inputs.keys():
        advice = "It takes text. Use the network of images alone, often vision_model.onnx."
    elif {"spatial_shapes", "pixel_attention_mask"} & inputs.keys():
        advice = "It takes sequences of patches (NaFlex). Use a variant with a fixed image size."
    names = ", ".join(f"{name} of {len(x.shape.dim)} dimensions" for name, x in inputs.items())
    raise UsageError(
        f"{path} does not take photos alone, as float (batch, 3, height, width), but {names}. "
        f"{advice}"
    )


def quantizes_dynamically(model: "onnx.ModelProto") -> bool:
    """Return whether a graph computes the scales of its 8-bit numbers while it runs."""
    return any(node.op_type in DYNAMIC_QUANTIZATION for node in _nodes(model))


def external_locations(model: "onnx.ModelProto") -> Iterator["onnx.StringStringEntryProto"]:
    """Yield the entries of tensors that name a file of weights."""
    for graph in (model.graph, *_subgraphs(_nodes(model))):
        sparse = [tensor for x in graph.sparse_initializer for tensor in (x.values, x.indices)]
        yield from _locations([*graph.initializer, *sparse])
    for node in _nodes(model):
        yield from _locations([tensor for x in node.attribute for tensor in (x.t, *x.tensors)])


def _locations(
    tensors: Iterable["onnx.TensorProto"],
) -> Iterator["onnx.StringStringEntryProto"]:
    return (x for tensor in tensors for x in tensor.external_data if x.key == "location")


def _external_file(graph: Path, location: str) -> Path:
    """Return a file of weights, or raise a BilinearError if it is missing or elsewhere."""
    file = graph.parent / location
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise BilinearError(f"{graph} has weights outside its folder: {location}. It is not run.")
    if not file.is_file():
        raise BilinearError(f"the weights of {graph} are missing: {file}. Fetch this file, too.")
    return file


def _nodes(model: "onnx.ModelProto") -> list["onnx.NodeProto"]:
    """Return all nodes, also those of branches, loops and functions."""
    nodes = [node for x in (model.graph, *model.functions) for node in x.node]
    for node in nodes:  # which grows
        nodes += [inner for graph in _subgraphs([node]) for inner in graph.node]
    return nodes


def _subgraphs(nodes: Iterable["onnx.NodeProto"]) -> Iterator["onnx.GraphProto"]:
    """Yield the branches and loops of these nodes, but not those inside them."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g
