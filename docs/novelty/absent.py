"""Compare what `bilinear train --novelty` estimates with photos of classes that are truly absent:

    python docs/novelty/absent.py --features FILE [--pooling bilinear] [--without 20] [--other FILE]

A classifier is trained without some classes. The test photos of all classes are scored once. With
--other, photos of another file with the same poolings are scored, too: for instance, moths by a
classifier of birds.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from bilinear_cli.store import FeatureFile
from bilinear_cli.training.metrics import average_views, fit_temperature
from bilinear_cli.training.model import to_probabilities
from bilinear_cli.training.novelty import Novelty, fit_novelty
from bilinear_cli.training.open_set import CAUGHT, evaluate_open_set
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.rows import Rows, select_rows
from bilinear_cli.training.train import reduce_rows

RARITIES = (0.01, 0.05)
Score = Callable[[FeatureFile, Rows], np.ndarray]  # file, rows -> scores of their photos


def fit(file: FeatureFile, pooling: str, train: Rows) -> tuple[Novelty, Score]:
    """Train, and print what `--novelty` estimates."""
    estimator, data = reduce_rows(file, [pooling], train, TrainOptions())
    tuning = estimator.tune(data)
    print("estimated:", evaluate_open_set(estimator, data, tuning))
    first, mean = average_views(tuning.rows.photo, tuning.scores)
    photos = tuning.rows.take(first)
    temperature = fit_temperature(mean, photos.labels)
    model = estimator.fit(data, tuning)

    def score(file: FeatureFile, rows: Rows) -> np.ndarray:
        return average_views(rows.photo, model.score_rows(file, rows.indices))[1]

    return fit_novelty(mean, photos.labels, photos.group, temperature), score


def shares(rarity: np.ndarray) -> str:
    """Return which shares of the photos are rarer than each of `RARITIES`."""
    return ", ".join(f"{np.mean(rarity <= p):.4f} at {p}" for p in RARITIES)


def main() -> None:
    """Train, score, and print the figures."""
    parser = argparse.ArgumentParser("absent", description=__doc__)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--pooling", default="bilinear")
    parser.add_argument("--without", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other", type=Path)
    arguments = parser.parse_args()
    with FeatureFile(arguments.features) as file:
        rows = select_rows(file, None, 2)
        k = len(rows.class_names)
        absent = np.random.default_rng(arguments.seed).permutation(k)[: arguments.without]
        train, test = (rows.take(rows.split == split) for split in ("train", "test"))
        train = train.take(~np.isin(train.labels, absent))
        classes, labels = np.unique(train.labels, return_inverse=True)
        train = replace(train, labels=labels, class_names=rows.class_names[classes])
        novelty, score = fit(file, arguments.pooling, train)
        first = np.unique(test.photo, return_index=True)[1]
        unknown = np.isin(test.labels[np.sort(first)], absent)
        scores = score(file, test)
        values, rarity = novelty.score(scores), novelty.rarity(scores)
    print(f"known test photos: {np.sum(~unknown)}, unusual: {shares(rarity[~unknown])}")
    if arguments.without:
        threshold = np.quantile(values[unknown], 1 - CAUGHT)
        print(f"test photos of {len(absent)} absent classes: {np.sum(unknown)}, unusual: ", end="")
        print(shares(rarity[unknown]))
        print(f"AUROC {roc_auc_score(unknown, values):.4f}, highest probability ", end="")
        probability = to_probabilities(scores, novelty.temperature).max(axis=1)
        print(f"{roc_auc_score(unknown, -probability):.4f}")
        print(f"false alarms at {CAUGHT}: {np.mean(values[~unknown] >= threshold):.4f}")
    if arguments.other:
        with FeatureFile(arguments.other) as file:
            rarity = novelty.rarity(score(file, select_rows(file, None, 1)))
        print(f"photos of {arguments.other.stem}: {len(rarity)}, unusual: {shares(rarity)}")


if __name__ == "__main__":
    main()
