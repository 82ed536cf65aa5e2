"""Time the estimators against scikit-learn's own on arrays, a process a case.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python tests/bench_estimators.py

Both choose C on five folds and fit all rows with it: ours by `fit`, which also chooses the
temperature; scikit-learn by `LogisticRegressionCV`, `RidgeClassifierCV`, or a `GridSearchCV` of
`LinearSVC`, over the values of C that ours tried. Then scikit-learn fits once more with our C. The
objectives of that fit and of ours are compared: a ratio above one means that ours is lower. (Of
`LinearSVC` it must be, because it penalises the intercept.)
"""

import json
import resource
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

SETS = ("wide", "long", "digits")


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows, float64, and labels: digits 1,797 x 64, wide 100 x 20,000, long 100,000 x 50."""
    from sklearn.datasets import load_digits, make_classification

    if name == "digits":
        return load_digits(return_X_y=True)
    n, d = (100, 20_000) if name == "wide" else (100_000, 50)
    return make_classification(
        n, d, n_informative=20, n_redundant=0, n_classes=5, flip_y=0.1, random_state=0
    )


def ours(name: str, classifier: str) -> dict[str, Any]:
    """Fit our estimator, and return its C, objective and time."""
    from bilinear_cli import estimators

    kinds = {"softmax": "SoftmaxClassifier", "ridge": "RidgeClassifier", "svm": "SVMClassifier"}
    smoothing = {"label_smoothing": 0.0} if classifier == "softmax" else {}
    X, y = load(name)
    began = time.perf_counter()
    fit = getattr(estimators, kinds[classifier])(**smoothing).fit(X, y)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "gib": peak_gib(), "C": fit.C_, **objective(fit, X, y, classifier)}


def peer(name: str, classifier: str, C: float) -> dict[str, Any]:
    """Fit scikit-learn's estimator on five folds, then once with our C."""
    from sklearn.linear_model import (
        LogisticRegression,
        LogisticRegressionCV,
        RidgeClassifier,
        RidgeClassifierCV,
    )
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import LinearSVC

    warnings.simplefilter("ignore")
    X, y = load(name)
    decades = 10.0 ** np.arange(-3, 5) / np.square(X).sum(axis=1).mean()
    svm = LinearSVC(max_iter=10_000, dual="auto")
    tuned: Any = {
        "softmax": LogisticRegressionCV(
            Cs=decades, cv=5, l1_ratios=(0,), use_legacy_attributes=False, max_iter=1000
        ),
        "ridge": RidgeClassifierCV(alphas=1 / decades, cv=5),
        "svm": GridSearchCV(svm, {"C": decades}, cv=5),
    }[classifier]
    began = time.perf_counter()
    tuned.fit(X, y)
    seconds, gib = time.perf_counter() - began, peak_gib()
    once: Any = {
        "softmax": LogisticRegression(C=C, max_iter=1000),
        "ridge": RidgeClassifier(alpha=1 / C),
        "svm": LinearSVC(C=C, max_iter=10_000, dual="auto"),
    }[classifier]
    began = time.perf_counter()
    once.fit(X, y)
    once_seconds = time.perf_counter() - began
    values = objective(once, X, y, classifier, C)
    return {"seconds": seconds, "gib": gib, "once": once_seconds, **values}


def objective(
    fit: Any, X: np.ndarray, y: np.ndarray, classifier: str, C: float | None = None
) -> dict[str, float]:
    """Return what a fit of three classes or more minimises, and its accuracy on the rows."""
    from bilinear_cli.training import losses

    make_loss = {
        "softmax": losses.cross_entropy,
        "ridge": losses.squared_error,
        "svm": losses.squared_hinge,
    }[classifier]
    labels = np.searchsorted(fit.classes_, y)
    make_targets = losses.one_hot if classifier == "softmax" else losses.plus_minus_one
    targets = make_targets(labels, len(fit.classes_), dtype=np.float64)
    loss = make_loss(targets)(X @ fit.coef_.T + fit.intercept_)[0]
    return {"objective": (C or fit.C_) * loss + 0.5 * float(np.square(fit.coef_).sum())}


def peak_gib() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run all cases and print a table."""

    def run(function: Any, *arguments: Any) -> dict[str, Any]:
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            return executor.submit(function, *arguments).result()

    print("| rows | classifier | ours s | GiB | scikit-learn s | GiB | one fit s | objective |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in SETS:
        for classifier in ("softmax", "ridge", "svm"):
            a = run(ours, name, classifier)
            b = run(peer, name, classifier, a["C"])
            ratio = b["objective"] / a["objective"]
            cells = [f"{a['seconds']:.2f}", f"{a['gib']:.2f}", f"{b['seconds']:.2f}"]
            cells += [f"{b['gib']:.2f}", f"{b['once']:.2f}", f"{ratio:.6f}"]
            print(f"| {name} | {classifier} | {' | '.join(cells)} |", flush=True)
            print(json.dumps({"ours": a, "scikit-learn": b}), file=sys.stderr)


if __name__ == "__main__":
    main()
