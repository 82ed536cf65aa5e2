"""What is to be solved: the training rows, reduced to what fits the memory there is.

Three forms, with the same optimum. `Kernel`: fewer rows than numbers, from inner products.
`Columns` in memory: fewer numbers than rows. `Columns` from the file, pass by pass: whatever fits
neither way.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from bilinear_cli.errors import one_of
from bilinear_cli.memory import free_memory
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import gram, inputs
from bilinear_cli.training.columns import VECTORS_BYTES, Batches, Blocks, Columns
from bilinear_cli.training.inputs import Part
from bilinear_cli.training.kernel import Kernel
from bilinear_cli.training.lbfgs import MEMORY
from bilinear_cli.training.sums import Here, Progress, Sums, Workers

log = logging.getLogger(__name__)

SOLVERS = ("auto", "gram", "stream")
SHARE_OF_MEMORY = 0.7


@dataclass(frozen=True)
class Problem:
    """The training rows, as something to fit on.

    A fit's coefficients are (n, k) of the rows, or (r, k) on principal axes, or (d, k) of the
    features, as the form has it.

    Attributes:
        form: fits, and scores rows.
        n: rows.
        mean: float32 (d,), theirs, which is taken off.
        mean_square: the mean squared norm of the rows, the natural unit of 1 / C.
        weights: coefficients -> weights (d, k) on the features.
        coordinates: gives the rows on their principal axes; None where they are not to be had.
        of_axes: weights (r, k) on the principal axes -> coefficients.
    """

    form: Kernel | Columns
    n: int
    mean: np.ndarray
    mean_square: float
    weights: Callable[[np.ndarray], np.ndarray]
    coordinates: Callable[[], gram.Coordinates] | None = None
    of_axes: Callable[[np.ndarray], np.ndarray] | None = None


def choose_solver(solver: str, n: int, d: int, k: int) -> str:
    """Return `gram` or `stream`: the one asked for, or the first if the memory there is allows it.

    Args:
        solver: one of `SOLVERS`.
        n: training rows.
        d: numbers a row.
        k: classes.

    Raises:
        UsageError: there is no such solver.
    """
    one_of("solver", solver, SOLVERS)
    needed, free = bytes_needed(n, d, k), free_memory()
    chosen = solver
    if solver == "auto":
        chosen = "gram" if needed <= SHARE_OF_MEMORY * free else "stream"
    what = f"{n:,} rows of {d:,} numbers"
    sizes = f"{needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB of memory that are free"
    if chosen == "gram":
        log.info("%s, reduced in memory: about %s", what, sizes)
    else:
        why = "as asked for" if solver == "stream" else f"reduced, they would take {sizes}"
        log.info("%s, streamed, each step a pass over the file: %s", what, why)
    return chosen


def bytes_needed(n: int, d: int, k: int) -> int:
    """Return about how many bytes the reduced problem takes at its most, folds included."""
    blocks, scores = 4 * inputs.BLOCK_BYTES, 4 * n * k
    if n <= d:  # a Gram matrix, two matrices for each of five folds; points are pairs of scores
        return blocks + 4 * n * n + 5 * 2 * 4 * int(0.8 * n) ** 2 + 2 * 2 * MEMORY * scores
    eigenvectors = 3 * 8 * d * d
    return blocks + max(eigenvectors, 4 * n * d + VECTORS_BYTES + 4 * scores)


def pose(
    file: FeatureFile,
    parts: Sequence[Part],
    rows: np.ndarray,
    solver: str,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> Problem:
    """Read the training rows and reduce them.

    Args:
        file: the features.
        parts: what of them, normalised how.
        rows: numbers of the training rows.
        solver: `gram` or `stream`.
        progress: told (done, in all) of what is read.
        workers: who takes the sums over rows, if not this process. Rows of fewer numbers than
            there are of them are reduced here all the same: they are few numbers.

    Raises:
        BilinearError: all rows are the same.
        FeatureFileError: the file is damaged, or holds what is no number.
    """
    n, d = len(rows), sum(part.n_features for part in parts)
    sums = workers.over(parts, rows) if workers else Here(file, parts, rows)
    if solver == "stream":
        return _streamed(sums, n, progress)
    if n <= d:
        return _of_products(sums, n, progress)
    if workers:
        log.info("%d numbers a row are few: they are reduced here, not by the workers", d)
    batches = partial(inputs.batches, parts, file, rows)
    reduced, axes, mean, square = gram.rotate(batches, n, d, progress)
    form = Columns(Blocks(partial(_in_memory, reduced.z)), n, reduced.variance)
    return Problem(form, n, mean, square, axes.__matmul__, lambda: reduced, lambda w: w)


def _of_products(sums: Sums, n: int, progress: Progress | None) -> Problem:
    inner, mean, square = sums.gram(progress)
    coordinates = cache(partial(gram.principal, inner))

    def of_axes(on_axes: np.ndarray) -> np.ndarray:
        return coordinates().on_rows(on_axes)

    weights = partial(sums.weights, mean)
    return Problem(Kernel(inner), n, mean, square, weights, coordinates, of_axes)


def _streamed(sums: Sums, n: int, progress: Progress | None) -> Problem:
    stream = sums.stream(progress)
    form = Columns(stream.passes, n, stream.variance)
    return Problem(form, n, stream.mean, stream.mean_square, lambda w: w)


def _in_memory(z: np.ndarray, rows: np.ndarray) -> Batches:
    """Return passes over rows that are in memory; of some of them, a few are copied at a time."""
    if len(rows) == len(z):
        return lambda: [(slice(0, len(z)), z)]
    step = max(1, inputs.BLOCK_BYTES // (4 * z.shape[1]))
    starts = range(0, len(rows), step)
    return lambda: ((slice(i, min(i + step, len(rows))), z[rows[i : i + step]]) for i in starts)
