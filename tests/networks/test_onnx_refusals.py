"""Tests of ONNX networks that are refused: one line says which file, what, and what to do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.errors import raises
from support.onnx_networks import (
    CHANNELS,
    FOLDER,
    LAYER,
    PREPROCESSOR,
    SIZE,
    convolution,
    load_network,
    make_graph,
    random_kernel,
    write_network,
)

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.make_job import make_network, make_recipe
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.onnx import OnnxNetwork, default_layer
from bilinear_cli.networks.onnx_model import (
    find_graph,
    has_graph,
    is_onnx_path,
    onnx_name,
    read_model,
)

# Files and folders --------------------------------------------------------------------------

CONTENTS = {
    "text": b"This is not a network.\n" * 20,
    "empty": b"",
    "zeros": bytes(1000),
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "truncated": make_graph().SerializeToString()[:-2000],
    "cut in the head": make_graph().SerializeToString()[:20],
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_is_no_graph_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "birds.onnx"
    path.write_bytes(content)
    with raises(BilinearError, path):
        read_model(path)


@pytest.mark.parametrize("place", ["nowhere.onnx", "nowhere/model.onnx"])
def test_a_missing_file_is_named(place: str, tmp_path: Path) -> None:
    with raises(BilinearError, tmp_path / place):
        read_model(tmp_path / place)


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ([], ["onnx/model.onnx"]),
        (["a.txt"], ["onnx/model.onnx"]),
        (["a.onnx", "b.onnx"], ["a.onnx", "b.onnx"]),
        (["a.onnx", "onnx/b.onnx"], ["a.onnx", "b.onnx"]),
        (["onnx/model_fp16.onnx", "onnx/model_q4.onnx"], ["model_fp16.onnx", "model_q4.onnx"]),
    ],
)
def test_a_folder_must_have_one_graph(files: list[str], facts: list[str], tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with raises(UsageError, tmp_path, *facts):
        find_graph(tmp_path)


# Inputs -------------------------------------------------------------------------------------

PIXELS = ("batch", 3, "height", "width")
TEXT = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("batch", "length"))
NAFLEX = {"pixel_values": ("batch", "patches", 768), "spatial_shapes": ("batch", 2)}


@pytest.mark.parametrize(
    ("inputs", "facts"),
    [
        (TEXT, ["input_ids", "text"]),
        ({"input_ids": ("batch", "length")}, ["input_ids", "text"]),
        ({"input_ids": ("batch", "length"), "pixel_values": PIXELS}, ["vision_model.onnx"]),
        (NAFLEX, ["NaFlex", "pixel_values", 3]),
        ({"photos": PIXELS, "mask": ("batch",)}, ["mask", "photos"]),
        ({"photos": (1, 1, 28, 28)}, ["photos", 4]),
        ({"photos": ("batch", "height", "width", 4, 1)}, ["photos", 5]),
        ({"photos": ("batch", 224, 224, 3)}, ["photos"]),
        ({"photos": ()}, ["photos", 0]),
    ],
)
def test_a_graph_must_take_photos_alone(
    inputs: dict[str, tuple], facts: list[Any], tmp_path: Path
) -> None:
    folder = write_network(tmp_path, make_graph(inputs=inputs))
    with raises(UsageError, folder / "onnx" / "model.onnx", *facts):
        read_model(folder)


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.DOUBLE, TensorProto.INT64])
def test_photos_must_be_float(dtype: int, tmp_path: Path) -> None:
    with raises(UsageError, "photos", "float"):
        read_model(write_network(tmp_path, make_graph(dtype=dtype)))


def test_a_constant_that_is_declared_as_an_input_is_none(tmp_path: Path) -> None:
    graph = make_graph(inputs={"photos": PIXELS, "kernel": (CHANNELS, 3, 8, 8)})
    assert load_network(write_network(tmp_path, graph)).layer == LAYER


# Layers and sizes ---------------------------------------------------------------------------


def pooled_graph(*outputs: str) -> onnx.ModelProto:
    """Return a graph with `first` and `second`, which have maps, and with `pooled` and `text`."""
    mean = helper.make_node("ReduceMean", ["first"], ["pooled"], axes=[2, 3], keepdims=0)
    relu = helper.make_node("Relu", ["first"], ["second"])
    text = helper.make_node("Constant", [], ["text"], value_string="a")
    graph = make_graph([convolution("first"), relu, mean, text], outputs=outputs)
    for output in graph.graph.output:
        is_text = output.name == "text"
        output.type.tensor_type.elem_type = TensorProto.STRING if is_text else TensorProto.FLOAT
    return graph


@pytest.mark.parametrize(
    ("outputs", "facts"),
    [
        (["pooled"], ["pooled (1, 6)"]),
        (["pooled", "text"], ["pooled (1, 6)", "text tensor(string)"]),
        (["first", "second"], ["first (1, 6, 4, 4)", "second (1, 6, 4, 4)"]),
    ],
)
def test_without_a_default_layer_all_outputs_are_named(
    outputs: list[str], facts: list[str], tmp_path: Path
) -> None:
    folder = write_network(tmp_path, pooled_graph(*outputs))
    with raises(UsageError, folder, *facts, "--layer", "bilinear info"):
        default_layer(read_model(folder), SIZE)


def test_of_several_outputs_with_maps_the_last_hidden_state_is_the_default(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", [LAYER], ["second"])
    graph = make_graph([convolution(), relu], outputs=("second", LAYER))
    assert load_network(write_network(tmp_path, graph)).layer == LAYER


def test_an_unknown_layer_is_one_line_with_similar_names(tmp_path: Path) -> None:
    model = read_model(write_network(tmp_path, pooled_graph("pooled", "first")))
    with raises(UsageError, model.path, "'pool'", "pooled"):
        OnnxNetwork(model, "pool")
    with raises(UsageError, model.path, "'q'", "pooled", "first"):
        OnnxNetwork(model, "q")


def test_a_layer_without_maps_is_refused_with_its_shape(tmp_path: Path) -> None:
    model = read_model(write_network(tmp_path, pooled_graph("first")))
    with raises(UsageError, model.path, "pooled", "(1, 6)", "--layer", "bilinear info"):
        OnnxNetwork(model, "pooled").layout(SIZE)


@pytest.mark.parametrize(
    ("name", "size", "advice"),
    [
        ("dinov2", 60, "--image-size 56"),
        ("dinov2", 81, "--image-size 84"),
        ("dinov3", 90, "--image-size 96"),
        ("clip", 4, "--image-size 8"),
    ],
)
def test_a_size_between_the_multiples_of_the_patch_is_refused(
    name: str, size: int, advice: str
) -> None:
    with raises(UsageError, FOLDER / name, advice, size):
        load_network(FOLDER / name, size)


@pytest.mark.parametrize(("name", "size", "preferred"), [("vit", 96, 64), ("siglip", 84, 60)])
def test_a_size_that_the_graph_cannot_take_is_refused_with_the_publishers(
    name: str, size: int, preferred: int
) -> None:
    with raises(UsageError, FOLDER / name, size, f"--image-size {preferred}"):
        load_network(FOLDER / name, size)


def test_the_publishers_size_may_be_no_multiple_of_the_patch() -> None:
    assert load_network(FOLDER / "siglip", 60).layout(60)[0] == (1, 16, 16)


def test_a_fixed_size_is_named(tmp_path: Path) -> None:
    folder = write_network(tmp_path, make_graph(inputs={"photos": (1, 3, 40, 40)}))
    with raises(UsageError, folder, "--image-size 40", 40):
        load_network(folder)
    assert load_network(folder, 40).layout(40)[0] == (1, CHANNELS, 5, 5)


# Operators ----------------------------------------------------------------------------------


def custom_graph() -> onnx.ModelProto:
    graph = make_graph([convolution(domain="evil.example")])
    graph.opset_import.append(helper.make_opsetid("evil.example", 1))
    return graph


def with_branch(node: onnx.NodeProto) -> onnx.ModelProto:
    """Return a graph with this node in a branch."""
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    inner = helper.make_graph([node], "branch", [], [output])
    branch = helper.make_node("If", ["flag"], ["x"], then_branch=inner, else_branch=inner)
    tensors = {"flag": np.array(True), "kernel": random_kernel()}
    return make_graph([convolution(), branch], tensors=tensors)


def custom_branch() -> onnx.ModelProto:
    graph = with_branch(convolution("inner", domain="evil.example"))
    graph.opset_import.append(helper.make_opsetid("evil.example", 1))
    return graph


def function_graph(domain: str = "") -> onnx.ModelProto:
    """Return a graph whose convolution is in a function, with an operator of this domain."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    node = convolution(domain=domain)
    function = helper.make_function("local", "F", ["photos", "kernel"], [LAYER], [node], imports)
    call = helper.make_node("F", ["photos", "kernel"], [LAYER], domain="local")
    graph = make_graph([call], functions=[function])
    graph.opset_import.append(helper.make_opsetid("local", 1))
    return graph


