"""Linear classifiers fitted along a path of ascending C: softmax and SVM."""

from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np

from bilinear_cli.training import losses
from bilinear_cli.training.estimator import Estimator, Training, Trials
from bilinear_cli.training.losses import MakeLoss
from bilinear_cli.training.model import Model
from bilinear_cli.training.tuning import Tuning, grid, warm_start

FOLD_TOLERANCE = 1e-4  # leaves the objective within about a thousandth of its optimum
TOLERANCE = 1e-7


class LinearEstimator(Estimator):
    """A linear classifier that minimises one of `losses.py`, at one C after another."""

    def __init__(self, make_loss: MakeLoss) -> None:
        """Keep the loss."""
        self.make_loss = make_loss

    def trials(
        self, training: Training, val_folds: Sequence[np.ndarray], smoothing: float
    ) -> Trials:
        """Fit each fold along the path."""
        problem, targets = training.reduced, training.targets(smoothing)
        C_option = training.options.C
        Cs = Cs_to_try(training) if C_option is None else warm_start(C_option)
        steps = [(C, FOLD_TOLERANCE) for C in Cs]
        paths = [
            problem.regularization_path(indices, targets[indices], self.make_loss, steps)
            for indices in (np.setdiff1d(training.every, fold) for fold in val_folds)
        ]
        for C, fits in zip(Cs, zip(*paths, strict=True), strict=True):
            if C_option not in (None, C):
                continue
            scores = np.empty(targets.shape, np.float32)
            for fold, fold_fit in zip(val_folds, fits, strict=True):
                scores[fold] = problem.scores(fold_fit, fold)
            yield {"C": C}, scores

    def fit(self, training: Training, choice: Tuning) -> Model:
        """Fit all rows along a path that ends at the chosen C."""
        assert choice.C
        *smaller, C = warm_start(choice.C)
        steps = [*((smaller_C, FOLD_TOLERANCE) for smaller_C in smaller), (C, TOLERANCE)]
        problem, targets = training.reduced, training.targets(choice.label_smoothing)
        path = problem.regularization_path(training.every, targets, self.make_loss, steps)
        (last,) = deque(path, maxlen=1)
        return Model(problem.linear(last), None, training.transforms, training.rows.class_names)


softmax = partial(LinearEstimator, losses.cross_entropy)  # multinomial logistic regression
svm = partial(LinearEstimator, losses.squared_hinge)  # one support vector machine for each class


def Cs_to_try(training: Training) -> Sequence[float]:
    """Return the C of the options, or a grid."""
    C = training.options.C
    return grid(training.reduced.mean_square) if C is None else [C]
