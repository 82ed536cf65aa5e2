"""Tests of VGG16 in float32 by ncnn: its maps are TensorFlow's but for rounding."""

import errno
import os
import sys
import tempfile
from functools import partial
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf
from support.errors import raises

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.graph import Forward, compile_pooling
from bilinear_cli.networks import winograd
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.engines import check_ncnn, ncnn_fault
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.vgg16 import graph_function, layers_up_to
from bilinear_cli.networks.weights import Tensors, Weights, random_tensors
from bilinear_cli.networks.winograd import build_winograd, run_winograd
from bilinear_cli.recipe import Recipe, View

LAYER = "block2_conv2"  # its 128 channels suffice for Winograd's algorithm
TOLERANCE = 1e-5  # of the largest number of a map


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """Return random tensors, also for the biases."""
    rng = np.random.default_rng(1)
    return {
        name: x if x.any() else rng.standard_normal(x.shape, np.float32)
        for name, x in random_tensors().items()
    }


@pytest.fixture(scope="module")
def forward(tensors: Tensors) -> Forward:
    return load_backbone(tensors, "vgg16", LAYER, "float32", "ncnn")


def make_pixels(n: int, height: int = 48, width: int = 40, seed: int = 0) -> np.ndarray:
    """Return random photos, uint8 (n, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def run(forward: Forward, photos: np.ndarray) -> np.ndarray:
    return forward(tf.constant(photos)).numpy()


def assert_near_tensorflow(tensors: Tensors, layer: str, photos: np.ndarray) -> None:
    expected, maps = (
        run(load_backbone(tensors, "vgg16", layer, "float32", engine), photos)
        for engine in ("tensorflow", "ncnn")
    )
    assert maps.dtype == np.float32
    assert maps.shape == expected.shape
    assert np.abs(maps - expected).max() <= TOLERANCE * expected.max()
    assert len(np.unique(maps)) > 100


# The maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "height", "width"),
    [("block1_conv1", 31, 31), ("block2_conv2", 101, 87), ("block2_pool", 33, 70)],
)
def test_maps_are_those_of_tensorflow_for_any_size(
    tensors: Tensors, layer: str, height: int, width: int
) -> None:
    assert_near_tensorflow(tensors, layer, make_pixels(2, height, width))


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("layer", ["block3_conv3", "block5_conv3", "block5_pool"])
def test_maps_of_the_published_weights_are_those_of_tensorflow(
    real_weights: Weights, layer: str
) -> None:
    assert_near_tensorflow(real_weights.tensors, layer, make_pixels(1, 101, 87))


def test_maps_do_not_depend_on_the_number_of_threads(
    tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = set()
    for n in (1, 2, 4):
        monkeypatch.setattr(winograd, "n_cpus", lambda n=n: n)
        network = build_winograd(tensors, layers_up_to("block3_conv1"))
        assert network.opt.num_threads == n
        maps.add(run_winograd(network, "block3_conv1", make_pixels(2)).tobytes())
    assert len(maps) == 1


def test_maps_do_not_depend_on_the_batch(forward: Forward) -> None:
    photos = make_pixels(3)
    together = run(forward, photos)
    assert len({maps.tobytes() for maps in together}) == 3
    for cuts in ([1, 2], [1], [2]):
        parts = [run(forward, part) for part in np.split(photos, cuts)]
        assert np.array_equal(np.concatenate(parts), together)


def test_maps_do_not_depend_on_what_was_computed_before(forward: Forward) -> None:
    """A matrix of ncnn that borrowed memory would change with it."""
    photos = make_pixels(2)
    first = run(forward, photos)
    kept = first.copy()
    for seed in range(1, 4):
        garbage = [np.full(x.shape, 255, x.dtype) for x in (photos[0], photos, first[0], first)]
        run(forward, make_pixels(2, seed=seed))
        run(forward, make_pixels(1, 50, 60, seed))
        assert np.array_equal(run(forward, photos), kept)
        del garbage
    assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, :, ::-1],
        lambda x: x[:, ::-1],
        lambda x: x[:, ::2, 1:],
        lambda x: x.transpose(0, 2, 1, 3),
    ],
    ids=["mirrored", "upside down", "cut", "transposed"],
)
def test_photos_may_be_views_of_other_arrays(tensors: Tensors, view: Any) -> None:
    network = build_winograd(tensors, ["block1_conv1"])
    photos = view(make_pixels(2))
    assert not photos.flags.c_contiguous
    maps = [run_winograd(network, "block1_conv1", x) for x in (photos, photos.copy("C"))]
    assert np.array_equal(*maps)


def test_nothing_is_computed_in_fewer_bits_or_on_a_gpu(tensors: Tensors) -> None:
    import ncnn

    def narrow(options: Any) -> dict[str, bool]:
        words = ("fp16", "bf16", "int8", "vulkan_compute")
        names = [name for name in dir(options) if any(word in name for word in words)]
        return {name: getattr(options, name) for name in names}

    assert any(narrow(ncnn.Net().opt).values())
    assert set(narrow(build_winograd(tensors, ["block1_conv1"]).opt).values()) == {False}


# Errors of ncnn ---------------------------------------------------------------------------


def test_an_unknown_layer_is_one_line() -> None:
    with raises(UsageError, "vgg16", "block6_conv1"):
        load_backbone({}, "vgg16", "block6_conv1", "float32", "ncnn")


def test_a_full_disk_is_one_line(tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(winograd, "_write_weights", Mock(side_effect=error))
    facts = (tempfile.gettempdir(), error.strerror, "--engine tensorflow")
    with raises(BilinearError, *facts):
        build_winograd(tensors, ["block1_conv1"])


@pytest.mark.parametrize("name", ["network_structure", "_write_weights"])
def test_a_network_that_ncnn_refuses_is_one_line(
    name: str, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_nothing(*arguments: Any) -> str:
        if name == "_write_weights":
            arguments[0].touch()
        return ""

    monkeypatch.setattr(winograd, name, write_nothing)
    with raises(BilinearError, "ncnn", "VGG16", "--engine tensorflow"):
        build_winograd(tensors, ["block1_conv1"])


def test_a_lack_of_memory_is_one_line() -> None:
    extractor = Mock(extract=Mock(return_value=(-100, None)))
    network = Mock(create_extractor=Mock(return_value=extractor))
    photos = make_pixels(2, 40, 40)
    with pytest.raises(MemoryError):
        run_winograd(network, LAYER, photos)
    forward = graph_function(partial(run_winograd, network, LAYER), LAYER)
    compute, _ = compile_pooling(forward, ("max",), 2, [View(40)])
    with raises(BilinearError, 2, "--batch-size 1"):
        compute({40: photos})


# Where ncnn works -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_vgg16_in_float32_on_a_cpu_is_served(precision: str) -> None:
    check_ncnn("vgg16", precision, ["CPU"])
    assert ncnn_fault() is None


@pytest.mark.parametrize(
    ("name", "precision", "devices", "fact"),
    [
        ("resnet50", "float32", ["CPU"], "resnet50"),
        ("vgg16", "bfloat16", ["CPU"], "bfloat16"),
        ("vgg16", "int8", ["CPU"], "int8"),
        ("vgg16", "float32", ["A100", "A100"], "A100, A100"),
    ],
)
def test_other_networks_precisions_and_devices_are_refused(
    name: str, precision: str, devices: list[str], fact: str
) -> None:
    with raises(UsageError, "--engine ncnn", "vgg16", "float32", "--engine tensorflow", fact):
        check_ncnn(name, precision, devices)


def test_a_gpu_that_is_found_later_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilinear_cli.networks.backbone.configure_devices", lambda: ["A100"])
    recipe = Recipe(("max",), LAYER, 32, "squash", "float32", 1, "0" * 64, engine="ncnn")
    with raises(UsageError, "--engine ncnn", "A100"):
        Network("vgg16", "random").load(recipe)


def test_a_missing_ncnn_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with raises(BilinearError, "ncnn", "missing", "bilinear-cli[fast]", "--engine tensorflow"):
        check_ncnn("vgg16", "float32")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libgomp.so.1: cannot open shared object file\nat all"),
        OSError(errno.ENOEXEC, "wrong architecture"),
    ],
)
def test_a_wheel_that_cannot_be_loaded_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str, *_: Any) -> None:
        if name == "ncnn":
            raise error

    monkeypatch.delitem(sys.modules, "ncnn", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Mock(find_spec=find_spec), *sys.meta_path])
    reason = str(error).splitlines()[0]
    with raises(
        BilinearError, "ncnn", reason, "--upgrade", "bilinear-cli[fast]", "--engine tensorflow"
    ):
        check_ncnn("vgg16", "float32")
