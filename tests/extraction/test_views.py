"""Tests of the views of a photo: their names, their rows, and the mean of their scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.errors import raises
from support.network import extract_photos, random_kernel, small_maps, small_network
from support.photos import class_folders

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.extraction.graph import Forward, compile_pooling
from bilinear_cli.photos.images import read_photo
from bilinear_cli.photos.photo_set import load_photo_set
from bilinear_cli.predict import predict
from bilinear_cli.recipe import Recipe
from bilinear_cli.run import train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.views import View, distinct_sizes, parse_views, view_names

RECIPE = Recipe(("max", "sum"), "block5_conv3", 32, "squash", "float32", 3, "0" * 64)
NAMES = ("original", "flip", "16", "16-flip")
STRIDE = 5


def load_forward() -> Forward:
    """Return a network whose maps differ between left and right."""
    return small_network(stride=STRIDE)


@pytest.mark.parametrize(
    ("sizes", "flip", "names", "wanted"),
    [
        ([224], False, ("original",), [View(224)]),
        ([224], True, ("original", "flip"), [View(224), View(224, True)]),
        ([224, 320], False, ("original", "320"), [View(224), View(320)]),
        ([32, 16], True, NAMES, [View(32), View(32, True), View(16), View(16, True)]),
    ],
)
def test_names(sizes: list[int], flip: bool, names: tuple[str, ...], wanted: list[View]) -> None:
    assert view_names(sizes, flip) == names
    assert parse_views(names, sizes[0]) == wanted
    assert distinct_sizes(wanted) == sizes


@pytest.mark.parametrize("name", ["", "flop", "flip-320", "320-original", "original-flip", "-flip"])
def test_other_names_are_refused(name: str) -> None:
    with raises(ValueError, repr(name)):
        parse_views([name], 224)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})


def test_a_photo_has_a_row_for_each_view(birds: Path, tmp_path: Path) -> None:
    photo_set = load_photo_set(str(birds))
    recipe = replace(RECIPE, views=NAMES)
    steps = []
    output = tmp_path / "x.h5"
    extract_photos(photo_set, recipe, output, load_forward, progress=lambda *x: steps.append(x))
    assert steps == [(0, 11), (3, 11), (6, 11), (9, 11), (11, 11)]
    with FeatureFile(tmp_path / "x.h5") as file:
        assert file.n_views == 4
        assert file.view.tolist() == [*NAMES] * 11
        assert file.photo.tolist() == [i for i in range(11) for _ in range(4)]
        assert file.paths[::4].tolist() == photo_set.paths.tolist()
        assert file.attributes["views"] == "original flip 16 16-flip"
        stored = file.read("max", np.arange(44)).reshape(11, 4, 6)
    for rows, path in zip(stored, photo_set.paths, strict=True):
        large, small = read_photo(photo_set.root / path, [32, 16])
        shown = [large, large[:, ::-1], small, small[:, ::-1]]
        maps = [small_maps(photo, random_kernel(), STRIDE) for photo in shown]
        np.testing.assert_allclose(rows, [x.max(axis=(0, 1)) for x in maps], rtol=1e-4)
        assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_bad_photos_lose_all_their_views(birds: Path, tmp_path: Path) -> None:
    for name in ("tit/1.png", "wren/0.png"):
        (birds / name).write_text("no photo")
    photo_set = load_photo_set(str(birds))
    recipe = replace(RECIPE, views=("original", "flip"))
    extract_photos(photo_set, recipe, tmp_path / "x.h5", load_forward, skip_bad=True)
    with FeatureFile(tmp_path / "x.h5") as file:
        assert sorted(file.skipped) == ["tit/1.png", "wren/0.png"]
        assert len(file.photo) == 2 * 9
        assert (file.photo[::2] == file.photo[1::2]).all()


def test_other_views_are_another_file(birds: Path, tmp_path: Path) -> None:
    photo_set = load_photo_set(str(birds))
    extract_photos(photo_set, RECIPE, tmp_path / "x.h5", load_forward)
    recipe = replace(RECIPE, views=("original", "flip"))
    with raises(FeatureFileError, tmp_path / "x.h5", "views", "original", "original flip"):
        extract_photos(photo_set, recipe, tmp_path / "x.h5", load_forward)


def test_maps_of_several_sizes_do_not_go_into_one_table() -> None:
    with raises(UsageError, "maps"):
        compile_pooling(load_forward(), ["max", "maps"], 2, [View(32), View(16)])
    compile_pooling(load_forward(), ["max", "maps"], 2, [View(32), View(32, True)])


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
    birds: Path, tmp_path: Path
) -> None:
    photo_set = load_photo_set(str(birds))
    recipe = replace(RECIPE, views=NAMES)
    extract_photos(photo_set, recipe, tmp_path / "x.h5", load_forward)
    with FeatureFile(tmp_path / "x.h5") as file:
        options = TrainOptions(C=10.0, label_smoothing=0.0)
        metrics = train(file, "max", options, tmp_path / "runs")
    assert metrics["n_rows"] == 44
    run = Path(metrics["run"])
    with np.load(run / "test.npz") as test:
        scores, photo = test["scores"], test["photo"]
    ((_, names),) = predict(run, [birds / photo_set.paths[photo[0]]], load_forward())
    assert isinstance(names, list)
    mean = scores[photo == photo[0]].mean(axis=0) / metrics["temperature"]
    wanted = np.exp(mean) / np.exp(mean).sum()
    assert [p for _, p in names] == pytest.approx(sorted(wanted, reverse=True), abs=1e-4)
