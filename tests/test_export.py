"""Tests of trained runs as Keras models, against `predict` on the same photos."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from bilinear_cli.classify import conv1x1
from bilinear_cli.classify.model import load_model, save_model
from bilinear_cli.classify.predict import predict, run_settings
from bilinear_cli.classify.select import Options
from bilinear_cli.classify.train import train
from bilinear_cli.data.dataset import load_dataset
from bilinear_cli.data.images import read_photo
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.export import build_model, export
from bilinear_cli.features.backbone import load_backbone
from bilinear_cli.features.extract import extract
from bilinear_cli.features.settings import Settings
from bilinear_cli.features.weights import Weights, load_weights
from bilinear_cli.layers import CompactPooling
from bilinear_cli.store import FeatureFile

SIZE, LAYER = 48, "block2_conv2"  # of 128 channels, 24 x 24
POOLINGS = (
    *("max", "avg", "sum", "bilinear", "bilinear-plain", "covariance", "matrix-sqrt", "conv5"),
    *("bilinear:8", "matrix-sqrt:8", "compact:64"),
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    found = load_weights("random")
    found.tensors["block1_conv1/kernel"] *= np.float32(0.02)  # maps about one, not a hundred
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return twelve photos of three classes, in folders."""
    folder, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    paths = []
    for name in ("jay", "tit", "wren"):
        colour = rng.integers(0, 200, (1, 1, 3))
        for i in range(4):
            noise = rng.integers(0, 56, (SIZE, SIZE, 3))
            paths.append(folder / name / f"{i}.png")
            paths[-1].parent.mkdir(exist_ok=True)
            Image.fromarray((colour + noise).astype(np.uint8)).save(paths[-1])
    return paths


Extracted = Callable[[tuple[str, ...]], Path]


@pytest.fixture(scope="module")
def extracted(
    photos: list[Path], weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Extracted:
    """Return a function, names of views -> feature file of all poolings."""
    folder = tmp_path_factory.mktemp("features")
    dataset = load_dataset(str(photos[0].parents[1]))

    def make(views: tuple[str, ...]) -> Path:
        settings = Settings(
            POOLINGS, LAYER, SIZE, "squash", "float32", 4, weights.sha256, "vgg16", views
        )
        if "24" in views:
            settings = replace(settings, poolings=("max",))
        path = folder / f"{'-'.join(views)}.h5"
        if not path.exists():
            extract(dataset, settings, path, lambda: forward_of(weights))
        return path

    return make


def forward_of(weights: Weights) -> Callable[[Any], Any]:
    return load_backbone(weights.tensors, "vgg16", LAYER, "float32")


def run_of(path: Path, folder: Path, spec: str, **options: Any) -> Path:
    with FeatureFile(path) as file:
        network = options.get("classifier") in ("mlp", "conv1x1")
        chosen = Options(**({} if network else {"C": 10.0, "label_smoothing": 0.0}) | options)
        return Path(train(file, spec, chosen, folder)["run"])


def pixels_of(photos: list[Path]) -> np.ndarray:
    return np.stack([read_photo(path, [SIZE])[0] for path in photos])


def predicted(run: Path, photos: list[Path], weights: Weights) -> np.ndarray:
    """Return the probabilities that `predict` gives, (photos, classes)."""
    answers = [dict(names) for _, names in predict(run, photos, forward_of(weights))]  # type: ignore[arg-type]
    return np.array([[p for _, p in sorted(names.items())] for names in answers])


MLP: dict[str, Any] = {"classifier": "mlp", "hidden": 5}


@pytest.mark.parametrize(
    ("spec", "options", "views"),
    [
        *((spec, {}, ("original",)) for spec in POOLINGS if spec != "conv5"),
        ("bilinear", {"top_variance": 500}, ("original",)),
        ("max", {"normalize": "none"}, ("original",)),
        ("avg", {"normalize": "sqrt-l2"}, ("original",)),
        ("bilinear-plain", {"normalize": "sqrt-l2", "top_variance": 501}, ("original",)),
        ("sum", {"normalize": "standard", "top_variance": 40}, ("original",)),
        ("max+bilinear+compact:64", {}, ("original",)),
        ("max+bilinear", MLP, ("original",)),
        ("max", {**MLP, "top_variance": 30}, ("original", "flip")),
        ("bilinear", {"classifier": "ridge"}, ("original", "flip")),
        ("covariance", {"classifier": "svm"}, ("original",)),
        ("conv5", {"classifier": "conv1x1", "channels": 8}, ("original",)),
    ],
)
def test_the_model_names_photos_as_predict_does(
    spec: str,
    options: dict[str, Any],
    views: tuple[str, ...],
    extracted: Extracted,
    weights: Weights,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conv1x1, "LEARNING_RATE", 0.03)
    run = run_of(extracted(views), tmp_path, spec, **options)
    # that of so few photos may make all names alike
    save_model(run / "model.npz", replace(load_model(run), temperature=0.7))
    model = build_model(load_model(run), run_settings(run), weights.tensors)
    found = model.predict(pixels_of(photos), verbose=0)
    wanted = predicted(run, photos, weights)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert model.layers[-1].class_names == ["jay", "tit", "wren"]
    assert {x.dtype for x in model.weights} == {"float32"}


LOADED = """
import sys, keras, numpy as np, bilinear_cli.layers
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
print(*model.layers[-1].class_names)
"""


@pytest.mark.parametrize("spec", ["matrix-sqrt:8", "compact:64", "avg"])
def test_plain_keras_loads_it(
    spec: str, extracted: Extracted, weights: Weights, photos: list[Path], tmp_path: Path
) -> None:
    run = run_of(extracted(("original", "flip")), tmp_path / "runs", spec, normalize="sqrt-l2")
    model = export(run, weights.tensors, tmp_path / "new" / "x.keras")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.keras"]
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, pixels_of(photos[:5]))
    command = [sys.executable, "-c", LOADED, tmp_path / "new" / "x.keras", x, y]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "jay tit wren\n"
    np.testing.assert_allclose(np.load(y), model.predict(np.load(x), verbose=0), atol=1e-5)


