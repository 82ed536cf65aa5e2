"""Tests of the three forms of one problem, against scikit-learn on the features themselves."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from bilinear_cli.classify import kernel, ridge
from bilinear_cli.classify.classifiers import LOSSES
from bilinear_cli.classify.columns import Linear
from bilinear_cli.classify.losses import dot, one_hot, signs
from bilinear_cli.classify.problem import Problem

Pose = Callable[..., Problem]
FORMS = [(60, 12, "columns"), (60, 12, "stream"), (40, 90, "kernel"), (40, 90, "stream")]
K = 3


def make(n: int, d: int, k: int = K, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of norm one in overlapping classes, as bilinear features are, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    x = np.abs(rng.normal(size=(k, d))[labels] + 1.5 * rng.normal(size=(n, d)))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def goal(name: str, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    return one_hot(labels, K, smoothing) if name == "softmax" else signs(labels, K)


def fit_path(problem: Problem, name: str, targets: np.ndarray, Cs: list[float]) -> Linear:
    """Return the last fit of a path, on the features as they are."""
    every = np.arange(problem.n)
    *_, last = problem.form.path(every, targets, LOSSES[name], [(C, 1e-9) for C in Cs])
    return on_features(problem, problem.form.coefficients(last))  # type: ignore[arg-type]


def on_features(problem: Problem, fit: Linear) -> Linear:
    weights = problem.weights(fit.weights)
    return Linear(weights, fit.intercept - problem.mean @ weights)


def objective(name: str, model: Linear, x: np.ndarray, targets: np.ndarray, C: float) -> float:
    weights = model.weights.astype(np.float64)
    scores = x.astype(np.float64) @ weights + model.intercept
    return C * LOSSES[name](targets.astype(np.float64))(scores)[0] + 0.5 * dot(weights, weights)


def peer(name: str, x: np.ndarray, labels: np.ndarray, C: float) -> Linear:
    """Return scikit-learn's optimum; its SVM penalises the intercept, but here by next to none."""
    x = x.astype(np.float64)
    found: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if name == "softmax":
            found = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(x, labels)
        elif name == "ridge":
            found = Ridge(alpha=1 / C).fit(x, signs(labels, K))
        else:
            found = LinearSVC(
                C=C, tol=1e-9, max_iter=1_000_000, dual=False, intercept_scaling=1000
            ).fit(x, labels)
    return Linear(found.coef_.T, found.intercept_)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0, 10_000.0])
@pytest.mark.parametrize("name", ["softmax", "svm", "ridge"])
@pytest.mark.parametrize(("n", "d", "form"), FORMS)
def test_the_optimum_is_scikit_learns(
    n: int, d: int, form: str, name: str, C: float, pose: Pose
) -> None:
    x, labels = make(n, d)
    targets = goal(name, labels)
    ours = fit_path(pose(x, form), name, targets, [C / 100, C / 10, C])
    theirs = peer(name, x, labels, C)
    values = [objective(name, model, x, targets, C) for model in (ours, theirs)]
    assert values[0] <= values[1] * (1 + 1e-4)
    if C < 10_000 or name == "softmax":  # beyond, theirs is not at the optimum itself
        assert values[0] == pytest.approx(values[1], rel=1e-3)
        scores = np.sort(theirs(x.astype(np.float64)), axis=1)
        clear = scores[:, -1] - scores[:, -2] > 3e-3 * np.abs(scores).max()
        assert clear.mean() > 0.7
        np.testing.assert_array_equal(ours(x).argmax(1)[clear], theirs(x).argmax(1)[clear])


