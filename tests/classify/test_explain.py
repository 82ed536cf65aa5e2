"""Tests of what is said of a score: that the shares add up, and point at what counts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilinear_cli.classify.explain import explain, overlay
from bilinear_cli.classify.model import load_model, save_model
from bilinear_cli.classify.select import Options
from bilinear_cli.classify.train import train
from bilinear_cli.data.dataset import load_dataset
from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.features.extract import extract
from bilinear_cli.features.settings import Settings
from bilinear_cli.store import FeatureFile

SIZE, CHANNELS = 32, 6
KERNEL = np.random.default_rng(0).normal(size=(8, 8, 3, CHANNELS)).astype(np.float32) / 100
POOLINGS = ("bilinear", "bilinear:3", "max", "covariance", "conv5")


def forward(photos: Any) -> Any:
    """Stand in for the network: maps 4 x 4 of six channels."""
    import tensorflow as tf

    return tf.nn.relu(tf.nn.conv2d(tf.cast(photos, tf.float32), KERNEL, 8, "VALID"))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(1)
    for name in ("jay", "tit", "wren"):
        base = rng.integers(0, 256, (4, 4, 3))
        for i in range(5):
            (folder / name).mkdir(exist_ok=True)
            blocks = (base + rng.integers(-40, 40, base.shape)).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(blocks).resize((SIZE, SIZE), Image.Resampling.NEAREST)
            image.save(folder / name / f"{i}.png")
    settings = Settings(POOLINGS, "x", SIZE, "squash", "float32", 4, "0" * 64)
    path = folder.parent / "x.h5"
    extract(load_dataset(str(folder)), settings, path, lambda: forward)
    return path


Trained = Callable[..., Path]


@pytest.fixture
def trained(features: Path, tmp_path: Path) -> Trained:
    def make(spec: str, **options: Any) -> Path:
        with FeatureFile(features) as file:
            network = options.get("classifier") in ("mlp", "conv1x1")
            fixed = {} if network else {"C": 100.0, "label_smoothing": 0.0}
            return Path(train(file, spec, Options(**fixed | options), tmp_path)["run"])

    return make


@pytest.fixture
def photo(features: Path) -> Path:
    return features.parent / "birds0" / "tit" / "2.png"


LINEAR: list[tuple[str, dict[str, Any]]] = [
    ("bilinear", {}),
    ("bilinear", {"top_variance": 20}),
    ("bilinear", {"classifier": "ridge"}),
    ("bilinear", {"classifier": "svm", "label_smoothing": None}),
    ("bilinear:3", {}),
    ("conv5", {"classifier": "conv1x1", "channels": 4}),
]


@pytest.mark.parametrize(("spec", "options"), LINEAR)
def test_shares_of_places_and_of_pairs_add_up_to_the_score(
    spec: str, options: dict[str, Any], trained: Trained, photo: Path, features: Path
) -> None:
    run = trained(spec, **options)
    model = load_model(run)
    with FeatureFile(features) as file:
        row = np.flatnonzero(file.paths == "tit/2.png")
        scores = model.scores({spec: file.read(spec, row)})[0]
    for k, name in enumerate(["jay", "tit", "wren"]):
        why = explain(run, photo, forward, name)
        assert why.name == name
        assert why.score == pytest.approx(scores[k], abs=1e-4)
        assert why.heat.shape == (4, 4)
        assert why.intercept + why.heat.sum() == pytest.approx(why.score, abs=1e-9)
        all_pairs = 6 if spec == "bilinear:3" else 10 if spec == "conv5" else 21
        if all_pairs <= len(why.pairs):
            assert sum(share for *_, share in why.pairs) == pytest.approx(why.heat.sum(), abs=1e-9)
    best = explain(run, photo, forward)
    assert best.name == ["jay", "tit", "wren"][int(scores.argmax())]
    assert 1 / 3 < best.probability <= 1


def test_pairs_are_ranked(trained: Trained, photo: Path) -> None:
    shares = [abs(share) for *_, share in explain(trained("bilinear"), photo, forward).pairs]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 10


def test_weights_that_see_one_pair_of_channels(trained: Trained, photo: Path) -> None:
    run = trained("bilinear")
    model = load_model(run)
    x = forward(explain(run, photo, forward).pixels[None]).numpy()[0].astype(np.float64)
    i, j = np.triu_indices(CHANNELS)
    entry = int(np.argmax((x.reshape(-1, CHANNELS).T @ x.reshape(-1, CHANNELS))[i, j] * (i != j)))
    weights = np.zeros_like(model.first.weights)
    weights[entry, 1] = 3
    save_model(run / "model.npz", replace(model, first=replace(model.first, weights=weights)))
    why = explain(run, photo, forward, "tit")
    assert why.pairs[0][:2] == (i[entry], j[entry])
    assert why.pairs[0][2] == pytest.approx(why.heat.sum())
    both = x[..., i[entry]] * x[..., j[entry]]
    np.testing.assert_allclose(why.heat / why.heat.sum(), both / both.sum(), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("max", {}),
        ("covariance", {}),
        ("max+bilinear", {}),
        ("bilinear", {"normalize": "standard"}),
        ("bilinear", {"classifier": "mlp", "hidden": 3}),
    ],
)
def test_what_is_no_sum_over_places_is_not_explained(
    spec: str, options: dict[str, Any], trained: Trained, photo: Path
) -> None:
    with pytest.raises(BilinearError, match="explain is offered for bilinear and bilinear:K"):
        explain(trained(spec, **options), photo, forward)


def test_a_class_that_is_not_there(trained: Trained, photo: Path) -> None:
    with pytest.raises(UsageError, match="no class is called 'tti': did you mean 'tit'"):
        explain(trained("bilinear"), photo, forward, "tti")


def test_a_photo_of_nothing(trained: Trained, tmp_path: Path, make_photo: Callable) -> None:
    black = make_photo(tmp_path / "black.png", colour="black")
    why = explain(trained("bilinear"), black, forward)
    assert why.score == why.intercept
    assert not why.heat.any()
    assert np.asarray(overlay(why)).shape == (SIZE, SIZE, 3)


def test_the_picture_is_orange_where_a_place_spoke_for_the_class(
    trained: Trained, photo: Path
) -> None:
    why = explain(trained("bilinear"), photo, forward)
    heat = np.zeros((4, 4))
    heat[0, 0], heat[3, 3] = 1, -1
    picture = np.asarray(overlay(replace(why, heat=heat)), int)
    grey = why.pixels.mean(axis=2)
    assert picture[2, 2, 0] - picture[2, 2, 2] > 50
    assert picture[-3, -3, 2] - picture[-3, -3, 0] > 50
    assert np.abs(picture[16, 4] - grey[16, 4]).max() < 30
