"""Tests of training, from a feature file to a run folder."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.special import softmax
from support.errors import assert_suggests, raises
from support.feature_files import write_features
from support.network import use_untrained_networks
from support.rows import class_maps, pooled
from support.runs import make_run

from bilinear_cli.errors import BilinearError, FeatureFileError, UsageError
from bilinear_cli.run import load_model, read_metrics, save_model, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.conv1x1 import initial_kernel
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.metrics import calibration, fit_temperature
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear

Run = Callable[..., dict[str, Any]]
N, K = 48, 3
IS_TRAIN = np.arange(N) % 4 != 3
SPLIT = np.where(IS_TRAIN, "train", "test")
LABELS = np.arange(N) // 4 % K
MAPS = class_maps(LABELS, 8)
CHANNELS = {"small": 8, "large": 12}  # 36 and 78 features; there are 36 training rows
KEYS = {
    *("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "C", "label_smoothing", "oof_top1"),
    *("confused", "versions", "extraction", "run", "seconds"),
}
QUICK = TrainOptions(C=1.0, label_smoothing=0.0)
MLP = TrainOptions(classifier="mlp", label_smoothing=0.0, hidden=8)
CONV1X1 = TrainOptions("conv1x1", channels=4, label_smoothing=0.0)


@pytest.fixture(autouse=True, scope="module")
def _few_resamples() -> Iterator[None]:
    """Shorten the bootstrap: test_calibration.py tests the confidence intervals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bilinear_cli.training.metrics.N_RESAMPLES", 10)
        yield


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    use_untrained_networks(monkeypatch)


def features(channels: int = 8) -> dict[str, np.ndarray]:
    """Return max, sum and bilinear features of K classes that overlap."""
    return pooled(class_maps(LABELS, channels))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return run(spec, options, rows, labels, split, out) -> metrics; `out` is the runs' folder."""

    def call(
        spec: str,
        options: TrainOptions = QUICK,
        rows: dict[str, np.ndarray] | None = None,
        labels: np.ndarray = LABELS,
        split: np.ndarray = SPLIT,
        out: str = "runs",
        **columns: Any,
    ) -> dict[str, Any]:
        path = write_features(tmp_path / "x.h5", rows or features(), labels, split, **columns)
        with FeatureFile(path) as file:
            return train(file, spec, options, tmp_path / out)

    return call


