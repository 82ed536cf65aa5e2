"""The identities of bilinear vectors, checked on real maps, and the weights of matches.

X and Y are the maps of two photos as matrices, with one row per location. X Yᵀ contains the inner
product of every location of X with every location of Y. These products are the matches.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from vectors import shuffled, shuffled_together

from bilinear_cli.poolings import functions as pooling
from bilinear_cli.poolings.registry import MAPS
from bilinear_cli.store import FeatureFile

N_PAIRS = 200
SHARES = np.geomspace(1e-3, 1, 31)  # fractions of all matches; ten steps per decade
ONE_PER_CENT = 10  # index of 1 % in `SHARES`
QUARTILES = (25, 50, 75)
BILINEAR = pooling.pool_function("bilinear", {})
POOLS = {
    "sum": pooling.sum_pool,
    "bilinear": lambda maps: pooling.upper_triangle(pooling.outer_product_sum(maps)),
    "bilinear, square root and l2": BILINEAR,
    "outer product of the means, square root and l2": lambda maps: BILINEAR(
        pooling.avg_pool(maps)[:, None, None, :]
    ),
}


def measure_matches(file: FeatureFile, seed: int = 0) -> dict[str, Any]:
    """Return measurements on random pairs of training photos of one class.

    Returns:
        `identities`: name -> largest relative difference between its two sides;
        `shares`: `sum` and `bilinear` -> quartiles over the pairs, (3, len(SHARES)), of the share
        of the similarity in the strongest matches;
        `moved`: differences caused by the shuffles in values that should not change.
    """
    rng = np.random.default_rng(seed)
    errors: dict[str, float] = dict.fromkeys(POOLS, 0.0)
    shares: dict[str, list[np.ndarray]] = {"sum": [], "bilinear": []}
    for pair in pairs(file, rng):
        maps = file.read(MAPS, pair)
        x, y = maps.reshape(2, -1, maps.shape[-1]).astype(np.float64)
        if not (x.any() and y.any()):
            continue
        for name, expected in expected_products(x, y).items():
            rows = POOLS[name](tf.constant(maps)).numpy().astype(np.float64)
            error = abs(float(rows.prod(axis=0).sum()) - expected)
            errors[name] = max(errors[name], error / expected if expected else error)
        matches = np.sort(x @ y.T, axis=None)[::-1]
        shares["sum"].append(shares_of_strongest(matches))
        shares["bilinear"].append(shares_of_strongest(matches**2))
    return {
        "pairs": len(shares["sum"]),
        "identities": errors,
        "shares": {k: np.percentile(x, QUARTILES, axis=0).tolist() for k, x in shares.items()},
        "moved": shuffle_errors(file, rng),
    }


def pairs(file: FeatureFile, rng: np.random.Generator) -> np.ndarray:
    """Return rows of two training photos of one class, (N_PAIRS, 2), each with its first view."""
    rows = np.unique(file.photo, return_index=True)[1]
    rows = rows[file.split[rows] == "train"]
    labels = file.labels[rows]
    first = rng.choice(rows[np.bincount(labels)[labels] > 1], N_PAIRS)
    candidates = [rows[(labels == file.labels[i]) & (rows != i)] for i in first]
    return np.column_stack([first, [rng.choice(x) for x in candidates]])


def expected_products(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the inner products of the vectors of two photos by the identities, in float64.

    Both arguments are maps (locations, channels).
    """
    matches, means = x @ y.T, (x.mean(axis=0), y.mean(axis=0))
    return {
        "sum": float(matches.sum()),
        "bilinear": float((matches**2).sum()),
        "bilinear, square root and l2": overlap(x.T @ x, y.T @ y),
        "outer product of the means, square root and l2": overlap(*means) ** 2,
    }


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return Bhattacharyya's coefficient of two non-negative arrays, as distributions."""
    return float(np.sqrt(a / a.sum() * (b / b.sum())).sum())


def shares_of_strongest(matches: np.ndarray) -> np.ndarray:
    """Return the shares of the first `SHARES` of the matches, which are in descending order."""
    last = np.ceil(SHARES * len(matches)).astype(int) - 1
    total = np.cumsum(matches)
    return total[last] / total[-1]


def shuffle_errors(file: FeatureFile, rng: np.random.Generator) -> dict[str, float]:
    """Return the largest differences after shuffling, in values that should not change.

    `max`, `sum`: each channel is shuffled separately; float64 adds float16 values exactly.
    `bilinear`: channels are shuffled together; float32 values of rows with norm one.
    `bilinear, each channel`: each channel is shuffled separately, for comparison.
    """
    n = len(file.labels)
    indices = np.sort(rng.choice(n, min(N_PAIRS, n), replace=False))
    largest = {"max": 0.0, "sum": 0.0, "bilinear": 0.0, "bilinear, each channel": 0.0}
    for _, maps in file.batches(MAPS, indices, 32):
        separately, together = shuffled(maps, rng), shuffled_together(maps, rng)
        before = BILINEAR(maps)
        differences = {
            "max": separately.max(axis=(1, 2)) - maps.max(axis=(1, 2)),
            "sum": separately.sum(axis=(1, 2), dtype=float) - maps.sum(axis=(1, 2), dtype=float),
            "bilinear": BILINEAR(together) - before,
            "bilinear, each channel": BILINEAR(separately) - before,
        }
        for name, x in differences.items():
            largest[name] = max(largest[name], float(np.abs(x).max()))
    return largest
