"""Tests of the network in 8 bits, with VGG16's real weights."""

import hashlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.config import cache_folder
from bilinear_cli.data.sample import draw_moth
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.features import int8, precision
from bilinear_cli.features.backbone import load_backbone
from bilinear_cli.features.graph import channels_of, compile_pooling
from bilinear_cli.features.network import load_network
from bilinear_cli.features.pooling import pool_function
from bilinear_cli.features.precision import check_int8, int8_sha256, int8_table
from bilinear_cli.features.settings import Settings
from bilinear_cli.features.views import views
from bilinear_cli.features.weights import Tensors, Weights


@pytest.fixture(scope="module")
def tensors(real_weights: Weights) -> Tensors:
    return real_weights.tensors


@pytest.fixture(scope="module")
def moths() -> np.ndarray:
    """Return four drawn moths, uint8 (4, 224, 224, 3)."""
    return np.stack([draw_moth(species, 0)[:224, :224] for species in range(4)])


def pattern(size: int, n: int = 1) -> np.ndarray:
    """Return photos whose pixels are the same everywhere: stripes and a ramp."""
    y, x = np.mgrid[:size, :size]
    channels = [(x * 5) % 256, (y * 3) % 256, (x * y) // size % 256]
    return np.stack([np.roll(np.stack(channels, -1), 7 * i, 0) for i in range(n)]).astype(np.uint8)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


# The network ------------------------------------------------------------------------------


def test_features_are_near_those_in_float32(tensors: Tensors, moths: np.ndarray) -> None:
    whole, rounded = (
        load_backbone(tensors, "vgg16", "block5_conv3", name)(tf.constant(moths))
        for name in ("float32", "int8")
    )
    for spec, least in (("bilinear", 0.99), ("max", 0.995), ("avg", 0.995)):
        rows = [pool_function(spec, {})(maps).numpy() for maps in (whole, rounded)]
        assert min(map(cosine, *rows)) > least
    assert not np.array_equal(whole, rounded)


@pytest.mark.parametrize("layer", ["block1_conv1", "block1_pool", "block3_conv2", "block5_pool"])
def test_every_layer_is_near_that_in_float32(tensors: Tensors, layer: str) -> None:
    whole, rounded = (
        load_backbone(tensors, "vgg16", layer, name)(tf.constant(pattern(64)))
        for name in ("float32", "int8")
    )
    assert whole.shape == rounded.shape
    assert cosine(whole.numpy(), rounded.numpy()) > 0.99


def test_a_layer_that_is_not_there_is_one_line(tensors: Tensors) -> None:
    with pytest.raises(UsageError, match="vgg16 has no layer 'block6_conv1'"):
        load_backbone(tensors, "vgg16", "block6_conv1", "int8")


def test_the_frame_of_the_first_convolution_is_the_mean_colour(tensors: Tensors) -> None:
    """As in float32; zeros of pixels there would be black, and far off."""
    mean = np.broadcast_to(np.array([124, 117, 104], np.uint8), (1, 32, 32, 3))
    whole, rounded = (
        load_backbone(tensors, "vgg16", "block1_conv1", name)(tf.constant(mean)).numpy()
        for name in ("float32", "int8")
    )
    assert np.abs(whole - rounded).max() < 2 * int8_table()["ranges"]["block1_conv1"] / 255


def test_maps_are_the_same_to_the_bit_whatever_the_batch(tensors: Tensors) -> None:
    forward = load_backbone(tensors, "vgg16", "block5_conv3", "int8")
    photos = pattern(64, 5)
    together = forward(tf.constant(photos)).numpy()
    assert len({maps.tobytes() for maps in together}) == 5
    for n in (1, 2):
        apart = [forward(tf.constant(photos[i : i + n])).numpy() for i in range(0, 5, n)]
        assert np.array_equal(np.concatenate(apart), together)


@pytest.mark.parametrize("size", [32, 50, 96])
def test_any_size_of_photo_goes_through(tensors: Tensors, size: int) -> None:
    forward = load_backbone(tensors, "vgg16", "block5_conv3", "int8")
    maps = tf.function(forward)(tf.constant(pattern(size)))
    assert maps.shape == (1, size // 16, size // 16, 512)
    assert maps.dtype == tf.float32
    assert channels_of(forward, size) == 512


def test_all_between_input_and_output_is_in_8_bits_and_kernels_by_channel(
    tensors: Tensors,
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    model = int8.build_int8(tensors, int8._layers("block2_conv1"), int8_table()["ranges"])
    network = Interpreter(model_content=model)
    kinds = [step["op_name"] for step in network._get_ops_details()]
    inner = ["CONV_2D", "CONV_2D", "MAX_POOL_2D", "CONV_2D"]
    assert kinds[:6] == ["QUANTIZE", *inner, "DEQUANTIZE"]
    found = network.get_tensor_details()
    kernels = [x for x in found if x["dtype"] is np.int8 and x["shape"][1:3].tolist() == [3, 3]]
    assert sorted(len(x["quantization_parameters"]["scales"]) for x in kernels) == [64, 64, 128]
    assert {x["dtype"] for x in found} == {np.uint8, np.float32, np.int8, np.int32}
    (photos,) = network.get_input_details()
    assert (photos["dtype"], photos["quantization"]) == (np.uint8, (1.0, 0))  # as they are


GOLDEN = "31caf8c2508fc1fb58aedcca3d7566061a120443a7c7a1f5e84a3c3a87428757"


def test_it_is_the_same_network_on_every_machine(tensors: Tensors) -> None:
    """If this fails with other versions or on another CPU, the maps are others: raise BUILDER."""
    maps = load_backbone(tensors, "vgg16", "block5_conv3", "int8")(tf.constant(pattern(96)))
    levels = np.rint(maps.numpy() * 255 / int8_table()["ranges"]["block5_conv3"]).astype(np.uint8)
    assert len(np.unique(levels)) > 50
    assert hashlib.sha256(levels.tobytes()).hexdigest() == GOLDEN


# The cache --------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vgg16-int8-block1_conv1.tflite"


def built(tensors: Tensors, caplog: pytest.LogCaptureFixture) -> bool:
    """Load the network, and say whether it was built anew."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    load_backbone(tensors, "vgg16", "block1_conv1", "int8")
    assert [*cache_folder().iterdir()] == [cache_folder() / "vgg16-int8-block1_conv1.tflite"]
    return "quantising VGG16, once" in caplog.text


def test_it_is_built_once_and_again_if_damaged_or_another(
    tensors: Tensors,
    cached: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert built(tensors, caplog)
    good = cached.read_bytes()
    assert not built(tensors, caplog)
    for bad in (good[:-1], good[:-5] + b"\0\1\2\3\4", b"", b"\xff", good[1:]):
        cached.write_bytes(bad)
        assert built(tensors, caplog)
        assert cached.read_bytes() == good
    monkeypatch.setattr(tf, "__version__", "1.0")
    assert built(tensors, caplog)
    table, before = int8_table(), {int8_sha256()}
    for name, value in (("weights_sha256", "0" * 64), ("ranges", table["ranges"] | {"x": 1.0})):
        changed = table | {name: value}
        monkeypatch.setattr(precision, "int8_table", lambda changed=changed: changed)
        assert int8_sha256() not in before
        before.add(int8_sha256())
        assert built(tensors, caplog)
    monkeypatch.setattr(precision, "BUILDER", 0)
    assert int8_sha256() not in before
    assert built(tensors, caplog)


def test_nothing_is_written_to_stderr(
    tensors: Tensors, cached: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forward = load_backbone(tensors, "vgg16", "block1_conv1", "int8")
    forward(tf.constant(pattern(40)))
    assert capfd.readouterr().err == ""


def test_building_it_does_not_have_all_logged_twice() -> None:
    build = (
        "import logging; from bilinear_cli.features.network import load_tensorflow\n"
        "load_tensorflow()\n"
        "from bilinear_cli.features import int8; from bilinear_cli.features.weights import *\n"
        "tensors, ranges = random_tensors(), int8.int8_table()['ranges']\n"
        "int8.build_int8(tensors, ['block1_conv1'], ranges)\n"
        "assert not logging.root.handlers, logging.root.handlers"
    )
    subprocess.run([sys.executable, "-c", build], check=True)


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    tensors: Tensors, cached: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached.parent.write_text("a file")
    forward = load_backbone(tensors, "vgg16", "block1_conv1", "int8")
    assert forward(tf.constant(pattern(40))).shape == (1, 40, 40, 64)
    assert re.search(rf"cannot write {cached}: .*: it will be quantised each time", caplog.text)


# What LiteRT says -------------------------------------------------------------------------


def test_a_network_that_it_does_not_take_is_one_line(
    tensors: Tensors, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "build_int8", lambda *_: b"TFL3 of another time")
    said = "^ai-edge-litert does not take the network: .*: pip install --upgrade"
    with pytest.raises(BilinearError, match=said):
        load_backbone(tensors, "vgg16", "block1_conv1", "int8")


def test_photos_that_it_has_no_memory_for_are_one_line(
    tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("XNNPack delegate failed to reshape runtime")

    forward = load_backbone(tensors, "vgg16", "block1_conv1", "int8")
    monkeypatch.setattr(int8, "_interpreter", fail)
    (view,) = views(("original",), 40)
    compute, _ = compile_pooling(forward, ("max",), 2, [view])
    with pytest.raises(BilinearError, match=r"not the memory for 2 photos .* --batch-size 1"):
        compute({40: pattern(40, 2)})


# Who gets it ------------------------------------------------------------------------------


def test_the_table_is_of_the_published_weights(real_weights: Weights) -> None:
    assert int8_table()["weights_sha256"] == real_weights.sha256
    assert {f"{name}/kernel" for name in int8_table()["ranges"]} <= real_weights.tensors.keys()
    check_int8("vgg16", real_weights.sha256, ["CPU"])


@pytest.mark.parametrize(
    ("backbone", "sha256", "devices", "said"),
    [
        ("resnet50", None, ["CPU"], "is for vgg16 alone, not for resnet50"),
        ("vgg16", "0" * 64, ["CPU"], "is for VGG16's published weights"),
        ("vgg16", None, ["A100", "A100"], "is for a CPU, not for A100, A100"),
    ],
)
def test_where_it_is_not_offered_the_line_says_what_is(
    backbone: str,
    sha256: str | None,
    devices: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = rf"^--precision int8 {said}.*: take bfloat16 or float32"
    with pytest.raises(UsageError, match=said):
        check_int8(backbone, sha256, devices)
    monkeypatch.setattr("bilinear_cli.features.backbone.use_devices", lambda: devices)
    sha256 = sha256 or int8_table()["weights_sha256"]
    settings = Settings(("max",), "block5_conv3", 32, "squash", "int8", 1, sha256, backbone)
    with pytest.raises(UsageError, match=said):
        load_network({}, settings)


def test_without_the_extra_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    with pytest.raises(BilinearError, match=r"not installed: pip install '\.\[int8\]'$"):
        check_int8("vgg16")
