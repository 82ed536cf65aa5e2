"""Tests of trained runs as Keras models, against `predict` on the same photos."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.commands import run_python
from support.errors import raises
from support.network import extract_photos, use_untrained_networks
from support.photos import similar_photos
from support.runs import change_metrics, change_model, spread_novelty

from bilinear_cli import export as exporting
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.export import build_model
from bilinear_cli.networks.backbone import load_backbone
from bilinear_cli.networks.weights import Weights, load_vgg16_weights
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.predict import predict
from bilinear_cli.recipe import Recipe
from bilinear_cli.run import load_model, read_metrics, read_recipe, read_scores, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions

pytestmark = pytest.mark.slow

SIZE, LAYER = 48, "block2_conv2"  # of 128 channels, 24 x 24
POOLINGS = (
    *("max", "avg", "sum", "bilinear", "bilinear-plain", "covariance", "matrix-sqrt", "maps"),
    *("bilinear:8", "matrix-sqrt:8", "compact:64"),
)
WITH_FLIP = ("max", "avg", "bilinear", "matrix-sqrt:8", "compact:64")
CLASSES = ["jay", "tit", "wren"]
Forward = Callable[[Any], Any]


@pytest.fixture(scope="module")
def weights() -> Weights:
    random = load_vgg16_weights("random")
    random.tensors["block1_conv1/kernel"] *= np.float32(0.02)  # maps about one, not a hundred
    return random


@pytest.fixture(scope="module")
def forward(weights: Weights) -> Forward:
    return load_backbone(weights.tensors, "vgg16", LAYER, "float32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return twelve photos of three classes, in folders."""
    return similar_photos(tmp_path_factory.mktemp("birds"), CLASSES, 4, SIZE)


@pytest.fixture(scope="module")
def recipe(weights: Weights) -> Recipe:
    return Recipe(POOLINGS, LAYER, SIZE, "squash", "float32", 4, weights.sha256)


