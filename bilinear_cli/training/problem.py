"""The problem to solve: the training rows, reduced to what fits the memory.

There are three forms with the same optimum. `GramProblem`: fewer rows than features, from inner
products. `PrimalProblem` in memory: fewer features than rows, on principal axes. `PrimalProblem`
from the file or by workers: rows that fit neither way, in one pass after another.
"""

import logging
from collections.abc import Sequence

import numpy as np

from bilinear_cli.errors import validate_choice
from bilinear_cli.memory import free_memory
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import feature_transform
from bilinear_cli.training.dual import GramProblem
from bilinear_cli.training.feature_transform import Features, FeatureTransform
from bilinear_cli.training.lbfgs import MEMORY
from bilinear_cli.training.primal import VECTORS_BYTES, PrimalProblem
from bilinear_cli.training.reducers import LOCAL, LocalReducer, Reading, Reducer

log = logging.getLogger(__name__)

SOLVERS = ("auto", "gram", "stream")
MEMORY_FRACTION = 0.7  # of the free memory

Problem = GramProblem | PrimalProblem


def choose_solver(solver: str, n: int, d: int, k: int) -> str:
    """Return `gram` or `stream`: for `auto`, `gram` if the reduced problem fits the free memory.

    Args:
        solver: one of `SOLVERS`.
        n: number of training rows.
        d: number of features.
        k: number of classes.

    Raises:
        UsageError: the solver is unknown.
    """
    validate_choice("solver", solver, SOLVERS)
    needed, free = bytes_needed(n, d, k), free_memory()
    chosen = solver
    if solver == "auto":
        chosen = "gram" if needed <= MEMORY_FRACTION * free else "stream"
    sizes = f"{needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB of free memory"
    if chosen == "gram":
        log.info("solver gram: %s rows of %s features need about %s", f"{n:,}", f"{d:,}", sizes)
    else:
        reason = "--solver stream" if solver == "stream" else f"the solver gram would need {sizes}"
        rows = f"{n:,} rows of {d:,} features"
        log.info("solver stream: each step reads %s from the file (%s)", rows, reason)
    return chosen


def bytes_needed(n: int, d: int, k: int) -> int:
    """Return about how many bytes the reduced problem takes at its peak, folds included."""
    blocks, scores = 4 * feature_transform.BLOCK_BYTES, 4 * n * k
    if n <= d:  # a Gram matrix, two matrices for each of five folds; points are pairs of scores
        return blocks + 4 * n * n + 5 * 2 * 4 * int(0.8 * n) ** 2 + 2 * 2 * MEMORY * scores
    eigenvectors = 3 * 8 * d * d
    return blocks + max(eigenvectors, 4 * n * d + VECTORS_BYTES + 4 * scores)


def reduce(
    file: FeatureFile,
    transforms: Sequence[FeatureTransform],
    indices: np.ndarray,
    solver: str,
    reading: Reading = LOCAL,
) -> Problem:
    """Read the training rows and reduce them.

    Args:
        file: the features.
        transforms: fitted, of the poolings side by side.
        indices: of the training rows.
        solver: `gram` or `stream`.
        reading: how to read them. Rows with fewer features than there are rows are small, so this
            process reduces them even if there are workers.

    Raises:
        BilinearError: all rows are equal.
        FeatureFileError: the file is damaged, or has a value that is not finite.
    """
    workers, progress = reading.workers, reading.progress
    n, features = len(indices), Features(file, transforms)
    local = LocalReducer(features, indices)
    reducer: Reducer = workers.over(transforms, indices) if workers else local
    if solver == "stream":
        return reducer.stream(progress)
    if n <= features.d:
        return GramProblem(*reducer.gram(progress), reducer.weights)
    if workers:
        small = "rows of %d features are small: this process reduces them, not the workers"
        log.info(small, features.d)
    return local.rotate(progress)
