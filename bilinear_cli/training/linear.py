"""Linear classifiers that are fitted along a path of ascending C: softmax and SVM."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilinear_cli.training import losses
from bilinear_cli.training.estimator import Estimator, Training, Trials
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.problem import Problem
from bilinear_cli.training.tuning import Tuning, grid, warm_start

FOLD_TOLERANCE = 1e-4  # leaves the objective within about a thousandth of its optimum
TOLERANCE = 1e-7


class LinearEstimator(Estimator):
    """A linear classifier, fitted at one C after another."""

    def __init__(self, make_loss: MakeLoss) -> None:
        """Take a loss of `losses.py`."""
        self.make_loss = make_loss

    def trials(
        self, training: Training, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Fit every fold at one C after another."""
        problem, C_given = training.reduced, training.options.C
        targets = training.targets(smoothing)
        Cs = Cs_to_try(training) if C_given is None else warm_start(C_given)
        paths = []
        for fold in val_folds:
            indices = np.setdiff1d(training.indices, fold)
            paths.append(self._path(problem, indices, targets, _coarsely(Cs)))
        for C, fits in zip(Cs, zip(*paths, strict=True), strict=True):
            if C_given not in (None, C):
                continue
            scores = np.empty(targets.shape, np.float32)
            for fold, fold_fit in zip(val_folds, fits, strict=True):
                scores[fold] = problem.scores(fold_fit, fold)
            yield {"C": C}, scores

    def fit(self, training: Training, choice: Tuning) -> Model:
        """Fit on all rows, from smaller C on."""
        assert choice.C
        *way, C = warm_start(choice.C)
        steps = [*_coarsely(way), (C, TOLERANCE)]
        problem, targets = training.reduced, training.targets(choice.label_smoothing)
        (last,) = deque(self._path(problem, training.indices, targets, steps), maxlen=1)
        linear = problem.linear(last)
        return Model(linear, None, training.transforms, training.rows.class_names)

    def _path(
        self,
        problem: Problem,
        indices: np.ndarray,
        targets: np.ndarray,
        steps: Sequence[tuple[float, float]],
    ) -> Any:
        return problem.regularization_path(indices, targets[indices], self.make_loss, steps)


def softmax() -> Estimator:
    """Return multinomial logistic regression."""
    return LinearEstimator(losses.cross_entropy)


def svm() -> Estimator:
    """Return a support vector machine for each class."""
    return LinearEstimator(losses.squared_hinge)


def Cs_to_try(training: Training) -> Sequence[float]:
    """Return the C that is given, or a grid."""
    given = training.options.C
    return grid(training.reduced.mean_square) if given is None else [given]


def _coarsely(Cs: Sequence[float]) -> list[tuple[float, float]]:
    return [(C, FOLD_TOLERANCE) for C in Cs]
