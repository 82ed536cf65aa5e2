"""Tests of networks by name."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.errors import assert_suggests, raises

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.networks import applications, backbone
from bilinear_cli.networks.applications import NETWORKS, build, load_keras_weights, resolve_layer
from bilinear_cli.networks.backbone import load_backbone

pytestmark = pytest.mark.slow

PHOTOS = np.random.default_rng(1).integers(0, 256, (2, 80, 80, 3), np.uint8)
# One network of each module of keras.applications.
FAMILIES = {
    "convnexttiny": "convnext",
    "densenet121": "densenet",
    "efficientnetv2b0": "efficientnet_v2",
    "inceptionresnetv2": "inception_resnet_v2",
    "inceptionv3": "inception_v3",
    "mobilenet": "mobilenet",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3small": "mobilenet_v3",
    "resnet50": "resnet",
    "resnet50v2": "resnet_v2",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "xception": "xception",
}
# How often Keras may repeat their blocks. Those of efficientnet have a sum from the second on.
REPEATS = {
    "densenet121": 1,
    "efficientnetv2b0": 2,
    "inceptionresnetv2": 1,
    "inceptionv3": 1,
    "resnet50": 1,
    "xception": 1,
}


def tiny(weights: str | None = None, **_: object) -> keras.Model:
    """Build a network of four layers, two of which have no name of their own."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="maps")(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.ReLU()(x))


def range_of_at_most(n: int) -> Callable[..., range]:
    return lambda *ends: range(*ends)[:n]


