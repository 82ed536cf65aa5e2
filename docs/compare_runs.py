"""Compare the test accuracy of two runs on the same photos:

    python docs/compare_runs.py RUN BASELINE

It prints the gain in top-1 over the baseline with its 95 % interval, from a paired bootstrap: each
replicate draws test photos with replacement, the same for both runs.
"""

import argparse
from pathlib import Path

import numpy as np

from bilinear_cli.run import read_scores

REPLICATES = 10_000


def read_hits(run: Path) -> dict[str, bool]:
    """Return path -> whether the run names the test photo correctly."""
    test = read_scores(run, "test")
    hits = test["scores"].argmax(axis=1) == test["labels"]
    return dict(zip(test["paths"].tolist(), hits.tolist(), strict=True))


def main() -> None:
    """Print the gain of a run over another one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("baseline", type=Path)
    options = parser.parse_args()
    first, second = read_hits(options.run), read_hits(options.baseline)
    paths = sorted(first.keys() & second.keys())
    gains = np.array([float(first[path]) - float(second[path]) for path in paths])
    draws = np.random.default_rng(0).integers(0, len(gains), (REPLICATES, len(gains)))
    low, high = np.percentile(gains[draws].mean(axis=1), (2.5, 97.5))
    print(f"{len(paths)} photos: gain {gains.mean():+.4f} (95 %: {low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()
