"""The linear classifiers of `bilinear train` with scikit-learn's interface, for dense arrays.

>>> from sklearn.datasets import load_iris
>>> from bilinear_cli.estimators import SoftmaxClassifier
>>> X, y = load_iris(return_X_y=True)
>>> classifier = SoftmaxClassifier().fit(X, y)  # chooses C and label smoothing by cross-validation
>>> classifier.predict_proba(X).shape
(150, 3)

Rows may be fewer or more than features. float64 arrays are solved in float64, float32 arrays in
float32, and other arrays are converted to float64. A fit minimises
`C * (sum of losses) + ||W||² / 2` over weights W, a column for each class, and an intercept that is
not penalised.

Weights of rows, and of classes, count in the fits, in the choice of the hyper-parameters, and in
the temperature of the probabilities. A row of weight 2 is the same as two rows in one fold; a row
of weight 0 is left out.
"""

import warnings
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from bilinear_cli.errors import BilinearError, UsageError
from bilinear_cli.training import registry
from bilinear_cli.training.array_features import ArrayFeatures
from bilinear_cli.training.array_rows import ClassWeight, array_folds, weighted_rows
from bilinear_cli.training.estimator import TrainingData
from bilinear_cli.training.metrics import fit_temperature
from bilinear_cli.training.model import to_probabilities
from bilinear_cli.training.options import RANGES, TrainOptions
from bilinear_cli.training.primal import Linear
from bilinear_cli.training.reducers import LocalReducer
from bilinear_cli.training.rows import Rows

__all__ = ["RidgeClassifier", "SVMClassifier", "SoftmaxClassifier"]


