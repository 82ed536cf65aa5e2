"""L-BFGS for smooth convex functions of many float32 variables, in a metric of one's own.

SciPy's L-BFGS-B keeps bounds and float64 copies, which for hundreds of thousands of variables
costs more than the function, and it knows the plain inner product alone.
"""

import logging
from collections.abc import Callable

import numpy as np

log = logging.getLogger(__name__)

MEMORY = 10  # pairs of steps and gradient changes
SUFFICIENT_DECREASE = 1e-4
MOST_HALVINGS = 20

Dot = Callable[[np.ndarray, np.ndarray], float]


def plain(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the products of two arrays' elements."""
    return float(np.vdot(a, b))


def minimize(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    x: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    dot: Dot = plain,
    memory: int = MEMORY,
) -> np.ndarray:
    """Minimise a function, after Nocedal and Wright, "Numerical Optimization", 2006, chapter 7.

    Variables or metric should be such that the curvature is about one: a step of length one is
    tried first.

    Args:
        function: x -> value and gradient. The gradient is that of the metric: the derivative
            along a direction is `dot(gradient, direction)`.
        x: where to start, float32 of any shape.
        tolerance: it ends when an iteration lowers the value by less than this share of it, or
            when rounding lets no step lower it.
        max_iterations: it ends then at the latest, with a warning.
        dot: the metric's inner product.
        memory: how many pairs are kept, of two arrays like x each.

    Returns:
        As x.
    """
    value, gradient = function(x)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    for _ in range(max_iterations):
        direction = _direction(gradient, pairs, dot)
        found = _search(function, x, value, direction, dot(gradient, direction))
        if found is None:
            return x
        new_x, new_value, new_gradient = found
        step, change = new_x - x, new_gradient - gradient
        curvature = dot(step, change)
        if curvature > 0:
            pairs = [*pairs, (step, change, curvature)][-memory:]
        decrease = value - new_value
        x, value, gradient = new_x, new_value, new_gradient
        if decrease <= tolerance * abs(value):
            return x
    log.warning("a fit was ended after %d iterations, before it had converged", max_iterations)
    return x


def _direction(
    gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]], dot: Dot
) -> np.ndarray:
    """Return minus the inverse Hessian's estimate times the gradient (the two loops)."""
    direction = -gradient
    shares = []
    for step, change, curvature in reversed(pairs):
        shares.append(np.float32(dot(step, direction) / curvature))
        direction = direction - shares[-1] * change
    if pairs:
        _, change, curvature = pairs[-1]
        direction = direction * np.float32(curvature / dot(change, change))
    for (step, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - np.float32(dot(change, direction) / curvature)) * step
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
