"""Compare ways to recognise unknown classes, on the training photos of a feature file:

    python docs/novelty/methods.py --features FILE [--pooling bilinear] [--classifier softmax]

Classes and photos are left out in turn, as `bilinear train --novelty` does. Each way sees the same
scores. Write --pooling several times to compare poolings. The table is Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import entr, logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors

from bilinear_cli.report.text import markdown_table
from bilinear_cli.store import FeatureFile
from bilinear_cli.training.estimator import Estimator
from bilinear_cli.training.linear import Ridge
from bilinear_cli.training.novelty import fit_novelty, oas_share, shrunk
from bilinear_cli.training.open_set import Round, leave_out, novelty_metrics
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.rows import select_rows
from bilinear_cli.training.train import reduce_rows
from bilinear_cli.training.tuning import Tuning

Way = Callable[[Round], np.ndarray]  # a round -> novelty of the photos that it left out
Cells = dict[str, str]  # name of a way -> its figures
Shrink = Callable[[np.ndarray], np.ndarray]  # centred rows (n, k) -> a covariance (k, k)
N_AXES = 128


def oas(x: np.ndarray) -> np.ndarray:
    """Return the covariance with the oracle approximating shrinkage."""
    covariance = x.T @ x / len(x)
    return shrunk(covariance, oas_share(covariance, len(x)))


def fixed(share: float) -> Shrink:
    """Return a function that shrinks a covariance by this share."""
    return lambda x: shrunk(x.T @ x / len(x), share)


def distances(x: np.ndarray, means: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return squared Mahalanobis distances (n, classes) of rows (n, k) from means (classes, k)."""
    inverse = np.linalg.inv(covariance)
    return np.stack([np.einsum("ij,ij->i", (x - m) @ inverse, x - m) for m in means], axis=1)


def mahalanobis(
    x: np.ndarray, labels: np.ndarray, new: np.ndarray, shrink: Shrink, relative: bool
) -> np.ndarray:
    """Return the distance from the nearest class mean, minus that from the mean if `relative`."""
    means = np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])
    _, labels = np.unique(labels, return_inverse=True)
    nearest = distances(new, means, shrink(x - means[labels])).min(axis=1)
    if not relative:
        return nearest
    mean = x.mean(axis=0, keepdims=True)
    return nearest - distances(new, mean, shrink(x - mean))[:, 0]


def ours(r: Round) -> np.ndarray:
    """Return what `bilinear train` does."""
    photos, temperature = r.held_out, r.temperature
    novelty = fit_novelty(r.held_out_scores, photos.labels, photos.group, temperature)
    return novelty.score(r.scores)


def of_scores(shrink: Shrink, relative: bool = True) -> Way:
    """Return a way by the Mahalanobis distance of out-of-fold scores."""
    return lambda r: mahalanobis(r.held_out_scores, r.held_out.labels, r.scores, shrink, relative)


def neighbours(r: Round) -> np.ndarray:
    """Return the distance of the scores from the fifth nearest out-of-fold scores."""
    index = NearestNeighbors(n_neighbors=5).fit(r.held_out_scores)
    return index.kneighbors(r.scores)[0][:, -1]


WAYS: dict[str, Way] = {
    "highest probability": lambda r: -softmax(r.scores / r.temperature, axis=1).max(axis=1),
    "entropy": lambda r: entr(softmax(r.scores / r.temperature, axis=1)).sum(axis=1),
    "highest score": lambda r: -r.scores.max(axis=1),
    "energy, calibrated": lambda r: -logsumexp(r.scores / r.temperature, axis=1),
    "energy": lambda r: -logsumexp(r.scores, axis=1),
    "5 nearest neighbours": neighbours,
    "Mahalanobis, OAS": of_scores(oas, relative=False),
    "relative Mahalanobis, shrinkage 0.001": of_scores(fixed(0.001)),
    "relative Mahalanobis, shrinkage 0.1": of_scores(fixed(0.1)),
    "relative Mahalanobis, shrinkage 0.5": of_scores(fixed(0.5)),
    "relative Mahalanobis, Ledoit-Wolf": of_scores(
        lambda x: ledoit_wolf(x, assume_centered=True)[0]
    ),
    "relative Mahalanobis, OAS": of_scores(oas),
    "**weighted by the probabilities, OAS**": ours,
}


