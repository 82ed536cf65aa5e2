"""Time training against scikit-learn at equal objective, a process a case: `make bench`.

It compares one fit with one fit, and the tuned training (five folds, the path of C, the last fit,
the test) with one fit, without label smoothing, which scikit-learn does not have. scikit-learn gets
its rows in memory, as the 262,144 columns of the full matrix and as the 131,328 stored columns. It
gets as many iterations (10, 20, 40, ...) as it needs to come within a hundredth of our optimum.
"""

import argparse
import json
import resource
import sys
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from math import isqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.store import FeatureFile
from bilinear_cli.training import losses, registry
from bilinear_cli.training.estimator import TrainingData
from bilinear_cli.training.feature_transform import Features, fit_feature_transforms
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.principal_axes import RANK_TOLERANCE
from bilinear_cli.training.reducers import LocalReducer
from bilinear_cli.training.rows import Rows, select_rows
from bilinear_cli.training.tuning import Tuning, make_folds

C = 100.0
WITHIN = 0.01
FOLDS_WITHIN = 0.001  # of the optimum; see `linear.FOLD_TOLERANCE`
SPEC = "bilinear"


# What is timed, one case a process -------------------------------------------------------


def training_rows(file: FeatureFile, share: float) -> Rows:
    """Return the first share of each class's training rows."""
    rows = select_rows(file, None, 2)
    rows = rows.take(rows.split == "train")
    rank = np.array([np.sum(rows.labels[:i] == rows.labels[i]) for i in range(len(rows.labels))])
    return rows.take(rank < share * np.bincount(rows.labels)[rows.labels])


def ours(file: FeatureFile, rows: Rows, classifier: str, tuned: bool) -> dict[str, Any]:
    """Train from the file: read, reduce, fit; with `tuned` also cross-validate and test."""
    smoothing = 0.0 if classifier == "softmax" else None
    options = TrainOptions(classifier, C=None if tuned else C, label_smoothing=smoothing)
    began = time.perf_counter()
    transforms = fit_feature_transforms(file, [SPEC], rows.indices)
    problem = LocalReducer(Features(file, transforms), rows.indices).reduce("gram")
    estimator = registry.get_classifier(classifier).load()
    data = TrainingData(problem, rows, options, transforms)
    reduced = time.perf_counter()
    fixed = Tuning(0.0, C, None, rows, np.empty((0, 0)), [])
    tuning = estimator.tune(data) if tuned else fixed
    chosen = time.perf_counter()
    linear = estimator.fit(data, tuning).first
    if tuned:
        rows = select_rows(file, None, 2)
        test, features = rows.take(rows.split == "test"), Features(file, transforms)
        predicted = [linear(x).argmax(axis=1) for _, x in features.rows(test.indices)]
    ended = time.perf_counter()
    result = {
        "seconds": ended - began,
        "reduction": reduced - began,
        "tuning": chosen - reduced,
        "C": tuning.C,
        "Cs": [point["C"] for point in tuning.curve],
        "gib": peak_gib(),  # before `objective` reads all rows at once
    }
    if tuned:
        result["top1"] = float(np.mean(np.concatenate(predicted) == test.labels))
    elif classifier == "softmax":
        result["objective"] = objective(linear, file.read(SPEC, rows.indices), rows)
    return result


def peer(file: FeatureFile, rows: Rows, square: bool, optimum: float) -> dict[str, Any]:
    """Fit scikit-learn's logistic regression on rows in memory."""
    from sklearn.linear_model import LogisticRegression

    x = file.read(SPEC, rows.indices)
    if square:
        x = full_matrices(x)

    def fit(iterations: int) -> dict[str, Any]:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=C, tol=1e-12, max_iter=iterations).fit(x, rows.labels)
        seconds = time.perf_counter() - began
        value = objective(Linear(model.coef_.T, model.intercept_), x, rows)
        return {"seconds": seconds, "iterations": iterations, "objective": value}

    result = first_within(WITHIN, optimum, map(fit, (10 * 2**i for i in range(10))))
    return {**result, "columns": x.shape[1], "gib": peak_gib()}


