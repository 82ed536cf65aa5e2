"""Tests of the minimiser, against SciPy's."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from bilinear_cli.training.lbfgs import minimize

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]
Problem = tuple[Function, np.ndarray]  # what is minimised, and the start


def quadratic() -> Problem:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    a, b = root @ root.T / 12 + np.eye(12), rng.normal(size=12)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        return float(x @ a @ x / 2 - b @ x) + 10, a @ x - b

    return function, np.zeros(12)


def badly_scaled() -> Problem:
    """Return a sum of log cosh, convex but not quadratic, of curvatures 1e-2 to 1e4."""
    scale, shift = np.logspace(-1, 2, 15), np.random.default_rng(0).normal(size=15)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        u = scale * (x - shift)
        value = np.logaddexp(u, -u).sum() + np.square(x).sum() / 20
        return float(value), scale * np.tanh(u) + x / 10

    return function, np.zeros(15)


@pytest.fixture(params=[quadratic, badly_scaled])
def problem(request: pytest.FixtureRequest) -> Problem:
    return request.param()


def in_float32(function: Function, points: list[np.ndarray] | None = None) -> Function:
    """Return the function as the minimiser may call it; `points` gets where it does."""

    def rounded(x: np.ndarray) -> tuple[float, np.ndarray]:
        assert x.dtype == np.float32
        if points is not None:
            points.append(x)
        value, gradient = function(x.astype(np.float64))
        return value, gradient.astype(np.float32)

    return rounded


def test_the_minimum_is_that_of_scipy(problem: Problem) -> None:
    function, start = problem
    expected = scipy_minimize(
        function, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    start = start.astype(np.float32)
    x = minimize(in_float32(function), start, tolerance=1e-10, max_iterations=500)
    assert x.dtype == np.float32
    assert function(x)[0] == pytest.approx(expected.fun, rel=1e-6)
    np.testing.assert_allclose(x, expected.x, atol=2e-3)


def test_a_looser_tolerance_needs_fewer_calls(problem: Problem) -> None:
    function, start = problem
    costs, values = [], []
    for tolerance in (1e-2, 1e-9):
        recorded = in_float32(function, points := [])
        x = minimize(recorded, start.astype(np.float32), tolerance=tolerance, max_iterations=500)
        costs.append(len(points))
        values.append(function(x)[0])
    assert costs[0] < costs[1] < 1000
    assert function(start)[0] > values[0] > values[1]


def test_each_iteration_descends_up_to_max_iterations(problem: Problem) -> None:
    function, start = problem
    start = start.astype(np.float32)
    values = [
        function(minimize(in_float32(function), start, tolerance=0.0, max_iterations=n))[0]
        for n in range(5)
    ]
    assert values[0] == function(start)[0]
    assert (np.diff(values) < 0).all()


def test_at_the_optimum_it_stays() -> None:
    bowl = in_float32(lambda x: (float(x @ x) / 2, x), points := [])
    start = np.zeros(4, np.float32)
    np.testing.assert_array_equal(minimize(bowl, start, tolerance=1e-9, max_iterations=50), start)
    assert len(points) == 1


def test_a_gradient_that_points_the_wrong_way_never_raises_the_value() -> None:
    wrong = in_float32(lambda x: (float(x @ x), -x))
    start = np.ones(4, np.float32)
    np.testing.assert_array_equal(minimize(wrong, start, tolerance=1e-9, max_iterations=9), start)


@pytest.mark.parametrize("start", [0.001, 1.9])
def test_a_step_into_infinity_is_shortened(start: float) -> None:
    def barrier(x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return x - log x, with its minimum at one, steep near zero and infinite below it."""
        if x[0] <= 0:
            return np.inf, np.zeros(1, np.float32)
        return float(x[0] - np.log(x[0])), 1 - 1 / x

    x = minimize(barrier, np.full(1, start, np.float32), tolerance=1e-9, max_iterations=100)
    assert x[0] == pytest.approx(1, abs=1e-3)
