"""The options of `bilinear train`, and which of them a classifier takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from bilinear_cli.errors import UsageError
from bilinear_cli.training import registry

SMOOTHING = (0.0, 0.1)  # what is tried


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        classifier: one of `registry.CLASSIFIERS`.
        normalize: one of `inputs.NORMALIZE`.
        top_variance: how many entries of highest variance to keep; None for all.
        C: weight of the losses; None: chosen by cross-validation.
        label_smoothing: likewise, of softmax, mlp and conv1x1.
        folds: of the cross-validation, at most.
        solver: one of `problem.SOLVERS`.
        min_photos: classes with fewer photos are left out.
        seed: of the folds, and of mlp and conv1x1.
        hidden: units of the mlp.
        dropout: share of the mlp's hidden units that are left out at a time.
        channels: of the conv1x1.
        frozen: leave the conv1x1's projection as it was initialised.
        refit_all: fit the final model on the test photos too.
    """

    classifier: str = "softmax"
    normalize: str = "auto"
    top_variance: int | None = None
    C: float | None = None
    label_smoothing: float | None = None
    folds: int = 5
    solver: str = "auto"
    min_photos: int = 2
    seed: int = 0
    hidden: int = 256
    dropout: float = 0.5
    channels: int = 144
    frozen: bool = False
    refit_all: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError if an option is out of range, or not one of this classifier's."""
        if self.C is not None and not 0 < self.C < inf:
            raise UsageError(f"-C {self.C} is not above zero, or not a number")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing {self.label_smoothing} is not from 0 to below 1")
        if option := registry.get_classifier(self.classifier).refused(self):
            raise UsageError(f"{option} is not for --classifier {self.classifier}")

    @property
    def smoothings(self) -> Sequence[float]:
        """The label smoothings to try."""
        if not registry.get_classifier(self.classifier).one_hot:
            return (0.0,)
        return SMOOTHING if self.label_smoothing is None else (self.label_smoothing,)
