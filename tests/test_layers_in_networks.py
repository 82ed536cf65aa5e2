"""Tests of the layer within networks: any size of maps, training, files."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.network import relu_maps

from bilinear_cli.layers import BilinearPooling
from bilinear_cli.layers.bilinear import OUTPUTS, methods

METHODS = methods()


def network(shape: tuple[int | None, ...], *arguments: Any, **options: Any) -> keras.Model:
    """Return the layer between an input and a softmax of three classes."""
    head = keras.layers.Dense(3, activation="softmax", dtype="float32")
    return keras.Sequential([keras.Input(shape), BilinearPooling(*arguments, **options), head])


@pytest.mark.parametrize("channels", [None, 4])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_height_and_width_may_be_unknown(method: str, output: str, channels: int | None) -> None:
    maps = relu_maps(5, 3, 4, 8)
    layer = BilinearPooling(method, channels, output)
    model = keras.Sequential([keras.Input((None, None, 8)), layer])
    assert model.output_shape == layer.compute_output_shape((None, None, None, 8))
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 8))])
    # Two locations span two of eight dimensions. The eigenvalues of the rest are rounding errors,
    # 1e-8, which differ between CPUs. The roots of the matrix and of its elements make them 0.01.
    atol = 0.02 if method == "matrix-sqrt" else 1e-3
    for x in (maps, maps[:, :2], maps[:, :1, :2]):
        rows = graph(x)
        assert rows.shape == (5, *model.output_shape[1:])
        np.testing.assert_allclose(rows, layer(x), atol=atol)


def test_channels_are_last_with_any_setting_of_keras() -> None:
    keras.config.set_image_data_format("channels_first")
    try:
        assert BilinearPooling(channels=4)(np.ones((2, 3, 5, 8))).shape == (2, 10)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return maps and labels; a class decides which channels are active together."""
    rng = np.random.default_rng(0)
    x, labels = 0.1 * rng.random((96, 16, 4)), np.arange(96) % 3
    kinds = np.array([[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1, 2]]])
    for i, label in enumerate(labels):
        for location in range(16):
            x[i, location, kinds[label, location % 2]] += rng.random()
    return x.reshape(96, 4, 4, 4).astype(np.float32), labels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "jit_compile", "policy"),
    [
        ("bilinear", False, "float32"),
        ("bilinear", True, "mixed_bfloat16"),
        ("covariance", True, "float32"),
        ("matrix-sqrt", False, "mixed_float16"),
    ],
)
def test_a_network_learns_which_channels_are_active_together(
    pairs: tuple[np.ndarray, np.ndarray], method: str, jit_compile: bool, policy: str
) -> None:
    keras.utils.set_random_seed(0)
    model = network((4, 4, 4), method, 4, dtype=policy)
    adam = keras.optimizers.Adam(0.03)
    loss = "sparse_categorical_crossentropy"
    model.compile(adam, loss, metrics=["accuracy"], jit_compile=jit_compile)
    assert model.jit_compile is jit_compile
    history = model.fit(*pairs, epochs=12, verbose=0).history
    assert history["accuracy"][-1] > 0.9


def test_matrix_sqrt_is_compiled_without_xla() -> None:
    model = network((4, 4, 4), "matrix-sqrt")
    with pytest.warns(UserWarning, match="jit_compile"):
        model.compile(jit_compile=True)
    assert model.jit_compile is False


@pytest.mark.slow
def test_a_frozen_layer_stays_frozen(pairs: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    network((4, 4, 4), channels=2, trainable=False).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    layer, head = model.layers
    before = [layer.get_weights()[0], head.get_weights()[0]]
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*pairs, verbose=0)
    np.testing.assert_array_equal(before[0], layer.get_weights()[0])
    assert (before[1] != head.get_weights()[0]).any()


# In a file -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_configuration_holds_the_arguments(method: str, output: str) -> None:
    arguments = {"method": method, "channels": 7, "output": output, "normalize": False, "name": "x"}
    config = BilinearPooling(**arguments).get_config()
    assert arguments.items() <= json.loads(json.dumps(config)).items()
    assert BilinearPooling.from_config(config).get_config() == config


def test_an_unknown_method_in_a_file_is_an_error() -> None:
    config = keras.layers.serialize(BilinearPooling())
    config["config"]["method"] = "trilinear"
    with pytest.raises((TypeError, ValueError), match="method='trilinear'"):
        keras.layers.deserialize(config)
