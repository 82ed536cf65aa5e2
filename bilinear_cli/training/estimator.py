"""What all classifiers have in common: they reduce the training rows, choose settings, and fit."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import problem, registry
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.losses import one_hot, plus_minus_one
from bilinear_cli.training.model import Model
from bilinear_cli.training.options import TrainOptions
from bilinear_cli.training.reducers import Reading
from bilinear_cli.training.rows import Rows
from bilinear_cli.training.tuning import Tuning, choose, folds

log = logging.getLogger(__name__)

Trials = Iterator[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True)
class Training:
    """What a classifier is fitted on.

    Attributes:
        reduced: the training rows, as the estimator's `reduce` gives them.
        rows: what is known of them.
        options: of `train`.
        transforms: how stored rows become features.
    """

    reduced: Any
    rows: Rows
    options: TrainOptions
    transforms: Sequence[FeatureTransform] = ()

    @property
    def indices(self) -> np.ndarray:
        """The indices of all rows."""
        return np.arange(len(self.rows.labels))

    def targets(self, smoothing: float) -> np.ndarray:
        """Return what the scores of all rows should be, float32 (n, classes)."""
        labels, k = self.rows.labels, len(self.rows.class_names)
        smoothed = registry.get_classifier(self.options.classifier).one_hot
        return one_hot(labels, k, smoothing) if smoothed else plus_minus_one(labels, k)


class Estimator(ABC):
    """A classifier.

    Attributes:
        cross_validated: settings are chosen on all folds in turn, not on the first alone.
    """

    cross_validated: ClassVar[bool] = True

    def reduce(
        self,
        file: FeatureFile,
        transforms: Sequence[FeatureTransform],
        rows: Rows,
        options: TrainOptions,
        reading: Reading,
    ) -> Any:
        """Read the training rows; here, reduce them to a `Problem`.

        Raises:
            BilinearError: they do not fit the memory, and the classifier cannot be streamed.
        """
        d = sum(transform.n_features for transform in transforms)
        k = len(rows.class_names)
        solver = problem.choose_solver(options.solver, len(rows.indices), d, k)
        if solver == "stream" and not registry.get_classifier(options.classifier).streamed:
            raise BilinearError(
                f"--classifier {options.classifier} is fitted on the reduced rows, which do not "
                "fit the free memory: take --top-variance, another --classifier, or --solver gram "
                "all the same"
            )
        return problem.reduce(file, transforms, rows.indices, solver, reading)

    def choose(self, training: Training) -> Tuning:
        """Choose what the options leave open, on folds; on none if nothing is open.

        Where each step is a pass over the file, the first fold alone is held out.

        Raises:
            BilinearError: no class can be divided into folds, and something is to be chosen.
        """
        rows, options, solver = training.rows, training.options, training.reduced.solver
        try:
            val_folds = folds(rows, options.folds, options.seed)
        except BilinearError:
            (smoothing, *others), C = options.smoothings, options.C
            if C is None or others:
                raise
            log.warning("no class has two training photos, or groups: nothing is held out")
            nothing = rows.take(np.arange(0))
            return Tuning(smoothing, C, None, nothing, np.empty((0, 0)), [], solver=solver)
        if solver == "stream" or not self.cross_validated:
            val_folds = val_folds[:1]
        trials = partial(self.trials, training, val_folds)
        return replace(choose(rows, val_folds, options.smoothings, trials), solver=solver)

    @abstractmethod
    def trials(
        self, training: Training, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Yield settings, and scores (rows, classes) of which those of validation rows count.

        Args:
            training: the training rows.
            val_folds: indices of the validation rows of each fold.
            smoothing: of the labels.
        """

    @abstractmethod
    def fit(self, training: Training, choice: Tuning) -> Model:
        """Fit on all training rows with the settings that were chosen."""
