"""Tests of the views of a photo: their names, their rows, and the mean of their scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction import cases
from support.errors import raises
from support.network import random_kernel, small_maps, small_network

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.extraction.graph import compile_pooling
from bilinear_cli.photos.photo_set import PhotoSet
from bilinear_cli.photos.pixels.images import read_photo
from bilinear_cli.predict import predict
from bilinear_cli.recipe import Recipe, View, distinct_sizes, parse_views, view_names
from bilinear_cli.run import load_model, read_recipe, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions

RECIPE = replace(cases.RECIPE, specs=("max", "sum"))
NAMES = ("original", "flip", "16", "16-flip")
STRIDE = 5


def extract(photo_set: PhotoSet, output: Path, recipe: Recipe, **options: Any) -> None:
    """Extract by a network whose maps differ between left and right."""
    cases.run(photo_set, output, recipe, network=cases.Network(stride=STRIDE), **options)


@pytest.mark.parametrize(
    ("sizes", "flip", "names", "expected"),
    [
        ([224], False, ("original",), [View(224)]),
        ([224], True, ("original", "flip"), [View(224), View(224, True)]),
        ([224, 320], False, ("original", "320"), [View(224), View(320)]),
        ([32, 16], True, NAMES, [View(32), View(32, True), View(16), View(16, True)]),
    ],
)
def test_names(sizes: list[int], flip: bool, names: tuple[str, ...], expected: list[View]) -> None:
    assert view_names(sizes, flip) == names
    assert parse_views(names, sizes[0]) == expected
    assert distinct_sizes(expected) == sizes


@pytest.mark.parametrize("name", ["", "flop", "flip-320", "320-original", "original-flip", "-flip"])
def test_other_names_are_refused(name: str) -> None:
    with raises(ValueError, repr(name)):
        parse_views([name], 224)


def test_a_photo_has_a_row_for_each_view(birds: PhotoSet, output: Path) -> None:
    recipe = replace(RECIPE, views=NAMES)
    steps = []
    extract(birds, output, recipe, progress=lambda *x: steps.append(x))
    assert steps == [(0, 11), (3, 11), (6, 11), (9, 11), (11, 11)]
    with FeatureFile(output) as file:
        assert file.n_views == 4
        assert file.view.tolist() == [*NAMES] * 11
        assert file.photo.tolist() == [i for i in range(11) for _ in range(4)]
        assert file.paths[::4].tolist() == birds.paths.tolist()
        assert file.attributes["views"] == "original flip 16 16-flip"
        stored = file.read("max", np.arange(44)).reshape(11, 4, 6)
    for rows, path in zip(stored, birds.paths, strict=True):
        large, small = read_photo(birds.root / path, [32, 16])
        shown = [large, large[:, ::-1], small, small[:, ::-1]]
        maps = [small_maps(photo, random_kernel(), STRIDE) for photo in shown]
        np.testing.assert_allclose(rows, [x.max(axis=(0, 1)) for x in maps], rtol=1e-4)
        assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_bad_photos_lose_all_their_views(birds: PhotoSet, output: Path) -> None:
    for name in ("tit/1.png", "wren/0.png"):
        (birds.root / name).write_text("no photo")
    recipe = replace(RECIPE, views=("original", "flip"))
    extract(birds, output, recipe, skip_bad=True)
    with FeatureFile(output) as file:
        assert sorted(file.skipped) == ["tit/1.png", "wren/0.png"]
        assert len(file.photo) == 2 * 9
        assert (file.photo[::2] == file.photo[1::2]).all()


def test_other_views_are_another_file(birds: PhotoSet, output: Path) -> None:
    extract(birds, output, RECIPE)
    recipe = replace(RECIPE, views=("original", "flip"))
    with raises(FeatureFileError, output, "views", "original", "original flip"):
        extract(birds, output, recipe)


def test_maps_of_several_sizes_do_not_go_into_one_table() -> None:
    with raises(UsageError, "maps"):
        compile_pooling(small_network(stride=STRIDE), ["max", "maps"], 2, [View(32), View(16)])
    compile_pooling(small_network(stride=STRIDE), ["max", "maps"], 2, [View(32), View(32, True)])


@pytest.mark.parametrize(
    ("batch_size", "facts"), [(8, (8, "--batch-size 4")), (1, (1, "--image-size"))]
)
def test_a_device_out_of_memory_is_answered_with_an_option(
    batch_size: int, facts: tuple[int | str, ...]
) -> None:
    def fail(_: np.ndarray) -> None:
        raise MemoryError  # which TensorFlow hands on as its own ResourceExhaustedError

    compute, _ = compile_pooling(small_network(fail), ["max"], batch_size, [View(32)])
    with raises(BilinearError, *facts):
        compute({32: np.zeros((batch_size, 32, 32, 3), np.uint8)})


@pytest.mark.slow
def test_scores_are_means_over_the_views_in_training_and_in_prediction(
    birds: PhotoSet, output: Path
) -> None:
    recipe = replace(RECIPE, views=NAMES)
    extract(birds, output, recipe)
    with FeatureFile(output) as file:
        options = TrainOptions(C=10.0, label_smoothing=0.0)
        metrics = train(file, "max", options, output.parent / "runs")
    assert metrics["n_rows"] == 44
    run = Path(metrics["run"])
    with np.load(run / "test.npz") as test:
        scores, photo = test["scores"], test["photo"]
    model, photos = (load_model(run), read_recipe(run)), [birds.root / birds.paths[photo[0]]]
    (prediction,) = predict(*model, photos, small_network(stride=STRIDE))
    mean = scores[photo == photo[0]].mean(axis=0) / metrics["temperature"]
    expected = np.exp(mean) / np.exp(mean).sum()
    assert [p for _, p in prediction.top] == pytest.approx(sorted(expected, reverse=True), abs=1e-4)
