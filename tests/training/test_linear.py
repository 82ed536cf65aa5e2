"""Tests of the three forms of one problem, against scikit-learn on the features themselves."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from support.errors import raises
from support.rows import LOSSES, make_problem

from bilinear_cli.errors import UsageError
from bilinear_cli.training import dual, linear
from bilinear_cli.training.losses import inner_product, one_hot, plus_minus_one
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.reducers import Problem

K = 3
ALL_FORMS = pytest.mark.parametrize(
    ("n", "d", "form"),
    [(60, 12, "columns"), (60, 12, "stream"), (40, 90, "kernel"), (40, 90, "stream")],
)
ITERATIVE = pytest.mark.parametrize("name", ["softmax", "svm"])
LINEAR = pytest.mark.parametrize("name", ["softmax", "svm", "ridge"])


def make(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of norm one in overlapping classes, as bilinear features are, and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % K
    x = np.abs(rng.normal(size=(K, d))[labels] + 1.5 * rng.normal(size=(n, d)))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def targets_of(name: str, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    return one_hot(labels, K, smoothing) if name == "softmax" else plus_minus_one(labels, K)


def fit_path(problem: Problem, name: str, targets: np.ndarray, Cs: list[float]) -> Linear:
    """Return the last fit of a path, on the features as they are."""
    steps, indices = [(C, 1e-9) for C in Cs], np.arange(len(targets))
    *_, last = problem.regularization_path(indices, targets, LOSSES[name], steps)
    return problem.to_linear(last)


def objective(name: str, model: Linear, x: np.ndarray, targets: np.ndarray, C: float) -> float:
    weights = model.weights.astype(np.float64)
    scores = x.astype(np.float64) @ weights + model.intercept
    return C * LOSSES[name](targets.astype(np.float64))(scores)[0] + 0.5 * inner_product(
        weights, weights
    )


def scikit_learn_model(name: str, x: np.ndarray, labels: np.ndarray, C: float) -> Linear:
    """Return scikit-learn's optimum; its SVM penalises the intercept, but here by next to none."""
    models: dict[str, Any] = {
        "softmax": LogisticRegression(C=C, tol=1e-10, max_iter=100_000),
        "ridge": Ridge(alpha=1 / C),
        "svm": LinearSVC(C=C, tol=1e-9, max_iter=1_000_000, dual=False, intercept_scaling=1000),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        targets = plus_minus_one(labels, K) if name == "ridge" else labels
        model = models[name].fit(x.astype(np.float64), targets)
    return Linear(model.coef_.T, model.intercept_)


@pytest.mark.parametrize("C", [1e10, 1e15])
@ITERATIVE
@pytest.mark.parametrize("form", ["kernel", "stream"])
def test_a_fit_with_a_huge_C_separates_what_is_separable(form: str, name: str, C: float) -> None:
    x, labels = make(40, 90)
    scores = fit_path(make_problem(x, form), name, targets_of(name, labels), [C])(x)
    assert scores.argmax(axis=1).tolist() == labels.tolist()


@ITERATIVE
@pytest.mark.parametrize("form", ["kernel", "stream"])
def test_a_fit_that_overflows_is_refused(form: str, name: str) -> None:
    x, labels = make(40, 90)
    with raises(UsageError, "C", "float32"):
        fit_path(make_problem(x, form), name, targets_of(name, labels), [1e36])


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0, 10_000.0])
@LINEAR
@ALL_FORMS
@pytest.mark.slow
def test_the_optimum_is_scikit_learns(n: int, d: int, form: str, name: str, C: float) -> None:
    x, labels = make(n, d)
    targets = targets_of(name, labels)
    ours = fit_path(make_problem(x, form), name, targets, [C / 100, C / 10, C])
    reference = scikit_learn_model(name, x, labels, C)
    values = [objective(name, model, x, targets, C) for model in (ours, reference)]
    assert values[0] <= values[1] * (1 + 1e-4)
    if C < 10_000 or name == "softmax":  # beyond, reference is not at the optimum itself
        assert values[0] == pytest.approx(values[1], rel=1e-3)
        expected = reference(x.astype(np.float64))
        ranked = np.sort(expected, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 3e-3 * np.abs(ranked).max()
        assert clear.mean() > 0.7
        np.testing.assert_array_equal(ours(x).argmax(1)[clear], expected.argmax(1)[clear])


@ITERATIVE
@ALL_FORMS
def test_a_path_and_a_single_fit_reach_the_same_optimum(
    n: int, d: int, form: str, name: str
) -> None:
    x, labels = make(n, d)
    problem, targets = make_problem(x, form), targets_of(name, labels, smoothing=0.1)
    paths = [10.0**decade for decade in range(-3, 3)], [100.0]
    models = [fit_path(problem, name, targets, path) for path in paths]
    values = [objective(name, model, x, targets, 100.0) for model in models]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@ITERATIVE
@ALL_FORMS
def test_a_fit_on_some_rows_does_not_depend_on_the_others(
    n: int, d: int, form: str, name: str
) -> None:
    """And scores them as the model on the features does, though they are centred by all."""
    x, labels = make(n, d)
    val_indices, train_indices = np.split(np.arange(n), [n // 4])
    changed = x.copy()
    changed[val_indices] += 1
    targets = targets_of(name, labels)[train_indices]
    reference = scikit_learn_model(name, x[train_indices], labels[train_indices], 10.0)
    for rows in (x, changed):
        problem: Any = make_problem(rows, form)
        (fit,) = problem.regularization_path(train_indices, targets, LOSSES[name], [(10.0, 1e-9)])
        scores = problem.scores(fit, val_indices)
        expected = reference(rows[val_indices].astype(np.float64))
        np.testing.assert_allclose(scores, expected, atol=0.02 * np.abs(expected).max() + 0.01)


@LINEAR
@ALL_FORMS
def test_the_intercept_is_free_of_penalty(n: int, d: int, form: str, name: str) -> None:
    """So moving all features by a constant changes no score, and priors show at C near zero."""
    x, labels = make(n, d)
    labels = np.where(labels == 2, 1, labels)
    targets = targets_of(name, labels)[:, :2]
    scores = [fit_path(make_problem(z, form), name, targets, [10.0])(z) for z in (x, x + 3)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)
    constant = fit_path(make_problem(x, form), name, targets, [1e-5])(x)
    assert np.ptp(constant, axis=0).max() < 0.01
    if name == "softmax":
        priors = np.bincount(labels) / n
        log_odds = np.log(priors[1] / priors[0])
        np.testing.assert_allclose(constant[0, 1] - constant[0, 0], log_odds, atol=0.02)


def test_a_metric_of_another_curvature_leads_to_the_same_optimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, labels = make(40, 90)
    targets, values = targets_of("softmax", labels), []
    for rebuild in (dual.MAX_RATIO, 1e9):
        monkeypatch.setattr(dual, "MAX_RATIO", rebuild)
        model = fit_path(make_problem(x), "softmax", targets, [0.01, 0.1, 1.0, 10.0])
        values.append(objective("softmax", model, x, targets, 10.0))
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("form", ["kernel", "stream"])
@pytest.mark.parametrize("C", [1.0, 1e6])
def test_rows_of_zeros_and_equal_rows_leave_the_weights_finite(form: str, C: float) -> None:
    x, labels = make(40, 90)
    x[:4], x[20:30] = 0, x[10:20]
    model = fit_path(make_problem(x, form), "softmax", targets_of("softmax", labels), [C / 10, C])
    assert np.isfinite(model.weights).all()
    assert np.isfinite(model.intercept).all()


def test_without_a_second_class_a_fit_ends_where_rounding_begins() -> None:
    """As in a fold that lacks the other class: its intercept falls without end."""
    x = 100 * make(16, 512)[0]
    targets = targets_of("softmax", np.full(16, 1))[:, :2]
    with np.errstate(invalid="raise", over="raise"):
        model = fit_path(make_problem(x, "kernel"), "softmax", targets, [1e-3])
    scores = model(x)
    assert (scores[:, 1] - scores[:, 0] > 5).all()


@LINEAR
@ALL_FORMS
def test_rows_with_weights_have_the_optimum_of_repeated_rows(
    n: int, d: int, form: str, name: str
) -> None:
    x, labels = make(n, d)
    weight, targets = np.random.default_rng(1).integers(1, 5, n), targets_of(name, labels)
    every, Cs = np.arange(n).repeat(weight), [0.1, 1.0, 10.0]
    weighted_problem = make_problem(x, form, weight.astype(float))
    repeated_problem = make_problem(x[every], "columns")
    unit = repeated_problem.mean_squared_norm
    assert weighted_problem.mean_squared_norm == pytest.approx(unit, rel=1e-5)
    models = [
        fit_path(weighted_problem, name, targets, Cs),
        fit_path(repeated_problem, name, targets[every], Cs),
    ]
    values = [objective(name, model, x[every], targets[every], 10.0) for model in models]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    unweighted = fit_path(make_problem(x, form), name, targets, Cs)
    assert objective(name, unweighted, x[every], targets[every], 10.0) > 1.01 * values[1]


# Ridge -----------------------------------------------------------------------------------

IN_MEMORY = pytest.mark.parametrize(("n", "d"), [(60, 12), (30, 30), (40, 90)])


def out_of_fold(x: np.ndarray, targets: np.ndarray) -> tuple[list[np.ndarray], Any]:
    """Return four validation folds, and C -> their scores."""
    val_folds = np.array_split(np.random.default_rng(0).permutation(len(x)), 4)
    coordinates = make_problem(x).coordinates
    assert coordinates
    return val_folds, linear.out_of_fold(coordinates, targets, val_folds)


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@IN_MEMORY
def test_ridge_is_scikit_learns(n: int, d: int, C: float) -> None:
    x, labels = make(n, d)
    problem, targets = make_problem(x), plus_minus_one(labels, K)
    assert problem.coordinates
    ours = problem.linear_from_axes(linear.fit_ridge(problem.coordinates, targets, C))
    reference = scikit_learn_model("ridge", x, labels, C)
    atol = 2e-3 * np.abs(reference.weights).max()
    np.testing.assert_allclose(ours.weights, reference.weights, atol=atol)
    np.testing.assert_allclose(ours.intercept, reference.intercept, atol=1e-3)
    values = [objective("ridge", model, x, targets, C) for model in (ours, reference)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@IN_MEMORY
def test_ridges_out_of_fold_scores_are_those_of_fits_on_the_other_folds(
    n: int, d: int, C: float
) -> None:
    x, labels = make(n, d)
    x[:3] = x[3:6]  # fewer axes than rows less one
    targets = plus_minus_one(labels, K)
    val_folds, scores = out_of_fold(x, targets)
    for fold in val_folds:
        train = np.setdiff1d(np.arange(n), fold)
        reference = Ridge(alpha=1 / C).fit(x[train].astype(np.float64), targets[train])
        np.testing.assert_allclose(scores(C)[fold], reference.predict(x[fold]), atol=5e-3)


def test_ridge_scores_are_finite_at_any_C() -> None:
    x, labels = make(60, 90)
    x[:6], x[12:14] = x[6:12], 0
    _, scores = out_of_fold(x, plus_minus_one(labels, K))
    assert all(np.isfinite(scores(C)).all() for C in 10.0 ** np.arange(3, 12))
