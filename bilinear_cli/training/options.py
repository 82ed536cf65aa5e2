"""The options of `bilinear train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from bilinear_cli.errors import UsageError
from bilinear_cli.training import registry
from bilinear_cli.validation import POSITIVE, SEED, Range, validate_choice, validate_options

NORMALIZE = ("auto", "none", "standard", "sqrt-l2")
SOLVERS = ("auto", "gram", "stream")
CLASS_WEIGHTS = ("none", "balanced")
SMOOTHINGS = (0.0, 0.1)  # tried by cross-validation
RANGES = {
    "top_variance": POSITIVE,
    "C": Range(float, 0, inf, min_open=True),
    "label_smoothing": Range(float, 0, 1, max_open=True),
    "folds": Range(int, 2),
    "min_photos": POSITIVE,
    "seed": SEED,
    "hidden": Range(int, 1, 2**16),
    "dropout": Range(float, 0, 0.99),
    "channels": POSITIVE,
}


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        classifier: one of `registry.CLASSIFIERS`.
        normalize: one of `NORMALIZE`.
        top_variance: number of entries of highest variance to keep; None for all.
        C: inverse regularisation strength, above 0; None to choose it by cross-validation.
        label_smoothing: of softmax, mlp and conv1x1, from 0 to below 1; None to choose it likewise.
        class_weight: one of `CLASS_WEIGHTS`; `balanced`: the rows have weights with which all
            classes count the same, however many photos they have.
        folds: maximum number of folds of the cross-validation.
        solver: one of `SOLVERS`.
        min_photos: classes with fewer photos are left out.
        seed: of the folds, of mlp and of conv1x1.
        hidden: hidden units of the mlp.
        dropout: dropout rate of the mlp.
        channels: output channels of the conv1x1.
        frozen: do not train the projection of the conv1x1.
        refit_all: after the test, fit the final model on the test photos too.
        novelty: measure how well unknown classes are recognised, by leaving classes out.
    """

    classifier: str = "softmax"
    normalize: str = "auto"
    top_variance: int | None = None
    C: float | None = None
    label_smoothing: float | None = None
    class_weight: str = "none"
    folds: int = 5
    solver: str = "auto"
    min_photos: int = 2
    seed: int = 0
    hidden: int = 256
    dropout: float = 0.5
    channels: int = 144
    frozen: bool = False
    refit_all: bool = False
    novelty: bool = False

    def __post_init__(self) -> None:
        """Raise a UsageError if an option is out of range or the classifier does not take it."""
        choices = {"class_weight": CLASS_WEIGHTS, "normalize": NORMALIZE, "solver": SOLVERS}
        for name, values in choices.items():
            validate_choice(name.replace("_", " "), getattr(self, name), values)
        classifier = registry.get_classifier(self.classifier)
        validate_options(self, RANGES)
        if option := classifier.unsupported_option(self):
            raise UsageError(
                f"--classifier {self.classifier} does not take {option}: "
                "leave the option out, or choose another classifier"
            )

    @property
    def smoothings(self) -> Sequence[float]:
        """The label smoothings to try."""
        if not registry.get_classifier(self.classifier).one_hot:
            return (0.0,)
        return SMOOTHINGS if self.label_smoothing is None else (self.label_smoothing,)