def test_a_file_that_is_there_stays(extracted: Extracted, weights: Weights, tmp_path: Path) -> None:
    run = run_of(extracted(("original",)), tmp_path, "max")
    output = tmp_path / "x.keras"
    output.write_text("mine")
    with pytest.raises(BilinearError, match="is there already: name another, or --overwrite"):
        export(run, weights.tensors, output)
    assert output.read_text() == "mine"
    export(run, weights.tensors, output, overwrite=True)
    assert keras.models.load_model(output).output.shape == (None, 3)
    with pytest.raises(UsageError, match=r"ends in \.keras"):
        export(run, weights.tensors, tmp_path / "x.h5")
    (tmp_path / "file").write_text("")
    with pytest.raises(BilinearError, match="cannot write"):
        export(run, weights.tensors, tmp_path / "file" / "x.keras")


def test_views_of_several_sizes_cannot_be_exported(
    extracted: Extracted, weights: Weights, tmp_path: Path
) -> None:
    run = run_of(extracted(("original", "24")), tmp_path, "max")
    with pytest.raises(UsageError, match="a run on several --scales cannot be exported"):
        export(run, weights.tensors, tmp_path / "x.keras")


# CompactPooling -----------------------------------------------------------------------------


def test_compact_pooling_draws_its_hashes_by_the_seed() -> None:
    maps = np.random.default_rng(0).random((2, 3, 3, 6), np.float32)
    one, same, other = (CompactPooling(16, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one(maps), same(maps))
    assert np.abs(one(maps) - other(maps)).max() > 0.1
    again = CompactPooling.from_config(one.get_config())
    np.testing.assert_array_equal(again(maps), one(maps))
    np.testing.assert_allclose(np.linalg.norm(one(maps), axis=1), 1, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Model doesn't support `jit_compile=True`")
def test_a_network_with_compact_pooling_is_compiled_without_xla() -> None:
    network = keras.Sequential([keras.Input((3, 3, 6)), CompactPooling(16), keras.layers.Dense(2)])
    network.compile("sgd", "mse", jit_compile=True)
    network.fit(np.ones((4, 3, 3, 6)), np.ones((4, 2)), verbose=0)
    assert not network.jit_compile


def test_compact_pooling_sums_in_float32() -> None:
    layer = CompactPooling(16, dtype="mixed_bfloat16")
    maps = np.random.default_rng(0).random((1, 20, 20, 6), np.float32)
    inputs = keras.Input((None, None, 6))
    outputs = layer(inputs)
    assert (outputs.dtype, outputs.shape) == ("float32", (None, 16))
    rounded = keras.ops.cast(keras.ops.cast(maps, "bfloat16"), "float32")
    np.testing.assert_allclose(layer(maps), CompactPooling(16)(rounded), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "shape", "said"),
    [
        ({"size": 0}, (None, 2, 2, 6), "Expected a positive integer. Received: size=0"),
        ({"size": 2.5}, (None, 2, 2, 6), "Received: size=2.5"),
        ({}, (None, 2, 2, None), "must be known"),
        ({}, (None, 2, 6), "expected ndim=4, found ndim=3"),
        ({"hashes": [[0], [0]], "signs": [[1], [1]]}, (None, 2, 2, 6), r"shape \(2, 6\)"),
    ],
)
def test_compact_pooling_that_cannot_be(
    arguments: dict[str, Any], shape: tuple[int | None, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        CompactPooling(**arguments)(keras.Input(batch_shape=shape))