@pytest.mark.parametrize("C", [0.1, 100.0])
@pytest.mark.parametrize(("n", "d", "form"), FORMS)
def test_an_svm_without_intercept_is_linear_svcs(
    n: int, d: int, form: str, C: float, pose: Pose
) -> None:
    """On rows and their negatives, with contrary targets, the free intercept is zero."""
    x, labels = make(n // 2, d)
    both = np.vstack([x, -x])
    targets = np.vstack([signs(labels, K), -signs(labels, K)])
    ours = fit_path(pose(both, form), "svm", targets, [C / 100, C / 10, C])
    svc = LinearSVC(C=2 * C, tol=1e-9, max_iter=1_000_000, fit_intercept=False, dual=False)
    theirs = Linear(svc.fit(x.astype(np.float64), labels).coef_.T, np.zeros(K))
    np.testing.assert_allclose(ours.intercept, 0, atol=1e-3)
    values = [objective("svm", model, both, targets, C) for model in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    np.testing.assert_array_equal(ours(x).argmax(1), theirs(x.astype(np.float64)).argmax(1))


@pytest.mark.parametrize("name", ["softmax", "svm"])
@pytest.mark.parametrize(("n", "d", "form"), FORMS)
def test_the_path_and_a_fit_alone_come_to_the_same(
    n: int, d: int, form: str, name: str, pose: Pose
) -> None:
    x, labels = make(n, d)
    problem, targets = pose(x, form), goal(name, labels, 0.1 if name == "softmax" else 0)
    along = fit_path(problem, name, targets, [10.0**decade for decade in range(-3, 3)])
    alone = fit_path(problem, name, targets, [100.0])
    values = [objective(name, model, x, targets, 100.0) for model in (along, alone)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("name", ["softmax", "svm"])
@pytest.mark.parametrize(("n", "d", "form"), FORMS)
def test_a_fit_on_some_rows_knows_nothing_of_the_others(
    n: int, d: int, form: str, name: str, pose: Pose
) -> None:
    """And scores them as the model on the features does, though they are centred by all."""
    x, labels = make(n, d)
    seen, held_out = np.arange(n)[n // 4 :], np.arange(n)[: n // 4]
    changed = x.copy()
    changed[held_out] += 1
    targets = goal(name, labels)[seen]
    models = []
    for rows in (x, changed):
        problem = pose(rows, form)
        (fit,) = problem.form.path(seen, targets, LOSSES[name], [(10.0, 1e-9)])
        scores = problem.form.scores(fit, held_out)  # type: ignore[arg-type]
        models.append((scores, rows[held_out]))
    theirs = peer(name, x[seen], labels[seen], 10.0)
    for scores, rows in models:
        wanted = theirs(rows.astype(np.float64))
        np.testing.assert_allclose(scores, wanted, atol=0.02 * np.abs(wanted).max() + 0.01)


@pytest.mark.parametrize("name", ["softmax", "svm", "ridge"])
@pytest.mark.parametrize(("n", "d", "form"), FORMS)
def test_the_intercept_is_free_of_penalty(n: int, d: int, form: str, name: str, pose: Pose) -> None:
    """So moving all features by a constant changes no score, and priors show at C near zero."""
    x, labels = make(n, d)
    labels = np.where(labels == 2, 1, labels)
    targets = goal(name, labels)[:, :2]
    fits = [fit_path(pose(rows, form), name, targets, [10.0]) for rows in (x, x + 3)]
    scores = [fit(rows) for fit, rows in zip(fits, (x, x + 3), strict=True)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)
    constant = fit_path(pose(x, form), name, targets, [1e-5])(x)
    assert np.ptp(constant, axis=0).max() < 0.01
    if name == "softmax":
        shares = np.bincount(labels) / n
        np.testing.assert_allclose(
            constant[0, 1] - constant[0, 0], np.log(shares[1] / shares[0]), atol=0.02
        )


def test_a_metric_built_for_another_curvature_serves_too(
    pose: Pose, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = make(40, 90)
    targets, Cs = goal("softmax", labels), [0.01, 0.1, 1.0, 10.0]
    often = fit_path(pose(x), "softmax", targets, Cs)
    monkeypatch.setattr(kernel, "REBUILD", 1e9)
    once = fit_path(pose(x), "softmax", targets, Cs)
    values = [objective("softmax", model, x, targets, 10.0) for model in (often, once)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("form", ["kernel", "stream"])
@pytest.mark.parametrize("C", [1.0, 1e6])
def test_rows_of_zeros_and_doubled_rows_do_no_harm(form: str, C: float, pose: Pose) -> None:
    x, labels = make(40, 90)
    x[:4], x[20:30] = 0, x[10:20]
    model = fit_path(pose(x, form), "softmax", goal("softmax", labels), [C / 10, C])
    assert np.isfinite(model.weights).all()
    assert np.isfinite(model.intercept).all()


# Ridge -----------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("n", "d"), [(60, 12), (30, 30), (40, 90)])
def test_ridge_is_scikit_learns(n: int, d: int, C: float, pose: Pose) -> None:
    x, labels = make(n, d)
    problem, targets = pose(x), signs(labels, K)
    assert problem.coordinates
    assert problem.of_axes
    on_axes = ridge.fit_ridge(problem.coordinates(), targets, C)
    ours = on_features(problem, Linear(problem.of_axes(on_axes.weights), on_axes.intercept))
    theirs = peer("ridge", x, labels, C)
    np.testing.assert_allclose(
        ours.weights, theirs.weights, atol=2e-3 * np.abs(theirs.weights).max()
    )
    np.testing.assert_allclose(ours.intercept, theirs.intercept, atol=1e-3)
    values = [objective("ridge", model, x, targets, C) for model in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("n", "d"), [(60, 12), (30, 30), (40, 90)])
def test_ridges_out_of_fold_scores_are_those_of_fits_on_the_other_folds(
    n: int, d: int, C: float, pose: Pose
) -> None:
    x, labels = make(n, d)
    x[:3] = x[3:6]  # fewer axes than rows less one
    problem, targets = pose(x), signs(labels, K)
    held_out = np.array_split(np.random.default_rng(0).permutation(n), 4)
    assert problem.coordinates
    scores = ridge.out_of_fold(problem.coordinates(), targets, held_out)(C)
    for fold in held_out:
        seen = np.setdiff1d(np.arange(n), fold)
        alone = Ridge(alpha=1 / C).fit(x[seen].astype(np.float64), targets[seen])
        np.testing.assert_allclose(scores[fold], alone.predict(x[fold]), atol=5e-3)


def test_ridge_comes_to_the_end_of_any_path(pose: Pose) -> None:
    x, labels = make(60, 90)
    x[:6] = x[6:12]
    x[12:14] = 0
    problem = pose(x)
    assert problem.coordinates
    held_out = np.array_split(np.random.default_rng(0).permutation(60), 4)
    scores = ridge.out_of_fold(problem.coordinates(), signs(labels, K), held_out)
    for C in 10.0 ** np.arange(3, 12):
        assert np.isfinite(scores(C)).all()
