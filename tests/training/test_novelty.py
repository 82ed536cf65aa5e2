"""Tests of the novelty of photos, and of how it is measured by leaving classes out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from support.errors import raises
from support.feature_files import write_features
from support.rows import class_maps, make_reducer, make_rows, pooled
from support.runs import change_model, make_run

from bilinear_cli.errors import BilinearError
from bilinear_cli.run import load_model, train
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry
from bilinear_cli.training.estimator import TrainingData
from bilinear_cli.training.novelty import Novelty, assign_folds, fit_novelty
from bilinear_cli.training.open_set import evaluate_open_set, leave_out, novelty_metrics
from bilinear_cli.training.options import TrainOptions

K = 6


def gaussian_scores(n: int, seed: int = 0, known: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated scores (n, K) and labels; the unknown have no class that stands out."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    noise = rng.normal(size=(n, K)) @ np.random.default_rng(9).normal(size=(K, K)) / K
    return 2.0 * known * np.eye(K)[labels] + noise, labels


def fit(scores: np.ndarray, labels: np.ndarray, group: np.ndarray | None = None) -> Novelty:
    """Fit a novelty; by default each photo is a group."""
    group = np.arange(len(labels)) if group is None else group
    return fit_novelty(scores, labels, group, temperature=0.5)


def test_the_novelty_is_the_formula() -> None:
    (scores, labels), (x, _) = gaussian_scores(600), gaussian_scores(7, seed=1)
    means = np.array([scores[labels == c].mean(axis=0) for c in range(K)])
    novelty = fit(scores, labels)

    def squared(mean: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        return np.array([(row - mean) @ inverse @ (row - mean) for row in x])

    relative = [squared(m, novelty.within) * 100 / 101 for m in means]
    relative -= squared(scores.mean(axis=0), novelty.total)
    expected = (softmax(x / 0.5, axis=1) * np.transpose(relative)).sum(axis=1)
    np.testing.assert_allclose(novelty.score(x), expected)
    residuals = scores - means[labels]
    total = np.cov(scores.T)
    within = (residuals.T @ residuals + total) / (600 - K + 1)
    for inverse, covariance in ((novelty.within, within), (novelty.total, total)):
        shrunk = np.linalg.inv(inverse)
        share = 1 - shrunk[0, 1] / covariance[0, 1]
        assert 0 < share < 0.3
        identity = np.trace(covariance) / K * np.eye(K)
        np.testing.assert_allclose(shrunk, (1 - share) * covariance + share * identity)


def test_known_photos_are_as_rare_as_they_are() -> None:
    runs = [fit(*gaussian_scores(60, seed)) for seed in range(50)]
    test, _ = gaussian_scores(1000, seed=99)
    for p in (0.05, 0.3):
        shares = [np.mean(novelty.rarity(test) <= p) for novelty in runs]
        assert np.mean(shares) == pytest.approx(p, rel=0.2)
    novelty = runs[0]
    unknown, _ = gaussian_scores(600, seed=2, known=False)
    assert np.median(novelty.rarity(unknown)) < 0.05
    assert novelty.rarity(test * np.nan).max() == 1 / 61  # never rarer than that


def test_the_novelty_of_a_held_out_photo_is_that_by_photos_of_other_groups() -> None:
    scores, labels = gaussian_scores(90)
    group = np.arange(90) // 15
    known = fit(scores, labels, group=group).known
    fold = assign_folds(labels, group, 5, np.random.default_rng(0))
    assert known.max() < 1e3
    scores[group == 0, 0] += 100
    assert fit(scores, labels, group).known.max() > 1e4
    assert fit(scores, labels).known.max() < 1e3  # here others of this kind are among the others
    assert all(len(np.unique(fold[group == g])) == 1 for g in range(6))


def test_rarity_counts_the_known_photos_that_are_at_least_as_unusual() -> None:
    scores, labels = gaussian_scores(60)
    novelty = fit(scores, labels)
    novelty = replace(novelty, known=np.sort(novelty.score(scores)))
    order = np.argsort(-novelty.score(scores))
    np.testing.assert_allclose(novelty.rarity(scores[order]), np.arange(2, 62) / 61)


def test_folds_spread_each_class() -> None:
    labels = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], [10, 5, 3]))
    fold = assign_folds(labels, np.arange(18), 5, np.random.default_rng(0))
    for c, most in ((0, 2), (1, 1), (2, 1)):
        assert np.bincount(fold[labels == c]).max() == most


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 1, 1], [0] * 9 + [1], [0, 0, 0, 2, 2, 2]])
def test_few_photos_and_missing_classes_have_a_novelty(labels: list[int]) -> None:
    scores = np.random.default_rng(0).normal(size=(len(labels), 3))
    novelty = fit(scores, np.array(labels))
    assert np.isfinite(novelty.known).all()
    assert np.isfinite(novelty.score(10 * scores)).all()
    absent = replace(novelty, counts=np.zeros(3))  # such classes say nothing
    np.testing.assert_array_equal(absent.score(scores), 0)


@pytest.mark.parametrize(
    ("scores", "group"),
    [(np.ones((6, 3)), range(6)), (np.full((6, 3), np.inf), range(6)), (np.eye(6, 3), [0] * 6)],
    ids=["equal", "infinite", "one group"],
)
def test_degenerate_scores_are_refused(scores: np.ndarray, group: Any) -> None:
    with raises(BilinearError):
        fit(scores, np.array([0, 0, 1, 1, 2, 2]), group=np.array(group))


# Leaving classes out ---------------------------------------------------------------------


def training_data(classifier: str, keep: int = 60, n_classes: int = 6, **columns: Any) -> Any:
    """Return estimator, data and tuning of the first `keep` rows, ten of each class."""
    labels = np.repeat(np.arange(n_classes), 10)
    options = TrainOptions(classifier)
    estimator = registry.get_classifier(classifier).load()
    reducer = make_reducer(pooled(class_maps(labels, 12))["bilinear"][:keep])
    rows = make_rows(labels, **columns).take(np.arange(len(labels)) < keep)
    data = TrainingData(estimator.reduce(reducer, n_classes, options), rows, options)
    return estimator, data, estimator.tune(data)


def test_nothing_that_is_scored_was_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    group = np.arange(60) // 2
    estimator, data, tuning = training_data("ridge", group=group)
    calls, refit = [], type(estimator).refit

    def record(self: Any, data: Any, tuning: Any, fitted: np.ndarray, x: np.ndarray) -> Any:
        calls.append((data.rows, fitted, x))
        return refit(self, data, tuning, fitted, x)

    monkeypatch.setattr(type(estimator), "refit", record)
    rounds = list(leave_out(estimator, data, tuning))
    assert len(calls) == 5 * 6
    for rows, fitted, x in calls:
        assert not np.isin(group[x], group[fitted]).any()
        assert set(rows.labels[fitted]) == {*range(len(rows.class_names))}
    labels = data.rows.labels
    for x in rounds:
        assert not np.isin(x.left_out.labels[x.unknown], labels[x.rest]).any()
        assert np.isin(x.left_out.labels[~x.unknown], labels[x.rest]).all()
        assert len(x.held_out.photo) == len(x.rest)
    left_out = np.concatenate([x.left_out.labels[x.unknown] for x in rounds])
    np.testing.assert_array_equal(np.sort(left_out), labels)
    data = replace(data, options=replace(data.options, seed=1))
    other = next(leave_out(estimator, data, tuning))
    assert set(other.left_out.labels[other.unknown]) != set(left_out[: rounds[0].unknown.sum()])


@pytest.mark.parametrize("classifier", ["softmax", "svm", "ridge"])
def test_a_refit_is_the_fit_of_a_fold(classifier: str) -> None:
    estimator, data, tuning = training_data(classifier)
    fold = np.arange(0, 60, 5)
    options = replace(data.options, C=tuning.C)
    trials = estimator.trials(replace(data, options=options), [fold], tuning.label_smoothing)
    ((_, expected),) = trials
    scores = estimator.refit(data, tuning, np.setdiff1d(np.arange(60), fold), fold[:3])
    np.testing.assert_allclose(scores, expected[fold[:3]], atol=0.05)


def test_the_auroc_is_the_mean_of_the_rounds() -> None:
    rounds = list(leave_out(*training_data("ridge")))
    novelty = [-np.round(x.scores.max(axis=1), 1) for x in rounds]  # with ties
    metrics = novelty_metrics(rounds, novelty)
    pairs = [np.sum(x.unknown) * np.sum(~x.unknown) for x in rounds]
    aurocs = [roc_auc_score(x.unknown, v) for x, v in zip(rounds, novelty, strict=True)]
    assert metrics["auroc"] == pytest.approx(np.average(aurocs, weights=pairs))
    low, high = metrics["auroc_ci95"]
    assert low < metrics["auroc"] < high
    unknown = np.concatenate([x.unknown for x in rounds])
    values = np.concatenate(novelty)
    caught = [t for t in np.unique(values) if np.mean(values[unknown] >= t) >= 0.95]
    assert metrics["false_alarms_at_95"] == np.mean(values[~unknown] >= max(caught))


def test_it_is_measured_by_seed_and_only_on_training_photos(tmp_path: Path) -> None:
    labels, split = np.arange(120) % 6, np.where(np.arange(120) < 80, "train", "test")
    rows = pooled(class_maps(labels, 8))["max"]
    other = np.where(split[:, None] == "test", 7, rows)
    metrics = []
    for i, (x, seed) in enumerate([(rows, 0), (other, 0), (rows, 1)]):
        path = write_features(tmp_path / f"{i}.h5", {"max": x}, labels, split)
        options = TrainOptions("ridge", C=1.0, novelty=True, seed=seed)
        with FeatureFile(path) as file:
            metrics.append(train(file, "max", options, tmp_path)["novelty"])
    assert metrics[0] == metrics[1] != metrics[2]
    assert 0.5 < metrics[0]["auroc"] <= 1
    assert metrics[0]["unknown"] == 80


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("novelty") / "run", list("abcdef"), photos=False)


def test_a_run_keeps_its_novelty(run: Path) -> None:
    scores, labels = gaussian_scores(60)
    novelty = fit(scores, labels)
    for expected in (novelty, None):
        change_model(run, novelty=expected)
        result = load_model(run).novelty
        if expected is None or result is None:
            assert result is expected
        else:
            np.testing.assert_array_equal(result.rarity(scores), expected.rarity(scores))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        *(("means", np.zeros((K, 2))), ("counts", np.zeros(3)), ("total", None)),
        *(("within", np.full((K, K), np.nan)), ("known", np.array([1, np.nan]))),
        *(("known", np.array([2.0, 1.0])), ("known", None), ("temperature", np.array(0.0))),
    ],
)
def test_a_damaged_novelty_is_refused(name: str, array: np.ndarray | None, run: Path) -> None:
    path, novelty = run / "model.npz", fit(*gaussian_scores(60))
    change_model(run, novelty=novelty)
    with np.load(path) as arrays:
        good = dict(arrays)
    changed = good | {f"novelty-{name}": array}
    np.savez(path, **{key: x for key, x in changed.items() if x is not None})  # type: ignore[arg-type]
    with raises(BilinearError, path):
        load_model(run)
    np.savez(path, **good)  # type: ignore[arg-type]


def test_too_few_classes_or_photos_are_refused() -> None:
    with raises(BilinearError, 5, 4):
        evaluate_open_set(*training_data("ridge", keep=40, n_classes=4))
    estimator, data, tuning = training_data("ridge")
    with raises(BilinearError):
        evaluate_open_set(estimator, data, replace(tuning, folds=0))
    estimator, data, tuning = training_data("softmax", group=np.arange(60) % 2)
    with raises(BilinearError):
        evaluate_open_set(estimator, data, tuning)


def test_a_class_whose_only_photo_is_left_out_is_not_scored() -> None:
    rounds = list(leave_out(*training_data("ridge", keep=51)))
    assert sum(np.sum(x.left_out.labels[~x.unknown] == 5) for x in rounds) == 0
    assert sum(np.sum(x.left_out.labels[x.unknown] == 5) for x in rounds) == 1
