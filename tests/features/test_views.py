"""Tests of the views of a photo: names, rows, and what is made of their scores."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bilinear_cli.classify.predict import predict
from bilinear_cli.classify.select import Options
from bilinear_cli.classify.train import train
from bilinear_cli.data.dataset import load_dataset
from bilinear_cli.data.images import read_photo
from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.features.extract import extract
from bilinear_cli.features.graph import compile_pooling
from bilinear_cli.features.settings import Settings
from bilinear_cli.features.views import View, sizes_of, view_names, views
from bilinear_cli.store import FeatureFile

SETTINGS = Settings(("max", "sum"), "block5_conv3", 32, "squash", "float32", 3, "0" * 64)
NAMES = ("original", "flip", "16", "16-flip")
STRIDE = 5
KERNEL = np.random.default_rng(0).normal(size=(8, 8, 3, 6)).astype(np.float32) / 100


def forward(photos: tf.Tensor) -> tf.Tensor:
    """Return maps that see left and right differently."""
    return tf.nn.relu(tf.nn.conv2d(tf.cast(photos, tf.float32), KERNEL, STRIDE, "VALID"))


def maximum(photo: np.ndarray) -> np.ndarray:
    """Return one photo's max pooling, the plain way."""
    patches = np.lib.stride_tricks.sliding_window_view(photo.astype(np.float64), (8, 8), (0, 1))
    maps = np.einsum("ijcab,abcd->ijd", patches[::STRIDE, ::STRIDE], KERNEL)
    return np.maximum(maps, 0).max(axis=(0, 1))


@pytest.mark.parametrize(
    ("sizes", "flip", "names", "meant"),
    [
        ([224], False, ("original",), [View(224)]),
        ([224], True, ("original", "flip"), [View(224), View(224, True)]),
        ([224, 320], False, ("original", "320"), [View(224), View(320)]),
        ([32, 16], True, NAMES, [View(32), View(32, True), View(16), View(16, True)]),
    ],
)
def test_names(sizes: list[int], flip: bool, names: tuple[str, ...], meant: list[View]) -> None:
    assert view_names(sizes, flip) == names
    assert views(names, sizes[0]) == meant
    assert sizes_of(meant) == sizes


@pytest.mark.parametrize("name", ["", "flop", "flip-320", "320-original", "original-flip", "-flip"])
def test_other_names_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="no view is called"):
        views([name], 224)


@pytest.fixture
def birds(tmp_path: Path, class_folders: Callable[..., Path]) -> Path:
    return class_folders(tmp_path / "birds", {"tit": 6, "wren": 5})


def test_a_photo_has_a_row_for_each_view(birds: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(birds))
    settings = replace(SETTINGS, views=NAMES)
    told = []
    extract(
        dataset,
        settings,
        tmp_path / "x.h5",
        lambda: forward,
        progress=lambda *done: told.append(done),
    )
    assert told == [(0, 11), (3, 11), (6, 11), (9, 11), (11, 11)]
    with FeatureFile(tmp_path / "x.h5") as file:
        assert file.n_views == 4
        assert file.view.tolist() == [*NAMES] * 11
        assert file.photo.tolist() == [i for i in range(11) for _ in range(4)]
        assert file.paths[::4].tolist() == dataset.paths.tolist()
        assert file.attributes["views"] == "original flip 16 16-flip"
        stored = file.read("max", np.arange(44)).reshape(11, 4, 6)
    for rows, path in zip(stored, dataset.paths, strict=True):
        large, small = read_photo(dataset.root / path, [32, 16])
        shown = [large, large[:, ::-1], small, small[:, ::-1]]
        np.testing.assert_allclose(rows, [maximum(photo) for photo in shown], rtol=1e-4)
        assert np.abs(rows[0] - rows[1]).max() > 1e-3  # the network does see which is which


def test_bad_photos_lose_all_their_views(birds: Path, tmp_path: Path) -> None:
    for name in ("tit/1.png", "wren/0.png"):
        (birds / name).write_text("no photo")
    dataset = load_dataset(str(birds))
    settings = replace(SETTINGS, views=("original", "flip"))
    extract(dataset, settings, tmp_path / "x.h5", lambda: forward, skip_bad=True)
    with FeatureFile(tmp_path / "x.h5") as file:
        assert sorted(file.skipped) == ["tit/1.png", "wren/0.png"]
        assert len(file.photo) == 2 * 9
        assert (file.photo[::2] == file.photo[1::2]).all()


def test_other_views_are_another_file(birds: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(birds))
    extract(dataset, SETTINGS, tmp_path / "x.h5", lambda: forward)
    settings = replace(SETTINGS, views=("original", "flip"))
    with pytest.raises(FeatureFileError, match="with views original, and original flip is asked"):
        extract(dataset, settings, tmp_path / "x.h5", lambda: forward)


def test_maps_of_several_sizes_do_not_go_into_one_table() -> None:
    with pytest.raises(UsageError, match="conv5 of photos of several sizes"):
        compile_pooling(forward, ["max", "conv5"], 2, [View(32), View(16)])
    compile_pooling(forward, ["max", "conv5"], 2, [View(32), View(32, True)])


def test_a_device_out_of_memory_says_what_to_try() -> None:
    def failing(photos: np.ndarray) -> np.ndarray:
        raise MemoryError  # which TensorFlow hands on as its own ResourceExhaustedError

    def forward_failing(photos: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(failing, [photos], tf.float32), (None, 4, 4, 6))

    for batch_size, advice in ((8, "--batch-size 4"), (1, "a smaller --image-size")):
        compute, _ = compile_pooling(forward_failing, ["max"], batch_size, [View(32)])
        with pytest.raises(BilinearError, match=advice):
            compute({32: np.zeros((batch_size, 32, 32, 3), np.uint8)})


def test_scores_are_means_over_the_views_in_training_and_in_naming(
    birds: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(str(birds))
    settings = replace(SETTINGS, views=NAMES)
    extract(dataset, settings, tmp_path / "x.h5", lambda: forward)
    with FeatureFile(tmp_path / "x.h5") as file:
        options = Options(C=10.0, label_smoothing=0.0)
        metrics = train(file, "max", options, tmp_path / "runs")
    assert metrics["n_rows"] == 44
    run = Path(metrics["run"])
    with np.load(run / "test.npz") as test:
        scores, photo = test["scores"], test["photo"]
    (names, *_) = [found for _, found in predict(run, [birds / dataset.paths[photo[0]]], forward)]
    assert isinstance(names, list)
    mean = scores[photo == photo[0]].mean(axis=0) / metrics["temperature"]
    wanted = np.exp(mean) / np.exp(mean).sum()
    assert [p for _, p in names] == pytest.approx(sorted(wanted, reverse=True), abs=1e-4)