def first_within(share: float, optimum: float, fits: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the first fit whose objective is above the optimum by no more than this share."""
    for fit in fits:
        if fit["objective"] <= (1 + share) * optimum:
            return fit
    sys.exit(f"scikit-learn has not come within {share} of the optimum")


def reduced_peer(file: FeatureFile, rows: Rows, Cs: list[float], optimum: float) -> dict[str, Any]:
    """Do the same with NumPy, SciPy and scikit-learn, as an expert would.

    It computes the Gram matrix of the centred rows by one product, and its eigenvectors, and fits
    `LogisticRegressionCV` on the rows' principal axes, with the same C and folds as ours. Its
    tolerance is the first of 1e-2, 1e-3, ... with which one fit comes as close to the optimum as
    our fits on folds.
    """
    from scipy.linalg import eigh
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    began = time.perf_counter()
    x = file.read(SPEC, rows.indices)
    mean = x.mean(axis=0)
    x -= mean
    values, vectors = eigh(x @ x.T)
    keep = values > RANK_TOLERANCE * values[-1]
    scale = np.sqrt(values[keep])
    z = vectors[:, keep] * scale  # (n, r)
    reduction = time.perf_counter() - began

    def on_features(fit: Any) -> Linear:
        weights = x.T @ (vectors[:, keep] / scale @ fit.coef_.T).astype(np.float32)
        return Linear(weights, fit.intercept_ - mean @ weights)

    def fit_once(tolerance: float) -> dict[str, Any]:
        fit = LogisticRegression(C=C, tol=tolerance, max_iter=10_000).fit(z, rows.labels)
        return {"tolerance": tolerance, "objective": objective(on_features(fit), x + mean, rows)}

    warnings.simplefilter("ignore")
    once = first_within(FOLDS_WITHIN, optimum, map(fit_once, (10.0**-i for i in range(2, 9))))
    n = len(rows.indices)
    cuts = [(np.setdiff1d(np.arange(n), cut), cut) for cut in make_folds(rows, 5, 0)]
    began = time.perf_counter()
    kwargs = {"scoring": "accuracy", "l1_ratios": (0,), "use_legacy_attributes": False}
    kwargs |= {"tol": once["tolerance"], "max_iter": 10_000}
    fit = LogisticRegressionCV(Cs=Cs, cv=cuts, **kwargs).fit(z, rows.labels)
    tuning = time.perf_counter() - began
    linear = on_features(fit)
    rows = select_rows(file, None, 2)
    test = rows.take(rows.split == "test")
    scores = linear(file.read(SPEC, test.indices))
    ended = time.perf_counter()
    return {
        "seconds": reduction + ended - began,
        "reduction": reduction,
        "tuning": tuning,
        **once,
        "C": float(fit.C_),
        "top1": float(np.mean(scores.argmax(axis=1) == test.labels)),
        "gib": peak_gib(),
    }


def peak_gib() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def full_matrices(x: np.ndarray) -> np.ndarray:
    """Return the rows' symmetric matrices, float32 (n, c * c)."""
    channels = isqrt(2 * x.shape[1])
    rows, columns = np.triu_indices(channels)
    unscaled = np.where(rows == columns, 1, np.sqrt(0.5)).astype(np.float32)
    matrices = np.empty((len(x), channels, channels), np.float32)
    for matrix, row in zip(matrices, x, strict=True):
        matrix[rows, columns] = matrix[columns, rows] = unscaled * row
    return matrices.reshape(len(x), -1)


def objective(model: Linear, x: np.ndarray, rows: Rows) -> float:
    """Return what logistic regression minimises."""
    targets = losses.one_hot(rows.labels, len(rows.class_names))
    penalty = 0.5 * float(np.square(model.weights, dtype=np.float64).sum())
    return C * losses.cross_entropy(targets)(model(x))[0] + penalty


KINDS = {"ours": ours, "peer": peer, "reduced_peer": reduced_peer}


def run_case(features: Path, kind: str, share: float = 1.0, **options: Any) -> dict[str, Any]:
    """Run one case in this process, on a share of the training rows."""
    with FeatureFile(features) as file:
        rows = training_rows(file, share)
        result = KINDS[kind](file, rows, **options)
    return {**result, "rows": len(rows.indices), "classes": len(rows.class_names)}


# Table and plot -------------------------------------------------------------------------------


def main() -> None:
    """Run the benchmark, print a table, and keep the figures and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()

    def run(*arguments: Any, **case: Any) -> dict[str, Any]:
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            return executor.submit(run_case, options.features, *arguments, **case).result()

    ours_once = run("ours", classifier="softmax", tuned=False)
    optimum = ours_once["objective"]
    results = {
        "softmax, one fit": ours_once,
        "softmax, tuned": run("ours", classifier="softmax", tuned=True),
        "svm, tuned": run("ours", classifier="svm", tuned=True),
        "ridge, tuned": run("ours", classifier="ridge", tuned=True),
        "scikit-learn, one fit, whole matrix": run("peer", square=True, optimum=optimum),
        "scikit-learn, one fit, triangle": run("peer", square=False, optimum=optimum),
    }
    tuned = results["softmax, tuned"]
    results["scikit-learn on the reduced rows, tuned"] = run(
        "reduced_peer", Cs=tuned["Cs"], optimum=optimum
    )
    growth = [run("ours", share, classifier="softmax", tuned=True) for share in (0.25, 0.5)]
    growth.append(results["softmax, tuned"])
    print(table(results))
    print(growth_line(growth))
    options.output.mkdir(exist_ok=True)
    figures = {"features": str(options.features), "results": results, "growth": growth}
    (options.output / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(results, growth, options.output / "training.png")
    print(f"figures: {options.output}/training.json, training.png")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table: times, and speed-ups over one fit of scikit-learn."""
    baseline = results["scikit-learn, one fit, whole matrix"]["seconds"]
    first = next(iter(results.values()))
    lines = [
        f"{first['rows']:,} rows, {first['classes']} classes, C = {C:g} where it is not tuned",
        "",
        "| training | s | speed-up over one scikit-learn fit | peak GiB |",
        "|---|---:|---:|---:|",
    ]
    for name, result in results.items():
        more = f", {result['iterations']} iterations" if "iterations" in result else ""
        seconds, gib = result["seconds"], result["gib"]
        lines.append(f"| {name}{more} | {seconds:.1f} | {baseline / seconds:.1f} | {gib:.2f} |")
    times = results["ridge, tuned"]["tuning"] / results["ridge, tuned"]["reduction"]
    lines += ["", f"For ridge, tuning takes {times:.2f} times as long as reading and reducing."]
    return "\n".join(lines)


def growth_line(growth: list[dict[str, Any]]) -> str:
    """Return the growth of time and memory of the tuned softmax with the rows."""
    points = [
        f"{point['seconds']:.1f} s and {point['gib']:.2f} GiB for {point['rows']:,} rows"
        for point in growth
    ]
    return f"The tuned softmax takes {', '.join(points)}."


def plot(results: dict[str, Any], growth: list[dict[str, Any]], path: Path) -> None:
    """Draw the times, and their growth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    left.barh(list(results), [result["seconds"] for result in results.values()])
    left.invert_yaxis()
    left.set(xscale="log", xlabel="seconds")
    rows = [point["rows"] for point in growth]
    right.loglog(rows, [point["seconds"] for point in growth], "o-", label="seconds")
    right.loglog(rows, [point["gib"] for point in growth], "s-", label="peak GiB")
    right.set(xlabel="training rows", title="softmax, tuned", xticks=rows, xticklabels=rows)
    right.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
