"""Weights and folds as scikit-learn takes them -> the rows of an array, and their folds."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import PredefinedSplit, check_cv
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.tuning import make_folds

ClassWeight = Mapping[Any, float] | str | None


def weighted_rows(
    X: np.ndarray, y: np.ndarray, sample_weight: Any, class_weight: ClassWeight
) -> tuple[np.ndarray, Rows]:
    """Return the classes and the rows whose weight is above zero.

    Args:
        X: (n, d), the features.
        y: (n,), the class of each row.
        sample_weight: (n,), how often each row counts; None for once.
        class_weight: factors of these weights: None, "balanced", or a mapping from classes.

    Raises:
        ValueError: a weight is negative, or not finite.
    """
    weights = None
    kept = np.arange(len(y))
    if sample_weight is not None or class_weight is not None:
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        weights = weights * _class_factors(y, weights, class_weight)
        kept = np.flatnonzero(weights)
        weights = weights[kept]
    classes, labels = np.unique(y[kept], return_inverse=True)
    n = np.arange(len(kept))
    columns = (kept, n, labels, n, np.full(len(n), "train"), n, classes.astype(str))
    return classes, Rows(*columns, weights)


def _class_factors(
    y: np.ndarray, sample_weight: np.ndarray, class_weight: ClassWeight
) -> np.ndarray:
    """Return the factor of each row's weight, (n,)."""
    present = sample_weight > 0
    classes, labels = np.unique(y, return_inverse=True)
    factors = np.zeros(len(classes))
    used = np.unique(labels[present])
    factors[used] = compute_class_weight(
        class_weight, classes=classes[used], y=y[present], sample_weight=sample_weight[present]
    )
    if not (np.isfinite(factors).all() and factors.min() >= 0):
        raise ValueError(f"class_weight={class_weight!r} has a weight below 0, or none")
    return factors[labels]


def array_folds(
    cv: Any, X: np.ndarray, y: np.ndarray, rows: Rows, options: TrainOptions
) -> list[np.ndarray]:
    """Return the validation rows of each fold, as positions in `rows`, which are kept of X.

    `cv` is a number, None, or anything else that `check_cv` takes.

    Raises:
        BilinearError: there are too few rows for a number of folds.
        ValueError: the splits have a row in two validation sets, or leave rows out of training, or
            one has no rows to train on.
    """
    if cv is None or isinstance(cv, Integral):
        return make_folds(rows, options.folds, options.seed)
    positions = np.full(len(y), -1)
    positions[rows.indices] = np.arange(len(rows.indices))
    if hasattr(cv, "split") and not isinstance(cv, PredefinedSplit):  # it splits the kept rows
        positions = np.arange(len(rows.indices))
    folds = []
    for train, test in check_cv(cv).split(X[rows.indices], y[rows.indices]):
        if len(np.union1d(train, test)) < len(positions):
            raise ValueError("a split of cv leaves rows out: each row must train or validate")
        if len(np.intersect1d(train, test)):
            raise ValueError("a split of cv has rows that train and validate")
        val_rows = positions[test]
        folds.append(val_rows[val_rows >= 0])
        if len(folds[-1]) == len(rows.indices):
            raise ValueError("a split of cv has no row of weight above 0 to train on")
    folds = [fold for fold in folds if len(fold)]
    if not folds:
        raise ValueError("cv has no splits: give a list, and not a generator that is used up")
    all_rows = np.concatenate(folds)
    if len(np.unique(all_rows)) < len(all_rows):
        raise ValueError("the splits of cv overlap: each row may be in one validation set")
    return folds
