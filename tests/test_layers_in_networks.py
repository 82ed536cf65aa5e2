"""Tests of the layer within networks: any size of maps, training, files."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bilinear_cli.layers import BilinearPooling
from bilinear_cli.layers.bilinear import MATRICES, OUTPUTS

METHODS = sorted(MATRICES)


@pytest.fixture
def maps() -> np.ndarray:
    """Return ReLU output of 12 locations and 8 channels."""
    x = np.random.default_rng(0).normal(size=(5, 3, 4, 8))
    return np.maximum(x, 0).astype(np.float32)


def network(shape: tuple[int | None, ...], *how: Any, **more: Any) -> keras.Model:
    """Return the layer between an input and a softmax of three classes."""
    head = keras.layers.Dense(3, activation="softmax", dtype="float32")
    return keras.Sequential([keras.Input(shape), BilinearPooling(*how, **more), head])


@pytest.mark.parametrize("channels", [None, 4])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", METHODS)
def test_height_and_width_may_be_unknown(
    maps: np.ndarray, method: str, output: str, channels: int | None
) -> None:
    layer = BilinearPooling(method, channels, output)
    model = keras.Sequential([keras.Input((None, None, 8)), layer])
    assert model.output_shape == layer.compute_output_shape((None, None, None, 8))
    # Two places span two of eight dimensions. Of the others' eigenvalues only rounding is left,
    # 1e-8, which differs between CPUs; the two roots, of matrix and of elements, make it 0.01.
    atol = 0.02 if method == "matrix-sqrt" else 1e-3
    for x in (maps, maps[:, :2], maps[:, :1, :2]):
        found = model.predict(x, verbose=0)
        assert found.shape == (5, *model.output_shape[1:])
        np.testing.assert_allclose(found, layer(x), atol=atol)


def test_channels_are_last_whatever_keras_is_set_to() -> None:
    keras.config.set_image_data_format("channels_first")
    try:
        assert BilinearPooling(channels=4)(np.ones((2, 3, 5, 8))).shape == (2, 10)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return maps whose classes differ in which channels go together, not in how often."""
    rng = np.random.default_rng(0)
    x, labels = 0.1 * rng.random((96, 16, 4)), np.arange(96) % 3
    kinds = np.array([[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1, 2]]])
    for i, label in enumerate(labels):
        for location in range(16):
            x[i, location, kinds[label, location % 2]] += rng.random()
    return x.reshape(96, 4, 4, 4).astype(np.float32), labels


@pytest.mark.parametrize(
    ("method", "jit_compile", "policy"),
    [
        *((method, jit, "float32") for method in METHODS for jit in (False, True)),
        ("bilinear", True, "mixed_bfloat16"),
        ("matrix-sqrt", False, "mixed_float16"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model doesn't support `jit_compile=True`")
def test_it_learns_which_channels_go_together(
    pairs: tuple[np.ndarray, np.ndarray], method: str, jit_compile: bool, policy: str
) -> None:
    keras.utils.set_random_seed(0)
    model = network((4, 4, 4), method, 4, dtype=policy)
    model.compile(
        keras.optimizers.Adam(0.03),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    assert model.jit_compile is (jit_compile and method != "matrix-sqrt")
    model.fit(*pairs, epochs=12, verbose=0)
    assert model.evaluate(*pairs, verbose=0)[1] > 0.9


def test_frozen_it_stays_so(pairs: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    network((4, 4, 4), channels=2, trainable=False).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    before = model.layers[0].get_weights()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*pairs, verbose=0)
    np.testing.assert_array_equal(before, model.layers[0].get_weights())


def test_matrix_sqrt_says_that_it_goes_without_xla() -> None:
    with pytest.warns(UserWarning, match="Model doesn't support `jit_compile=True`"):
        network((4, 4, 4), "matrix-sqrt").compile(jit_compile=True)


# In a file -------------------------------------------------------------------------------

LOAD = """
import sys
import keras, numpy
import bilinear_cli.layers
model = keras.models.load_model(sys.argv[1])
numpy.save(sys.argv[2], model.predict(numpy.load(sys.argv[3]), verbose=0))
"""


def test_a_saved_network_is_read_by_another_process(maps: np.ndarray, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = network((3, 4, 8), "covariance", 5, "square", False, name="pooled")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "maps.npy", maps)
    paths = [str(tmp_path / name) for name in ("model.keras", "found.npy", "maps.npy")]
    subprocess.run([sys.executable, "-c", LOAD, *paths], check=True)
    np.testing.assert_allclose(np.load(paths[1]), model.predict(maps, verbose=0), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_configuration_is_the_arguments(method: str, output: str) -> None:
    how = {"method": method, "channels": 7, "output": output, "normalize": False, "name": "x"}
    config = BilinearPooling(**how).get_config()
    assert how.items() <= json.loads(json.dumps(config)).items()
    assert BilinearPooling.from_config(config).get_config() == config


def test_files_name_it_by_the_package() -> None:
    assert keras.saving.get_registered_name(BilinearPooling) == "bilinear>BilinearPooling"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], Path]:
    """Return changed(old, new): the file of a network, with a text in its configuration changed."""

    def change(old: str, new: str) -> Path:
        network((3, 4, 8)).save(tmp_path / "model.keras")
        with (
            zipfile.ZipFile(tmp_path / "model.keras") as before,
            zipfile.ZipFile(tmp_path / "changed.keras", "w") as after,
        ):
            for name in before.namelist():
                text = before.read(name)
                assert name != "config.json" or old.encode() in text
                after.writestr(
                    name, text.replace(old.encode(), new.encode()) if "json" in name else text
                )
        return tmp_path / "changed.keras"

    return change


def test_a_file_of_another_class_or_method_is_an_error(
    changed: Callable[[str, str], Path],
) -> None:
    with pytest.raises(TypeError, match="Could not locate class 'TrilinearPooling'"):
        keras.models.load_model(changed("BilinearPooling", "TrilinearPooling"))
    with pytest.raises((TypeError, ValueError), match=r"Received: method='trilinear'"):
        keras.models.load_model(changed('"method": "bilinear"', '"method": "trilinear"'))
