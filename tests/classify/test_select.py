"""Tests of the choice of hyper-parameters on folds."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilinear_cli.classify import select
from bilinear_cli.classify.classifiers import Linear, Mlp, fit_softmax, one_hot
from bilinear_cli.classify.gram import Coordinates
from bilinear_cli.classify.metrics import top1
from bilinear_cli.classify.rows import Rows
from bilinear_cli.classify.select import Options, fit_chosen, folds
from bilinear_cli.errors import BilinearError, UsageError

MakeRows = Callable[..., Rows]
Reduce = Callable[[np.ndarray], Coordinates]


def gaussian(n: int, d: int, k: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in k clouds around random centres, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    x = rng.normal(size=(k, d))[labels] + noise * rng.normal(size=(n, d))
    return x.astype(np.float32), labels


# Folds ------------------------------------------------------------------------------------


def test_folds_are_stratified() -> None:
    labels = np.repeat([0, 1, 2], [50, 25, 10])
    held_out = folds(labels, np.arange(85).astype(str), 0)
    counts = [np.bincount(labels[fold], minlength=3).tolist() for fold in held_out]
    assert counts == [[10, 5, 2]] * 5


@given(
    groups=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=2, max_size=20),
    seed=st.integers(0, 3),
)
def test_each_row_is_held_out_once_and_groups_stay_whole(
    groups: list[tuple[int, int]], seed: int
) -> None:
    """Groups are (class, rows); a class may have few of them, or one."""
    labels = np.repeat([label for label, _ in groups], [size for _, size in groups])
    group = np.repeat(np.arange(len(groups)), [size for _, size in groups]).astype(str)
    most = np.bincount([label for label, _ in groups]).max()
    if most < 2:
        with pytest.raises(BilinearError, match="no class has two training photos, or groups, for"):
            folds(labels, group, seed)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held_out = folds(labels, group, seed)
    assert len(held_out) == min(5, most)
    assert all(len(fold) for fold in held_out)
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(len(labels)))
    owners = [set(group[fold]) for fold in held_out]
    assert sum(map(len, owners)) == len(groups)


def test_a_seed_reproduces_the_folds_and_another_does_not() -> None:
    labels, group = np.arange(40) % 2, np.arange(40).astype(str)
    one, same, other = (np.concatenate(folds(labels, group, seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_groups_are_balanced_too() -> None:
    labels = np.arange(40) // 20
    group = (np.arange(40) // 2).astype(str)  # two views each
    counts = [np.bincount(labels[fold], minlength=2).tolist() for fold in folds(labels, group, 0)]
    assert counts == [[4, 4]] * 5


# Softmax ----------------------------------------------------------------------------------


def test_held_out_rows_are_never_in_the_fit_of_their_fold(
    reduce: Reduce, make_rows: MakeRows
) -> None:
    """On random labels a fit that had seen them would know them all, as the last one does."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    reduced, rows = reduce(rng.normal(size=(120, 200))), make_rows(labels)
    fit = fit_chosen(reduced, rows, Options(C=100.0, label_smoothing=0.0))
    assert top1(fit.first(reduced.z), labels) == 1
    assert 0.3 < fit.report["oof_top1"] < 0.7
    assert fit.report["oof_top1"] == top1(fit.oof, labels)


def test_groups_and_views_are_held_out_together(reduce: Reduce, make_rows: MakeRows) -> None:
    """Views that are copies would give random labels away."""
    x = np.random.default_rng(0).normal(size=(60, 200))
    labels, photo = np.repeat([0, 1], 30), np.arange(60)
    twice = [np.repeat(values, 2, axis=0) for values in (x, labels, photo)]
    options = Options(C=100.0, label_smoothing=0.0)
    together = make_rows(twice[1], photo=twice[2])
    apart = make_rows(twice[1], photo=np.arange(120))
    reduced = reduce(twice[0])
    assert fit_chosen(reduced, together, options).report["oof_top1"] < 0.7
    assert fit_chosen(reduced, apart, options).report["oof_top1"] > 0.8


def test_out_of_fold_scores_are_those_of_fits_on_the_other_folds(
    reduce: Reduce, make_rows: MakeRows
) -> None:
    x, labels = gaussian(60, 10, 3, 2.0)
    reduced, rows = reduce(x), make_rows(labels)
    fit = fit_chosen(reduced, rows, Options(C=0.1, label_smoothing=0.1, seed=2))
    targets = one_hot(labels, 3, 0.1)
    for fold in folds(labels, rows.group, 2):
        seen = np.setdiff1d(np.arange(60), fold)
        alone = fit_softmax(reduced.z[seen], targets[seen], 0.1, reduced.variance)
        np.testing.assert_allclose(fit.oof[fold], alone(reduced.z[fold]), atol=0.02)
    whole = fit_softmax(reduced.z, targets, 0.1, reduced.variance)
    np.testing.assert_allclose(fit.first(reduced.z), whole(reduced.z), atol=0.01)


