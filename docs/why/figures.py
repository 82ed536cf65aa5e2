"""Results -> figures with intervals, by a paired bootstrap over test photos."""

from functools import cache
from typing import Any

import numpy as np

REPLICATES = 4000
LEVEL = (2.5, 97.5)  # per cent
Interval = tuple[float, float, float]  # a figure, and the bounds of its interval


def hits(results: dict[str, Any], *keys: str) -> np.ndarray:
    """Return 1 for correct predictions and 0 for others, float32 (trainings, test photos).

    Args:
        results: the content of a JSON file.
        keys: the keys of trials: one variant with several seeds.
    """
    n = results["made"]["n_test"]
    packed = [bytes.fromhex(results["trials"][key]["hits"]) for key in keys]
    return np.array(
        [np.unpackbits(np.frombuffer(x, np.uint8), count=n) for x in packed], np.float32
    )


def seeds(results: dict[str, Any], prefix: str) -> list[str]:
    """Return the keys `prefix/seed` of trials, ascending, because pairs are formed in order."""
    split = [key.rpartition("/") for key in results["trials"]]
    return [f"{prefix}/{n}" for n in sorted(int(seed) for head, _, seed in split if head == prefix)]


def accuracy(of: np.ndarray) -> Interval:
    """Return top-1, the mean over the trainings, with its 95 % interval; see `difference`."""
    return difference(of, np.zeros((1, of.shape[1]), np.float32))


def difference(of: np.ndarray, than: np.ndarray) -> Interval:
    """Return the gain of one variant over another, with its 95 % interval.

    Test photos are drawn with replacement, the same for both. Trainings are also drawn, if there
    are several (the same for both, if both have several).

    Args:
        of: hits (trainings, test photos).
        than: hits of the same number of trainings, or of one.
    """
    apart = of - than  # (trainings, photos)
    photos, trainings = _counts(apart.shape[1], 0), _counts(apart.shape[0], 1)
    drawn = ((trainings @ apart) * photos).sum(axis=1) / (apart.size)
    low, high = np.percentile(drawn, LEVEL)
    return float(apart.mean()), float(low), float(high)


@cache
def _counts(n: int, seed: int) -> np.ndarray:
    """Return the number of draws of each of n items in each replicate, float32 (REPLICATES, n)."""
    rng = np.random.default_rng([n, seed])
    return rng.multinomial(n, np.full(n, 1 / n), size=REPLICATES).astype(np.float32)