@pytest.fixture(scope="module")
def features(
    photos: list[Path], recipe: Recipe, forward: Forward, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder of x.h5, of all poolings, and of flip.h5, with the mirrored views too."""
    folder = tmp_path_factory.mktemp("features")
    photo_set = load_photo_set(str(photos[0].parents[1]))
    with_flip = replace(recipe, specs=WITH_FLIP, views=("original", "flip"))
    extract_photos(photo_set, recipe, folder / "x.h5", lambda: forward)
    extract_photos(photo_set, with_flip, folder / "flip.h5", lambda: forward)
    return folder


@pytest.fixture(scope="module")
def network(recipe: Recipe, weights: Weights) -> keras.Model:
    """Return the network of an exported model, which takes half of the time of an export."""
    return exporting._network(recipe, weights.tensors)


@pytest.fixture(scope="module")
def run(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(features / "x.h5", tmp_path_factory.mktemp("runs"), "max")


def train_run(features: Path, folder: Path, spec: str, **options: Any) -> Path:
    network = options.get("classifier") in ("mlp", "conv1x1")
    options = {"folds": 2, "label_smoothing": 0.0} | ({} if network else {"C": 10.0}) | options
    with FeatureFile(features) as file:
        return Path(train(file, spec, TrainOptions(**options), folder)["run"])


def export(run: Path, weights: Mapping[str, np.ndarray], path: Path, **options: Any) -> keras.Model:
    return exporting.export(load_model(run), read_recipe(run), weights, path, **options)


def pixels_of(photos: list[Path]) -> np.ndarray:
    return np.stack([read_photo(path, [SIZE])[0] for path in photos])


def predicted(run: Path, photos: list[Path], forward: Forward) -> np.ndarray:
    """Return the probabilities that `predict` gives, (photos, classes)."""
    model, recipe = load_model(run), read_recipe(run)
    answers = [dict(x.top) for x in predict(model, recipe, photos, forward)]
    return np.array([[p for _, p in sorted(names.items())] for names in answers])


MLP: dict[str, Any] = {"classifier": "mlp", "hidden": 5}


@pytest.mark.parametrize(
    ("spec", "options", "file"),
    [
        *((spec, {}, "x.h5") for spec in POOLINGS if spec != "maps"),
        ("bilinear", {"top_variance": 500}, "x.h5"),
        ("max", {"normalize": "none"}, "x.h5"),
        ("avg", {"normalize": "sqrt-l2"}, "x.h5"),
        ("bilinear-plain", {"normalize": "sqrt-l2", "top_variance": 501}, "x.h5"),
        ("sum", {"normalize": "standard", "top_variance": 40}, "x.h5"),
        ("max+bilinear+compact:64", {}, "x.h5"),
        ("max+bilinear", MLP, "x.h5"),
        ("max", {**MLP, "top_variance": 30}, "flip.h5"),
        ("bilinear", {"classifier": "ridge"}, "flip.h5"),
        ("covariance", {"classifier": "svm"}, "x.h5"),
        ("maps", {"classifier": "conv1x1", "channels": 8}, "x.h5"),
    ],
)
def test_the_model_gives_the_probabilities_of_predict(
    spec: str,
    options: dict[str, Any],
    file: str,
    weights: Weights,
    forward: Forward,
    network: keras.Model,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: Path,
) -> None:
    use_untrained_networks(monkeypatch)
    monkeypatch.setattr(exporting, "_network", lambda *_: network)
    run = train_run(features / file, tmp_path, spec, **options)
    # with the temperature of so few photos all probabilities may be alike
    change_model(run, temperature=0.7, novelty=None)
    change_metrics(run, temperature=0.7)
    model = build_model(load_model(run), read_recipe(run), weights.tensors)
    expected = predicted(run, photos, forward)
    assert expected.std() > 0.01
    np.testing.assert_allclose(model(pixels_of(photos)), expected, atol=1e-3)
    assert model.layers[-1].class_names == CLASSES
    assert {x.dtype for x in model.weights} == {"float32"}


@pytest.mark.parametrize("file", ["x.h5", "flip.h5"])
def test_the_rarity_is_that_of_predict(
    file: str,
    weights: Weights,
    forward: Forward,
    network: keras.Model,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: Path,
) -> None:
    monkeypatch.setattr(exporting, "_network", lambda *_: network)
    run, path = train_run(features / file, tmp_path, "avg"), tmp_path / "x.keras"
    novelty = spread_novelty(run, read_scores(run, "test")["scores"])
    novelty = replace(novelty, counts=np.array([99.0, 99, 0]))
    change_model(run, novelty=novelty)
    export(run, weights.tensors, path, rarity=True)
    outputs = keras.models.load_model(path).predict(pixels_of(photos), verbose=0)
    answers = predict(load_model(run), read_recipe(run), photos, forward)
    rarity = [x.rarity for x in answers]
    assert np.std(rarity) > 0.1
    np.testing.assert_allclose(outputs["rarity"], rarity, atol=1e-4)
    probabilities = predicted(run, photos, forward)
    np.testing.assert_allclose(outputs["probabilities"], probabilities, atol=1e-3)


LOAD = """
import json, sys, keras, numpy as np, bilinear_cli.layers
pixels, path = sys.argv[1:]
model = keras.models.load_model(path)
outputs = np.asarray(model(np.load(pixels))).tolist()
print(json.dumps([model.layers[-1].class_names, outputs]))
"""


def test_keras_loads_the_model_in_another_process(
    features: Path, weights: Weights, photos: list[Path], tmp_path: Path
) -> None:
    pixels, path = tmp_path / "x.npy", tmp_path / "new" / "x.keras"
    np.save(pixels, pixels_of(photos[:5]))
    spec = "matrix-sqrt:8+compact:64+avg"
    run = train_run(features / "flip.h5", tmp_path / "runs", spec, normalize="sqrt-l2")
    expected = export(run, weights.tensors, path)(np.load(pixels))
    assert [*path.parent.iterdir()] == [path]
    class_names, outputs = json.loads(run_python(LOAD, pixels, path))
    assert class_names == CLASSES
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_an_existing_file_is_replaced(run: Path, weights: Weights, tmp_path: Path) -> None:
    output = tmp_path / "x.keras"
    output.write_text("existing")
    export(run, weights.tensors, output)
    assert keras.models.load_model(output).output.shape == (None, 3)


def test_the_file_must_be_writable(run: Path, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(BilinearError, tmp_path / "file" / "x.keras"):
        export(run, weights.tensors, tmp_path / "file" / "x.keras")


def test_views_of_several_sizes_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    change_model(tmp_path / "run")  # without the recipe
    extraction = read_metrics(run)["extraction"] | {"views": "original 24"}
    change_metrics(tmp_path / "run", extraction=extraction)
    with raises(UsageError, "--scales"):
        export(tmp_path / "run", {}, tmp_path / "x.keras")
    assert not (tmp_path / "x.keras").exists()
