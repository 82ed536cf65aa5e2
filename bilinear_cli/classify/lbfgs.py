"""L-BFGS for smooth convex functions of many float32 variables.

SciPy's L-BFGS-B keeps bounds and float64 copies, which for hundreds of thousands of variables
costs more than the function; without them the solver's own share is small.
"""

from collections.abc import Callable

import numpy as np

MEMORY = 10  # pairs of steps and gradient changes
SUFFICIENT_DECREASE = 1e-4
MOST_HALVINGS = 20


def minimize(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    x: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
) -> np.ndarray:
    """Minimise a function, after Nocedal and Wright, "Numerical Optimization", 2006, chapter 7.

    Variables should be scaled so that the curvature is about one: a step of length one is tried
    first.

    Args:
        function: float32 (d,) -> value and gradient, float32 (d,).
        x: where to start.
        tolerance: it ends when an iteration lowers the value by less than this share of it, or
            when rounding lets no step lower it.
        max_iterations: it ends then at the latest.

    Returns:
        float32 (d,).
    """
    value, gradient = function(x)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    for _ in range(max_iterations):
        direction = _direction(gradient, pairs)
        found = _search(function, x, value, direction, float(gradient @ direction))
        if found is None:
            break
        new_x, new_value, new_gradient = found
        step, change = new_x - x, new_gradient - gradient
        curvature = float(step @ change)
        if curvature > 0:
            pairs = [*pairs, (step, change, curvature)][-MEMORY:]
        decrease = value - new_value
        x, value, gradient = new_x, new_value, new_gradient
        if decrease <= tolerance * abs(value):
            break
    return x


def _direction(
    gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]]
) -> np.ndarray:
    """Return minus the inverse Hessian's estimate times the gradient (the two loops)."""
    direction = -gradient
    shares = []
    for step, change, curvature in reversed(pairs):
        shares.append(np.float32(step @ direction / curvature))
        direction = direction - shares[-1] * change
    if pairs:
        _, change, curvature = pairs[-1]
        direction = direction * np.float32(curvature / (change @ change))
    for (step, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - np.float32(change @ direction / curvature)) * step
    return direction


def _search(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    x: np.ndarray,
    value: float,
    direction: np.ndarray,
    slope: float,
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Return the first of ever shorter steps that lowers the value enough, or None."""
    if slope >= 0:  # at an optimum, or uphill by rounding
        return None
    length = 1.0
    for _ in range(MOST_HALVINGS):
        new_x = x + np.float32(length) * direction
        new_value, gradient = function(new_x)
        if new_value <= value + SUFFICIENT_DECREASE * length * slope:
            return new_x, new_value, gradient
        bend = new_value - value - length * slope  # of the parabola through what is known
        length *= min(0.5, max(0.1, -0.5 * length * slope / bend))
    return None