def test_what_is_given_is_used(reduce: Reduce, make_rows: MakeRows) -> None:
    x, labels = gaussian(40, 6, 2, 2.0)
    reduced, rows = reduce(x), make_rows(labels)
    report = fit_chosen(reduced, rows, Options(C=0.37, label_smoothing=0.05)).report
    assert (report["C"], report["label_smoothing"]) == (0.37, 0.05)
    assert len(report["curve"]) == 1
    report = fit_chosen(reduced, rows, Options(C=0.37)).report
    assert [(p["C"], p["label_smoothing"]) for p in report["curve"]] == [(0.37, 0.0), (0.37, 0.1)]


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), float("inf")])
def test_a_C_that_cannot_be_is_refused(C: float, reduce: Reduce, make_rows: MakeRows) -> None:
    x, labels = gaussian(20, 6, 2, 2.0)
    with pytest.raises(UsageError, match=f"^-C {C} is not above zero, or not a number$"):
        fit_chosen(reduce(x), make_rows(labels), Options(C=C))


@pytest.mark.parametrize("smoothing", [1.0, -0.1, float("nan")])
def test_a_smoothing_that_cannot_be_is_refused(
    smoothing: float, reduce: Reduce, make_rows: MakeRows
) -> None:
    x, labels = gaussian(20, 6, 2, 2.0)
    with pytest.raises(UsageError, match=f"^--label-smoothing {smoothing} is not from 0 to below"):
        fit_chosen(reduce(x), make_rows(labels), Options(label_smoothing=smoothing))


# The grid ---------------------------------------------------------------------------------


