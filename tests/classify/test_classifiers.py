"""Tests of the classifiers, against scikit-learn, SciPy and finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from sklearn.linear_model import LogisticRegression

from bilinear_cli.classify import classifiers
from bilinear_cli.classify.classifiers import Linear, Mlp, fit_mlp, fit_softmax, one_hot
from bilinear_cli.classify.gram import Coordinates

Reduce = Callable[[np.ndarray], Coordinates]
SHAPES = [(60, 12), (40, 90)]


def make(n: int, d: int, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of norm one in overlapping classes, as bilinear features are, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    x = np.abs(rng.normal(size=(k, d))[labels] + 1.5 * rng.normal(size=(n, d)))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def objective(
    model: Linear, z: np.ndarray, targets: np.ndarray, C: float
) -> tuple[float, np.ndarray]:
    """Return the objective and its gradient in float64, flat."""
    exact = Linear(model.weights.astype(np.float64), model.intercept.astype(np.float64))
    value, by_weights, by_intercept = classifiers.softmax_objective(
        exact, z.astype(np.float64), targets.astype(np.float64), C
    )
    return value, np.concatenate([by_weights.ravel(), by_intercept])


def unflat(u: np.ndarray, k: int) -> Linear:
    return Linear(u[:-k].reshape(-1, k), u[-k:])


def minimum(z: np.ndarray, targets: np.ndarray, C: float) -> tuple[float, Linear]:
    """Return the least objective, and where it is, as SciPy finds it from zero."""
    k = targets.shape[1]
    found = scipy_minimize(
        lambda u: objective(unflat(u, k), z, targets, C),
        np.zeros((z.shape[1] + 1) * k),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-8, "maxiter": 20_000, "maxfun": 40_000, "maxcor": 30},
    )
    return found.fun, unflat(found.x, k)


def test_one_hot() -> None:
    np.testing.assert_array_equal(one_hot(np.array([1, 0]), 3), [[0, 1, 0], [1, 0, 0]])
    smooth = one_hot(np.array([1, 0]), 4, 0.2)
    np.testing.assert_allclose(smooth, [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]])
    assert smooth.dtype == np.float32


# Softmax ----------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_is_that_of_finite_differences(smoothing: float) -> None:
    rng = np.random.default_rng(1)
    z, labels = make(12, 5)
    targets, u = one_hot(labels, 3, smoothing), rng.normal(size=18)
    _, gradient = objective(unflat(u, 3), z, targets, 7.0)
    for i, step in enumerate(np.eye(18) * 1e-6):
        above, below = (objective(unflat(u + s, 3), z, targets, 7.0)[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_a_divergence(smoothing: float) -> None:
    """It is zero where the probabilities are the targets, and cross entropy but for a constant."""
    z, labels = make(12, 5)
    targets = one_hot(labels, 3, smoothing).astype(np.float64)
    rng = np.random.default_rng(1)
    for model in (unflat(rng.normal(size=18), 3), unflat(np.zeros(18), 3)):
        scores = model(z.astype(np.float64))
        log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        entropy = np.sum(-targets[targets > 0] * np.log(targets[targets > 0]))
        wanted = 3 * (-(targets * log_p).sum() - entropy) + 0.5 * np.square(model.weights).sum()
        assert objective(model, z, targets, 3.0)[0] == pytest.approx(wanted, rel=1e-6)
    if smoothing:
        told = Linear(np.zeros((5, 3)), np.log(targets[0]))
        assert objective(told, z[:1], targets[:1], 3.0)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("C", [np.float64(3), 3, np.float32(3), 3.0])
def test_float32_stays_float32_whatever_C_is(C: float, reduce: Reduce) -> None:
    x, labels = make(12, 5)
    z, targets = reduce(x).z, one_hot(labels, 3)
    model = Linear(np.zeros((z.shape[1], 3), np.float32), np.zeros(3, np.float32))
    value, *gradients = classifiers.softmax_objective(model, z, targets, C)
    assert type(value) is float
    assert [g.dtype for g in gradients] == [np.float32, np.float32]
    fitted = fit_softmax(z, targets, C, reduce(x).variance)
    assert fitted.weights.dtype == fitted.intercept.dtype == np.float32


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0, 10_000.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_softmax_is_scikit_learns_logistic_regression(
    n: int, d: int, C: float, reduce: Reduce
) -> None:
    x, labels = make(n, d)
    reduced, targets = reduce(x), one_hot(labels, 3)
    ours = fit_softmax(reduced.z, targets, C, reduced.variance)
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(x.astype(float), labels)
    wanted = Linear(theirs.coef_.T, theirs.intercept_)
    ours_value = objective(ours, reduced.z, targets, C)[0]
    assert ours_value == pytest.approx(objective(wanted, x, targets, C)[0], rel=1e-4)
    scores = np.sort(theirs.decision_function(x), axis=1)
    clear = scores[:, -1] - scores[:, -2] > 1e-3 * np.abs(scores).max()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ours(reduced.z).argmax(1)[clear], theirs.predict(x)[clear])
    weights = (x - x.mean(0)).T @ (reduced.basis @ ours.weights)
    np.testing.assert_allclose(weights, theirs.coef_.T, atol=0.02 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize("C", [0.1, 100.0])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_smoothed_softmax_is_a_direct_minimum(n: int, d: int, C: float, reduce: Reduce) -> None:
    x, labels = make(n, d)
    reduced, targets = reduce(x), one_hot(labels, 3, 0.1)
    ours = fit_softmax(reduced.z, targets, C, reduced.variance)
    least, wanted = minimum(x, targets, C)  # on the features themselves, not centred
    assert objective(ours, reduced.z, targets, C)[0] == pytest.approx(least, rel=1e-5)
    scores, direct = ours(reduced.z), wanted(x)
    spread = scores - scores.mean(1, keepdims=True) - direct + direct.mean(1, keepdims=True)
    assert np.abs(spread).max() < 0.01 * np.abs(direct).max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_softmax_converges_at_any_C(
    n: int, d: int, C: float, smoothing: float, reduce: Reduce
) -> None:
    """A tolerance in terms of a large cross entropy ends a fit at once; this has been seen."""
    x, labels = make(n, d)
    reduced, targets = reduce(x), one_hot(labels, 3, smoothing)
    fitted = fit_softmax(reduced.z, targets, C, reduced.variance)
    start = Linear(np.zeros_like(fitted.weights), np.zeros_like(fitted.intercept))
    value, gradient = objective(fitted, reduced.z, targets, C)
    _, at_start = objective(start, reduced.z, targets, C)
    assert np.linalg.norm(gradient) < 1e-3 * np.linalg.norm(at_start)
    assert value <= minimum(reduced.z, targets, C)[0] * (1 + 1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_a_warm_start_ends_where_a_cold_one_does(
    n: int, d: int, smoothing: float, reduce: Reduce
) -> None:
    x, labels = make(n, d)
    reduced, targets = reduce(x), one_hot(labels, 3, smoothing)
    warm = None
    for C in (0.1, 1.0, 10.0, 100.0, 1000.0):
        warm = fit_softmax(reduced.z, targets, C, reduced.variance, warm, tolerance=1e-6)
        cold = fit_softmax(reduced.z, targets, C, reduced.variance)
        assert warm is not None
        values = [objective(model, reduced.z, targets, C)[0] for model in (warm, cold)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_the_intercept_is_free_of_penalty(reduce: Reduce) -> None:
    """So moving all features by a constant changes no score, and priors show at C near zero."""
    x, labels = make(60, 12)
    labels = np.where(labels == 2, 1, labels)  # 20 and 40 photos
    targets = one_hot(labels, 2)
    scores = []
    for shifted in (x, x + 3):
        reduced = reduce(shifted)
        scores.append(fit_softmax(reduced.z, targets, 10.0, reduced.variance)(reduced.z))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-2)
    np.testing.assert_array_equal(scores[0].argmax(1), scores[1].argmax(1))
    reduced = reduce(x)
    constant = fit_softmax(reduced.z, targets, 1e-5, reduced.variance)(reduced.z)
    np.testing.assert_allclose(constant[:, 1] - constant[:, 0], np.log(2), atol=0.01)


# MLP --------------------------------------------------------------------------------------


def exclusive_or(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in four clouds; opposite ones share a class."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 2, (n, 2))
    x = (2 * corner - 1) + 0.2 * rng.normal(size=(n, 2))
    return x.astype(np.float32), corner[:, 0] ^ corner[:, 1]


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_an_mlp_learns_what_no_linear_model_can_in_any_unit(
    scale: float, reduce: Reduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "LEARNING_RATE", 0.03)
    x, labels = exclusive_or(128, 0)
    x *= np.float32(scale)
    targets = one_hot(labels, 2)
    unseen, truth = exclusive_or(64, 1)
    mlp = fit_mlp(x, targets, hidden=32, dropout=0.0, seed=0, epochs=15)
    assert (mlp(unseen * np.float32(scale)).argmax(1) == truth).mean() > 0.95
    reduced = reduce(x)
    linear = fit_softmax(reduced.z, targets, 100.0 / scale**2, reduced.variance)
    assert (linear(reduced.z).argmax(1) == labels).mean() < 0.75


def test_a_seed_reproduces_an_mlp_and_another_does_not() -> None:
    x, labels = exclusive_or(64, 0)
    fits = [
        fit_mlp(x, one_hot(labels, 2), hidden=8, dropout=0.5, seed=seed, epochs=2)
        for seed in (5, 5, 6)
    ]
    for layer in ("first", "second"):
        a, b, other = (getattr(fit, layer).weights for fit in fits)
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - other).max() > 0.01
    assert fits[0].epochs == 2


def test_an_mlp_goes_back_to_the_epoch_that_was_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows to stop on have labels that training only comes to contradict."""
    monkeypatch.setattr(classifiers, "PATIENCE", 4)
    monkeypatch.setattr(classifiers, "LEARNING_RATE", 0.003)
    x, labels = exclusive_or(128, 0)
    held, wrong = x[:40], 1 - labels[:40]

    def fit(epochs: int, stop_on: tuple[np.ndarray, np.ndarray] | None = None) -> Mlp:
        targets = one_hot(labels, 2)
        return fit_mlp(x, targets, hidden=16, dropout=0.0, seed=0, epochs=epochs, stop_on=stop_on)

    mlp = fit(60, (held, one_hot(wrong, 2)))
    assert 1 <= mlp.epochs < 60
    same, longer = fit(mlp.epochs), fit(mlp.epochs + 4)
    np.testing.assert_allclose(mlp(x), same(x), atol=1e-5)
    assert (mlp(held).argmax(1) == wrong).mean() > (longer(held).argmax(1) == wrong).mean()