class _LinearClassifier(ClassifierMixin, BaseEstimator):
    """What the three classifiers have in common."""

    # With two classes, the scores of the first are minus those of the second, and the decision
    # function is this multiple of the latter.
    _binary_factor: ClassVar[float] = 1.0
    _classifier: ClassVar[str]  # the name in `registry.CLASSIFIERS`

    def __init__(
        self,
        C: float | str = "auto",
        *,
        cv: Any = 5,
        class_weight: ClassWeight = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.C = C
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the hyper-parameters by cross-validation, and fit all rows with them.

        Args:
            X: (n, d), the features. float32 and float64 stay as they are.
            y: (n,), the class of each row: integers, strings or booleans.
            sample_weight: (n,), how often each row counts, at least 0; None for once.

        Raises:
            ValueError: X or y has a wrong shape, NaN or infinity, all rows of X are equal, there
                are fewer than two classes, or a parameter is out of range.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        options, rows = self._options(), self._rows(X, y, sample_weight)
        estimator = registry.get_classifier(self._classifier).load()
        # The intercept is free, so the optimum is the same on centred rows, whose norm is a unit of
        # 1 / C that does not depend on where zero is.
        mean = np.average(X[rows.indices], axis=0, weights=rows.sample_weight).astype(X.dtype)
        features: Any = ArrayFeatures(X - mean)
        reducer = LocalReducer(features, rows.indices, sample_weight=rows.sample_weight)
        try:
            reduced = estimator.reduce(reducer, len(self.classes_), options)
        except BilinearError as error:
            raise ValueError("all rows of X are equal: there is nothing to learn") from error
        try:
            folds = array_folds(self.cv, X, y, rows, options)
        except BilinearError:
            folds, options = [], self._without_folds(options, 1 / reduced.mean_squared_norm)
        data = TrainingData(reduced, rows, options, dtype=X.dtype.type)
        tuning = estimator.tune(data, folds)
        self.C_, self.label_smoothing_, val_rows = tuning.C, tuning.label_smoothing, tuning.rows
        self.temperature_ = fit_temperature(tuning.scores, val_rows.labels, val_rows.sample_weight)
        self._set_coefficients(estimator.fit(data, tuning).first.uncentred(mean))
        if not (np.isfinite(self.coef_).all() and np.isfinite(self.C_ or np.nan)):
            raise ValueError("no finite solution: scale X, or use weights of about 1")
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return scores (n, classes) of rows (n, d); of two classes (n,), of the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of highest score (n,) of rows (n, d)."""
        scores = self.decision_function(X)
        best = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (n, classes) of rows (n, d): softmax(scores / temperature)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = scores[:, None] / self._binary_factor * np.array([-1, 1], scores.dtype)
        return to_probabilities(scores, self.temperature_)

    def _set_coefficients(self, linear: Linear) -> None:
        """Set weights and intercept, of two classes those of the decision function."""
        self.coef_, self.intercept_ = linear.weights.T, linear.intercept
        if len(self.classes_) == 2:
            half = self.coef_.dtype.type(self._binary_factor / 2)
            self.coef_ = half * (self.coef_[1:] - self.coef_[:1])
            self.intercept_ = half * (self.intercept_[1:] - self.intercept_[:1])

    def _options(self) -> TrainOptions:
        """Return the options of training; raise a ValueError if a parameter is out of range."""
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        seed = RANGES["seed"].validate("random_state", seed)
        n_folds = int(self.cv) if isinstance(self.cv, Integral) else 5
        if n_folds < 2:
            raise ValueError(f"cv={self.cv!r} is too small: give at least 2, or splits")
        return TrainOptions(self._classifier, C=self._number("C"), folds=n_folds, seed=seed)

    def _number(self, name: str) -> float | None:
        """Return a parameter, None for "auto"; raise a ValueError if it is out of range."""
        value, numbers = getattr(self, name), RANGES[name]
        if isinstance(value, str) and value == "auto":
            return None
        try:
            return numbers.validate(name, value)
        except UsageError:
            wanted = f'a number {numbers}, or "auto"'
            raise ValueError(f"{name}={value!r} is out of range: give {wanted}") from None

    def _rows(self, X: np.ndarray, y: np.ndarray, sample_weight: Any) -> Rows:
        """Return the rows of weight above zero, and set the classes."""
        self.classes_, rows = weighted_rows(X, y, sample_weight, self.class_weight)
        if (n := len(self.classes_)) < 2:
            raise ValueError(f"{type(self).__name__} needs two classes or more, not {n} class")
        return rows

    def _without_folds(self, options: TrainOptions, C: float) -> TrainOptions:
        """Warn that there are no folds, and return options that leave nothing open."""
        smoothing = options.label_smoothing or 0.0 if self._classifier == "softmax" else None
        options = replace(options, C=options.C or C, label_smoothing=smoothing)
        warnings.warn(
            "no class has two rows, so there are no folds: C is "
            f"{options.C:.3g} (by default one over the mean squared distance of the rows from "
            "their mean), and the probabilities are not calibrated",
            stacklevel=3,
        )
        return options


class SoftmaxClassifier(_LinearClassifier):
    """Multinomial logistic regression, calibrated.

    With two classes, C here is half of the C of scikit-learn's LogisticRegression, because each of
    the classes has weights.

    Args:
        C: inverse regularisation strength, above 0; "auto" to choose it by cross-validation, from
            decades around one over the mean squared distance of the rows from their mean.
        cv: number of folds, or anything that `sklearn.model_selection.check_cv` takes, if each row
            is in at most one validation set, and in the training set of all other splits.
            Numbers give stratified, shuffled folds, fewer if no class has as many rows.
        label_smoothing: from 0 to below 1; "auto" to choose 0 or 0.1 by cross-validation.
        class_weight: factors of the sample weights: None, "balanced" (all classes get the same
            total weight), or a mapping from classes to factors.
        random_state: seed of the folds.

    Attributes:
        classes_: (k,), the classes.
        coef_: (k, d), the weights; (1, d) with two classes.
        intercept_: (k,); (1,) with two classes.
        C_: the inverse regularisation strength of the fit.
        label_smoothing_: the label smoothing of the fit.
        temperature_: what scores are divided by before the softmax, from the out-of-fold scores.
            If no class has two rows, it is 1, and by default C is one over the mean squared
            distance of the rows from their mean; a warning says so.
        n_features_in_: d.
        feature_names_in_: (d,), names of columns; only if X has any.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.model_selection import cross_val_score
        >>> X, y = load_digits(return_X_y=True)
        >>> bool(cross_val_score(SoftmaxClassifier(C=0.01, label_smoothing=0), X, y).min() > 0.85)
        True
    """

    _classifier = "softmax"
    _binary_factor = 2.0

    def __init__(
        self,
        C: float | str = "auto",
        *,
        cv: Any = 5,
        label_smoothing: float | str = "auto",
        class_weight: ClassWeight = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        super().__init__(C, cv=cv, class_weight=class_weight, random_state=random_state)
        self.label_smoothing = label_smoothing

    def _options(self) -> TrainOptions:
        return replace(super()._options(), label_smoothing=self._number("label_smoothing"))


class RidgeClassifier(_LinearClassifier):
    """Ridge regression on targets 1 and -1, with alpha = 1 / C, calibrated.

    Its parameters and attributes are those of `SoftmaxClassifier`, except that it has no
    `label_smoothing`; `label_smoothing_` is 0.
    """

    _classifier = "ridge"


class SVMClassifier(_LinearClassifier):
    """A linear support vector machine for each class, with squared hinge loss, calibrated.

    It minimises what scikit-learn's LinearSVC does, except that the intercept is not penalised.

    Its parameters and attributes are those of `SoftmaxClassifier`, except that it has no
    `label_smoothing`; `label_smoothing_` is 0.
    """

    _classifier = "svm"