@pytest.mark.parametrize(
    "make", [custom_graph, custom_branch, lambda: function_graph("evil.example")]
)
def test_custom_operators_are_refused_before_the_graph_is_loaded(
    make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    folder = write_network(tmp_path, make())
    with raises(BilinearError, folder, "evil.example", "Export"):
        read_model(folder)


def test_functions_of_standard_operators_are_run(tmp_path: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    maps = [
        load_network(write_network(tmp_path / name, graph)).maps(photos)[0]
        for name, graph in {"function": function_graph(), "plain": make_graph()}.items()
    ]
    np.testing.assert_allclose(*maps, atol=1e-5)


def node(operator: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [*inputs], [LAYER], **attributes)


REFUSED = {
    "operator": (make_graph([node("Convolve", "photos", "kernel")]), BilinearError),
    "opset": (make_graph(opset=99), BilinearError),
    "input": (make_graph([node("Conv", "photos", "nothing")]), BilinearError),
    "attribute": (make_graph([node("Conv", "photos", "kernel", group=2)]), UsageError),
}


@pytest.mark.parametrize(("graph", "error"), REFUSED.values(), ids=REFUSED)
def test_a_graph_that_the_runtime_refuses_is_one_line(
    graph: onnx.ModelProto, error: type[BilinearError], tmp_path: Path
) -> None:
    folder = write_network(tmp_path, graph)
    with raises(error, folder, "ONNX Runtime") as caught:
        load_network(folder)
    assert len(str(caught.value)) < 1000


def test_a_text_as_the_layer_is_one_line(tmp_path: Path) -> None:
    model = read_model(write_network(tmp_path, pooled_graph("first", "text")))
    assert default_layer(model, SIZE) == "first"
    with raises(UsageError, model.path, SIZE):
        OnnxNetwork(model, "text").layout(SIZE)


def test_a_number_has_no_maps(tmp_path: Path) -> None:
    scale = helper.make_node("Constant", [], ["logit_scale"], value_float=1.0)
    graph = make_graph([scale, convolution()], outputs=("logit_scale", LAYER))
    assert load_network(write_network(tmp_path, graph)).layer == LAYER


# Weights outside the file -------------------------------------------------------------------


def external(location: str, dims: tuple[int, ...] = (CHANNELS, 3, 8, 8)) -> TensorProto:
    tensor = TensorProto(name="kernel", dims=dims, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_a_node(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["kernel"], value=tensor)


def as_initializer(tensor: TensorProto) -> onnx.ModelProto:
    graph = make_graph(tensors={})
    graph.graph.initializer.append(tensor)
    return graph


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    graph = function_graph()
    del graph.functions[0].input[1]
    del graph.graph.node[0].input[1]
    graph.functions[0].node.insert(0, in_a_node(tensor))
    return graph


EXTERNAL = {
    "initializer": as_initializer,
    "node": lambda tensor: make_graph([in_a_node(tensor), convolution()], tensors={}),
    "branch": lambda tensor: with_branch(in_a_node(tensor)),
    "function": in_a_function,
}


@pytest.mark.parametrize("make", EXTERNAL.values(), ids=EXTERNAL)
@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../config.json", "a/../../config.json", "weights.bin"]
)
def test_weights_that_are_outside_or_missing_are_refused(
    make: Callable[[TensorProto], onnx.ModelProto], location: str, tmp_path: Path
) -> None:
    folder = write_network(tmp_path, make(external(location)))
    with raises(BilinearError, folder / "onnx" / "model.onnx", location):
        read_model(folder)


def test_weights_that_are_too_short_are_one_line(tmp_path: Path) -> None:
    folder = write_network(tmp_path, as_initializer(external("weights.bin")))
    (folder / "onnx" / "weights.bin").write_bytes(bytes(10))
    with raises(BilinearError, folder, "ONNX Runtime"):
        load_network(folder)


# Absurd sizes -------------------------------------------------------------------------------


def huge_constant() -> onnx.ModelProto:
    fill = helper.make_node("ConstantOfShape", ["shape"], ["huge"])
    shape = {"shape": np.array([1 << 20, 1 << 20, 3, 8])}
    return make_graph([fill, node("Conv", "photos", "huge")], tensors=shape)


def without_data(n: int) -> TensorProto:
    return TensorProto(name="kernel", dims=(n, 3, 8, 8), data_type=TensorProto.FLOAT)


ABSURD = {
    "weights without data": (as_initializer(without_data(10**12)), BilinearError),
    "weights": (as_initializer(external("model.onnx", (10**12, 3, 8, 8))), BilinearError),
    "negative": (as_initializer(without_data(-1)), BilinearError),
    "a constant": (huge_constant(), UsageError),
}


@pytest.mark.parametrize(("graph", "error"), ABSURD.values(), ids=ABSURD)
def test_absurd_sizes_are_one_line(
    graph: onnx.ModelProto, error: type[BilinearError], tmp_path: Path
) -> None:
    folder = write_network(tmp_path, graph)
    with raises(error, folder) as caught:
        load_network(folder)
    assert len(str(caught.value)) < 1000


# Options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "use"),
    [("onnx", read_model), ("onnxruntime", load_network)],
)
def test_a_missing_library_is_named_with_its_extra(
    module: str,
    use: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_network(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with raises(BilinearError, f"need {module}.", "bilinear-cli[onnxruntime]"):
        use(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bfloat16"},
        {"precision": "int8"},
        {"engine": "ncnn"},
        {"engine": "tensorflow"},
        {"weights": "random"},
        {"weights": "vgg16.npz"},
    ],
)
def test_options_that_the_file_decides_are_refused(options: dict[str, str], tmp_path: Path) -> None:
    folder = write_network(tmp_path)
    ((name, value),) = options.items()
    with raises(UsageError, folder, f"--{name} {value}"):
        make_network(ExtractOptions(backbone=str(folder), **options))
    fine = ExtractOptions(backbone=str(folder), precision="float32")
    assert make_network(fine) == Network(f"{folder.name}.onnx", str(folder))


def test_the_resize_of_a_publisher_is_for_onnx_only(tmp_path: Path) -> None:
    with raises(UsageError, "--resize processor", "squash", "crop", "pad"):
        make_network(ExtractOptions(resize="processor"))
    options = ExtractOptions(backbone=str(write_network(tmp_path)))
    resizes = {
        resize: make_recipe(
            ExtractOptions(backbone=options.backbone, resize=resize), make_network(options)
        ).resize
        for resize in (None, "processor", "squash", "crop", "pad")
    }
    processor = "processor: both 32, crop 32, bilinear"
    kept = {resize: resize for resize in ("squash", "crop", "pad")}
    assert resizes == {None: processor, "processor": processor, **kept}


def test_the_recipe_has_the_publishers_size_unless_another_is_given(tmp_path: Path) -> None:
    for sizes, expected in {(): SIZE, (64,): 64, (64, 32): 64}.items():
        options = ExtractOptions(backbone=str(write_network(tmp_path)), scales=sizes or None)
        recipe = make_recipe(options, make_network(options))
        assert (recipe.image_size, recipe.layer) == (expected, LAYER)
        assert (recipe.engine, recipe.precision) == ("onnxruntime", "float32")
    assert recipe.views == ("original", "32")


def test_a_folder_with_the_name_of_a_network_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vgg16/wren").mkdir(parents=True)
    write_network(tmp_path / "resnet50")
    for name in ("vgg16", "resnet50"):
        assert not is_onnx_path(name)
        assert make_network(ExtractOptions(backbone=name)) == Network(name, "auto")
    with raises(UsageError, Path("vgg16", "wren")):
        make_network(ExtractOptions(backbone="vgg16/wren"))
    assert make_network(ExtractOptions(backbone="./resnet50")).backbone == "resnet50.onnx"
    monkeypatch.chdir("resnet50")
    assert onnx_name(Path("../resnet50/../resnet50")) == "resnet50.onnx"


def test_a_folder_of_feature_files_is_no_network(tmp_path: Path) -> None:
    folder = write_network(tmp_path / "birds")
    assert has_graph(folder)
    (folder / "x.h5").touch()
    assert not has_graph(folder)


@pytest.mark.parametrize("given", ["./lite9", "photos", "lite0/config.json"])
def test_a_path_without_a_graph_is_no_name_of_keras(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("lite0").mkdir()
    Path("lite0/config.json").write_text("{}")
    with pytest.raises(BilinearError) as caught:
        make_network(ExtractOptions(backbone=given)).sha256()
    assert Path(given).name in str(caught.value)
    assert "resnet50" not in str(caught.value)


@pytest.mark.parametrize("given", ["birds", "./birds", "birds/onnx/model.onnx"])
def test_a_relative_path_is_recorded_as_an_absolute_one(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_network(tmp_path / "birds").parent)
    network = make_network(ExtractOptions(backbone=given))
    monkeypatch.chdir("/")
    assert network.sha256() == read_model(tmp_path / "birds").sha256()
    assert network.backbone == "birds.onnx"
    assert network.image_size == PREPROCESSOR["size"]["width"]
