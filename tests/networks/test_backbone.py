"""Tests of the network: its precision, its input, the devices it runs on."""

import logging
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.networks import backbone
from bilinear_cli.networks.weights import Tensors, random_tensors

CPUINFO = """processor\t: 0
model name\t: A CPU with amx_bf16 in its name
flags\t\t: fpu sse avx2 {}
bugs\t\t: avx512_bf16
"""


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    tensors = random_tensors()
    rng = np.random.default_rng(0)
    for name in tensors:
        if name.endswith("bias"):
            tensors[name] = rng.standard_normal(tensors[name].shape).astype(np.float32)
    return tensors


def gpus(monkeypatch: pytest.MonkeyPatch, *details: dict[str, object]) -> None:
    """Let TensorFlow see GPUs with these details."""
    names = [f"GPU:{i}" for i in range(len(details))]
    table = dict(zip(names, details, strict=True))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: names * (kind == "GPU"))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", table.get)


# Precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("has_units", [True, False])
def test_an_explicit_precision_is_kept(
    monkeypatch: pytest.MonkeyPatch, precision: str, has_units: bool
) -> None:
    monkeypatch.setattr(backbone, "_has_bfloat16", lambda: has_units)
    assert backbone.resolve_precision(precision) == precision


@pytest.mark.parametrize(("has_units", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_device(
    monkeypatch: pytest.MonkeyPatch, has_units: bool, wanted: str
) -> None:
    monkeypatch.setattr(backbone, "_has_bfloat16", lambda: has_units)
    assert backbone.resolve_precision("auto") == wanted


@pytest.mark.parametrize("names", [[], ["A GPU"]])
def test_8_bits_are_named_only_where_they_are_offered(
    names: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gpus(monkeypatch, *({"device_name": name} for name in names))
    monkeypatch.setattr(backbone, "_has_bfloat16", lambda: False)
    backbone.resolve_precision("auto")
    assert ("--precision int8" in caplog.text) is (not names)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("avx512f avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
        ("avx512f avx512_fp16", False),
        ("avx512_bf16x", False),
        ("", False),
    ],
)
def test_a_cpu_is_known_by_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, wanted: bool
) -> None:
    gpus(monkeypatch)
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags))
    assert backbone._has_bfloat16(tmp_path / "cpuinfo") is wanted


def test_a_system_without_cpuinfo_has_no_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch)
    assert backbone._has_bfloat16(tmp_path / "cpuinfo") is False


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ([(7, 5)], False),
        ([(8, 0)], True),
        ([(8, 9), (9, 0)], True),
        ([(8, 0), (7, 5)], False),
        ([(12, 0)], True),
        ([None], False),
    ],
)
def test_a_gpu_is_known_by_its_compute_capability_whatever_the_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: list[tuple[int, int] | None],
    wanted: bool,
) -> None:
    gpus(monkeypatch, *({"compute_capability": c} if c else {} for c in capabilities))
    (tmp_path / "cpuinfo").write_text(CPUINFO.format("" if wanted else "avx512_bf16"))
    assert backbone._has_bfloat16(tmp_path / "cpuinfo") is wanted


# The network --------------------------------------------------------------------------------

PHOTOS = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_the_mean_colour_is_taken_off_as_keras_does(tensors: Tensors) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", "block1_conv1", "float32")
    bgr = keras.applications.vgg16.preprocess_input(PHOTOS.astype(np.float32))
    kernel, bias = tensors["block1_conv1/kernel"], tensors["block1_conv1/bias"]
    wanted = tf.nn.relu(tf.nn.conv2d(bgr, kernel, 1, "SAME") + bias)
    np.testing.assert_allclose(forward(tf.constant(PHOTOS)), wanted, rtol=1e-4, atol=1e-3)


def test_photos_are_not_written_to(tensors: Tensors) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", "block1_conv1", "float32")
    photos = PHOTOS.copy()
    forward(photos)
    assert (photos == PHOTOS).all()
    photos.setflags(write=False)
    forward(photos)


@pytest.mark.slow
def test_every_layer_has_its_own_weights(tensors: Tensors) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", "block5_pool", "float32")
    x = tf.constant(keras.applications.vgg16.preprocess_input(PHOTOS.astype(np.float32)))
    for name in [key.removesuffix("/kernel") for key in tensors if key.endswith("kernel")]:
        if name.endswith("conv1") and name != "block1_conv1":
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.nn.conv2d(x, tensors[f"{name}/kernel"], 1, "SAME")
        x = tf.nn.relu(x + tensors[f"{name}/bias"])
    wanted = tf.nn.max_pool2d(x, 2, 2, "VALID").numpy()
    assert wanted.max() > 1
    np.testing.assert_allclose(forward(tf.constant(PHOTOS)), wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("layer", "side"), [("block5_conv3", 4), ("block5_pool", 2)])
@pytest.mark.slow
def test_maps_are_float32_of_the_expected_shape(
    tensors: Tensors, layer: str, side: int, precision: str
) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", layer, precision)
    shapes = tf.function(forward).get_concrete_function(tf.TensorSpec((3, 64, 64, 3), tf.uint8))
    assert shapes.structured_outputs.shape == (3, side, side, 512)
    assert shapes.structured_outputs.dtype == tf.float32


def test_any_size_of_photo_goes_through_one_network(tensors: Tensors) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", "block5_conv3", "float32")
    for size in (32, 48):
        maps = forward(np.zeros((1, size, size, 3), np.uint8))
        assert maps.shape == (1, size // 16, size // 16, 512)


@pytest.mark.slow
def test_bfloat16_is_near_float32(tensors: Tensors) -> None:
    whole, rounded = (
        backbone.load_backbone(tensors, "vgg16", "block2_conv2", precision)(
            tf.constant(PHOTOS)
        ).numpy()
        for precision in ("float32", "bfloat16")
    )
    difference = np.linalg.norm(whole - rounded) / np.linalg.norm(whole)
    assert 1e-4 < difference < 0.02  # rounded indeed, and not more than that


# Devices and batches ------------------------------------------------------------------------


def test_each_gpus_memory_is_taken_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, {"device_name": "A100"}, {})
    grown: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *call: grown.append(call)
    )
    assert backbone.use_devices() == ["A100", "GPU"]
    assert grown == [("GPU:0", True), ("GPU:1", True)]


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    assert backbone.use_devices() == ["CPU"]


@pytest.mark.parametrize(
    ("free", "image_size", "wanted"),
    [
        *((10**11, 224, 16), (10**11, 448, 4), (10**11, 112, 64), (10**11, 32, 64)),
        *((10**11, 2000, 1), (10**9, 224, 14), (10**9, 448, 3), (10**8, 448, 1)),
    ],
)
def test_batches_fit_the_size_of_the_photos_and_the_memory_there_is(
    free: int, image_size: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "free_memory", lambda: free)
    assert backbone.resolve_batch_size(image_size) == wanted
