"""Tests of the estimators for scikit-learn."""

import pickle
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.errors import assert_names
from support.feature_files import write_features

from bilinear_cli import run as run_folder
from bilinear_cli.estimators import RidgeClassifier, SoftmaxClassifier, SVMClassifier
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import linear
from bilinear_cli.training.options import TrainOptions

CLASSES = {"softmax": SoftmaxClassifier, "ridge": RidgeClassifier, "svm": SVMClassifier}
EACH = pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)
SHAPES = pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 50)], ids=["n > d", "n < d"])
Make = Callable[..., Any]


def data(n: int, d: int, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of k classes that overlap, and their names."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    X = rng.normal(size=(k, d))[labels] + 2 * rng.normal(size=(n, d)) + 1
    return X, np.array(["auk", "crow", "wren"])[labels]


def fixed(make: Make, **parameters: Any) -> Any:
    """Return a classifier that has nothing to choose but the temperature."""
    smoothing = {"label_smoothing": 0.0} if make is SoftmaxClassifier else {}
    return make(**{"C": 0.1, "cv": 3, **smoothing, **parameters})


# scikit-learn's own checks: none is excused ----------------------------------------------


@parametrize_with_checks([make(cv=2) for make in CLASSES.values()])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    # One check skips itself unless SCIPY_ARRAY_API is set, although the estimators do not claim to
    # support other arrays than NumPy's.
    is_of_array_api = "array_api" in str(check)
    with suppress(SkipTest) if is_of_array_api else nullcontext():
        check(estimator)


# The same as `bilinear train` and as scikit-learn ----------------------------------------


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("name", CLASSES)
@SHAPES
def test_an_estimator_is_the_model_of_bilinear_train(
    n: int, d: int, name: str, class_weight: str, tmp_path: Path
) -> None:
    X, y = data(n, d)
    keep = np.arange(n) % 9 != 3  # so that the classes differ in size
    X, labels = X[keep], np.unique(y[keep], return_inverse=True)[1]
    balanced = compute_sample_weight("balanced", labels) if class_weight == "balanced" else None
    X = (X - np.average(X, axis=0, weights=balanced)).astype(np.float32)  # as the estimator does
    split = np.full(len(X), "train")
    path = write_features(tmp_path / "x.h5", {"max": X}, labels, split)
    options = TrainOptions(name, normalize="none", class_weight=class_weight, seed=3)
    with FeatureFile(path) as file:
        metrics = run_folder.train(file, "max", options, tmp_path)
    model = run_folder.load_model(Path(metrics["run"]))
    weight = None if class_weight == "none" else "balanced"
    classifier = CLASSES[name](class_weight=weight, random_state=3).fit(X, labels)
    assert (classifier.C_, classifier.label_smoothing_) == (
        metrics["C"],
        metrics["label_smoothing"],
    )
    assert classifier.temperature_ == pytest.approx(metrics["temperature"], rel=1e-2)
    np.testing.assert_allclose(classifier.coef_, model.first.weights.T, rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(classifier.intercept_, model.first.intercept, atol=2e-3)


@EACH
@pytest.mark.parametrize("k", [2, 3])
@SHAPES
def test_float64_comes_to_scikit_learns_optimum(n: int, d: int, k: int, make: Make) -> None:
    X, y = data(n, d, k)
    weight = np.random.default_rng(1).uniform(0.5, 2, n)
    classifier = fixed(make).fit(X, y, weight)
    targets = np.where(y[:, None] == classifier.classes_, 1.0, -1.0)[:, -1 if k == 2 else None :]
    peer: Any = LogisticRegression(C=0.2 if k == 2 else 0.1, tol=1e-12, max_iter=100_000)
    if make is RidgeClassifier:
        peer, y = Ridge(alpha=10), targets
    elif make is SVMClassifier:  # its intercept is penalised, here by next to nothing
        peer = LinearSVC(C=0.1, tol=1e-12, max_iter=1_000_000, dual=False, intercept_scaling=1e4)
    peer.fit(X, y, weight)
    assert classifier.coef_.shape == ((1 if k == 2 else k), d)
    np.testing.assert_allclose(classifier.coef_, peer.coef_.reshape(-1, d), rtol=0, atol=1e-5)
    if make is not SoftmaxClassifier or k == 2:  # of a softmax, a constant is free
        np.testing.assert_allclose(classifier.intercept_, peer.intercept_, rtol=0, atol=1e-5)


# Weights ---------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@SHAPES
def test_a_weight_is_the_number_of_repetitions(n: int, d: int, make: Make, dtype: type) -> None:
    """In fits, in the choice of C, in the scores of the folds and in the temperature."""
    X, y = data(n, d)
    X, weight = X.astype(dtype), np.random.default_rng(2).integers(0, 4, n)
    fold = np.arange(n) // 3 % 3
    weighted = make(cv=[(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(3)])
    repeated = make(cv=PredefinedSplit(fold.repeat(weight)))
    weighted.fit(X, y, weight)
    repeated.fit(X.repeat(weight, axis=0), y.repeat(weight))
    assert abs(weighted.C_ / repeated.C_ - 1) < 0.01
    rtol = 3e-4 if dtype == np.float64 else 0.1  # fits of folds are less exact
    assert weighted.temperature_ == pytest.approx(repeated.temperature_, rel=rtol)
    rtol = 1e-6 if dtype == np.float64 else 0.01
    scale = np.abs(repeated.coef_).max()
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=0, atol=rtol * scale)
    difference = np.abs(weighted.coef_ - make(cv=3).fit(X, y).coef_).max()
    assert difference > 0.01 * scale


def test_folds_of_many_rows_are_fitted_as_those_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data(90, 4)
    weight = np.random.default_rng(1).uniform(0.5, 2, 90)
    few = RidgeClassifier().fit(X, y, weight)
    monkeypatch.setattr(linear, "MAX_BLOCK", 0)
    many = RidgeClassifier().fit(X, y, weight)
    assert few.C_ == many.C_
    assert few.temperature_ == pytest.approx(many.temperature_, rel=1e-6)
    linear_only = RidgeClassifier().fit(X, y)
    assert linear_only.temperature_ != pytest.approx(many.temperature_, rel=1e-3)


@EACH
def test_class_weights_multiply_sample_weights(make: Make) -> None:
    X, y = data(60, 8)
    X, y = X[10:], np.where(y == "wren", "wren", np.where(np.arange(60) < 30, "auk", y))[10:]
    sizes = {name: np.sum(y == name) for name in np.unique(y)}
    factors = {name: len(y) / (3 * size) for name, size in sizes.items()}
    balanced = fixed(make, class_weight="balanced").fit(X, y)
    by_class = fixed(make, class_weight=factors).fit(X, y)
    by_row = fixed(make).fit(X, y, [factors[name] for name in y])
    for other in (by_class, by_row):
        np.testing.assert_allclose(balanced.coef_, other.coef_, rtol=1e-8)
        assert balanced.temperature_ == pytest.approx(other.temperature_)
    assert np.abs(balanced.coef_ - fixed(make).fit(X, y).coef_).max() > 1e-3
    without = fixed(make, class_weight={"crow": 0.0}).fit(X, y)
    assert without.classes_.tolist() == ["auk", "wren"]


# Scores, folds, choices ------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_and_scores_agree(make: Make, k: int, dtype: type) -> None:
    X, y = data(60, 8, k)
    X = X.astype(dtype)
    classifier = fixed(make).fit(X, y)
    scores, probabilities = classifier.decision_function(X), classifier.predict_proba(X)
    assert scores.shape == ((60,) if k == 2 else (60, k))
    assert scores.dtype == probabilities.dtype == classifier.coef_.dtype == dtype
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    predicted = (scores > 0).astype(int) if k == 2 else scores.argmax(axis=1)
    np.testing.assert_array_equal(classifier.predict(X), classifier.classes_[predicted])
    np.testing.assert_array_equal(probabilities.argmax(axis=1), predicted)
    assert classifier.score(X, y) > 0.6
    assert classifier.temperature_ != 1


@EACH
def test_c_is_chosen_from_decades_of_one_over_the_mean_squared_distance(make: Make) -> None:
    X, y = data(60, 8)
    mean_square = X.var(axis=0).sum()  # distance from the mean
    decade = np.log10(make().fit(X, y).C_ * mean_square)
    assert decade == pytest.approx(round(decade), abs=0.003)
    assert -3 <= round(decade) <= 8
    assert make(C=0.37).fit(X, y).C_ == 0.37


@EACH
@pytest.mark.parametrize("explicit", [True, False])
def test_folds_may_be_given_as_splits(make: Make, explicit: bool) -> None:
    X, y = data(60, 8)
    splitter = StratifiedKFold(5, shuffle=True, random_state=0)
    splits = make(cv=[*splitter.split(X, y)] if explicit else splitter).fit(X, y)
    number = make(cv=5, random_state=0).fit(X, y)
    assert splits.temperature_ == number.temperature_
    assert make(cv=KFold(3)).fit(X, y).temperature_ != number.temperature_


def test_a_predefined_split_is_of_all_rows_also_of_those_without_weight() -> None:
    X, y = data(60, 8)
    weight = np.ones(60)
    weight[:6] = 0
    fold = np.arange(60) // 3 % 4
    kept = RidgeClassifier(cv=PredefinedSplit(fold[6:])).fit(X[6:], y[6:], weight[6:])
    assert RidgeClassifier(cv=PredefinedSplit(fold)).fit(X, y, weight).C_ == kept.C_


@pytest.mark.parametrize("cv", [ShuffleSplit(3, random_state=0), TimeSeriesSplit(3), 1, "five"])
def test_folds_that_leave_rows_out_or_overlap_are_refused(cv: Any) -> None:
    with pytest.raises(ValueError, match="cv"):
        RidgeClassifier(cv=cv).fit(*data(60, 8))


@pytest.mark.parametrize("n_train", [0, 6])
def test_a_split_without_a_row_of_weight_to_train_on_is_refused(n_train: int) -> None:
    X, y = data(60, 8)
    weight = np.ones(60)
    weight[:n_train] = 0
    cv = [(np.arange(n_train), np.arange(n_train, 60))]
    with pytest.raises(ValueError, match="cv"):
        RidgeClassifier(cv=cv).fit(X, y, weight)


@EACH
def test_too_few_rows_for_folds_give_a_warning(make: Make) -> None:
    X, y = data(3, 8)
    with pytest.warns(UserWarning, match="no folds") as warnings:
        classifier = make().fit(X, y)
    assert_names(str(warnings[0].message), f"{classifier.C_:.3g}")
    assert abs(classifier.C_ * X.var(axis=0).sum() - 1) < 1e-9
    assert (classifier.temperature_, classifier.label_smoothing_) == (1, 0)
    with pytest.warns(UserWarning, match="no folds"):
        assert make(C=7.0).fit(X, y).C_ == 7


@EACH
def test_auto_does_not_depend_on_where_zero_is(make: Make) -> None:
    X, y = load_iris(return_X_y=True)
    classifier = make().fit(X, y)
    for moved in (X + 1000, np.c_[X, np.full(len(X), 1e7)]):
        other = make().fit(moved, y)
        assert pytest.approx(classifier.C_, rel=1e-6) == other.C_
        np.testing.assert_allclose(
            other.decision_function(moved), classifier.decision_function(X), rtol=1e-4, atol=1e-4
        )


def test_auto_finds_a_useful_c_on_features_of_different_scales() -> None:
    X, y = load_wine(return_X_y=True)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    assert cross_val_score(RidgeClassifier(), X, y, cv=folds).mean() > 0.95


def test_random_state_seeds_the_folds() -> None:
    X, y = data(60, 8)
    temperatures = [
        RidgeClassifier(random_state=seed).fit(X, y).temperature_
        for seed in (0, 0, 1, np.random.RandomState(5), np.random.RandomState(5))
    ]
    assert temperatures[0] == temperatures[1] != temperatures[2]
    assert temperatures[3] == temperatures[4] != temperatures[0]
    RidgeClassifier(random_state=None).fit(X, y)


# Tools of scikit-learn, and bad input ----------------------------------------------------


@EACH
def test_clones_pickles_and_files_give_the_same(make: Make, tmp_path: Path) -> None:
    X, y = data(60, 8)
    classifier = fixed(make).fit(X, y)
    expected = classifier.predict_proba(X)
    joblib.dump(classifier, tmp_path / "x.joblib")
    copies = [pickle.loads(pickle.dumps(classifier)), joblib.load(tmp_path / "x.joblib")]
    for copy in [*copies, clone(classifier).fit(X, y)]:
        np.testing.assert_array_equal(copy.predict_proba(X), expected)
    assert not hasattr(clone(classifier), "coef_")


@EACH
def test_pipelines_and_searches_take_them(make: Make) -> None:
    X, y = data(60, 8)
    pipeline = make_pipeline(StandardScaler(), fixed(make))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.5
    name = f"{make.__name__.lower()}__C"
    search = GridSearchCV(pipeline, {name: [1e-9, 0.1]}, cv=3, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_[name] == 0.1


@EACH
@pytest.mark.parametrize(
    ("parameters", "facts"),
    [
        ({"C": 0}, ["C", 0]),
        ({"C": "best"}, ["C", "best"]),
        ({"C": np.inf}, ["C", "inf"]),
        ({"class_weight": "equal"}, ["class_weight", "equal"]),
        ({"class_weight": {"auk": -1}}, ["class_weight", "-1"]),
        ({"label_smoothing": 1.0}, ["label_smoothing", "1.0"]),
        ({"random_state": -1}, ["random_state", "-1"]),
    ],
)
def test_parameters_out_of_range_are_named(
    make: Make, parameters: dict[str, Any], facts: list[Any]
) -> None:
    if "label_smoothing" in parameters and make is not SoftmaxClassifier:
        with pytest.raises(TypeError, match="label_smoothing"):
            make(**parameters)
        return
    with pytest.raises(ValueError, match=facts[0]) as error:
        make(**parameters).fit(*data(60, 8))
    assert_names(str(error.value), *facts)


@EACH
def test_bad_rows_are_refused(make: Make) -> None:
    X, y = data(60, 8)
    for bad_X, bad_y, weight, match in [
        (np.where(X > 4, np.nan, X), y, None, "NaN"),
        (X, y[:-1], None, "inconsistent"),
        (X[0], y, None, "1D"),
        (np.ones_like(X), y, None, "equal"),
        (X, np.full(60, "auk"), None, "1 class"),
        (X, y, -np.ones(60), "[Nn]egative"),
        (X, y, np.where(y == "auk", 1.0, 0.0), "1 class"),
        (X, np.linspace(0, 1, 60), None, "continuous"),
    ]:
        with pytest.raises(ValueError, match=match):
            make().fit(bad_X, bad_y, sample_weight=weight)
    with pytest.raises(ValueError, match="7 features"):
        fixed(make).fit(X, y).predict(X[:, 1:])


def test_impossible_folds_and_weights_are_value_errors() -> None:
    X, y = load_iris(return_X_y=True)
    rows = np.arange(len(y))
    for cv in ([], [(rows, rows[:50])]):
        with pytest.raises(ValueError, match="cv"):
            SoftmaxClassifier(C=1, cv=cv).fit(X, y)
    with pytest.raises(ValueError, match="class_weight"):
        RidgeClassifier(C=1, class_weight={0: np.nan, 1: 1, 2: 1}).fit(X, y)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_solution_that_is_not_finite_is_a_value_error() -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="finite"):
        SoftmaxClassifier(C=1).fit(X.astype(np.float32), y, np.full(len(y), 1e30))


def test_a_splitter_sees_the_rows_and_their_classes() -> None:
    X, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    class Splitter(StratifiedKFold):
        def split(self, X: Any, y: Any, groups: Any = None) -> Any:
            seen.append((X, y))
            return super().split(X, y)

    RidgeClassifier(C=1, cv=Splitter(3)).fit(X, names)
    np.testing.assert_array_equal(seen[0][0], X)
    assert seen[0][1].tolist() == names.tolist()
