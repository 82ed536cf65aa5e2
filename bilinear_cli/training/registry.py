"""The classifiers, one entry each. Importing it imports no SciPy, scikit-learn or TensorFlow."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from bilinear_cli.validation import validate_choice

if TYPE_CHECKING:
    from bilinear_cli.training.estimator import Estimator

VECTOR_OPTIONS = ("normalize", "top_variance", "solver")
LINEAR_OPTIONS = (*VECTOR_OPTIONS, "C")
NETWORK_OPTIONS = ("hidden", "dropout", "channels", "frozen")
CLASSIFIER_OPTIONS = (*LINEAR_OPTIONS, "label_smoothing", *NETWORK_OPTIONS)


@dataclass(frozen=True)
class Classifier:
    """What the command line, the options and the run folder must know about a classifier."""

    name: str  # for `--classifier`
    estimator: str  # the class or function that returns its `Estimator`, as `module:name`
    options: tuple[str, ...]  # those of `CLASSIFIER_OPTIONS` that it takes
    in_folder_name: tuple[str, ...] = ()  # options that are part of the name of the run folder
    on_maps: bool = False  # it is fitted on maps, not on vectors
    tensorflow: bool = False  # it needs TensorFlow
    streamed: bool = True  # it can be fitted by passes over the file
    distributed: bool = True  # workers can compute the sums over its rows

    @property
    def one_hot(self) -> bool:
        """Whether its targets are one-hot and smoothed, or 1 for the class and -1 elsewhere."""
        return "label_smoothing" in self.options

    def load(self) -> "Estimator":
        """Import its estimator and return an instance."""
        return resolve_name(self.estimator)()

    def unsupported_option(self, options: Any) -> str:
        """Return the flag of the first option that is set but not supported, or an empty string.

        The default of `--hidden`, `--dropout` and `--channels` is a number. They are not checked,
        because a number that was set cannot be told from the default.
        """
        for name in CLASSIFIER_OPTIONS:
            value, default = getattr(options, name), getattr(type(options), name)
            is_set = value and value != default and default in (None, False, "auto")
            cannot_stream = (name, value) == ("solver", "stream") and not self.streamed
            if is_set and (cannot_stream or name not in self.options):
                flag = "-C" if name == "C" else f"--{name.replace('_', '-')}"
                return f"{flag} {value}" if isinstance(value, str) else flag
        return ""

    def words(self, options: Any) -> list[str]:
        """Return the words that the run folder's name has after the classifier."""
        values = {name: getattr(options, name) for name in self.in_folder_name}
        return [name if value is True else str(value) for name, value in values.items() if value]


_MODULE = "bilinear_cli.training."
CLASSIFIERS = {
    classifier.name: classifier
    for classifier in (
        Classifier("softmax", f"{_MODULE}linear:softmax", (*LINEAR_OPTIONS, "label_smoothing")),
        Classifier("svm", f"{_MODULE}linear:svm", LINEAR_OPTIONS),
        Classifier("ridge", f"{_MODULE}linear:ridge", LINEAR_OPTIONS),
        Classifier(
            "mlp",
            f"{_MODULE}mlp:MlpEstimator",
            (*VECTOR_OPTIONS, "label_smoothing", "hidden", "dropout"),
            tensorflow=True,
            streamed=False,
        ),
        Classifier(
            "conv1x1",
            f"{_MODULE}conv1x1:Conv1x1Estimator",
            ("label_smoothing", "channels", "frozen"),
            in_folder_name=("channels", "frozen"),
            on_maps=True,
            streamed=False,
            distributed=False,
        ),
    )
}


def get_classifier(name: str) -> Classifier:
    """Return the classifier of this name, or raise a UsageError."""
    return CLASSIFIERS[validate_choice("classifier", name, CLASSIFIERS)]
