"""Tests of VGG16 in 8 bits."""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock, Mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.errors import assert_names, raises, warnings

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.graph import Forward, compile_pooling, count_channels
from bilinear_cli.home import cache_folder
from bilinear_cli.networks import engines, int8
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.engines import check_int8, int8_sha256, int8_table
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.vgg16 import layers_up_to
from bilinear_cli.networks.weights import Tensors, Weights
from bilinear_cli.photos.sample import draw_moth
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.recipe import Recipe, View

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tensors(real_weights: Weights) -> Tensors:
    return real_weights.tensors


@pytest.fixture(scope="module")
def forward(tensors: Tensors, int8_network: Path) -> Iterator[Forward]:
    """Return the network up to conv5."""
    shutil.copy(int8_network, cache_folder())
    yield load_backbone(tensors, "vgg16", "block5_conv3", "int8")
    int8._interpreter.cache_clear()


def load_first() -> Forward:
    """Load VGG16 up to its first convolution, with random tensors."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 64)).astype(np.float32)
    tensors = {"block1_conv1/kernel": kernel, "block1_conv1/bias": np.zeros(64, np.float32)}
    return load_backbone(tensors, "vgg16", "block1_conv1", "int8")


def pattern(size: int, n: int = 1) -> np.ndarray:
    """Return photos of stripes and a ramp, whose pixels are the same on every machine."""
    y, x = np.mgrid[:size, :size]
    channels = [(x * 5) % 256, (y * 3) % 256, (x * y) // size % 256]
    return np.stack([np.roll(np.stack(channels, -1), 7 * i, 0) for i in range(n)]).astype(np.uint8)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def in_float_and_int8(tensors: Tensors, layer: str, photos: np.ndarray) -> list[np.ndarray]:
    forwards = [load_backbone(tensors, "vgg16", layer, name) for name in ("float32", "int8")]
    return [forward(tf.constant(photos)).numpy() for forward in forwards]


# The network ------------------------------------------------------------------------------


@pytest.mark.weights
def test_features_are_near_those_in_float32(tensors: Tensors, forward: Forward) -> None:
    moths = tf.constant(np.stack([draw_moth(species, 0)[48:160, 48:160] for species in range(3)]))
    in_float = load_backbone(tensors, "vgg16", "block5_conv3", "float32")(moths)
    in_int8 = forward(moths)
    for spec, least in (("bilinear", 0.99), ("max", 0.995), ("avg", 0.995)):
        rows = [pool_function(spec, {})(maps).numpy() for maps in (in_float, in_int8)]
        assert min(map(cosine, *rows)) > least
    assert not np.array_equal(in_float, in_int8)


@pytest.mark.weights
@pytest.mark.parametrize("layer", ["block1_conv1", "block1_pool", "block3_conv2"])
def test_a_layer_is_near_that_in_float32(tensors: Tensors, layer: str) -> None:
    in_float, in_int8 = in_float_and_int8(tensors, layer, pattern(64))
    assert in_float.shape == in_int8.shape
    assert cosine(in_float, in_int8) > 0.99


def test_the_network_ends_with_any_layer_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_load_or_build", lambda *_: b"")
    monkeypatch.setattr(int8, "_interpreter", lambda *_: None)
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(64, 64, 3))
    layers = network.layers[1:]
    assert layers[-1].name == "block5_pool"
    for i, layer in enumerate(layers, 1):
        assert layers_up_to(layer.name) == [x.name for x in layers[:i]]
        forward = tf.function(load_backbone({}, "vgg16", layer.name, "int8"))
        graph = forward.get_concrete_function(tf.TensorSpec((2, 64, 64, 3), tf.uint8))
        assert graph.structured_outputs.shape == (2, *layer.output.shape[1:])


def test_an_unknown_layer_is_one_line() -> None:
    with raises(UsageError, "vgg16", "block6_conv1"):
        load_backbone({}, "vgg16", "block6_conv1", "int8")


@pytest.mark.weights
def test_the_first_convolution_pads_with_the_mean_colour(tensors: Tensors) -> None:
    """As in float32. Pixels of zero would be black, far from the mean."""
    mean = np.broadcast_to(np.array([124, 117, 104], np.uint8), (1, 32, 32, 3))
    in_float, in_int8 = in_float_and_int8(tensors, "block1_conv1", mean)
    assert np.abs(in_float - in_int8).max() < 2 * int8_table()["ranges"]["block1_conv1"] / 255


@pytest.mark.weights
def test_maps_do_not_depend_on_the_batch(forward: Forward) -> None:
    photos = pattern(48, 3)
    together = forward(tf.constant(photos)).numpy()
    assert len({maps.tobytes() for maps in together}) == 3
    for n in (1, 2):
        apart = [forward(tf.constant(photos[i : i + n])).numpy() for i in range(0, 3, n)]
        assert np.array_equal(np.concatenate(apart), together)


@pytest.mark.weights
@pytest.mark.parametrize("size", [32, 50, 96])
def test_photos_may_have_any_size(forward: Forward, size: int) -> None:
    maps = tf.function(forward)(tf.constant(pattern(size)))
    assert maps.shape == (1, size // 16, size // 16, 512)
    assert maps.dtype == tf.float32
    assert count_channels(forward, size) == 512


@pytest.mark.weights
def test_all_between_input_and_output_is_in_8_bits_and_kernels_by_channel(tensors: Tensors) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = int8.build_int8(tensors, layers_up_to("block2_conv1"), int8_table()["ranges"])
    network = Interpreter(model_content=model)
    kinds = [step["op_name"] for step in network._get_ops_details()]
    inner = ["CONV_2D", "CONV_2D", "MAX_POOL_2D", "CONV_2D"]
    assert kinds[:6] == ["QUANTIZE", *inner, "DEQUANTIZE"]
    details = network.get_tensor_details()
    kernels = [x for x in details if x["dtype"] is np.int8 and x["shape"][1:3].tolist() == [3, 3]]
    assert sorted(len(x["quantization_parameters"]["scales"]) for x in kernels) == [64, 64, 128]
    assert {x["dtype"] for x in details} == {np.uint8, np.float32, np.int8, np.int32}
    (photos,) = network.get_input_details()
    assert (photos["dtype"], photos["quantization"]) == (np.uint8, (1.0, 0))  # as they are


GOLDEN = "31caf8c2508fc1fb58aedcca3d7566061a120443a7c7a1f5e84a3c3a87428757"


@pytest.mark.weights
def test_it_is_the_same_network_on_every_machine(forward: Forward) -> None:
    """If this fails elsewhere, the maps have changed: raise INT8_NETWORK_VERSION."""
    maps = forward(tf.constant(pattern(96)))
    levels = np.rint(maps.numpy() * 255 / int8_table()["ranges"]["block5_conv3"]).astype(np.uint8)
    assert len(np.unique(levels)) > 50
    assert hashlib.sha256(levels.tobytes()).hexdigest() == GOLDEN


# The cache --------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the cached first convolution, which does not exist yet."""
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vgg16-int8-block1_conv1.tflite"