def by_rows(estimator: Estimator, tuning: Tuning, z: np.ndarray) -> dict[str, Way]:
    """Return ways that need more than scores; z (n, r) are all training rows on principal axes."""

    def fitted_scores(r: Round) -> np.ndarray:
        scores = estimator.refit(r.data, tuning, r.rest, r.rest)
        return mahalanobis(scores, r.data.rows.labels[r.rest], r.scores, oas, True)

    def on_axes(r: Round) -> np.ndarray:
        x, new = rest_and_new(r, z)
        axes = np.linalg.svd(x, full_matrices=False)[2][:N_AXES].T
        return mahalanobis(x @ axes, r.data.rows.labels[r.rest], new @ axes, oas, True)

    def null_space(r: Round) -> np.ndarray:
        """All photos of a class are one point of the null space, see Bodesheim et al. 2013."""
        (x, new), labels = rest_and_new(r, z), r.data.rows.labels[r.rest]
        targets = np.eye(labels.max() + 1)[labels]
        weights = np.linalg.lstsq(x, targets - targets.mean(axis=0))[0]
        basis = np.linalg.svd(weights, full_matrices=False)[0][:, :-1]
        points = np.stack([(x @ basis)[labels == c].mean(axis=0) for c in np.unique(labels)])
        return distances(new @ basis, points, np.eye(basis.shape[1])).min(axis=1)

    ways: dict[str, Way] = {f"relative Mahalanobis, OAS, on {N_AXES} principal axes": on_axes}
    if z.shape[1] == len(z) - 1:
        ways["kernel null space"] = null_space
    if tuning.C and not isinstance(estimator, Ridge):  # whose refit scores no rows that it fits
        ways["relative Mahalanobis, OAS, of fitted scores"] = fitted_scores
    return ways


def rest_and_new(r: Round, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that were fitted and the photos that were left out, minus the mean."""
    new = z[np.searchsorted(r.data.rows.indices, r.left_out.indices)]
    mean = z[r.rest].mean(axis=0)
    return z[r.rest] - mean, new - mean


def compare(file: FeatureFile, pooling: str, options: TrainOptions, reduced: bool) -> Cells:
    """Return a cell for each way: AUROC with interval, and false alarms at 95 %."""
    rows = select_rows(file, None, options.min_photos)
    train = rows.take(rows.split == "train")
    estimator, data = reduce_rows(file, [pooling], train, options)
    tuning = estimator.tune(data)
    ways = WAYS | (by_rows(estimator, tuning, data.reduced.coordinates.z) if reduced else {})
    rounds = list(leave_out(estimator, data, tuning))
    cells = {}
    for name, way in ways.items():
        metrics = novelty_metrics(rounds, [way(r) for r in rounds])
        low, high = metrics["auroc_ci95"]
        false_alarms = metrics["false_alarms_at_95"]
        cells[name] = f"{metrics['auroc']:.3f} ({low:.3f}-{high:.3f}), {false_alarms:.2f}"
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("methods", description=__doc__)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--pooling", action="append")
    parser.add_argument("--classifier", default="softmax")
    parser.add_argument("--no-reduced-space", dest="reduced", action="store_false")
    arguments = parser.parse_args()
    options = TrainOptions(arguments.classifier)
    columns: dict[str, Cells] = {}
    with FeatureFile(arguments.features) as file:
        for pooling in arguments.pooling or ["bilinear"]:
            columns[pooling] = compare(file, pooling, options, arguments.reduced)
    names = {name: None for cells in columns.values() for name in cells}
    rows = [[name, *(cells.get(name, "-") for cells in columns.values())] for name in names]
    head = [f"AUROC (95 %), false alarms: {arguments.features.stem}, {options.classifier}"]
    print(markdown_table([[*head, *columns], *rows], n_texts=1))


if __name__ == "__main__":
    main()
