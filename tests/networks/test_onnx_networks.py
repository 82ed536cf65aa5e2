"""Tests of tiny networks from Transformers: the same pixels, maps and class tokens."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.onnx_networks import (
    CHANNELS,
    FOLDER,
    LAYER,
    NAMES,
    PHOTOS,
    PREPROCESSOR,
    SIZE,
    convolution,
    copy_network,
    load_network,
    make_graph,
    random_kernel,
    write_network,
)

from bilinear_cli.networks.network import Network
from bilinear_cli.networks.onnx import OnnxNetwork
from bilinear_cli.networks.onnx_graph import quantizes_dynamically
from bilinear_cli.networks.onnx_info import layers_with_maps
from bilinear_cli.networks.onnx_model import onnx_name, read_model
from bilinear_cli.photos.pixels.images import read_photo

# name -> tokens before those of the grid
N_BEFORE = {
    **{"clip": 1, "dinov2": 1, "dinov2-registers": 5, "dinov3": 5, "vit": 1},
    **{"siglip": 0, "swin": 0, "convnext": 0, "resnet": 0},
}
PIXEL_PHOTOS = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def read_photos(size: int, resize: str) -> np.ndarray:
    return np.stack([read_photo(path, [size], resize)[0] for path in PHOTOS])


# Against Transformers -----------------------------------------------------------------------


def test_all_networks_are_tested() -> None:
    assert sorted(N_BEFORE) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_the_image_processor(name: str) -> None:
    preprocessing = read_model(FOLDER / name).preprocessing
    expected = np.load(FOLDER / name / "expected.npz")["pixels"]
    pixels = read_photos(preprocessing.size, preprocessing.resize)
    assert pixels.shape == expected.shape
    if name == "dinov3":  # which resizes floating-point numbers, by PyTorch
        assert np.abs(pixels - expected).mean() < 0.5
    else:
        assert (pixels == expected).all()


@pytest.mark.parametrize("name", NAMES)
def test_maps_and_class_tokens_are_those_of_transformers(name: str) -> None:
    network = load_network(FOLDER / name)
    expected = np.load(FOLDER / name / "expected.npz")
    maps, class_token = network.maps(expected["pixels"])
    np.testing.assert_allclose(maps, expected["maps"], atol=1e-4)
    if "class_token" in expected:
        np.testing.assert_allclose(class_token, expected["class_token"], atol=1e-4)
    else:
        assert class_token.shape == (2, 0)
    assert network.layer == LAYER
    assert network.layout(expected["pixels"].shape[1])[1].n_before == N_BEFORE[name]


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "convnext", "swin", "resnet"])
def test_a_graph_of_any_size_has_larger_maps_of_larger_photos(name: str) -> None:
    network = load_network(FOLDER / name)
    size = network.model.preprocessing.size
    maps = [network.maps(np.zeros((1, n, n, 3), np.uint8))[0] for n in (size, 2 * size)]
    assert maps[1].shape[1:3] == tuple(2 * n for n in maps[0].shape[1:3])


# The small network --------------------------------------------------------------------------


def test_maps_are_a_convolution_of_the_normalized_pixels(tmp_path: Path) -> None:
    maps, _ = load_network(write_network(tmp_path)).maps(PIXEL_PHOTOS)
    x = (PIXEL_PHOTOS / 255 - 0.5) / 0.5
    patches = x.reshape(5, 4, 8, 4, 8, 3)
    expected = np.einsum("nyixjc,kcij->nyxk", patches, random_kernel())
    np.testing.assert_allclose(maps, expected, atol=1e-4)
    assert maps.min() < 0


def test_float16_photos_give_nearly_the_same_maps(tmp_path: Path) -> None:
    kernel = {"kernel": random_kernel().astype(np.float16)}
    half = make_graph(dtype=10, tensors=kernel)
    exact, rounded = (
        load_network(write_network(tmp_path / name, graph)).maps(PIXEL_PHOTOS)[0]
        for name, graph in {"float32": None, "float16": half}.items()
    )
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.02


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_fixed_batch_gives_the_same_maps(n: int, tmp_path: Path) -> None:
    graph = make_graph(inputs={"photos": (n, 3, SIZE, SIZE)})
    maps, _ = load_network(write_network(tmp_path / "fixed", graph)).maps(PIXEL_PHOTOS)
    expected, _ = load_network(write_network(tmp_path / "free")).maps(PIXEL_PHOTOS)
    assert maps.shape == (5, 4, 4, CHANNELS)
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, CHANNELS, 4, 4), (1, CHANNELS, 4, -1), (-1, CHANNELS, 4, 4)])
def test_a_graph_that_takes_one_photo_in_spite_of_its_free_batch_size_gives_the_same_maps(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    reshape = onnx.helper.make_node("Reshape", ["maps", "shape"], [LAYER])
    tensors = {"kernel": random_kernel(), "shape": np.array(shape)}
    graph = make_graph([convolution("maps"), reshape], tensors=tensors)
    network = load_network(write_network(tmp_path / "one", graph))
    assert network.measure_memory(SIZE) > 0
    expected, _ = load_network(write_network(tmp_path / "any")).maps(PIXEL_PHOTOS)
    np.testing.assert_allclose(network.maps(PIXEL_PHOTOS)[0], expected, atol=1e-5)


def test_quantized_rows_do_not_depend_on_the_photos_beside_them(tmp_path: Path) -> None:
    folder = copy_network("dinov2", tmp_path)
    quantized = folder / "onnx" / "model_quantized.onnx"
    network = load_network(quantized)
    expected = np.load(folder / "expected.npz")
    together = network.maps(expected["pixels"])
    alone = [network.maps(photo[None]) for photo in expected["pixels"]]
    for x, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert x.tobytes() == np.concatenate(parts).tobytes()
    assert 0.01 < np.abs(together[0] - expected["maps"]).max() < 1


def test_dynamic_quantisation_is_found_inside_a_function_of_the_model() -> None:
    for node, found in (("Identity", False), ("DynamicQuantizeLinear", True)):
        graph = make_graph()
        graph.functions.add().node.append(onnx.helper.make_node(node, ["x"], ["y"]))
        assert quantizes_dynamically(graph) == found


def test_the_memory_of_a_photo_is_at_least_its_pixels(tmp_path: Path) -> None:
    network = Network("small.onnx", str(write_network(tmp_path)))
    assert network.measure_memory(LAYER, 64) >= 64 * 64 * 3 * 4
    assert Network("vgg16", "random").measure_memory("block5_conv3", 64) is None


# Layers -------------------------------------------------------------------------------------


def test_layers_inside_the_graph_have_maps_and_attention_matrices_are_left_out() -> None:
    model = read_model(FOLDER / "vit")
    layers = layers_with_maps(model, 64)
    assert LAYER in layers
    assert len(layers) > 10
    for shape, layout in layers.values():
        assert len(shape) == 3 or layout.channels_first
        assert shape != (1, 2, 17, 17)
    for layer in [*layers][::10]:
        shape, layout = layers[layer]
        maps, _ = OnnxNetwork(model, layer).maps(np.zeros((2, 64, 64, 3), np.uint8))
        assert maps.shape == (2, *layout.split(np.zeros(shape))[0].shape[1:])


def test_the_only_output_with_maps_is_the_default_layer(tmp_path: Path) -> None:
    mean = onnx.helper.make_node("ReduceMean", ["maps"], ["pooled"], axes=[2, 3], keepdims=0)
    graph = make_graph([convolution("maps"), mean], outputs=("pooled", "maps"))
    assert load_network(write_network(tmp_path, graph)).layer == "maps"


# Names and files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "given", "name"),
    [
        (["birds/onnx/model.onnx"], "birds", "birds.onnx"),
        (["birds/onnx/model.onnx"], "birds/onnx/model.onnx", "birds.onnx"),
        (["birds/onnx/model.onnx", "birds/onnx/model_fp16.onnx"], "birds", "birds.onnx"),
        (["birds/onnx/vision_model.onnx", "birds/onnx/text_model.onnx"], "birds", "birds.onnx"),
        (["birds/model.onnx"], "birds", "birds.onnx"),
        (["birds/wren.onnx"], "birds", "wren.onnx"),
        (["birds/onnx/model_fp16.onnx"], "birds/onnx/model_fp16.onnx", "model_fp16.onnx"),
        (["models--me--birds/snapshots/1a2b/onnx/model.onnx"], None, "birds.onnx"),
    ],
)
def test_a_network_is_named_after_its_folder_or_its_file(
    files: list[str], given: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    assert onnx_name(Path(given or Path(files[0]).parents[1])) == name


def test_the_digest_depends_on_every_file(tmp_path: Path) -> None:
    folder = write_network(tmp_path)
    graph = folder / "onnx" / "model.onnx"
    options = {"save_as_external_data": True, "size_threshold": 0, "location": "weights.bin"}
    onnx.save_model(make_graph(), graph, **options)
    digests = {Network("small.onnx", str(folder)).sha256()}
    weights = graph.parent / "weights.bin"
    weights.write_bytes(bytes(1) + weights.read_bytes()[1:])
    digests.add(read_model(folder).sha256())
    write_network(folder, onnx.load_model(graph, load_external_data=False), {"hidden_size": 6})
    digests.add(read_model(folder).sha256())
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1))
    digests.add(read_model(folder).sha256())
    (folder / "config.json").unlink()
    digests.add(read_model(folder).sha256())
    assert len(digests) == 5


def test_external_weights_give_the_same_maps_also_behind_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_network(tmp_path / "models--me--birds" / "snapshots" / "1a2b")
    expected = load_network(folder).maps(PIXEL_PHOTOS)[0]
    graph = folder / "onnx" / "model.onnx"
    options = {"save_as_external_data": True, "size_threshold": 0, "location": "weights.bin"}
    onnx.save_model(make_graph(), graph, **options)
    for name in ("plain", "linked"):
        monkeypatch.chdir(folder.parent)
        network = load_network(Path(folder.name))
        assert network.maps(PIXEL_PHOTOS)[0].tobytes() == expected.tobytes()
        blobs = folder.parents[1] / "blobs"
        blobs.mkdir(exist_ok=True)
        for path in [graph, graph.parent / "weights.bin"]:  # as in Hugging Face's cache
            path.rename(blobs / f"{name}{path.name}")
            path.symlink_to(Path("../../../blobs", f"{name}{path.name}"))
