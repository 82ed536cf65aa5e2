"""Tests of the network: its precision, its input, its devices."""

import logging
import re
import sys
from pathlib import Path
from unittest.mock import Mock, call

import keras
import numpy as np
import pytest
import tensorflow as tf
from archspec.cpu import detect
from support.errors import assert_names

from bilinear_cli.networks import backbone
from bilinear_cli.networks.engines import MEASURED, measured_difference
from bilinear_cli.networks.network import import_tensorflow
from bilinear_cli.networks.weights import Tensors, random_tensors
from bilinear_cli.recipe import mixed_with

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
    table = {f"GPU:{i}": x for i, x in enumerate(details)}
    names = {"GPU": [*table]}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: names.get(kind, []))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", table.get)


def cpu(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: str | None) -> None:
    """Let archspec read the description of a CPU with these flags; None for no description."""
    if flags is not None:
        (folder / "cpuinfo").write_text(CPUINFO.format(flags))
    monkeypatch.setattr(detect, "open", lambda path: (folder / "cpuinfo").open(), raising=False)


# Precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "auto"])
@pytest.mark.parametrize(("has_units", "auto"), [(True, "bfloat16"), (False, "float32")])
def test_auto_depends_on_the_device_and_an_explicit_precision_is_kept(
    monkeypatch: pytest.MonkeyPatch, precision: str, has_units: bool, auto: str
) -> None:
    monkeypatch.setattr(backbone, "_has_bfloat16", lambda: has_units)
    assert backbone.resolve_precision(precision) == (auto if precision == "auto" else precision)


VGG16_ON_A_CPU = ("vgg16", "float32", [])
NOT_FOR_NCNN = [
    *(("vgg16", "bfloat16", []), ("vgg16", "float16", []), ("vgg16", "int8", [])),
    *(("resnet50", "float32", []), ("vgg16", "float32", ["A GPU"])),
]


@pytest.mark.parametrize("case", [VGG16_ON_A_CPU, *NOT_FOR_NCNN])
@pytest.mark.parametrize("engine", ["auto", "tensorflow", "ncnn"])
def test_auto_is_ncnn_only_where_it_serves_and_an_explicit_engine_is_kept(
    case: tuple[str, str, list[str]], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, precision, devices = case
    gpus(monkeypatch, *({"device_name": device} for device in devices))
    auto = "ncnn" if case == VGG16_ON_A_CPU else "tensorflow"
    expected = auto if engine == "auto" else engine
    assert backbone.resolve_engine(engine, name, precision) == expected


@pytest.mark.parametrize("case", [VGG16_ON_A_CPU, *NOT_FOR_NCNN])
def test_the_extra_of_ncnn_is_named_only_where_it_would_serve(
    case: tuple[str, str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, precision, devices = case
    caplog.set_level(logging.INFO)
    gpus(monkeypatch, *({"device_name": device} for device in devices))
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert backbone.resolve_engine("auto", name, precision) == "tensorflow"
    assert ("bilinear-cli[fast]" in caplog.text) is (case == VGG16_ON_A_CPU)
    caplog.clear()
    backbone.resolve_engine("tensorflow", name, precision)
    assert not caplog.text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx512f avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
        ("avx512f avx512_fp16", False),
        ("avx512_bf16x", False),
        ("", False),
        (None, False),  # a system without cpuinfo
    ],
)
def test_a_cpu_is_known_by_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, expected: bool
) -> None:
    gpus(monkeypatch)
    cpu(monkeypatch, tmp_path, flags)
    assert backbone._has_bfloat16() is expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        *(([(7, 5)], False), ([(8, 0), (7, 5)], False), ([None], False)),
        *(([(8, 0)], True), ([(8, 9), (9, 0)], True), ([(12, 0)], True)),
    ],
)
def test_a_gpu_is_known_by_its_compute_capability_whatever_the_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: list[tuple[int, int] | None],
    expected: bool,
) -> None:
    gpus(monkeypatch, *({"compute_capability": c} if c else {} for c in capabilities))
    cpu(monkeypatch, tmp_path, "" if expected else "avx512_bf16")
    assert backbone._has_bfloat16() is expected


