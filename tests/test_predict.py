"""Tests of naming photos with a trained run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.errors import assert_names, raises, warnings
from support.feature_files import write_features
from support.photos import make_photo
from support.picture_files import deep_png
from support.runs import change_metrics, change_model, spread_novelty

from bilinear_cli.errors import BadPhotoError, BilinearError
from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.predict import predict
from bilinear_cli.run import load_model, read_metrics, read_recipe, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions

COLOURS = {"red": (230, 30, 30), "green": (30, 230, 30), "blue": (30, 30, 230)}
SIZE = 16


def forward(photos: Any) -> Any:
    """Stand in for the network: four-pixel blocks of the photo, their three colours and a 1."""
    import tensorflow as tf

    x = tf.nn.avg_pool2d(tf.cast(photos, tf.float32) / 255, 4, 4, "VALID")
    return tf.concat([x, tf.ones_like(x[..., :1])], axis=-1)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Return six photos of each colour, each with its own shade."""
    return [
        make_photo(tmp_path / name / f"{i}.png", colour=tuple(c - 5 * i for c in colour))
        for name, colour in COLOURS.items()
        for i in range(6)
    ]


@pytest.fixture(params=["max", "max+bilinear"])
def run(request: pytest.FixtureRequest, tmp_path: Path, photos: list[Path]) -> Path:
    """Return a run that was trained on the photos."""
    pixels = np.stack([read_photo(path, [SIZE])[0] for path in photos])
    maps = forward(pixels).numpy().reshape(len(photos), -1, 4)
    i, j = np.triu_indices(4)
    matrices = np.sqrt(np.einsum("nlc,nld->ncd", maps, maps))
    bilinear = matrices[:, i, j] * np.where(i == j, 1, np.sqrt(2))
    rows = {"max": maps.max(1), "bilinear": bilinear / np.linalg.norm(bilinear, axis=1)[:, None]}
    labels, split = np.repeat(np.arange(3), 6), np.full(18, "train")
    path = write_features(tmp_path / "x.h5", rows, labels, split, class_names=list(COLOURS))
    with FeatureFile(path) as file:
        options = TrainOptions(C=10.0, label_smoothing=0.0)
        return Path(train(file, request.param, options, tmp_path / "runs")["run"])


def test_photos_get_their_class_and_a_bad_file_its_error(
    run: Path, photos: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    paths = [*photos[:5], bad, *photos[5:]]  # in batches of four, the last of three
    answers = list(predict(load_model(run), read_recipe(run), paths, forward, top=50))
    assert [x.photo for x in answers] == paths
    error = answers[5].error
    assert isinstance(error, BadPhotoError)
    assert_names(str(error), bad)
    for path, names in ((x.photo, x.top) for x in answers):
        if path != bad:
            assert names[0][0] == path.parent.name
            assert {name for name, _ in names} == set(COLOURS)
            probabilities = [p for _, p in names]
            assert probabilities == sorted(probabilities, reverse=True)
            assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_what_was_guessed_about_photos_is_said_once(
    run: Path, photos: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    for path in photos[:3]:
        path.write_bytes(deep_png(np.full((8, 8), 900)))
    photos = [*photos, Image.new("I;16", (8, 8), 900)]
    answers = list(predict(load_model(run), read_recipe(run), photos, forward))
    assert len(answers) == 19
    (warning,) = warnings(caplog)
    assert_names(warning, photos[0], "10-bit", 900, 3)


@pytest.mark.parametrize("run", ["max"], indirect=True)
def test_the_rarity_is_that_of_the_mean_scores_of_the_views(run: Path, tmp_path: Path) -> None:
    extraction, model = read_metrics(run)["extraction"], load_model(run)
    change_model(run)  # without the recipe, as in version 0.1
    change_metrics(run, extraction=extraction | {"views": f"original {2 * SIZE}"})
    paths = [make_photo(tmp_path / f"{i}.png", seed=i) for i in range(5)]
    sizes = zip(*(read_photo(path, [SIZE, 2 * SIZE]) for path in paths), strict=True)
    views = [forward(np.stack(pixels)).numpy().max(axis=(1, 2)) for pixels in sizes]
    scores = np.mean([model.scores({"max": x}) for x in views], axis=0)
    expected = spread_novelty(run, scores).rarity(scores)
    assert len({*expected}) > 3
    rarity = [x.rarity for x in predict(load_model(run), read_recipe(run), paths, forward)]
    np.testing.assert_allclose(rarity, expected, atol=0.01)


def test_the_recipe_is_that_of_the_features(run: Path) -> None:
    recipe = read_recipe(run)
    assert (recipe.image_size, recipe.resize, recipe.batch_size) == (SIZE, "squash", 4)
    assert recipe.specs in (("max",), ("max", "bilinear"))


def test_a_run_that_does_not_state_its_extraction_is_one_line(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for extraction in ({}, [], metrics["extraction"] | {"image_size": 0}):
        (run / "metrics.json").write_text(json.dumps(metrics | {"extraction": extraction}))
        with raises(BilinearError, run):
            read_recipe(run)
