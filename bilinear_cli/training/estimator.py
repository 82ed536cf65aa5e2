"""What all classifiers have in common: they reduce the training rows, tune, and fit."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.training import registry
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.losses import one_hot, plus_minus_one
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.reducers import LocalReducer, choose_solver
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.tuning import Tuning, cross_validate, make_folds

log = logging.getLogger(__name__)

Trials = Iterator[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True)
class TrainingData:
    """The training rows; `reduced` is what `Estimator.reduce` returns for them."""

    reduced: Any
    rows: Rows
    options: TrainOptions
    transforms: Sequence[FeatureTransform] = ()
    dtype: type[np.floating] = np.float32  # of the features

    @property
    def indices(self) -> np.ndarray:
        """The indices of all training rows, 0 to n - 1."""
        return np.arange(len(self.rows.labels))

    def targets(self, smoothing: float) -> np.ndarray:
        """Return the targets of all training rows, (n, classes), of the type of the features."""
        labels, k = self.rows.labels, len(self.rows.class_names)
        smoothed = registry.get_classifier(self.options.classifier).one_hot
        if smoothed:
            return one_hot(labels, k, smoothing, self.dtype)
        return plus_minus_one(labels, k, self.dtype)

    def weighted_targets(self, smoothing: float, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the targets of some rows, and the weights of these rows if there are any."""
        targets, sample_weight = self.targets(smoothing)[indices], self.rows.sample_weight
        return (targets,) if sample_weight is None else (targets, sample_weight[indices])


class Estimator(ABC):
    """A classifier."""

    # whether it is tuned on all folds in turn, or on the first fold only
    cross_validated: ClassVar[bool] = True

    def reduce(self, reducer: LocalReducer, n_classes: int, options: TrainOptions) -> Any:
        """Read the training rows; return a `Problem`, or another form that `trials` and `fit` use.

        Raises:
            BilinearError: they do not fit into memory, and the classifier cannot stream them.
        """
        n, d = len(reducer.indices), reducer.features.n_features
        itemsize = reducer.features.dtype.itemsize
        solver = choose_solver(options.solver, n, d, n_classes, itemsize)
        if solver == "stream" and not registry.get_classifier(options.classifier).streamed:
            raise BilinearError(
                f"--classifier {options.classifier} needs the reduced training rows in memory, and "
                "they do not fit into the free memory. Use --top-variance, another --classifier, "
                "or --solver gram to try it anyway."
            )
        return reducer.reduce(solver)

    def tune(self, data: TrainingData, val_folds: Sequence[np.ndarray] = ()) -> Tuning:
        """Choose the hyper-parameters that the options leave open, by cross-validation.

        The folds are indices of validation rows; by default they are made here. If each step is a
        pass over the file, only the first fold is held out. If no class can be divided into folds
        and all hyper-parameters are given, nothing is held out.

        Raises:
            BilinearError: no class can be divided into folds, and a hyper-parameter is open.
        """
        rows, options, solver = data.rows, data.options, data.reduced.solver
        try:
            val_folds = val_folds or make_folds(rows, options.folds, options.seed)
        except BilinearError:
            (smoothing, *others), C = options.smoothings, options.C
            if C is None or others:
                raise
            consequences = (
                "no out-of-fold accuracy, no calibration of the probabilities, and no novelty"
            )
            log.warning("no class has two training photos or groups: %s", consequences)
            none = rows.take(np.arange(0))
            return Tuning(smoothing, C, None, none, np.empty((0, 0)), [], solver=solver)
        if solver == "stream" or not self.cross_validated:
            val_folds = val_folds[:1]
        trials = partial(self.trials, data, val_folds)
        return replace(cross_validate(rows, val_folds, options.smoothings, trials), solver=solver)

    @abstractmethod
    def trials(
        self, data: TrainingData, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Yield hyper-parameters, and the scores (rows, classes) of the validation rows with them.

        The folds are indices of validation rows. Scores of other rows are ignored.
        """

    def refit(
        self, data: TrainingData, tuning: Tuning, train: np.ndarray, indices: np.ndarray
    ) -> np.ndarray:
        """Return scores (len(indices), classes) of rows by a fit on the rows `train`, int (m,).

        The hyper-parameters are those of `tuning`. No row is in both. By default it is a trial.
        """
        left_out = np.setdiff1d(data.indices, train)
        data = replace(data, options=replace(data.options, C=tuning.C))
        (_, scores), *_ = self.trials(data, [left_out], tuning.label_smoothing)
        return scores[indices]

    @abstractmethod
    def fit(self, data: TrainingData, tuning: Tuning) -> Model:
        """Fit on all training rows with the chosen hyper-parameters."""
