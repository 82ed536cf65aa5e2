"""L-BFGS for smooth convex functions of many variables, with any inner product.

SciPy's L-BFGS-B keeps bounds, and float64 copies of float32 variables. With hundreds of thousands
of variables these cost more than the function, and SciPy knows the plain inner product only.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from bilinear_cli.errors import UsageError

log = logging.getLogger(__name__)

N_PAIRS = 10  # pairs of steps and gradient changes
MAX_ITERATIONS = 1000
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 20
SMALL_SLOPE = 1e-8  # of a step in float64, relative to the value
MAX_SLOPE = 1000  # of a step of length one, relative to the value; above, it is far too long

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]  # x -> value and gradient
Dot = Callable[[np.ndarray, np.ndarray], float]


def plain_dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the products of two arrays' elements."""
    return float(np.vdot(a, b))


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def minimize(
    function: Function,
    x: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int = MAX_ITERATIONS,
    dot: Dot = plain_dot,
    n_pairs: int = N_PAIRS,
) -> np.ndarray:
    """Return the minimiser (Nocedal and Wright, "Numerical Optimization", 2006, chapter 7).

    The first step tried has length one, unless that is far too long. Choose variables or an inner
    product so that the curvature is near one.

    Args:
        function: the function, at least zero. Its gradient is that of `dot`: the derivative along
            a direction is `dot(gradient, direction)`.
        x: the starting point, float32 or float64, of any shape.
        tolerance: stop when an iteration lowers the value by less than this fraction of it, or
            when rounding lets no step lower it. In float64 stop when the gradient promises no
            larger decrease, which can be far below the rounding of the value.
        max_iterations: stop after this number of iterations, with a warning.
        dot: the inner product.
        n_pairs: number of pairs to keep. A pair is two arrays of the shape of x.

    Raises:
        UsageError: the gradient is so large that its products overflow.
    """
    value, gradient = function(x)
    precise = x.dtype == np.float64
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    for _ in range(max_iterations):
        direction = _direction(gradient, pairs, dot)
        slope = dot(gradient, direction)
        if not np.isfinite(slope):
            raise UsageError(
                f"no finite solution in {x.dtype}: C, the weights of the rows or the features are "
                "far too large. Leave out C to choose it by cross-validation, or scale the features"
            )
        if precise and -slope <= tolerance * abs(value):
            return x
        accepted = _line_search(function, x, value, direction, slope, dot)
        if accepted is None:
            return x
        new_x, new_value, new_gradient = accepted
        step, change = new_x - x, new_gradient - gradient
        curvature = dot(step, change)
        if curvature > 0:
            pairs = [*pairs, (step, change, curvature)][-n_pairs:]
        decrease = value - new_value
        x, value, gradient = new_x, new_value, new_gradient
        if not precise and decrease <= tolerance * abs(value):
            return x
    log.warning("the fit stopped after %d iterations, before it converged", max_iterations)
    return x


def starting_points(
    solutions: Sequence[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> list[np.ndarray]:
    """Return where the next fit of a path of C, ascending by decades, may start.

    The candidates are the last fit, and the last two fits extrapolated. Weights of a softmax grow
    about with the logarithm of C if the classes are separable; those of other losses converge. The
    first fit starts at zeros of this shape and type.
    """
    if not solutions:
        return [np.zeros(shape, dtype)]
    *previous, last = solutions[-2:]
    return [last, *(2 * last - solution for solution in previous)]


def _direction(
    gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]], dot: Dot
) -> np.ndarray:
    """Return minus the estimated inverse Hessian times the gradient (two-loop recursion)."""
    direction = -gradient
    factors, number = [], direction.dtype.type
    for step, change, curvature in reversed(pairs):
        factors.append(number(dot(step, direction) / curvature))
        direction = direction - factors[-1] * change
    if pairs:
        _, change, curvature = pairs[-1]
        direction = direction * number(curvature / dot(change, change))
    for (step, change, curvature), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + (factor - number(dot(change, direction) / curvature)) * step
    return direction


def _line_search(
    function: Function,
    x: np.ndarray,
    value: float,
    direction: np.ndarray,
    slope: float,
    dot: Dot,
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """Return x, value and gradient after the first of ever shorter steps that descends, or None.

    In float64, rounding hides small changes of the value. They are then those of the parabola
    through the slopes at both ends of the step.
    """
    if slope >= 0:  # at an optimum, or uphill by rounding
        return None
    by_slopes = x.dtype == np.float64 and -slope < SMALL_SLOPE * abs(value)
    # A parabola of this slope has its minimum, which is at least zero, before 2 * value / -slope.
    is_too_long = value > 0 and -slope > MAX_SLOPE * value
    length = value / -slope if is_too_long else 1.0
    for _ in range(MAX_HALVINGS):
        new_x = x + x.dtype.type(length) * direction
        new_value, gradient = function(new_x)
        change, sufficient = new_value - value, SUFFICIENT_DECREASE * length * slope
        if by_slopes:
            change = length * (slope + dot(gradient, direction)) / 2
        if change <= sufficient if by_slopes else new_value <= value + sufficient:
            return new_x, new_value, gradient
        curvature = change - length * slope  # of the parabola through both values
        length *= min(0.5, max(0.1, -0.5 * length * slope / curvature))
    return None