def test_it_is_built_once_and_again_if_damaged_or_outdated(
    cached: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, int8.__name__)
    calls = []
    build = int8.build_int8
    monkeypatch.setattr(int8, "build_int8", lambda *x: calls.append(x) or build(*x))

    def is_built() -> bool:
        calls.clear()
        caplog.clear()
        load_first()
        assert [*cache_folder().iterdir()] == [cached]
        lines = [x for x in caplog.records if x.name == int8.__name__]
        assert [x.levelno for x in lines] == [logging.INFO] * len(calls)
        assert all(str(cached) in x.getMessage() for x in lines)
        return len(calls) == 1

    assert is_built()
    good = cached.read_bytes()
    assert not is_built()
    for bad in (good[:-1], good[:-5] + b"\0\1\2\3\4", b"", b"\xff", good[1:]):
        cached.write_bytes(bad)
        assert is_built()
        assert cached.read_bytes() == good
    monkeypatch.setattr(tf, "__version__", "1.0")
    assert is_built()
    table, digests = int8_table(), {int8_sha256()}
    others = {"weights_sha256": "0" * 64}, {"ranges": table["ranges"] | {"x": 1.0}}
    tables = [("int8_table", Mock(return_value=table | other)) for other in others]
    for name, value in [*tables, ("INT8_NETWORK_VERSION", 0)]:
        monkeypatch.setattr(engines, name, value)
        assert int8_sha256() not in digests
        digests.add(int8_sha256())
        assert is_built()