def arrays_of(metrics: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    """Return the arrays in the file `model`, `oof` or `test` of a run."""
    with np.load(Path(metrics["run"]) / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def model_of(metrics: dict[str, Any]) -> Model:
    return load_model(Path(metrics["run"]))


def assert_same_arrays(a: dict[str, Any], b: dict[str, Any], *names: str) -> None:
    """Compare files of two runs."""
    for name in names:
        arrays, expected = arrays_of(a, name), arrays_of(b, name)
        assert arrays.keys() == expected.keys()
        for key in arrays:
            np.testing.assert_array_equal(arrays[key], expected[key])


def assert_gives_stored_scores(
    metrics: dict[str, Any], rows: dict[str, np.ndarray], atol: float = 1e-4
) -> None:
    """Compare the scores of a run's model for the test rows with the scores that it stored."""
    specs = metrics["pooling"].split("+")
    scores = model_of(metrics).scores({x: rows[x].astype(np.float32)[~IS_TRAIN] for x in specs})
    np.testing.assert_allclose(scores, arrays_of(metrics, "test")["scores"], atol=atol)


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
def test_metrics_and_the_run_folder_are_complete(channels: int, run: Run, tmp_path: Path) -> None:
    metrics = run("bilinear", TrainOptions(), features(channels))
    assert metrics.keys() >= KEYS
    folder = tmp_path / "runs" / "x-bilinear-softmax"
    assert metrics["run"] == str(folder)
    names = {"labels.csv", "metrics.json", "model.npz", "oof.npz", "test.npz"}
    assert {path.name for path in folder.iterdir()} == names
    assert read_metrics(folder) == json.loads(json.dumps(metrics))
    n_features = channels * (channels + 1) // 2
    expected = {
        **{"n_train": 36, "n_test": 12, "n_rows": 48, "n_classes": K, "seed": 0},
        "n_train_per_class": [12, 12],
        **{"n_features": n_features, "bytes": 4 * n_features, "classifier": "softmax"},
        **{"pooling": "bilinear", "features_file": str(tmp_path / "x.h5")},
    }
    assert metrics.items() >= expected.items()
    assert metrics["extraction"]["image_size"] == 16
    assert metrics["top1"] > 0.5
    assert metrics["top1_ci95"][0] < metrics["top1"] <= metrics["top1_ci95"][1]


def test_accuracies_are_those_of_the_stored_scores(run: Run) -> None:
    metrics = run("max")
    test, oof = (arrays_of(metrics, name) for name in ("test", "oof"))
    assert test["paths"].tolist() == [f"{LABELS[i]}/{i}.png" for i in np.flatnonzero(~IS_TRAIN)]
    np.testing.assert_array_equal(test["labels"], LABELS[~IS_TRAIN])
    np.testing.assert_array_equal(oof["photo"], np.flatnonzero(IS_TRAIN))
    for name, scores in (("top1", test), ("oof_top1", oof)):
        assert metrics[name] == np.mean(scores["scores"].argmax(1) == scores["labels"])


@pytest.mark.parametrize(
    ("spec", "options", "name"),
    [
        ("bilinear", QUICK, "bilinear-softmax"),
        ("bilinear", replace(QUICK, C=1e4), "bilinear-softmax"),
        ("max", QUICK, "max-softmax"),
        ("sum", replace(QUICK, normalize="sqrt-l2"), "sum-sqrt-l2-softmax"),
        ("max+bilinear", QUICK, "max+bilinear-softmax"),
        ("bilinear", replace(QUICK, top_variance=20), "bilinear-top20-softmax"),
        ("max", TrainOptions("svm"), "max-svm"),
        ("max", TrainOptions("ridge"), "max-ridge"),
        ("bilinear", TrainOptions("svm"), "bilinear-svm"),
        ("bilinear", TrainOptions("ridge"), "bilinear-ridge"),
    ],
)
@pytest.mark.slow
def test_the_model_gives_the_scores_that_were_stored(
    spec: str, options: TrainOptions, name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    several_blocks = 4 * N * 10
    monkeypatch.setattr("bilinear_cli.training.feature_transform.BLOCK_BYTES", several_blocks)
    metrics = run(spec, options, features(12))
    assert Path(metrics["run"]).name == f"x-{name}"
    assert metrics["top1"] > 0.5
    assert metrics["top_variance"] == options.top_variance
    assert metrics["C"] in [point["C"] for point in metrics["curve"]]
    assert_gives_stored_scores(metrics, features(12))
    assert model_of(metrics).class_names.tolist() == ["class 0", "class 1", "class 2"]
    assert model_of(metrics).first.weights.shape[0] == metrics["n_features"]


def test_the_model_is_the_fit_it_reports(run: Run) -> None:
    """Primal weights on the features themselves fulfil the optimum's condition, W = Cᵀ Xᵀ E."""
    model = model_of(run("bilinear", QUICK, features(12)))
    x = features(12)["bilinear"][IS_TRAIN]
    scores = model.scores({"bilinear": x.astype(np.float32)})
    error = np.eye(K)[LABELS[IS_TRAIN]] - softmax(scores, axis=1)
    np.testing.assert_allclose(error.sum(0), 0, atol=0.02)
    np.testing.assert_allclose(x.T @ error, model.first.weights, atol=0.02)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("bilinear", TrainOptions()),
        ("max+sum", TrainOptions()),
        ("bilinear", TrainOptions(top_variance=20)),
        ("max", TrainOptions(C=1.0, normalize="sqrt-l2")),
    ],
)
@pytest.mark.slow
def test_test_rows_influence_nothing_but_their_own_scores(
    spec: str, options: TrainOptions, run: Run
) -> None:
    altered = features()
    for x in altered.values():
        x[~IS_TRAIN] = 3 * x[~IS_TRAIN][::-1] + 1
    labels = LABELS.copy()
    labels[~IS_TRAIN] = np.roll(labels[~IS_TRAIN], 1)
    before = run(spec, options, out="before")
    after = run(spec, options, altered, labels, out="after")
    for name in ("C", "label_smoothing", "oof_top1", "oof_log_loss", "curve"):
        assert before[name] == after[name]
    assert_same_arrays(before, after, "model", "oof")
    scores = [arrays_of(metrics, "test")["scores"] for metrics in (before, after)]
    assert np.abs(scores[0] - scores[1]).max() > 0.01


@pytest.mark.parametrize("options", [TrainOptions(seed=3), MLP], ids=["softmax", "mlp"])
@pytest.mark.slow
def test_a_seed_reproduces_a_run(options: TrainOptions, run: Run, untrained: None) -> None:
    first, second = (run("max", options, out=out) for out in ("first", "second"))
    different = {name for name in first if first[name] != second[name]}
    assert different - {"extraction"} <= {"run", "seconds"}  # the file was written twice
    assert_same_arrays(first, second, "model", "oof", "test")


def test_without_test_photos_only_out_of_fold_metrics_are_reported(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = run("max", replace(QUICK, refit_all=True), split=np.full(N, "train"))
    names = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
    assert {metrics[name] for name in names} == {None}
    assert (metrics["n_train"], metrics["n_test"], metrics["fitted_on"]) == (N, 0, "train")
    assert metrics["oof_top1"] > 0.5
    assert arrays_of(metrics, "test")["scores"].shape == (0, K)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def two_views() -> dict[str, Any]:
    """Return what `run` takes for two different views of each photo."""
    x = np.repeat(features()["max"], 2, axis=0)
    return {
        "rows": {"max": x + np.random.default_rng(7).normal(0, 1, x.shape)},
        "labels": np.repeat(LABELS, 2),
        "split": np.repeat(SPLIT, 2),
        "photo": np.repeat(np.arange(N), 2),
    }


def test_labels_csv_has_a_row_for_each_photo(run: Run) -> None:
    group = np.array([f"nest {i // 8}" for i in range(2 * N)])
    metrics = run("max", **two_views(), group=group)
    with Path(metrics["run"], "labels.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "label", "split", "group"]
    assert rows == [
        [f"{label}/{i}.png", f"class {label}", SPLIT[i], f"nest {i // 4}"]
        for i, label in enumerate(LABELS)
    ]


def test_photos_count_once_with_the_mean_scores_of_their_views(run: Run) -> None:
    metrics = run("max", **two_views())
    assert (metrics["n_train"], metrics["n_test"], metrics["n_rows"]) == (36, 12, 96)
    assert metrics["n_train_per_class"] == [12, 12]
    oof, test = (arrays_of(metrics, name) for name in ("oof", "test"))
    mean = [x["scores"].reshape(-1, 2, K).mean(axis=1) for x in (oof, test)]
    labels = [x["labels"][::2] for x in (oof, test)]
    assert metrics["top1"] == np.mean(mean[1].argmax(1) == labels[1])
    temperature = metrics["temperature"]
    assert load_model(Path(metrics["run"])).temperature == temperature
    assert temperature == pytest.approx(fit_temperature(mean[0], labels[0]), rel=1e-3)
    assert abs(np.log(temperature / fit_temperature(oof["scores"], oof["labels"]))) > 0.01
    for when, t in (("before", 1), ("after", temperature)):
        expected = calibration(to_probabilities(mean[1], t), labels[1])
        for name in ("log_loss", "brier", "ece"):
            assert metrics["calibration"][when][name] == pytest.approx(expected[name], rel=1e-3)


@pytest.mark.slow
def test_an_mlp_is_trained_on_several_poolings_and_gives_the_scores_that_were_stored(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilinear_cli.training.mlp.PATIENCE", 2)
    metrics = run("max+sum", MLP)
    model = model_of(metrics)
    assert [x.weights.shape for x in (model.first, model.second) if x] == [(16, 8), (8, K)]
    assert metrics["C"] is None
    assert metrics["epochs"] >= 1
    oof = arrays_of(metrics, "oof")["photo"]
    assert set(oof) < set(np.flatnonzero(IS_TRAIN))
    assert len(oof) == 8  # of 36, in five folds of 7 or 8
    assert_gives_stored_scores(metrics, features())


@pytest.mark.parametrize(
    ("spec", "options", "facts"),
    [
        ("maxx", QUICK, ("x.h5", "'maxx'", "'max'")),
        ("max+", QUICK, ("x.h5", "''")),
        ("max+sum", TrainOptions(top_variance=4), ("--top-variance",)),
        ("max", TrainOptions(top_variance=9), ("--top-variance 9", 8)),
        ("max+max", QUICK, ("--pooling max+max",)),
        ("maps", QUICK, ("--classifier", "conv1x1", "--pooling", "maps")),
        ("max", CONV1X1, ("--classifier", "conv1x1", "--pooling", "maps")),
        ("maps", replace(CONV1X1, channels=9), ("--channels 9", 8)),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(
    spec: str, options: TrainOptions, facts: tuple[str | int, ...], run: Run
) -> None:
    with raises(UsageError, *facts) as caught:
        run(spec, options, {"maps": MAPS, **features()})
    if spec == "maxx":
        assert_suggests(str(caught.value).replace("'maxx'", ""), "max", ("max", "sum", "bilinear"))


# The run folder ---------------------------------------------------------------------------


def test_a_later_run_takes_the_place_of_an_earlier_one(run: Run, tmp_path: Path) -> None:
    run("max")
    folder = tmp_path / "runs" / "x-max-softmax"
    (folder / "stale.txt").touch()
    run("max", replace(QUICK, C=2.0))
    assert read_metrics(folder)["C"] == 2.0
    assert not (folder / "stale.txt").exists()
    assert list(folder.parent.iterdir()) == [folder]
    (tmp_path / "new").mkdir()
    assert folder.stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.slow
def test_a_fault_in_the_middle_of_writing_leaves_the_earlier_run(
    fault: BaseException, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("max")
    folder = tmp_path / "runs" / "x-max-softmax"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("bilinear_cli.run.writing.save_model", Mock(side_effect=fault))
    full = raises(BilinearError, folder, "No space left on device")
    with full if isinstance(fault, OSError) else pytest.raises(KeyboardInterrupt):
        run("max", replace(QUICK, C=2.0))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_run_that_cannot_take_its_place_leaves_the_earlier_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run("max")
    rename = os.replace

    def failing(source: Path, target: Path) -> None:
        if source.name == target.name:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        run("max", replace(QUICK, C=2.0))
    assert read_metrics(Path(before["run"]))["C"] == 1.0


def test_a_folder_that_cannot_be_made_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(BilinearError, tmp_path / "file" / "x-max-softmax", "File exists"):
        run("max", out="file")


# The model --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a run folder with a small model."""
    options = {"classifier": "mlp", "hidden": 2, "dropout": 0.0, "C": None, "curve": []}
    options |= {"n_features": 2, "top_variance": 2, "temperature": 1.0}
    run = make_run(tmp_path / "run", ["auk", "crow"], photos=False, **options)
    mean, std = np.zeros(2, np.float32), np.ones(2)
    transform = FeatureTransform("max", np.arange(2), 2, "standard", mean, std, 0.5)
    layer = Linear(np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    save_model(run / "model.npz", Model(layer, layer, [transform], np.array(["auk", "crow"])))
    return run


def test_a_model_comes_back_as_it_was_saved(folder: Path) -> None:
    scores = load_model(folder).scores({"max": np.array([[4.0, -8.0, 99.0]])})
    np.testing.assert_allclose(scores, [[4, 1]])  # 1 + max(0, 1 + x / 2)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def changed(data: bytes) -> bytes:
    offset = data.index(b"NUMPY") + 130
    return data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :]


def encrypted(data: bytes) -> bytes:
    """Return a zip with the flag of encryption; the zip module raises RuntimeError."""
    offset = data.index(b"PK\x01\x02") + 8
    return data[:offset] + b"\x01" + data[offset + 1 :]


def array_alone(data: bytes) -> bytes:
    """Return a file of `np.save` instead of `np.savez`."""
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "damage", [cut, changed, encrypted, array_alone, lambda data: b"", lambda data: b"hi"]
)
def test_a_damaged_model_is_one_line(damage: Callable[[bytes], bytes], folder: Path) -> None:
    path = folder / "model.npz"
    path.write_bytes(damage(path.read_bytes()))
    with raises(BilinearError, path):
        load_model(folder)


@pytest.mark.parametrize("name", ["weights", "intercept", "poolings", "factor0", "class_names"])
def test_a_model_that_lacks_something_is_one_line(name: str, folder: Path) -> None:
    arrays = arrays_of({"run": folder}, "model")
    del arrays[name]
    np.savez(folder / "model.npz", **arrays)
    with raises(BilinearError, folder / "model.npz"):
        load_model(folder)


def test_a_pickle_is_never_loaded(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "sprung",)

    arrays = arrays_of({"run": folder}, "model") | {"weights": np.array([Trap()], dtype=object)}
    np.savez(folder / "model.npz", **arrays)
    with raises(BilinearError, folder / "model.npz"):
        load_model(folder)
    assert not (folder / "sprung").exists()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with raises(BilinearError, tmp_path / "gone", "bilinear train"):
        load_model(tmp_path / "gone")


# Classifiers and solvers ------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["softmax", "svm", "ridge"])
@pytest.mark.parametrize("spec", ["max", "bilinear"])
@pytest.mark.slow
def test_streaming_comes_to_the_same_model(spec: str, classifier: str, run: Run) -> None:
    smoothing = 0.0 if classifier == "softmax" else None
    options = TrainOptions(classifier, C=1.0, label_smoothing=smoothing)
    models = [
        model_of(run(spec, replace(options, solver=solver), features(12)))
        for solver in ("gram", "stream")
    ]
    for array in ("weights", "intercept"):
        expected, streamed = (getattr(model.first, array) for model in models)
        np.testing.assert_allclose(expected, streamed, atol=0.01 * np.abs(expected).max() + 1e-3)


UNEVEN = np.where(np.arange(N) % 16 < 12, 0, LABELS)  # of one class and two small ones
BALANCED = replace(QUICK, class_weight="balanced")


@pytest.mark.parametrize("classifier", ["softmax", "svm", "ridge"])
@pytest.mark.parametrize("solver", ["gram", "stream"])
@pytest.mark.parametrize("spec", ["max", "bilinear"])
@pytest.mark.slow
def test_balanced_classes_weigh_the_same_with_each_solver(
    spec: str, solver: str, classifier: str, run: Run
) -> None:
    """The intercept is free, so at an optimum the weighted derivatives of a class sum to zero."""
    smoothing = 0.0 if classifier == "softmax" else None
    options = replace(BALANCED, classifier=classifier, label_smoothing=smoothing, solver=solver)
    metrics = run(spec, options, features(12), UNEVEN)
    assert metrics["class_weight"] == "balanced"
    assert Path(metrics["run"]).name == f"x-{spec}-balanced-{classifier}"
    x = features(12)[spec][IS_TRAIN].astype(np.float32)
    scores, one_hot = model_of(metrics).scores({spec: x}), np.eye(3)[UNEVEN[IS_TRAIN]]
    weight = (one_hot / one_hot.sum(axis=0)).sum(axis=1)
    slopes = {
        "softmax": softmax(scores, axis=1) - one_hot,
        "svm": np.minimum((2 * one_hot - 1) * scores - 1, 0) * (2 * one_hot - 1),
        "ridge": scores - (2 * one_hot - 1),
    }[classifier]
    np.testing.assert_allclose(weight @ slopes, 0, atol=0.02)
    assert np.abs(slopes.sum(axis=0)).max() > 0.2


def test_balanced_weights_choose_c_and_temperature_but_accuracies_count_photos(run: Run) -> None:
    metrics = run("bilinear", replace(BALANCED, C=None), features(12), UNEVEN)
    oof = arrays_of(metrics, "oof")
    assert metrics["oof_top1"] == np.mean(oof["scores"].argmax(1) == oof["labels"])
    weight = 12 / np.bincount(oof["labels"])[oof["labels"]]
    expected = fit_temperature(oof["scores"], oof["labels"], weight)
    assert metrics["temperature"] == pytest.approx(expected, rel=1e-3)
    unweighted = fit_temperature(oof["scores"], oof["labels"])
    assert abs(np.log(metrics["temperature"] / unweighted)) > 0.01
    assert metrics["C"] in [point["C"] for point in metrics["curve"]]


def test_without_balance_metrics_have_no_class_weight(run: Run) -> None:
    assert "class_weight" not in run("max")
    with raises(UsageError, "class weight", "even"):
        TrainOptions(class_weight="even")


@pytest.mark.parametrize("options", [MLP, CONV1X1], ids=["mlp", "conv1x1"])
def test_balanced_networks_train_and_stop_with_the_weights(
    options: TrainOptions, run: Run, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = import_module(f"bilinear_cli.training.{options.classifier}"), options.classifier
    fit = Mock(side_effect=getattr(module, f"fit_{name}"))
    monkeypatch.setattr(module, f"fit_{name}", fit)
    spec, rows = ("max", features()) if options is MLP else ("maps", {"maps": MAPS})
    metrics = run(spec, replace(options, class_weight="balanced"), rows, UNEVEN)
    assert metrics["class_weight"] == "balanced"
    tuning, final = fit.call_args_list
    for call in (tuning, final):
        targets, weight = (call.args[1], call.args[3]) if options is MLP else call.args[1][1:]
        if call is tuning:
            *_, val_targets, val_weight = call.kwargs["validation_data"]
            targets = np.concatenate([targets, val_targets])
            weight = np.concatenate([weight, val_weight])
        np.testing.assert_allclose(weight @ targets, 12)


def test_metrics_have_the_number_of_folds(run: Run, untrained: None) -> None:
    options = replace(QUICK, C=None, folds=3)
    assert (run("max", options)["folds"], run("max", MLP)["folds"]) == (3, 1)
    metrics = run("max", TrainOptions(solver="stream", label_smoothing=0.0))
    assert metrics["folds"] == 1
    assert len(arrays_of(metrics, "oof")["photo"]) == 8  # of 36
    assert len(metrics["curve"]) > 4


@pytest.mark.parametrize(
    "options", [QUICK, TrainOptions("ridge", C=1.0), MLP], ids=lambda o: o.classifier
)
@pytest.mark.slow
def test_refit_all_learns_from_the_test_photos_after_they_have_been_scored(
    options: TrainOptions, run: Run, untrained: None
) -> None:
    honest = run("bilinear", options, out="honest")
    refitted = run("bilinear", replace(options, refit_all=True), out="refitted")
    assert (honest["fitted_on"], refitted["fitted_on"]) == ("train", "train and test")
    for name in ("top1", "oof_top1", "C", "label_smoothing", "n_train", "n_test"):
        assert honest[name] == refitted[name]
    assert_same_arrays(honest, refitted, "oof", "test")
    everything = run("bilinear", options, split=np.full(N, "train"), out="everything")
    weights = [model_of(metrics).first.weights for metrics in (honest, refitted, everything)]
    np.testing.assert_allclose(weights[1], weights[2], atol=1e-3 * np.abs(weights[2]).max())
    assert np.abs(weights[0] - weights[1]).max() > 0.01 * np.abs(weights[0]).max()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.slow
def test_a_conv1x1_is_trained_on_maps_and_gives_the_scores_that_were_stored(
    frozen: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilinear_cli.training.conv1x1.LEARNING_RATE", 0.01)
    monkeypatch.setattr("bilinear_cli.training.conv1x1.PATIENCE", 4)
    options = replace(CONV1X1, frozen=frozen)
    metrics = run("conv5", options, {"maps": MAPS, **features()})  # its older name
    assert Path(metrics["run"]).name == "x-conv5-conv1x1-4" + "-frozen" * frozen
    assert (metrics["channels"], metrics["frozen"], metrics["n_features"]) == (4, frozen, 10)
    assert frozen or metrics["top1"] > 0.5
    assert_gives_stored_scores(metrics, {"conv5": MAPS}, atol=0.01)
    stored = MAPS.astype(np.float32)
    initial = initial_kernel(stored.__getitem__, np.flatnonzero(IS_TRAIN), 4, 0)
    assert np.array_equal(model_of(metrics).transforms[0].kernel, initial) == frozen


def test_one_training_photo_a_class_is_enough_if_no_option_is_tuned(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    split = np.full(N, "test", "U5")
    split[[0, 4, 8]] = "train"
    metrics = run("max", QUICK, split=split)
    assert (metrics["n_train"], metrics["oof_top1"], metrics["curve"]) == (3, None, [])
    assert 0 <= metrics["top1"] <= 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with raises(BilinearError, "-C", "--label-smoothing"):
        run("max", TrainOptions(), split=split)


def test_two_rows_can_be_told_apart(run: Run) -> None:
    labels, split = np.arange(4) % 2, np.array(["train", "train", "test", "test"])
    x = {"max": np.array([[0, 1.0, 0], [1.0, 0, 0]] * 2)}
    assert run("max", QUICK, x, labels, split)["top1"] == 1


def test_a_value_that_is_not_finite_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Row 7 is a test row. Row 6 is not in the sample or the first batch that Keras reads."""
    monkeypatch.setattr("bilinear_cli.training.conv1x1.N_SAMPLED", 4)
    monkeypatch.setattr("bilinear_cli.training.conv1x1.BATCH_SIZE", 4)
    rows = {"maps": MAPS.copy(), **features()}
    rows["max"][7, 2], rows["maps"][6, 1, 1, 2] = np.inf, np.nan
    for spec, options, row in (("max", QUICK, 7), ("maps", CONV1X1, 6)):
        with raises(FeatureFileError, tmp_path / "x.h5", row, f"features/{spec}", f"1/{row}.png"):
            run(spec, options, {spec: rows[spec]})


def test_an_mlp_is_not_streamed(run: Run, monkeypatch: pytest.MonkeyPatch, untrained: None) -> None:
    monkeypatch.setattr("bilinear_cli.training.reducers.free_memory", lambda: 1000)
    with raises(BilinearError, "mlp", "--top-variance", "--classifier", "--solver gram"):
        run("max", MLP)
    assert run("max", replace(MLP, solver="gram"))["solver"] == "gram"
    assert run("max", QUICK)["solver"] == "stream"