def test_the_grid_is_decades_of_one_over_the_mean_square(
    reduce: Reduce, make_rows: MakeRows
) -> None:
    x, labels = gaussian(40, 6, 2, 2.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for scale in (1.0, 30.0, 0.01):
        reduced = reduce(unit * np.float32(scale))
        fit = fit_chosen(reduced, make_rows(labels), Options(label_smoothing=0.0))
        grid = [point["C"] for point in fit.report["curve"]]
        decades = np.log10(np.array(grid) * scale**2)
        assert set(range(-2, 6)) <= set(np.round(decades).astype(int))
        np.testing.assert_allclose(decades, np.round(decades), atol=0.003)
        if scale == 1:  # no 99999.9086: the mean square is a sum in float32
            assert set(grid) >= {0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0}


def test_the_unit_of_the_features_changes_no_score(reduce: Reduce, make_rows: MakeRows) -> None:
    x, labels = gaussian(40, 6, 2, 2.0)
    fits = [
        fit_chosen(reduce(x * np.float32(s)), make_rows(labels), Options(label_smoothing=0.0))
        for s in (1.0, 1024.0)
    ]
    assert fits[0].report["oof_top1"] == fits[1].report["oof_top1"]
    assert fits[0].report["C"] == pytest.approx(fits[1].report["C"] * 1024**2, rel=0.01)
    np.testing.assert_allclose(fits[0].oof, fits[1].oof, atol=0.02)


def scorer(best_decade: int) -> Callable[..., tuple[np.ndarray, Any]]:
    """Return a stand-in for `_fit_folds`: the nearer C to the best decade, the more is right."""

    def fit_folds(
        reduced: Coordinates, targets: np.ndarray, held_out: Any, C: float, starts: Any
    ) -> tuple[np.ndarray, Any]:
        wrong = 2 * abs(round(np.log10(C * reduced.mean_square)) - best_decade)
        scores = targets.copy()
        scores[:wrong] = scores[:wrong, ::-1]
        return scores, starts

    return fit_folds


@pytest.mark.parametrize(
    ("best", "low", "high"),
    [(2, -2, 5), (-2, -3, 5), (5, -2, 6), (-4, -5, 5), (8, -2, 8), (9, -2, 8)],
)
def test_the_grid_grows_while_the_best_is_at_an_end(
    best: int,
    low: int,
    high: int,
    reduce: Reduce,
    make_rows: MakeRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "_fit_folds", scorer(best))
    x, labels = gaussian(40, 6, 2, 2.0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    report = fit_chosen(reduce(x), make_rows(labels), Options(label_smoothing=0.0)).report
    grid = [point["C"] for point in report["curve"]]
    assert grid == [float(f"1e{decade}") for decade in range(low, high + 1)]
    assert report["C"] == float(f"1e{min(best, high)}")
    assert report["oof_top1"] == max(point["top1"] for point in report["curve"])


def test_equal_accuracy_is_decided_by_log_loss(
    reduce: Reduce, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every C is right on all rows; only at 100 is it sure of them."""

    def fit_folds(
        reduced: Coordinates, targets: np.ndarray, held_out: Any, C: float, starts: Any
    ) -> tuple[np.ndarray, Any]:
        return targets * (9 if round(C) == 100 else 1), starts

    monkeypatch.setattr(select, "_fit_folds", fit_folds)
    x, labels = gaussian(40, 6, 2, 2.0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    report = fit_chosen(reduce(x), make_rows(labels), Options(label_smoothing=0.0)).report
    assert {point["top1"] for point in report["curve"]} == {1.0}
    assert report["C"] == 100.0


def test_accuracy_comes_before_log_loss(
    reduce: Reduce, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 100 all rows are right, though hardly; elsewhere one is wrong and the rest are sure."""

    def fit_folds(
        reduced: Coordinates, targets: np.ndarray, held_out: Any, C: float, starts: Any
    ) -> tuple[np.ndarray, Any]:
        if round(C) == 100:
            return 0.01 * targets, starts
        scores = 9 * targets
        scores[0] = scores[0, ::-1]
        return scores, starts

    monkeypatch.setattr(select, "_fit_folds", fit_folds)
    x, labels = gaussian(40, 6, 2, 2.0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    report = fit_chosen(reduce(x), make_rows(labels), Options(label_smoothing=0.0)).report
    assert report["C"] == 100.0
    assert report["oof_log_loss"] > min(point["log_loss"] for point in report["curve"])


def test_out_of_fold_figures_count_a_photo_once(
    reduce: Reduce, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One view of each photo is surely right, the other narrowly wrong: the photo is right."""

    def fit_folds(
        reduced: Coordinates, targets: np.ndarray, held_out: Any, C: float, starts: Any
    ) -> tuple[np.ndarray, Any]:
        scores = 3 * targets
        scores[1::2] = targets[1::2, ::-1]
        return scores, starts

    monkeypatch.setattr(select, "_fit_folds", fit_folds)
    x, labels = gaussian(20, 6, 2, 2.0)
    rows = make_rows(np.repeat(labels, 2), photo=np.repeat(np.arange(20), 2))
    report = fit_chosen(reduce(np.repeat(x, 2, axis=0)), rows, Options(C=1.0)).report
    assert report["oof_top1"] == 1


@pytest.mark.parametrize("better", [0.0, 0.1])
def test_the_better_smoothing_of_two_is_taken(
    better: float, reduce: Reduce, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_folds(
        reduced: Coordinates, targets: np.ndarray, held_out: Any, C: float, starts: Any
    ) -> tuple[np.ndarray, Any]:
        smoothing = 2 * targets.min()
        wrong = 0 if smoothing == pytest.approx(better) else 3
        scores = targets.copy()
        scores[:wrong] = scores[:wrong, ::-1]
        return scores, starts

    monkeypatch.setattr(select, "_fit_folds", fit_folds)
    x, labels = gaussian(40, 6, 2, 2.0)
    report = fit_chosen(reduce(x), make_rows(labels), Options()).report
    assert report["label_smoothing"] == better
    assert {point["label_smoothing"] for point in report["curve"]} == {0.0, 0.1}
    assert report["oof_top1"] == 1


# MLP --------------------------------------------------------------------------------------


def test_an_mlp_stops_on_a_fold_and_then_takes_all_rows(
    reduce: Reduce, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def fit_mlp(z: np.ndarray, targets: np.ndarray, **options: Any) -> Mlp:
        calls.append({"z": z, "targets": targets, **options})
        r, k = z.shape[1], targets.shape[1]
        first = Linear(np.zeros((r, 4), np.float32), np.zeros(4, np.float32))
        second = Linear(np.zeros((4, k), np.float32), targets[0].astype(np.float32))
        return Mlp(first, second, 7)

    monkeypatch.setattr(select, "fit_mlp", fit_mlp)
    x, labels = gaussian(40, 6, 2, 2.0)
    reduced, rows = reduce(x), make_rows(labels)
    options = Options(classifier="mlp", hidden=4, dropout=0.25, seed=3, C=9.0)
    fit = fit_chosen(reduced, rows, options)
    held_out = folds(labels, rows.group, 3)[0]
    seen = np.setdiff1d(np.arange(40), held_out)
    *trials, last = calls
    assert [trial["targets"].min() for trial in trials] == pytest.approx([0, 0.05])
    for trial in trials:
        np.testing.assert_array_equal(trial["z"], reduced.z[seen])
        np.testing.assert_array_equal(trial["stop_on"][0], reduced.z[held_out])
        np.testing.assert_array_equal(trial["stop_on"][1].argmax(1), labels[held_out])
    np.testing.assert_array_equal(last["z"], reduced.z)
    assert "stop_on" not in last
    assert last["epochs"] == fit.report["epochs"] == 7
    assert {(call["hidden"], call["dropout"], call["seed"]) for call in calls} == {(4, 0.25, 3)}
    np.testing.assert_array_equal(fit.oof_rows.number, held_out)
    assert fit.oof.shape == (len(held_out), 2)
    assert fit.report["C"] is None