def test_it_writes_nothing_to_stderr_and_logs_nothing_twice(
    cached: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a new process
    load_first()(tf.constant(pattern(40)))
    assert cached.exists()
    assert logging.root.handlers == []
    assert capfd.readouterr().err == ""


def test_an_unwritable_cache_is_a_warning(cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached.mkdir(parents=True)  # a folder in the place of the file
    assert load_first()(tf.constant(pattern(40))).shape == (1, 40, 40, 64)
    assert_names(*warnings(caplog), cached)


# Errors of LiteRT -------------------------------------------------------------------------


@pytest.mark.usefixtures("cached")
def test_a_network_that_litert_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "build_int8", lambda *_: b"TFL3 of another time")
    facts = ("ai-edge-litert", "pip install --upgrade 'bilinear-cli[int8]'", "bfloat16", "float32")
    with raises(BilinearError, *facts):
        load_first()


@pytest.mark.usefixtures("cached")
def test_a_lack_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = RuntimeError("XNNPack delegate failed to reshape runtime")
    compute, _ = compile_pooling(load_first(), ("max",), 2, [View(40)])
    monkeypatch.setattr(int8, "_interpreter", Mock(side_effect=fault))
    with raises(BilinearError, 2, "--batch-size 1"):
        compute({40: pattern(40, 2)})


@pytest.mark.usefixtures("cached")
def test_litert_takes_the_threads_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = MagicMock()
    monkeypatch.setattr("ai_edge_litert.interpreter.Interpreter", interpreter)
    monkeypatch.setattr(int8, "n_cpus", lambda: 3)
    int8._interpreter.__wrapped__(b"model", (1, 34, 34, 3))
    assert interpreter.call_args.kwargs["num_threads"] == 3


# Where int8 works ------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_table_is_of_the_published_weights(real_weights: Weights) -> None:
    assert int8_table()["weights_sha256"] == real_weights.sha256
    assert {f"{name}/kernel" for name in int8_table()["ranges"]} <= real_weights.tensors.keys()
    check_int8("vgg16", real_weights.sha256, ["CPU"])


@pytest.mark.parametrize(
    ("name", "sha256", "devices", "facts"),
    [
        ("resnet50", None, ["CPU"], ("vgg16", "resnet50")),
        ("vgg16", "0" * 64, ["CPU"], ("VGG16", "weights")),
        ("vgg16", None, ["A100", "A100"], ("CPU", "A100, A100")),
    ],
)
def test_other_networks_weights_and_devices_are_refused(
    name: str,
    sha256: str | None,
    devices: list[str],
    facts: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = ("--precision", "int8", "bfloat16", "float32", *facts)
    with raises(UsageError, *facts):
        check_int8(name, sha256, devices)
    monkeypatch.setattr("bilinear_cli.networks.backbone.configure_devices", lambda: devices)
    sha256 = sha256 or int8_table()["weights_sha256"]
    recipe = Recipe(("max",), "block5_conv3", 32, "squash", "int8", 1, sha256, name)
    with raises(UsageError, *facts):
        Network(name, "random").load(recipe)