FLOAT32 = {"precision": "float32"}
INT8 = {"precision": "int8", "int8_sha256": "a"}


@pytest.mark.parametrize(
    ("sources", "mixed"),
    [
        ([], ""),
        ([INT8], ""),
        ([INT8 | {"int8_sha256": "b"}], "int8"),
        ([INT8 | {"mixed_with": "float32"}], "float32"),
        ([INT8, FLOAT32 | {"mixed_with": "bfloat16 int8"}], "bfloat16 float32 int8"),
    ],
)
def test_a_file_names_the_other_precisions_of_its_rows(
    sources: list[dict[str, str]], mixed: str
) -> None:
    assert mixed_with(INT8, sources) == mixed


def test_a_difference_that_was_not_measured_has_no_numbers() -> None:
    line = measured_difference("float32", "float16", "bfloat16")
    assert_names(line, f"bfloat16 {MEASURED['bfloat16']}")
    rest = line.replace(f"bfloat16 {MEASURED['bfloat16']}", "")
    assert re.findall(r"\w*\d+", rest) == ["float16"]


# The network --------------------------------------------------------------------------------

PHOTOS = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_photos_are_not_written_to(tensors: Tensors) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", "block1_conv1", "float32")
    photos = PHOTOS.copy()
    forward(photos)
    assert (photos == PHOTOS).all()
    photos.setflags(write=False)
    forward(photos)


def test_every_layer_has_its_own_weights(tensors: Tensors) -> None:
    forward = backbone.load_backbone(tensors, "vgg16", "block5_pool", "float32")
    x = tf.constant(keras.applications.vgg16.preprocess_input(PHOTOS.astype(np.float32)))
    for name in [key.removesuffix("/kernel") for key in tensors if key.endswith("kernel")]:
        if name.endswith("conv1") and name != "block1_conv1":
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        x = tf.nn.conv2d(x, tensors[f"{name}/kernel"], 1, "SAME")
        x = tf.nn.relu(x + tensors[f"{name}/bias"])
    expected = tf.nn.max_pool2d(x, 2, 2, "VALID").numpy()
    assert expected.max() > 1
    np.testing.assert_allclose(forward(tf.constant(PHOTOS)), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_bfloat16_is_near_float32(tensors: Tensors) -> None:
    names, layer = ("float32", "bfloat16"), "block2_conv2"
    networks = [backbone.load_backbone(tensors, "vgg16", layer, name) for name in names]
    exact, rounded = (forward(tf.constant(PHOTOS)).numpy() for forward in networks)
    difference = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
    assert 1e-4 < difference < 0.02
    assert rounded.dtype == np.float32


# Devices and batches ------------------------------------------------------------------------


def test_each_gpus_memory_is_taken_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    assert backbone.configure_devices() == ["CPU"]
    gpus(monkeypatch, {"device_name": "A100"}, {})
    grow = Mock()
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    assert backbone.configure_devices() == ["A100", "GPU"]
    assert grow.mock_calls == [call("GPU:0", True), call("GPU:1", True)]


def test_tensorflow_takes_the_threads_of_this_process_unless_it_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = Mock(side_effect=[None, RuntimeError])
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", limit)
    monkeypatch.setattr(backbone, "n_cpus", lambda: 3)
    backbone.configure_devices()
    backbone.configure_devices()
    assert limit.mock_calls == [call(3), call(3)]


@pytest.mark.parametrize(
    ("free", "image_size", "expected"),
    [
        *((10**11, 224, 16), (10**11, 448, 4), (10**11, 112, 64), (10**11, 32, 64)),
        *((10**11, 2000, 1), (10**9, 224, 14), (10**9, 448, 3), (10**8, 448, 1)),
    ],
)
def test_the_batch_size_depends_on_image_size_and_free_memory(
    free: int, image_size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "free_memory", lambda: free)
    assert backbone.resolve_batch_size(image_size, 700 * image_size**2) == expected


def test_a_process_without_stderr_can_import_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    import_tensorflow()
