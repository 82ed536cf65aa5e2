"""Tests of the layers: their numbers, gradients and errors."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from bench_layer import bili_pooling
from support.errors import raises
from support.network import relu_maps

from bilinear_cli.layers import BilinearPooling, CompactPooling
from bilinear_cli.layers.bilinear import OUTPUTS, methods
from bilinear_cli.poolings.functions import pool_function

METHODS = methods()


@pytest.fixture
def maps() -> np.ndarray:
    return relu_maps(5, 3, 4, 8)


# Numbers ---------------------------------------------------------------------------------


def test_the_square_is_the_posts_procedure(maps: np.ndarray) -> None:
    expected = bili_pooling(tf.constant(maps)).numpy()
    assert expected.shape == (5, 64)
    np.testing.assert_allclose(BilinearPooling(output="square")(maps), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_layer_pools_as_extract_does(maps: np.ndarray, method: str) -> None:
    np.testing.assert_array_equal(BilinearPooling(method)(maps), pool_function(method, {})(maps))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_both_outputs_have_the_same_inner_products(
    maps: np.ndarray, method: str, normalize: bool
) -> None:
    rows = [BilinearPooling(method, None, o, normalize)(maps).numpy() for o in OUTPUTS]
    assert [x.shape for x in rows] == [(5, 36), (5, 64)]
    np.testing.assert_allclose(*[x @ x.T for x in rows], rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_plain_matrix_is_a_sum_over_locations(maps: np.ndarray, method: str) -> None:
    layer = BilinearPooling(method, output="square", normalize=False)
    matrices = layer(maps).numpy().reshape(5, 8, 8)
    if method == "matrix-sqrt":
        matrices = matrices @ matrices
    x = maps - maps.mean(axis=(1, 2), keepdims=True) if method == "covariance" else maps
    np.testing.assert_allclose(matrices, np.einsum("bhwi,bhwj->bij", x, x), atol=1e-4)


def test_channels_are_projected_first(maps: np.ndarray) -> None:
    layer = BilinearPooling(channels=3)
    rows = layer(maps)
    (kernel,) = layer.trainable_variables
    assert kernel.shape == (1, 1, 8, 3)
    expected = BilinearPooling()(maps @ kernel.value.numpy()[0, 0])
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize(("policy", "value"), [("mixed_bfloat16", 1), ("mixed_float16", 16)])
@pytest.mark.parametrize("method", METHODS)
def test_sums_are_in_float32(method: str, policy: str, value: int) -> None:
    """257 rounds to 256 in bfloat16, and 257 * 16 * 16 = 65,792 is infinite in float16."""
    ones = np.zeros((1, 514, 1, 1), np.float32)
    ones[:, ::2] = value
    rows = BilinearPooling(method, normalize=False, dtype=policy)(ones)
    assert rows.dtype == tf.float32
    expected = {"bilinear": 257, "covariance": 128.5, "matrix-sqrt": np.sqrt(257) / value}
    np.testing.assert_allclose(rows, [[expected[method] * value**2]], rtol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_output_of_a_network_is_float32(policy: str) -> None:
    assert BilinearPooling(channels=3, dtype=policy)(keras.Input((4, 4, 8))).dtype == "float32"


# Gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_finite_differences(maps: np.ndarray, method: str, output: str) -> None:
    layer, rng = BilinearPooling(method, output=output), np.random.default_rng(1)
    maps = maps + np.float32(0.3)  # no root of 0
    weights = rng.normal(size=layer(maps).shape)
    (gradient,) = gradients(layer, maps, weights)
    step = 1e-3 * rng.normal(size=maps.shape)
    after, before = (layer(maps + sign * step).numpy().astype(np.float64) for sign in (1, -1))
    expected = ((after - before) * weights).sum() / 2
    assert (gradient * step).sum() == pytest.approx(expected, rel=0.01, abs=1e-6)


def gradients(layer: keras.layers.Layer, x: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of the weighted output, of the layer's variables and of x last."""
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        total = tf.reduce_sum(layer(tensor) * weights.astype(np.float32))
    sources = [*(v.value for v in layer.trainable_variables), tensor]
    return [np.asarray(g) for g in tape.gradient(total, sources)]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("channels", [None, 6])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_gradients_are_finite(
    method: str, channels: int | None, normalize: bool, policy: str
) -> None:
    x = relu_maps(5, 2, 2, 8, seed=2)
    x[0] = 0
    x[1] = 3  # all locations are equal: of rank one, without covariance
    x[2, :, :, 1:] = 0
    x[3] *= 1e-15
    layer = BilinearPooling(method, channels, normalize=normalize, dtype=policy)
    weight_gradients = gradients(layer, x, np.random.default_rng(3).normal(size=layer(x).shape))
    map_gradient = weight_gradients.pop()
    assert len(weight_gradients) == (channels is not None)
    for gradient in (*weight_gradients, map_gradient):
        assert np.isfinite(gradient.astype(np.float32)).all()
    assert not map_gradient[0].any()  # of the map of zeros
    assert map_gradient[4].any()


# Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"method": "max"}, ["method='max'", *METHODS]),
        ({"output": "circle"}, ["output='circle'", *OUTPUTS]),
        ({"channels": 0}, ["channels=0"]),
        ({"channels": 1.5}, ["channels=1.5"]),
        ({"channels": True}, ["channels=True"]),
    ],
)
def test_a_wrong_argument_is_an_error(arguments: dict[str, Any], facts: list[str]) -> None:
    with raises(ValueError, *facts):
        BilinearPooling(**arguments)


def test_input_of_a_wrong_shape_is_an_error() -> None:
    with raises(ValueError, "ndim=4", "ndim=3"):
        BilinearPooling()(np.ones((2, 3, 4)))
    with raises(ValueError, "(batch, height, width, channels)", "(2, 3, 4)"):
        BilinearPooling().compute_output_shape((2, 3, 4))
    with raises(ValueError, "channels", "(None, 4, 4, None)"):
        BilinearPooling(channels=3)(keras.Input((4, 4, None)))
    layer = BilinearPooling()
    layer(np.ones((2, 3, 3, 4)))
    with raises(ValueError, "axis -1", "value 4", "(2, 3, 3, 5)"):
        layer(np.ones((2, 3, 3, 5)))


def test_another_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with raises(ValueError, "KERAS_BACKEND=tensorflow", "jax"):
        BilinearPooling()


# CompactPooling -----------------------------------------------------------------------------


def test_compact_pooling_draws_its_hashes_by_the_seed() -> None:
    maps = relu_maps(2, 3, 3, 6)
    one, same, other = (CompactPooling(16, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one(maps), same(maps))
    assert np.abs(one(maps) - other(maps)).max() > 0.1
    again = CompactPooling.from_config(one.get_config())
    np.testing.assert_array_equal(again(maps), one(maps))
    np.testing.assert_allclose(np.linalg.norm(one(maps), axis=1), 1, rtol=1e-5)


def test_a_network_with_compact_pooling_is_compiled_without_xla() -> None:
    network = keras.Sequential([keras.Input((3, 3, 6)), CompactPooling(16), keras.layers.Dense(2)])
    with pytest.warns(UserWarning, match="jit_compile"):
        network.compile("sgd", "mse", jit_compile=True)
    network.fit(np.ones((4, 3, 3, 6)), np.ones((4, 2)), verbose=0)
    assert not network.jit_compile


def test_compact_pooling_sums_in_float32() -> None:
    layer = CompactPooling(16, dtype="mixed_bfloat16")
    maps = relu_maps(1, 20, 20, 6)
    outputs = layer(keras.Input((None, None, 6)))
    assert (outputs.dtype, outputs.shape) == ("float32", (None, 16))
    rounded = keras.ops.cast(keras.ops.cast(maps, "bfloat16"), "float32")
    np.testing.assert_allclose(layer(maps), CompactPooling(16)(rounded), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "shape", "facts"),
    [
        ({"size": 0}, (None, 2, 2, 6), ["size=0"]),
        ({"size": 2.5}, (None, 2, 2, 6), ["size=2.5"]),
        ({}, (None, 2, 2, None), ["CompactPooling", "(None, 2, 2, None)"]),
        ({}, (None, 2, 6), ["(None, 2, 6)"]),
        ({"hashes": [[0], [0]], "signs": [[1], [1]]}, (None, 2, 2, 6), ["(2, 6)", "(2, 1)"]),
    ],
)
def test_compact_pooling_refuses_bad_arguments_and_inputs(
    arguments: dict[str, Any], shape: tuple[int | None, ...], facts: list[str]
) -> None:
    with raises(ValueError, *facts):
        CompactPooling(**arguments)(keras.Input(batch_shape=shape))
