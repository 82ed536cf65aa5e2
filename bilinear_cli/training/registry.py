"""The classifiers, one entry each. It imports no SciPy, scikit-learn or TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from bilinear_cli.errors import validate_choice

if TYPE_CHECKING:
    from bilinear_cli.training.estimator import Estimator

VECTOR_OPTIONS = ("normalize", "top_variance", "solver")
CLASSIFIER_OPTIONS = (
    *VECTOR_OPTIONS,
    "C",
    "label_smoothing",
    "hidden",
    "dropout",
    "channels",
    "frozen",
)


@dataclass(frozen=True)
class Classifier:
    """What the command line, the options and the run folder must know of a classifier.

    Attributes:
        name: for `--classifier`.
        estimator: the `Estimator` that fits it, as `module:name`, imported by `load`; or itself.
        options: those of `CLASSIFIER_OPTIONS` that it takes. With `label_smoothing` its targets are
            one-hot, and smoothed; without, they are 1 for the class and -1 elsewhere.
        recorded: options that `metrics.json` has; `C` and the smoothing are there by themselves.
        in_folder_name: options that the name of the run folder has.
        on_maps: it is fitted on maps, not on vectors.
        tensorflow: it needs TensorFlow.
        streamed: it can be fitted by passes over the file.
        distributed: workers can take the sums over its rows.
    """

    name: str
    estimator: "str | Callable[[], Estimator]"
    options: tuple[str, ...]
    recorded: tuple[str, ...] = ()
    in_folder_name: tuple[str, ...] = ()
    on_maps: bool = False
    tensorflow: bool = False
    streamed: bool = True
    distributed: bool = True

    @property
    def one_hot(self) -> bool:
        """Whether its targets are one-hot."""
        return "label_smoothing" in self.options

    def load(self) -> "Estimator":
        """Return what fits it."""
        make = self.estimator
        return (resolve_name(make) if isinstance(make, str) else make)()

    def refused(self, options: Any) -> str:
        """Return the first option that is set and is not for this classifier, or nothing.

        A number with a default of its own, as `--hidden`, cannot be told from one that is not set.
        """
        for name in CLASSIFIER_OPTIONS:
            value, default = getattr(options, name), getattr(type(options), name)
            streams = (name, value) == ("solver", "stream") and not self.streamed
            is_set = value and value != default and default in (None, False, "auto")
            if is_set and (streams or name not in self.options):
                flag = "-C" if name == "C" else f"--{name.replace('_', '-')}"
                return f"{flag} {value}" if isinstance(value, str) else flag
        return ""

    def words(self, options: Any) -> list[str]:
        """Return what the name of the run folder has of the options, after the classifier."""
        values = {name: getattr(options, name) for name in self.in_folder_name}
        return [name if value is True else str(value) for name, value in values.items() if value]


_MODULE = "bilinear_cli.training."
CLASSIFIERS = {
    classifier.name: classifier
    for classifier in (
        Classifier(
            "softmax", f"{_MODULE}linear:softmax", (*VECTOR_OPTIONS, "C", "label_smoothing")
        ),
        Classifier("svm", f"{_MODULE}linear:svm", (*VECTOR_OPTIONS, "C")),
        Classifier("ridge", f"{_MODULE}ridge:Ridge", (*VECTOR_OPTIONS, "C")),
        Classifier(
            "mlp",
            f"{_MODULE}mlp:MlpEstimator",
            (*VECTOR_OPTIONS, "label_smoothing", "hidden", "dropout"),
            recorded=("hidden", "dropout"),
            tensorflow=True,
            streamed=False,
        ),
        Classifier(
            "conv1x1",
            f"{_MODULE}conv1x1:Conv1x1Estimator",
            ("label_smoothing", "channels", "frozen"),
            recorded=("channels", "frozen"),
            in_folder_name=("channels", "frozen"),
            on_maps=True,
            tensorflow=True,
            streamed=False,
            distributed=False,
        ),
    )
}


def get_classifier(name: str) -> Classifier:
    """Return the classifier of this name.

    Raises:
        UsageError: there is none.
    """
    return CLASSIFIERS[validate_choice("classifier", name, CLASSIFIERS)]