@pytest.fixture(autouse=True, scope="module")
def _shallow() -> Iterator[None]:
    """Let Keras repeat blocks seldom, and add the tiny network to the known ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, most in REPEATS.items():
            module = inspect.getmodule(NETWORKS[name])
            patch.setattr(module, "range", range_of_at_most(most), raising=False)
        convnext = inspect.getmodule(NETWORKS["convnexttiny"])
        small = {"depths": [1, 2, 1, 1], "projection_dims": [8, 16, 24, 32]}
        patch.setitem(convnext.MODEL_CONFIGS, "tiny", convnext.MODEL_CONFIGS["tiny"] | small)
        patch.setitem(NETWORKS, "tiny", tiny)
        yield
    keras.utils.clear_session()


@pytest.fixture(autouse=True)
def _no_network_is_kept() -> Iterator[None]:
    """Clear the cache of networks before and after a test."""
    applications._original.cache_clear()
    yield
    applications._original.cache_clear()


@pytest.mark.parametrize(
    ("name", "near"), [("resnet5", "resnet50"), ("efficientnetb0", "efficientnetv2b0")]
)
def test_names_are_those_of_keras_in_lower_case(name: str, near: str) -> None:
    assert {"vgg16", "resnet50", "mobilenetv2", "convnexttiny", near} <= set(NETWORKS)
    for load in (build, lambda name: load_keras_weights(name, "auto")):
        with raises(UsageError, name) as caught:
            load(name)
        assert_suggests(str(caught.value), near, NETWORKS)


# Networks -----------------------------------------------------------------------------------


def test_every_module_of_keras_applications_has_a_family() -> None:
    modules = {network.__module__ for name, network in NETWORKS.items() if name != "tiny"}
    assert {module.rpartition(".")[2] for module in modules} == set(FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_layers_weights_and_maps_of_keras(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []
    monkeypatch.setattr(backbone, "build", lambda *x: networks.append(build(*x)) or networks[-1])
    # Keras numbers layers without a name of their own: these have the numbers of a new process.
    keras.utils.clear_session(free_memory=False)
    original = NETWORKS[name](include_top=False, weights=None, input_shape=(None, None, 3))
    monkeypatch.setattr(applications, "_original", lambda _: original)  # is built in seconds
    last = resolve_layer(name, None)
    tensors = {x.path: x.numpy() for x in original.weights}
    forward = load_backbone(tensors, name, last, "float32")

    (network,) = networks
    assert [x.name for x in network.layers[1:]] == [x.name for x in original.layers[1:]]
    assert [x.shape for x in network.weights] == [x.shape for x in original.weights]
    assert last == original.layers[-1].name
    preprocess = getattr(keras.applications, FAMILIES[name]).preprocess_input
    expected = original(preprocess(PHOTOS.astype(np.float32)), training=False).numpy()
    photos = PHOTOS.copy()
    maps = forward(tf.constant(photos)).numpy()
    assert expected.any()
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(photos, PHOTOS)


@pytest.mark.parametrize(
    ("precision", "policy"),
    [("float32", "float32"), ("bfloat16", "mixed_bfloat16"), ("float16", "mixed_float16")],
)
@pytest.mark.parametrize("name", ["tiny", "convnexttiny"])  # convnext nests its layers
def test_a_network_multiplies_in_the_precision(name: str, precision: str, policy: str) -> None:
    network = build(name, precision)
    layers = network._flatten_layers()
    leaves = [x for x in layers if not (x._layers or isinstance(x, keras.layers.InputLayer))]
    assert {layer.dtype_policy.name for layer in leaves} == {policy}
    assert keras.config.dtype_policy().name == "float32"
    assert {x.dtype for x in network.weights} == {"float32"}


@pytest.mark.parametrize(
    ("layer", "near"),
    [("block5", ("block5_conv1", "block5_conv2")), ("fc1", ("block5_conv3", "block5_pool"))],
)
def test_an_unknown_layer_suggests_known_ones(layer: str, near: tuple[str, ...]) -> None:
    with raises(UsageError, "vgg16", layer, *near):
        resolve_layer("vgg16", layer)


def test_a_layer_without_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.GlobalMaxPooling2D(name="flat")(inputs)
    monkeypatch.setattr(applications, "_original", lambda name: keras.Model(inputs, flat))
    with raises(UsageError, "flat", "tiny", "2", "--layer"):
        resolve_layer("tiny", "flat")


# Weights ------------------------------------------------------------------------------------


def test_random_weights_are_always_the_same() -> None:
    first, second = (load_keras_weights("tiny", "random") for _ in range(2))
    assert first.sha256 == second.sha256
    assert (first.differing, first.path) == ((), None)


def test_weights_are_read_from_a_file_of_keras(tmp_path: Path) -> None:
    network = build("tiny")
    path = tmp_path / "x.weights.h5"
    network.save_weights(path)
    weights = load_keras_weights("tiny", str(path))
    for read, written in zip(weights.tensors.values(), network.weights, strict=True):
        np.testing.assert_array_equal(read, written.numpy())
    assert weights.path == path
    assert weights.sha256 != load_keras_weights("tiny", "random").sha256


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras", "x.npz", None])
def test_a_file_without_weights_or_with_another_networks_is_refused(
    tmp_path: Path, name: str | None
) -> None:
    path = tmp_path / (name or "other.weights.h5")
    if name:
        path.write_text("no weights")
    else:
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]).save_weights(path)
    with raises(BilinearError, path, "tiny"):
        load_keras_weights("tiny", str(path))


def test_unknown_sources_of_weights_are_refused() -> None:
    with raises(BilinearError, "nowhere.h5", "auto", "keras"):
        load_keras_weights("tiny", "nowhere.h5")
    with raises(UsageError, "vgg16", "--weights PATH"):
        load_keras_weights("tiny", "pypi")


def test_keras_prints_the_progress_of_a_download_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(**_: object) -> keras.Model:
        warnings.warn("input_shape is undefined", stacklevel=1)
        print("Downloading data")
        return tiny()

    monkeypatch.setitem(NETWORKS, "tiny", fetch)
    with warnings.catch_warnings(action="error"):
        load_keras_weights("tiny", "keras")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("source", ["auto", "keras"])
def test_an_unreachable_host_is_one_line(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    address = "https://" + "x" * 200
    fetch = Mock(side_effect=Exception(f"URL fetch failure on {address}: None\n-- unknown"))
    monkeypatch.setitem(NETWORKS, "tiny", fetch)
    reason = f"URL fetch failure on {address}: None -- unknown"
    with raises(BilinearError, "Keras", "tiny", reason, "--weights PATH"):
        load_keras_weights("tiny", source)
    assert fetch.call_args.kwargs["weights"] == "imagenet"
