"""Accuracies and differences with 95 % intervals, by a paired bootstrap over test photos."""

from functools import cache
from typing import Any

import numpy as np

REPLICATES = 4000
PERCENTILES = (2.5, 97.5)
Results = dict[str, Any]  # the content of the JSON file of a data set
Interval = tuple[float, float, float]  # an estimate, and the bounds of its interval


def trials(results: Results, prefix: str) -> list[dict[str, Any]]:
    """Return the trials with keys `prefix/SEED`, ascending, because pairs are formed in order."""
    keys = [key.rpartition("/") for key in results["trials"]]
    seeds = sorted(int(seed) for head, _, seed in keys if head == prefix)
    return [results["trials"][f"{prefix}/{seed}"] for seed in seeds]


def hits(results: Results, prefix: str) -> np.ndarray:
    """Return 1 for correct predictions and 0 for others, float32 (trials, test photos)."""
    packed = [np.frombuffer(bytes.fromhex(x["hits"]), np.uint8) for x in trials(results, prefix)]
    n_photos = results["made"]["n_test"]
    return np.unpackbits(np.stack(packed), axis=1, count=n_photos).astype(np.float32)


def accuracy(hits: np.ndarray) -> Interval:
    """Return top-1, the mean over the trials, with its 95 % interval; see `difference`."""
    return difference(hits, np.zeros((1, hits.shape[1]), np.float32))


def difference(hits: np.ndarray, baseline: np.ndarray) -> Interval:
    """Return the gain in top-1 over a baseline, with its 95 % interval.

    Each replicate draws test photos with replacement, the same for both. It also draws trials, if
    there are several (the same for both, if both have several).

    Args:
        hits: (trials, test photos).
        baseline: hits of the same number of trials, or of one.
    """
    gains = hits - baseline  # (trials, photos)
    photos, trials = _counts(gains.shape[1], 0), _counts(gains.shape[0], 1)
    replicates = ((trials @ gains) * photos).sum(axis=1) / gains.size
    low, high = np.percentile(replicates, PERCENTILES)
    return float(gains.mean()), float(low), float(high)


@cache
def _counts(n: int, seed: int) -> np.ndarray:
    """Return the number of draws of each of n items in each replicate, float32 (REPLICATES, n)."""
    rng = np.random.default_rng([n, seed])
    return rng.multinomial(n, np.full(n, 1 / n), size=REPLICATES).astype(np.float32)
