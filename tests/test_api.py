"""The public Python interface: equal to the commands, and as README and docs/ show it."""

import inspect
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from support.commands import ROOT, run_command, set_quick_options
from support.errors import assert_names, raises
from support.network import small_network, use_small_network
from support.photos import class_folders, make_photo
from support.thin_network import thin_networks

import bilinear_cli
from bilinear_cli import Prediction, Run, extract, load_run, open_features, train
from bilinear_cli.api.progress import progress_bar
from bilinear_cli.errors import BadPhotoError, BilinearError, FeatureFileError, UsageError
from bilinear_cli.extraction.options import ExtractOptions
from bilinear_cli.networks import backbone
from bilinear_cli.networks.network import Network, load_network
from bilinear_cli.recipe import Recipe
from bilinear_cli.run import read_recipe, read_scores
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.transformers import PhotoFeatures

BLOCKS = [
    block
    for name in ("README.md", "docs/python.md", "docs/estimators.md")
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.M | re.S)
]
POOLINGS = ["max", "bilinear"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos/, and x.h5 and a run of the small network."""
    folder = tmp_path_factory.mktemp("api")
    class_folders(folder / "photos", {"wren": 6, "robin": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_small_network(patch)
        extract("photos", pooling=POOLINGS, output="x.h5", image_size=32, precision="float32")
        train("x.h5", pooling="bilinear", C=1.0, label_smoothing=0.0, progress=False)
    return folder


@pytest.fixture(autouse=True)
def _small(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(prepared)
    use_small_network(monkeypatch)
    load_network.cache_clear()
    yield
    load_network.cache_clear()


@pytest.fixture
def run(prepared: Path) -> Run:
    return load_run("runs/x-bilinear-softmax")


def photos() -> list[Path]:
    return sorted(Path("photos").rglob("*.png"))


# The same as the commands -------------------------------------------------------------------


def test_extract_and_train_write_what_the_commands_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_quick_options(monkeypatch, batch_size=12)
    options = ["--image-size", "32", "--precision", "float32", "--weights", "auto"]
    output = tmp_path / "x.h5"
    run_command("extract", "--data", "photos", "--pooling", "max", *options, "-o", output)
    path = extract(
        "photos", pooling="max", output=tmp_path / "y.h5", image_size=32, precision="float32",
        batch_size=12, progress=False,
    )  # fmt: skip
    with open_features(path) as ours, open_features(output) as theirs:
        np.testing.assert_array_equal(ours.X("max"), theirs.X("max"))
        assert ours.paths.tolist() == theirs.paths.tolist()
        assert ours.recipe == theirs.recipe
    run_command("train", "--features", output, "-C", 1, "--label-smoothing", 0, "-o", tmp_path)
    run = train(path, output=tmp_path, C=1.0, label_smoothing=0.0, progress=False)
    folders = (run.path, tmp_path / "x-max-softmax")
    np.testing.assert_array_equal(*(read_scores(folder, "test")["scores"] for folder in folders))


def test_arguments_and_defaults_are_those_of_the_options() -> None:
    arguments = inspect.signature(extract).parameters
    for field in fields(ExtractOptions):
        assert arguments[field.name].default == field.default, field.name
    arguments = inspect.signature(train).parameters
    names = {field.name for field in fields(TrainOptions)}
    assert {name for name in arguments if name in names} == {"classifier"}


def test_nothing_is_printed_and_no_bar_drawn(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extract("photos", pooling="max", output=tmp_path / "x.h5", image_size=32, progress=False)
    train(tmp_path / "x.h5", output=tmp_path, C=1.0, label_smoothing=0.0, progress=False)
    assert capfd.readouterr() == ("", "")


def test_train_needs_a_pooling_if_there_are_several() -> None:
    with raises(UsageError, "x.h5", *POOLINGS):
        train("x.h5")
    for name, nearest in (("c", "C"), ("poolings", "pooling"), ("fold", "folds")):
        with raises(TypeError, repr(name), repr(nearest)):
            train("x.h5", **{name: 1})


def test_stored_maps_determine_the_other_arguments(tmp_path: Path) -> None:
    maps = extract("photos", pooling="maps", output=tmp_path / "m.h5", image_size=32)
    for arguments in ({"limit": 1}, {"flip": True}, {"scheduler": "local:1"}, {"merge": False}):
        with raises(UsageError, *arguments):
            extract(maps=maps, pooling="max", output=tmp_path / "x.h5", **arguments)
    assert extract(maps=maps, pooling="max", output=tmp_path / "x.h5").exists()


def test_a_tilde_is_the_home_folder_and_an_empty_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(Path.cwd()))
    extract("~/photos", pooling="max", output="~/home.h5", image_size=32, progress=False)
    with open_features("~/home.h5") as features:
        assert len(features.paths) == len(photos())
    Path("home.h5").unlink()
    run = load_run("~/runs/x-bilinear-softmax")
    photo = photos()[0].as_posix()
    assert run.predict(f"~/{photo}")[0].top == run.predict(photo)[0].top
    with raises(UsageError, "photo"):
        run.predict("")
    features = PhotoFeatures(pooling="max", image_size=32, cache="~/rows")
    assert features.fit_transform([f"~/{photo}"]).shape == (1, 6)
    assert [*Path("rows").rglob("*.npy")]
    for arguments in ({"data": ""}, {"output": ""}, {"weights": ""}, {"maps": ""}, {"boxes": ""}):
        with raises(UsageError, *arguments):
            extract(**arguments)
    for arguments in ({"output": ""}, {"data": ""}, {"scheduler": ""}):
        with raises(UsageError, *arguments):
            train("x.h5", pooling="max", **arguments)
    with raises(UsageError, "--split-seed", "-1"):
        train("x.h5", pooling="max", data="photos", split_seed=-1)
    for function in (load_run, open_features, train):
        with pytest.raises(UsageError):
            function("")


def test_a_closed_file_is_not_damaged() -> None:
    with open_features("x.h5") as features:
        pass
    with raises(FeatureFileError, "x.h5", "closed"):
        features.X("max")


MISTAKES: dict[str, tuple[Callable[[Run, FeatureFile], Any], tuple[str, ...]]] = {
    "photos": (lambda run, file: extract([*photos()]), ("data", "list", "PhotoFeatures")),
    "size": (lambda run, file: extract(image_size="448"), ("--image-size", "'448'", "text")),
    "shard": (lambda run, file: extract(shard=1), ("--shard", 1, "text")),
    "layer": (lambda run, file: extract(layer=3), ("--layer", 3, "text")),
    "poolings": (lambda run, file: extract(pooling=[1]), ("--pooling", 1, "text")),
    "no pooling": (lambda run, file: extract(pooling=None), ("pooling", "list", "NoneType")),
    "scales": (lambda run, file: extract(scales="224,320"), ("scales", "list", "str")),
    "no scale": (lambda run, file: extract(scales=[]), ("--scales",)),
    "same scales": (lambda run, file: extract(scales=[32, 32]), ("--scales", "32,32")),
    "columns": (lambda run, file: extract("l.csv", columns=["path"]), ("columns", "['path']")),
    "column": (lambda run, file: extract("l.csv", columns={"path": 3}), ("columns", 3)),
    "large size": (lambda run, file: extract(image_size=10**5), ("--image-size", 10**5, 99_999)),
    "C": (lambda run, file: train("x.h5", C="1e3"), ("--C", "'1e3'", "text")),
    "pooling": (lambda run, file: train("x.h5", pooling=["max"]), ("pooling", "list", "max+")),
    "X": (lambda run, file: file.X(["max"]), ("pooling", "list", "max+")),
    "transformer": (
        lambda run, file: PhotoFeatures(pooling=["max"], weights="random").fit([]),
        ("pooling", "list", "max+"),
    ),
    "file": (lambda run, file: train(file), ("path", "FeatureFile")),
    "arrays": (
        lambda run, file: train((np.zeros((2, 2)), ["wren"])),
        ("path", "tuple", "SoftmaxClassifier"),
    ),
    "choice": (lambda run, file: train("x.h5", normalize=None), ("normalize", "None", "auto")),
    "choices": (lambda run, file: file.X("max", ["test"]), ("split", "['test']", "train")),
    "run": (lambda run, file: load_run(run), ("folder", "path", "Run")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_argument_of_another_kind_is_a_usage_error(run: Run, mistake: str) -> None:
    call, facts = MISTAKES[mistake]
    with open_features("x.h5") as features, raises(UsageError, *facts):
        call(run, features)


def test_a_run_that_train_replaces_is_named(tmp_path: Path) -> None:
    (tmp_path / "x-max-softmax").mkdir()
    with pytest.warns(UserWarning, match=re.escape(str(tmp_path / "x-max-softmax"))) as caught:
        train("x.h5", pooling="max", output=tmp_path, C=1.0, label_smoothing=0, progress=False)
    assert [warning.filename for warning in caught] == [__file__]


# Features ---------------------------------------------------------------------------------


def test_features_are_arrays_and_names() -> None:
    with open_features("x.h5") as features:
        assert sorted(features.poolings) == sorted(POOLINGS)
        x, y = features.X("bilinear"), features.y()
        assert x.shape == (12, 21)
        assert y.tolist() == [Path(path).parent.name for path in features.paths]
        train_rows = features.split == "train"
        np.testing.assert_array_equal(features.X("bilinear", "train"), x[train_rows])
        assert features.y("test").tolist() == y[~train_rows].tolist()
        both = features.X("max+bilinear", "test")
        np.testing.assert_array_equal(both[:, 6:], x[~train_rows])
        with raises(UsageError, "validation", "train", "test"):
            features.y("validation")


def test_a_feature_file_says_what_it_has() -> None:
    with open_features("x.h5") as features:
        pass
    assert_names(repr(features), "x.h5", 12, 2, *POOLINGS)


def test_a_frame_has_a_row_for_each_photo() -> None:
    with open_features("x.h5") as features:
        frame = features.to_frame("test")
        assert frame["y"].tolist() == features.y("test").tolist()


# Runs ---------------------------------------------------------------------------------------


def test_all_kinds_of_photos_get_the_same_prediction(run: Run) -> None:
    paths = photos()
    images = [Image.open(path).convert("RGB") for path in paths]
    by_path = run.predict(paths, top=2)
    for others in (images, [np.asarray(image) for image in images], [str(path) for path in paths]):
        assert [x.top for x in run.predict(others, top=2)] == [x.top for x in by_path]
    (alone,) = run.predict(paths[0], top=2)
    assert alone.name == by_path[0].name
    assert alone.probability == pytest.approx(by_path[0].probability, abs=1e-5)
    best = by_path[0]
    assert (best.photo, best.name, best.probability) == (paths[0], *best.top[0])
    assert sum(p for _, p in best.top) == pytest.approx(1)


def test_stored_rows_get_the_prediction_of_their_photos(run: Run) -> None:
    rows = {x.photo: x for x in run.predict("x.h5", top=2)}
    for prediction in run.predict([Path("photos") / path for path in rows], top=2):
        (row,) = [x for path, x in rows.items() if prediction.photo == Path("photos") / path]
        top = row.top
        assert row.rarity == prediction.rarity is not None
        assert [name for name, _ in top] == [name for name, _ in prediction.top]
        np.testing.assert_allclose([p for _, p in top], [p for _, p in prediction.top], atol=1e-3)


def test_rows_of_another_recipe_are_refused(run: Run, tmp_path: Path) -> None:
    other = extract(
        "photos", pooling="bilinear", output=tmp_path / "o.h5", precision="float32", image_size=40
    )
    with raises(FeatureFileError, "image-size", 40, 32):
        run.predict(str(other))


def test_a_bad_photo_has_an_error_and_the_others_have_names(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    first, second = run.predict([bad, photos()[0]])
    assert second.name in {"wren", "robin"}
    assert isinstance(first.error, BadPhotoError)
    with pytest.raises(OSError, match=re.escape(str(bad))):
        _ = first.name


def test_a_bad_image_or_array_has_an_error_too(run: Run, tmp_path: Path) -> None:
    cut = make_photo(tmp_path / "cut.jpg", size=(100, 100))
    os.truncate(cut, cut.stat().st_size // 2)
    with Image.open(cut) as image:
        bad = [image, Image.new("F", (50, 40)), np.zeros((0, 8, 3), np.uint8)]
        *errors, good = run.predict([*bad, photos()[0]])
    assert good.name in {"wren", "robin"}
    assert [type(prediction.error) for prediction in errors] == [BadPhotoError] * 3


def test_an_array_is_one_photo_a_batch_or_a_sequence_of_photos(run: Run) -> None:
    paths = photos()[:3]
    batch = np.array([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    expected = [prediction.top for prediction in run.predict(paths)]
    objects = np.empty(3, object)
    objects[:] = [*batch]
    for several in (np.array([*map(str, paths)]), np.array(paths), batch, objects):
        assert [prediction.top for prediction in run.predict(several)] == expected
    (alone,) = run.predict(batch[0])
    assert alone.name == expected[0][0][0]


@pytest.mark.parametrize("photo", [None, 3, np.array("a.jpg"), b"a.jpg"])
def test_what_is_no_photo_is_a_usage_error(run: Run, photo: Any) -> None:
    with pytest.raises(UsageError, match="photo has to be"):
        run.predict(photo)
    with pytest.raises(UsageError, match="photo has to be"):
        run.predict([photos()[0], photo])


@pytest.mark.parametrize("top", [0, -1])
def test_top_is_at_least_one(run: Run, top: int) -> None:
    for source in (photos(), "x.h5"):
        with raises(UsageError, "top", top):
            run.predict(source, top=top)


def test_predictions_and_photo_features_load_a_network_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Recipe] = []
    load = Network.load
    monkeypatch.setattr(
        Network, "load", lambda self, recipe: loaded.append(recipe) or load(self, recipe)
    )
    recipe = read_recipe(run.path)
    features = PhotoFeatures(
        pooling="bilinear", image_size=32, precision="float32", batch_size=recipe.batch_size
    )
    features.fit(photos())
    run.predict(photos()[0])
    run.predict(photos()[1])
    assert len(loaded) == 1


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (2, 8, 8, 3)])
def test_an_array_that_is_no_photo_is_a_value_error(run: Run, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        run.predict([np.zeros(shape, np.uint8)])
    photo = np.zeros(shape[-3:])
    for photos in (photo, [photo]):
        with raises(UsageError, "float64", shape[-3:], "255"):
            run.predict(photos)


def test_a_prediction_of_an_array_does_not_print_its_pixels() -> None:
    text = repr(Prediction(np.zeros((8, 9, 3), np.uint8), [("wren", 1.0)]))
    assert_names(text, "(8, 9, 3)", "wren")
    assert "0, 0" not in text
    assert repr(Prediction("a.jpg", [])).startswith("Prediction(photo='a.jpg', top=[], ")


def test_metrics_and_reports(run: Run, tmp_path: Path) -> None:
    assert 0 <= run.metrics["top1"] <= 1
    assert Run(str(run.path)) == run
    assert "wren" in run.report(tmp_path / "report.md").read_text("utf-8")
    with raises(UsageError, ".html", ".md"):
        run.report(tmp_path / "report.txt")
    with raises(BilinearError, "none"):
        load_run("none")


# Transformers -------------------------------------------------------------------------------


def test_photo_features_are_the_stored_rows(tmp_path: Path) -> None:
    features = PhotoFeatures(pooling="max+bilinear", image_size=32, precision="float32")
    with open_features("x.h5") as file:
        paths = [Path("photos") / path for path in file.paths]
        stored = file.X("max+bilinear")
    rows = features.fit(paths).transform(paths)
    np.testing.assert_allclose(rows, stored, rtol=1e-6)
    assert rows.dtype == np.float32
    assert features.get_feature_names_out().shape == (rows.shape[1],)
    copy = tmp_path / "features.joblib"
    joblib.dump(features, copy)
    np.testing.assert_array_equal(joblib.load(copy).transform(paths), rows)
    assert clone(features).get_params() == features.get_params()


def test_the_cache_spares_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    network = small_network(lambda batch: seen.append(len(batch)))
    monkeypatch.setattr(Network, "load", lambda self, recipe: network)
    features = PhotoFeatures(pooling="max", image_size=32, cache=tmp_path, batch_size=4)
    rows = features.fit(photos()).transform(photos()[:8])
    assert seen == [4, 4]
    np.testing.assert_array_equal(features.transform(photos()), np.vstack([rows, rows[:0], *[
        features.transform([path]) for path in photos()[8:]
    ]]))  # fmt: skip
    assert seen == [4, 4, 4]
    array = np.asarray(Image.open(photos()[0]).convert("RGB"))
    np.testing.assert_array_equal(features.transform([array]), rows[:1])


def test_a_series_of_pandas_has_the_rows_of_its_photos_in_its_order(tmp_path: Path) -> None:
    paths = pd.Series([str(path) for path in photos()])
    features = PhotoFeatures(pooling="max", image_size=32, cache=tmp_path).fit(paths)
    expected = PhotoFeatures(pooling="max", image_size=32).fit_transform(photos())
    shuffled = paths.sample(frac=1, random_state=0)
    for series in (shuffled[:5], paths[6:], shuffled, paths):
        np.testing.assert_array_equal(features.transform(series), expected[series.index])
    pooled = PhotoFeatures(pooling="bilinear:3", image_size=32).fit(shuffled[:6])
    assert len(pooled.parameters_["fitted-on"]) == 6
    frame = features.set_output(transform="pandas").fit_transform(shuffled)
    assert frame.index.tolist() == shuffled.index.tolist()


def test_photo_features_take_any_iterable_but_no_table() -> None:
    features = PhotoFeatures(pooling="bilinear:3", image_size=32)
    rows = features.fit(path for path in photos()).transform(path for path in photos())
    np.testing.assert_array_equal(features.fit_transform(path for path in photos()), rows)
    for wrong in (pd.DataFrame({"path": photos()}), str(photos()[0]), photos()[0], None):
        with raises(UsageError, type(wrong).__name__):
            features.fit(wrong)
        with raises(UsageError, type(wrong).__name__):
            features.transform(wrong)


@pytest.mark.parametrize("length", [0, 5, 100, 140])
def test_a_damaged_row_of_the_cache_is_computed_again(tmp_path: Path, length: int) -> None:
    features = PhotoFeatures(pooling="max", image_size=32, cache=tmp_path).fit(photos())
    rows = features.transform(photos())
    good = {file: file.read_bytes() for file in tmp_path.rglob("*.npy")}
    damaged, other, header = list(good)[:3]
    os.truncate(damaged, length)
    np.save(other, np.zeros(3, np.float32))
    header.write_bytes(good[header].replace(b"}", b" "))
    np.testing.assert_array_equal(features.transform(photos()), rows)
    assert {file: file.read_bytes() for file in good} == good


def test_the_batch_size_does_not_change_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free in (1, 2):  # as if the memory that is free had changed
        monkeypatch.setattr(backbone, "resolve_batch_size", lambda *sizes, free=free: 4 * free)
        features = PhotoFeatures(pooling="max", image_size=32, cache=tmp_path).fit(photos())
        assert features.recipe_.batch_size == 4 * free
        features.transform(photos())
    assert len([*tmp_path.rglob("*.npy")]) == 12


def test_the_cache_tells_images_apart_that_store_the_same_numbers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    red, blue = (Image.fromarray(pixels[..., 0]).convert("P") for _ in range(2))
    red.putpalette([k for i in range(256) for k in (i, 0, 0)])
    blue.putpalette([k for i in range(256) for k in (0, 0, i)])
    rotated = Image.fromarray(pixels[..., :3])
    rotated.getexif()[0x0112] = 6
    images = [Image.frombytes(mode, (32, 32), pixels.tobytes()) for mode in ("CMYK", "RGBA")]
    images += [red, blue, rotated, Image.fromarray(pixels[..., :3])]
    features = PhotoFeatures(pooling="max", image_size=32).fit(images)
    cached = PhotoFeatures(pooling="max", image_size=32, cache=tmp_path).fit(images)
    for _ in range(2):
        np.testing.assert_array_equal(cached.transform(images), features.transform(images))
    assert len([*tmp_path.rglob("*.npy")]) == 6
    with raises(BadPhotoError, "mode F"):
        cached.transform([Image.new("F", (8, 8))])


def test_a_projection_is_fitted_on_the_photos_of_fit() -> None:
    features = PhotoFeatures(pooling="bilinear:3", image_size=32)
    assert features.fit(photos()[:8]).transform(photos()).shape == (12, 6)
    assert len(features.parameters_["fitted-on"]) == 8


def test_another_network_than_that_of_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    features = PhotoFeatures(pooling="max", image_size=32).fit(photos())
    monkeypatch.setattr(Network, "sha256", lambda self: "1" * 64)
    with raises(BilinearError, "vgg16"):
        features.transform(photos())


# Imports and types --------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import bilinear_cli, sys; print({'numpy', 'tensorflow', 'h5py'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert {*dir(bilinear_cli)} == {*bilinear_cli.__all__, "__version__"}
    for name in bilinear_cli.__all__:
        assert getattr(bilinear_cli, name).__doc__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = bilinear_cli.no_such_name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:train replaces the run:UserWarning")
def test_the_documents_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()  # the small network
    names = [f"{i}.jpg" for i in range(8)]
    class_folders(tmp_path / "photos", {"wren": names, "robin": names})
    make_photo(tmp_path / "new" / "lazuli-bunting.jpg", seed=99)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with thin_networks() as patch:
        patch.chdir(tmp_path)
        load = Network.weights
        patch.setattr(Network, "weights", lambda self: load(Network(self.backbone, "random")))
        for block in BLOCKS:
            exec(block, {})
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.getLogger("bilinear_cli").setLevel(logging.NOTSET)
    assert "wren" in capsys.readouterr().out


# Progress ------------------------------------------------------------------------------------


def show_progress(
    monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, int], unit: str = "photo"
) -> None:
    """Report numbers of photos that are done, of 100, at seconds of a clock."""
    clock = iter([0.0, *(second for second, _ in steps)])
    clock_module = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("bilinear_cli.api.progress.time", clock_module)
    with progress_bar("extracting", unit) as progress:
        for _, done in steps:
            progress(done, 100)


def test_without_a_terminal_progress_is_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    show_progress(monkeypatch, (10, 20), (29, 23), (32, 31), (50, 40), (62, 45), (63, 100))
    out, err = capsys.readouterr()
    assert (out, "\r" in err) == ("", False)
    first, second = err.splitlines()
    assert_names(first, "extracting", "31%", "31/100", "00:22", "2.00s/photo", "02:18")
    assert_names(second, "45/100", "00:52")


def test_a_second_loop_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    show_progress(monkeypatch, (0, 0), (20, 100), (25, 0), (35, 50), (40, 100))
    assert_names(capsys.readouterr().err.rstrip(), "50/100", "00:10")


def test_with_a_terminal_progress_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show_progress(monkeypatch, (0, 50), (1, 100))
    assert "\r" in capsys.readouterr().err


def test_progress_without_a_unit_is_a_percentage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    show_progress(monkeypatch, (10, 20), (32, 31), (63, 100), unit="")
    first, last = capsys.readouterr().err.splitlines()
    assert_names(first, "extracting", "31%", "00:22")
    assert "/s" not in first + last


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_of_an_unknown_total_is_a_count(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr("bilinear_cli.api.progress.LINE_SECONDS", 0)
    with progress_bar("predicting", "photo") as progress:
        progress(7, 0)
    err = capsys.readouterr().err
    assert_names(err.strip(), "predicting", 7)
    assert "%" not in err
    assert "/0" not in err


def test_hidden_progress_does_not_import_the_bar_of_notebooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # an import raises
    with progress_bar("extracting", "photo", show=False) as progress:
        progress(1, 2)


def test_a_notebook_without_ipywidgets_has_a_bar_of_text_and_no_warning(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The notebook is simulated."""
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    shell = SimpleNamespace(get_ipython=lambda: None)
    for name, module in {"ipykernel.zmqshell": shell, "IPython": shell, "ipywidgets": None}.items():
        monkeypatch.setitem(sys.modules, name, module)
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("extracting", "photo") as progress:
        progress(100, 100)
    assert_names(stream.getvalue().strip(), "extracting", "100%", "photo")
    assert "\r" in stream.getvalue()
    assert not recwarn.list


def test_with_stderr_closed_there_is_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    show_progress(monkeypatch, (0, 0), (40, 50), (80, 100))
    assert capsys.readouterr().out == ""
