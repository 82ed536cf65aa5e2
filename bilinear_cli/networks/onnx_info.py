"""The description of an ONNX network for `bilinear info`."""

from pathlib import Path

import numpy as np

from bilinear_cli.errors import UsageError
from bilinear_cli.networks.onnx import OnnxNetwork, default_layer
from bilinear_cli.networks.onnx_graph import load_graph
from bilinear_cli.networks.onnx_maps import MapLayout, find_layout
from bilinear_cli.networks.onnx_model import OnnxModel, onnx_name, read_model
from bilinear_cli.networks.onnx_session import photo_feed, start_session

STEP = 32  # pixels to another image size, if the network has no patches


def describe_network(path: Path) -> dict[str, str]:
    """Return what an ONNX network takes and gives, as name -> text, also each layer with maps.

    Raises:
        BilinearError: the network cannot be loaded.
        UsageError: it does not take photos.
    """
    model = read_model(path)
    size = model.preprocessing.size
    try:
        default = default_layer(model, size)
    except UsageError as error:
        default, no_default = "", str(error)
    layers = layers_with_maps(model, size)
    facts = {
        "network": onnx_name(path),
        "graph": str(model.path),
        "size": f"{sum(file.stat().st_size for file in model.files):,} bytes",
        "weights_sha256": model.sha256(),
        "photos": f"{size} pixels, {model.preprocessing.resize}",
        "other sizes": _other_sizes(model, default, size) if default else "not tried",
        "layer": default or f"none by default: {no_default}",
    }
    return facts | {f"layer {name}": _maps_text(*layer) for name, layer in layers.items()}


def layers_with_maps(model: OnnxModel, size: int) -> dict[str, tuple[tuple[int, ...], MapLayout]]:
    """Return tensor -> its shape for one photo, and where its maps are, in the graph's order.

    Attention matrices, which have the shape of maps, are left out.
    """
    shapes = tensor_shapes(model, size)
    n_tokens = {shape[1] for shape in shapes.values() if len(shape) == 3}
    layers = {}
    for name, shape in shapes.items():
        layout = find_layout(shape, model.config, size)
        is_attention = len(shape) == 4 and shape[2] == shape[3] and shape[2] in n_tokens
        if layout and not is_attention:
            layers[name] = shape, layout
    return layers


def tensor_shapes(model: OnnxModel, size: int) -> dict[str, tuple[int, ...]]:
    """Return tensor -> its shape for one photo, of all tensors of the graph, by a trial."""
    from onnx import helper

    graph = load_graph(model.path)
    names = [name for node in graph.graph.node for name in node.output if name]
    del graph.graph.output[:]
    for i, name in enumerate(names):  # Shape is an operator of ONNX; only shapes leave the graph
        graph.graph.node.append(helper.make_node("Shape", [name], [f"shape-{i}"]))
        graph.graph.output.append(helper.make_empty_tensor_value_info(f"shape-{i}"))
    session = start_session(graph, model.path)
    shapes = session.run(None, photo_feed(session, model, np.zeros((1, size, size, 3), np.uint8)))
    return {name: tuple(shape.tolist()) for name, shape in zip(names, shapes, strict=True)}


def _maps_text(shape: tuple[int, ...], layout: MapLayout) -> str:
    """Return the maps of a layer as text."""
    maps, class_token = (
        tuple(x.shape[1:]) for x in layout.split(np.broadcast_to(np.float32(0), shape))
    )
    text = " x ".join(map(str, maps))
    return text + (", class token" if class_token[0] else "")


def _other_sizes(model: OnnxModel, layer: str, size: int) -> str:
    """Return whether the graph takes another size than its publisher's, by a trial."""
    other = size + (model.patch_size or STEP)
    try:
        OnnxNetwork(model, layer).layout(other)
    except UsageError as error:
        return f"no: {error}"
    return f"yes, {other} pixels were tried"
