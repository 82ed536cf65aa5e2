"""Tests of explanations: the shares add up to the score, and name what it depends on."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.errors import assert_suggests, raises
from support.network import CHANNELS, extract_photos, small_network, use_untrained_networks
from support.photos import make_photo, similar_photos
from support.runs import change_metrics, change_model

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.explain import explain, overlay
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.recipe import Recipe
from bilinear_cli.run import load_model, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear

pytestmark = pytest.mark.slow  # TensorFlow extracts the features

SIZE = 32
CLASSES = ("jay", "tit", "wren")
POOLINGS = ("bilinear", "bilinear:3", "max", "covariance", "maps")
OPTIONS = TrainOptions(C=100.0, label_smoothing=0.0)

TrainRun = Callable[[str, TrainOptions], Path]
forward = small_network()


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the feature file of `birds`, beside it: five photos like each other a class."""
    folder = tmp_path_factory.mktemp("features")
    similar_photos(folder / "birds", CLASSES, 5, SIZE)
    recipe = Recipe(POOLINGS, "x", SIZE, "squash", "float32", 4, "0" * 64)
    photo_set = load_photo_set(str(folder / "birds"))
    extract_photos(photo_set, recipe, folder / "x.h5", lambda: forward)
    return folder / "x.h5"


@pytest.fixture(scope="module")
def photo(features: Path) -> Path:
    return features.parent / "birds" / "tit" / "2.png"


@pytest.fixture(scope="module")
def train_run(features: Path) -> TrainRun:
    """Return train_run(spec, options) -> a run folder, trained once and not to be changed."""

    @cache
    def run_of(spec: str, options: TrainOptions) -> Path:
        with FeatureFile(features) as file, pytest.MonkeyPatch.context() as patch:
            use_untrained_networks(patch)
            patch.setattr("bilinear_cli.training.metrics.N_RESAMPLES", 2)
            return Path(
                train(file, spec, options, features.parent / f"runs {hash(options)}")["run"]
            )

    return run_of


@pytest.mark.parametrize(
    ("spec", "options", "n_pairs"),
    [
        ("bilinear", OPTIONS, 21),
        ("bilinear", replace(OPTIONS, top_variance=20), 21),
        ("bilinear", replace(OPTIONS, classifier="ridge"), 21),
        ("bilinear", TrainOptions(classifier="svm", C=100.0), 21),
        ("bilinear:3", OPTIONS, 6),
        ("maps", TrainOptions(classifier="conv1x1", channels=4, label_smoothing=0.0), 10),
    ],
)
def test_shares_of_locations_and_of_pairs_add_up_to_the_score(
    spec: str,
    options: TrainOptions,
    n_pairs: int,
    train_run: TrainRun,
    photo: Path,
    features: Path,
) -> None:
    run = train_run(spec, options)
    model = load_model(run)
    with FeatureFile(features) as file:
        row = np.flatnonzero(file.paths == "tit/2.png")
        scores = model.scores({spec: file.read(spec, row)})[0]
    for k, name in enumerate(CLASSES):
        explanation = explain(run, photo, forward, name)
        total = explanation.heatmap.sum()
        assert explanation.name == name
        assert explanation.score == pytest.approx(scores[k], abs=1e-4)
        assert explanation.heatmap.shape == (4, 4)
        assert explanation.intercept + total == pytest.approx(explanation.score, abs=1e-9)
        shares = [share for *_, share in explanation.pairs]
        assert len(shares) == min(n_pairs, 10)
        assert shares == sorted(shares, key=abs, reverse=True)
        if n_pairs <= 10:
            assert sum(shares) == pytest.approx(total, abs=1e-9)
    best = explain(run, photo, forward)
    assert best.name == CLASSES[int(scores.argmax())]
    assert 1 / 3 < best.probability <= 1


def test_a_model_of_one_pair_of_channels_is_explained_by_that_pair(
    train_run: TrainRun, photo: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(train_run("bilinear", OPTIONS), tmp_path / "run")
    model = load_model(run)
    pixels = explain(run, photo, forward).pixels
    x = np.asarray(forward(pixels[None]), np.float64)[0]
    i, j = np.triu_indices(CHANNELS)
    entry = int(np.argmax((x.reshape(-1, CHANNELS).T @ x.reshape(-1, CHANNELS))[i, j] * (i != j)))
    weights = np.zeros_like(model.first.weights)
    weights[entry, 1] = 3
    change_model(run, first=replace(model.first, weights=weights))
    explanation = explain(run, photo, forward, "tit")
    assert explanation.pairs[0][:2] == (i[entry], j[entry])
    assert explanation.pairs[0][2] == pytest.approx(explanation.heatmap.sum())
    products = x[..., i[entry]] * x[..., j[entry]]
    shares = explanation.heatmap / explanation.heatmap.sum()
    np.testing.assert_allclose(shares, products / products.sum(), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("max", OPTIONS),
        ("covariance", OPTIONS),
        ("max+bilinear", OPTIONS),
        ("bilinear", replace(OPTIONS, normalize="standard")),
    ],
)
def test_a_pooling_whose_score_is_no_sum_over_locations_is_refused(
    spec: str, options: TrainOptions, train_run: TrainRun, photo: Path
) -> None:
    with raises(BilinearError, "bilinear", "bilinear:K"):
        explain(train_run(spec, options), photo, forward)


def test_an_mlp_is_refused(train_run: TrainRun, photo: Path, tmp_path: Path) -> None:
    run = shutil.copytree(train_run("bilinear", OPTIONS), tmp_path / "run")
    second = Linear(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    change_model(run, second=second)
    change_metrics(run, classifier="mlp", C=None, hidden=3, dropout=0.0, curve=[])
    with raises(BilinearError, "mlp", "softmax", "svm", "ridge", "conv1x1"):
        explain(run, photo, forward)


def test_an_unknown_class_is_refused_and_the_nearest_is_suggested(
    train_run: TrainRun, photo: Path
) -> None:
    with raises(UsageError, "'tti'", "'tit'") as caught:
        explain(train_run("bilinear", OPTIONS), photo, forward, "tti")
    assert_suggests(str(caught.value), "tit", CLASSES)
    with raises(UsageError, *CLASSES):
        explain(train_run("bilinear", OPTIONS), photo, forward, "")


def test_a_black_photo_has_no_heat(train_run: TrainRun, tmp_path: Path) -> None:
    black = make_photo(tmp_path / "black.png", colour="black")
    explanation = explain(train_run("bilinear", OPTIONS), black, forward)
    assert explanation.score == explanation.intercept
    assert not explanation.heatmap.any()
    assert np.asarray(overlay(explanation)).shape == (SIZE, SIZE, 3)


def test_the_overlay_is_orange_for_the_class_and_blue_against_it(
    train_run: TrainRun, photo: Path
) -> None:
    explanation = explain(train_run("bilinear", OPTIONS), photo, forward)
    heatmap = np.zeros((4, 4))
    heatmap[0, 0], heatmap[3, 3] = 1, -1
    picture = np.asarray(overlay(replace(explanation, heatmap=heatmap)), int)
    grey = explanation.pixels.mean(axis=2)
    assert picture[2, 2, 0] - picture[2, 2, 2] > 50
    assert picture[-3, -3, 2] - picture[-3, -3, 0] > 50
    assert np.abs(picture[16, 4] - grey[16, 4]).max() < 30
