"""Tests of the choice of hyper-parameters by cross-validation."""

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.errors import assert_names, raises
from support.rows import LOSSES, make_problem, make_rows

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.training import mlp, registry
from bilinear_cli.training.estimator import TrainingData
from bilinear_cli.training.metrics import top1
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.reducers import Problem
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.tuning import Tuning, cross_validate, make_folds


def gaussian(n: int, d: int, k: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in k clouds around random centres, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    x = rng.normal(size=(k, d))[labels] + noise * rng.normal(size=(n, d))
    return x.astype(np.float32), labels


def folds(labels: np.ndarray, group: np.ndarray, seed: int) -> list[np.ndarray]:
    return make_folds(make_rows(labels, group=group), 5, seed)


def tune(problem: Problem, rows: Rows, options: TrainOptions) -> Tuning:
    data = TrainingData(problem, rows, options)
    return registry.get_classifier(options.classifier).load().tune(data)


def fit(problem: Problem, rows: Rows, options: TrainOptions, tuning: Tuning) -> Model:
    data = TrainingData(problem, rows, options)
    return registry.get_classifier(options.classifier).load().fit(data, tuning)


# Folds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "views", "counts"), [([50, 25, 10], 1, [10, 5, 2]), ([20, 20], 2, [4, 4])]
)
def test_folds_are_stratified(sizes: list[int], views: int, counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    group = (np.arange(len(labels)) // views).astype(str)
    assert [np.bincount(labels[fold]).tolist() for fold in folds(labels, group, 0)] == [counts] * 5


@given(
    groups=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=2, max_size=20),
    seed=st.integers(0, 3),
)
def test_each_row_is_in_one_fold_and_groups_stay_whole(
    groups: list[tuple[int, int]], seed: int
) -> None:
    """Groups are (class, number of rows); a class may have fewer groups than folds."""
    labels = np.repeat([label for label, _ in groups], [size for _, size in groups])
    group = np.repeat(np.arange(len(groups)), [size for _, size in groups]).astype(str)
    most = np.bincount([label for label, _ in groups]).max()
    if most < 2:
        with raises(BilinearError, "-C", "--label-smoothing"):
            folds(labels, group, seed)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        val_indices = folds(labels, group, seed)
    assert len(val_indices) == min(5, most)
    assert all(len(fold) for fold in val_indices)
    np.testing.assert_array_equal(np.sort(np.concatenate(val_indices)), np.arange(len(labels)))
    owners = [set(group[fold]) for fold in val_indices]
    assert sum(map(len, owners)) == len(groups)


def test_a_seed_reproduces_the_folds_and_another_does_not() -> None:
    labels, group = np.arange(40) % 2, np.arange(40).astype(str)
    expected, same, different = (np.concatenate(folds(labels, group, s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(expected, same)
    assert (expected != different).any()


@pytest.mark.parametrize(
    ("sizes", "n_folds", "n_used", "facts"),
    [([9, 9], 5, 5, []), ([3, 2], 5, 3, [3]), ([9, 3], 5, 5, [5, "class 1"]), ([9, 9], 3, 3, [])],
)
def test_a_class_of_few_photos_lowers_the_number_of_folds_or_is_named(
    sizes: list[int], n_folds: int, n_used: int, facts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    labels = np.repeat([0, 1], sizes)
    assert len(make_folds(make_rows(labels), n_folds, 0)) == n_used
    assert [record.levelname for record in caplog.records] == ["INFO"] * bool(facts)
    for record in caplog.records:
        assert_names(record.getMessage(), *facts)


# Classifiers ------------------------------------------------------------------------------

CLASSIFIERS = pytest.mark.parametrize("name", ["softmax", "svm", "ridge"])


def unsmoothed(name: str, **options: Any) -> TrainOptions:
    return TrainOptions(name, label_smoothing=0.0 if name == "softmax" else None, **options)


@CLASSIFIERS
@pytest.mark.parametrize("d", [20, 200])
def test_validation_rows_are_never_in_the_fit_of_their_fold(name: str, d: int) -> None:
    """Labels are random, so only a fit that includes the validation rows can predict them."""
    x, labels = np.random.default_rng(0).normal(size=(120, d)), np.repeat([0, 1], 60)
    arguments = (make_problem(x), make_rows(labels), unsmoothed(name, C=100.0))
    tuning = tune(*arguments)
    model = fit(*arguments, tuning)
    assert top1(x @ model.first.weights, labels) > (0.6 if d == 20 else 0.95)
    assert 0.3 < tuning.to_metrics()["oof_top1"] < 0.65
    assert tuning.to_metrics()["oof_top1"] == top1(tuning.scores, labels)


@CLASSIFIERS
@pytest.mark.parametrize("form", ["kernel", "columns", "stream"])
@pytest.mark.slow
def test_out_of_fold_scores_are_those_of_fits_on_the_other_folds(name: str, form: str) -> None:
    x, labels = gaussian(60, 60, 3, 2.0)
    rows = make_rows(labels)
    tuning = tune(make_problem(x, form), rows, unsmoothed(name, C=0.01, seed=2))
    assert tuning.folds == (1 if form == "stream" else 5)
    for fold in folds(labels, rows.group, 2)[: tuning.folds]:
        train_indices = np.setdiff1d(np.arange(60), fold)
        problem = make_problem(x[train_indices], "kernel")
        data = TrainingData(problem, rows.take(train_indices), TrainOptions(name))
        targets, steps = data.targets(0.0), [(0.0001, 1e-6), (0.001, 1e-6), (0.01, 1e-9)]
        *_, last = problem.regularization_path(data.indices, targets, LOSSES[name], steps)
        expected = problem.to_linear(last)(x[fold])
        scores = tuning.scores[np.isin(tuning.rows.indices, fold)]
        np.testing.assert_allclose(scores, expected, atol=0.03)


def test_options_that_are_set_are_used() -> None:
    x, labels = gaussian(40, 6, 2, 2.0)
    problem, rows = make_problem(x), make_rows(labels)
    report = tune(problem, rows, TrainOptions(C=0.37, label_smoothing=0.05)).to_metrics()
    assert (report["C"], report["label_smoothing"]) == (0.37, 0.05)
    assert len(report["curve"]) == 1
    report = tune(problem, rows, TrainOptions(C=0.37)).to_metrics()
    assert [(p["C"], p["label_smoothing"]) for p in report["curve"]] == [(0.37, 0.0), (0.37, 0.1)]
    for name in ("svm", "ridge"):
        (point,) = tune(problem, rows, TrainOptions(name, C=0.37)).to_metrics()["curve"]
        assert (point["C"], point["label_smoothing"]) == (0.37, 0.0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, float("nan"), float("inf")])
def test_options_out_of_range_are_refused(value: float) -> None:
    for option, name, valid in (("C", "-C", 1.0), ("label_smoothing", "--label-smoothing", 0.0)):
        with nullcontext() if value == valid else raises(UsageError, f"{name} {value}"):
            TrainOptions(**{option: value})


@pytest.mark.parametrize(
    ("classifier", "options"),
    [
        ("softmax", {"--frozen": True}),
        ("svm", {"--label-smoothing": 0.1}),
        ("ridge", {"--label-smoothing": 0.1}),
        ("mlp", {"-C": 1.0, "--solver": "stream"}),
        ("conv1x1", {"-C": 1.0, "--solver": "gram", "--normalize": "none", "--top-variance": 20}),
    ],
)
def test_options_of_other_classifiers_are_refused(classifier: str, options: dict[str, Any]) -> None:
    for flag, value in options.items():
        words = f"{flag} {value}" if isinstance(value, str) else flag
        with raises(UsageError, words, f"--classifier {classifier}"):
            TrainOptions(classifier, **{flag.strip("-").replace("-", "_"): value})


# The search --------------------------------------------------------------------------------


@CLASSIFIERS
def test_the_grid_is_decades_of_one_over_the_mean_square(name: str) -> None:
    x, labels = gaussian(40, 6, 2, 2.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    results = []
    for scale in (1.0, 32.0):
        problem = make_problem(unit * np.float32(scale))
        tuning = tune(problem, make_rows(labels), unsmoothed(name))
        Cs = np.array([point["C"] for point in tuning.curve]) * scale**2
        np.testing.assert_allclose(np.log10(Cs), np.arange(len(Cs)) - 3, atol=0.003)
        assert len(Cs) >= 5
        results.append((tuning.to_metrics()["oof_top1"], round(np.log10(tuning.C * scale**2))))
        if scale == 1:  # and not 0.999086: the mean square is a sum in float32
            assert Cs[:5].tolist() == [0.001, 0.01, 0.1, 1, 10]
    assert results[0] == results[1]


def scores_with_errors(labels: np.ndarray, wrong: int) -> np.ndarray:
    """Return scores of two classes; the first `wrong` rows are wrong."""
    scores = np.eye(2)[labels]
    scores[:wrong] = scores[:wrong, ::-1]
    return scores


@pytest.mark.parametrize(
    ("top1s", "best", "n_tried"),
    [
        ([0.5, 0.5, 0.5, 0.6, 0.7, 0.703, 0.7, 0.9, 0.9], 2, 7),  # after the maximum
        ([0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.9], -3, 6),  # not before decade 2
        ([0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99], 5, 9),  # a gain in each decade
        ([0.5, 0.6, 0.7, 0.8, 0.801, 0.802, 0.9], 2, 6),  # the last gain is small, yet the best
        ([0.5, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0], 0, 6),  # no accuracy can be higher
    ],
)
def test_the_search_ends_after_two_decades_without_a_gain(
    top1s: list[float], best: int, n_tried: int
) -> None:
    labels = np.arange(1000) % 2
    trials = (
        ({"C": 10.0 ** (decade - 3)}, scores_with_errors(labels, round(1000 * (1 - accuracy))))
        for decade, accuracy in enumerate(top1s)
    )
    tuning = cross_validate(make_rows(labels), [np.arange(1000)], [0.0], lambda _: trials)
    assert len(tuning.curve) == n_tried
    assert 10.0**best == tuning.C
    assert tuning.to_metrics()["oof_top1"] == pytest.approx(max(top1s[:n_tried]))
    assert top1(tuning.scores, labels) == tuning.to_metrics()["oof_top1"]


def test_accuracy_comes_before_log_loss_which_decides_among_equals() -> None:
    labels = np.arange(40) % 2
    wrong, right = (scores_with_errors(labels, n) for n in (1, 0))
    all_scores = [9 * wrong, 0.1 * right, 0.2 * right, 0.1 * right]
    trials = (({"C": float(C)}, scores) for C, scores in enumerate(all_scores, 1))
    tuning = cross_validate(make_rows(labels), [np.arange(40)], [0.0], lambda _: trials)
    assert tuning.C == 3.0
    assert tuning.to_metrics()["oof_log_loss"] > min(point["log_loss"] for point in tuning.curve)
    np.testing.assert_array_equal(tuning.scores, 0.2 * right)


def test_out_of_fold_metrics_count_a_photo_once() -> None:
    """Each photo has a view that is right by far and one that is just wrong: the photo is right."""
    labels = np.repeat(np.arange(20) % 2, 2)
    scores = 3 * np.eye(2)[labels]
    scores[1::2] = np.eye(2)[labels][1::2, ::-1]
    rows = make_rows(labels, photo=np.repeat(np.arange(20), 2))
    tuning = cross_validate(rows, [np.arange(40)], [0.0], lambda _: iter([({"C": 1.0}, scores)]))
    assert tuning.to_metrics()["oof_top1"] == 1


@pytest.mark.parametrize("better", [0.0, 0.1])
def test_the_better_smoothing_of_two_is_chosen(better: float) -> None:
    labels = np.arange(40) % 2

    def trials(smoothing: float) -> Any:
        scores = scores_with_errors(labels, 0 if smoothing == better else 3)
        yield {"C": 1 + smoothing}, scores + smoothing

    tuning = cross_validate(make_rows(labels), [np.arange(40)], TrainOptions().smoothings, trials)
    assert (tuning.label_smoothing, tuning.C) == (better, 1 + better)
    assert {point["label_smoothing"] for point in tuning.curve} == {0.0, 0.1}
    np.testing.assert_array_equal(tuning.scores, np.eye(2)[labels] + better)


# MLP --------------------------------------------------------------------------------------


def test_an_mlp_stops_on_a_fold_and_then_trains_on_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, Any]] = []

    def fit_mlp(z: np.ndarray, targets: np.ndarray, options: TrainOptions, **kwargs: Any) -> Any:
        calls.append({"z": z, "targets": targets, "options": options, **kwargs})
        first = Linear(np.zeros((z.shape[1], 4), np.float32), np.zeros(4, np.float32))
        return first, Linear(np.zeros((4, 2), np.float32), targets[0]), 7

    monkeypatch.setattr(mlp, "fit_mlp", fit_mlp)
    x, labels = gaussian(40, 6, 2, 2.0)
    problem, rows = make_problem(x), make_rows(labels)
    options = TrainOptions("mlp", hidden=4, dropout=0.25, seed=3)
    tuning = tune(problem, rows, options)
    model = fit(problem, rows, options, tuning)
    assert problem.coordinates
    z, val_indices = problem.coordinates.z, folds(labels, rows.group, 3)[0]
    train_indices = np.setdiff1d(np.arange(40), val_indices)
    *trials, last = calls
    assert [trial["targets"].min() for trial in trials] == pytest.approx([0, 0.05])
    for trial in trials:
        np.testing.assert_array_equal(trial["z"], z[train_indices])
        np.testing.assert_array_equal(trial["validation_data"][0], z[val_indices])
        np.testing.assert_array_equal(trial["validation_data"][1].argmax(1), labels[val_indices])
    np.testing.assert_array_equal(last["z"], z)
    assert "validation_data" not in last
    assert last["epochs"] == tuning.to_metrics()["epochs"] == 7
    assert {call["options"] for call in calls} == {options}
    np.testing.assert_array_equal(tuning.rows.indices, val_indices)
    assert tuning.scores.shape == (len(val_indices), 2)
    assert tuning.C is None
    assert model.second is not None
