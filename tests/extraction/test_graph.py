"""Tests of the network and its poolings as one compiled graph."""

import numpy as np
import pytest
import tensorflow as tf
from support.errors import raises

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.extraction.graph import compile_maps, compile_pooling, count_channels
from bilinear_cli.poolings.functions import pool_function
from bilinear_cli.poolings.parameters import sketch_parameters
from bilinear_cli.poolings.registry import POOLINGS, storage_dtype
from bilinear_cli.recipe import View

PARAMETERS = sketch_parameters(6, 16, 0) | {"projection-3": np.eye(6, 3, dtype=np.float32)}
SPECS = sorted(
    [*(POOLINGS.keys() - {"cls", "compact"}), "compact:16", "bilinear:3", "matrix-sqrt:3"]
)


class Network:
    """A network that gives the red of every second pixel in `channels` shades."""

    def __init__(self, channels: int, dtype: type = tf.float32) -> None:
        self.channels, self.dtype, self.calls = channels, dtype, 0

    def __call__(self, photos: tf.Tensor) -> tf.Tensor:
        self.calls += 1
        red = tf.cast(photos[:, ::2, ::2, :1], tf.float32)
        return tf.cast(red * tf.range(1.0, self.channels + 1), self.dtype)


def test_the_network_is_traced_once() -> None:
    network = Network(3)
    compute, _ = compile_pooling(network, ["max", "bilinear"], 2, [View(4)])
    for value in range(3):
        compute({4: np.full((2, 4, 4, 3), value, np.uint8)})
    assert network.calls == 1


@pytest.mark.slow
def test_the_compiled_poolings_of_photos_and_of_stored_maps_are_the_eager_ones() -> None:
    network = Network(6)
    photos = np.random.default_rng(2).integers(0, 9, (2, 8, 8, 3), np.uint8)
    of_photos, shapes = compile_pooling(network, SPECS, 2, [View(8)], PARAMETERS)
    of_maps, same_shapes = compile_maps(SPECS, (4, 4, 6), PARAMETERS)
    assert same_shapes == shapes
    for rows in (of_photos({8: photos}), of_maps(network(photos).numpy())):
        assert rows.keys() == shapes.keys() == set(SPECS)
        for spec, values in rows.items():
            assert isinstance(values, np.ndarray)
            assert values.shape == (2, *shapes[spec])
            assert values.dtype == storage_dtype(shapes[spec])
            eager = pool_function(spec, PARAMETERS)(network(photos))
            np.testing.assert_allclose(values, eager, rtol=1e-5, atol=1e-5)
    for n in (0, 1):  # a batch of maps may have any number
        assert of_maps(np.zeros((n, 4, 4, 6), np.float16))["compact:16"].shape == (n, 16)


def test_the_shapes_of_rows_are_known_before_they_are_computed() -> None:
    _, shapes = compile_pooling(
        Network(512), ["max", "sum", "avg", "bilinear", "maps"], 1, [View(28)]
    )
    vectors = dict.fromkeys(["max", "sum", "avg"], (512,))
    assert shapes == {**vectors, "bilinear": (131_328,), "maps": (14, 14, 512)}


@pytest.mark.parametrize(
    ("channels", "dtypes"),
    [
        (90, {"max": np.float32, "bilinear": np.float32, "maps": np.float32}),  # 4,095 and 1,440
        (91, {"max": np.float32, "bilinear": np.float16, "maps": np.float32}),
        (256, {"max": np.float32, "bilinear": np.float16, "maps": np.float16}),
    ],
)
def test_rows_come_as_they_are_stored(channels: int, dtypes: dict[str, type]) -> None:
    compute, _ = compile_pooling(Network(channels), list(dtypes), 1, [View(8)])
    rows = compute({8: np.ones((1, 8, 8, 3), np.uint8)})
    assert {spec: values.dtype for spec, values in rows.items()} == dtypes


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_poolings_are_computed_in_float32(dtype: type) -> None:
    photos = np.full((1, 32, 32, 3), 255, np.uint8)
    compute, _ = compile_pooling(Network(2, dtype), ["sum"], 1, [View(32)])
    unit = float(tf.cast(255, dtype))
    np.testing.assert_allclose(
        compute({32: photos})["sum"], [[256 * unit, 512 * unit]]
    )  # 512 * 255 > 65504


def test_the_channels_of_a_network_are_counted() -> None:
    network = Network(7)
    assert count_channels(network, 8) == 7
    assert count_channels(lambda photos: tf.zeros((1, 2, 2, 5)), 8) == 5


def test_photos_that_are_too_small_are_refused() -> None:
    def refuse(photos: tf.Tensor) -> tf.Tensor:
        raise ValueError("a layer's\nmany lines")

    with raises(UsageError, 8, "a layer's many lines"):
        count_channels(refuse, 8)
    with raises(UsageError, 8, "--image-size"):
        count_channels(lambda photos: tf.zeros((1, 0, 2, 5)), 8)


def test_maps_that_are_not_finite_are_one_line() -> None:
    def network(photos: tf.Tensor) -> tf.Tensor:
        return tf.cast(photos, tf.float32) / tf.cast(photos, tf.float32)  # 0 / 0

    compute, _ = compile_pooling(network, ["matrix-sqrt"], 1, [View(4)])
    with raises(BilinearError, "matrix-sqrt", "float16", "--overwrite", "--precision float32"):
        compute({4: np.zeros((1, 4, 4, 3), np.uint8)})


def test_another_fault_of_the_graph_is_not_taken_for_one_of_the_maps() -> None:
    def network(photos: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_greater(photos, np.uint8(0))]):
            return tf.cast(photos, tf.float32)

    compute, _ = compile_pooling(network, ["matrix-sqrt"], 1, [View(4)])
    with pytest.raises(tf.errors.InvalidArgumentError):
        compute({4: np.zeros((1, 4, 4, 3), np.uint8)})
