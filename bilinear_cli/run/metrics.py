"""metrics.json: what each of its values must be, and the text -> the values."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from bilinear_cli.poolings.registry import get_pooling
from bilinear_cli.recipe import Recipe
from bilinear_cli.training.options import CLASS_WEIGHTS, NORMALIZE
from bilinear_cli.training.registry import NETWORK_OPTIONS, Classifier, get_classifier

Check = Callable[[Any], bool]  # whether a JSON value is as it must be

ARRAY_FILES = ("model.npz", "oof.npz", "test.npz")
MAX_NUMBER = 1e300  # JSON's 1e999 is infinite in Python
MAX_SHOWN = 40  # characters of a wrong value in a message


def number(low: float = 0, high: float = MAX_NUMBER) -> Check:
    """Return the check of a number from `low` to `high`, so not NaN; 1.0 may be written as 1."""
    return lambda x: type(x) in (int, float) and low <= x <= high


def integer(low: int = 0) -> Check:
    """Return the check of an integer from `low`."""
    return lambda x: type(x) is int and low <= x <= 2**53


def nullable(check: Check) -> Check:
    """Return the check of null, or of a value that passes a check."""
    return lambda x: x is None or check(x)


def list_of(check: Check) -> Check:
    """Return the check of a list whose values all pass a check."""
    return lambda x: isinstance(x, list) and all(map(check, x))


def interval(check: Check) -> Check:
    """Return the check of a list of two ascending values."""
    return lambda x: list_of(check)(x) and len(x) == 2 and x[0] <= x[1]


def json_object(
    required: Mapping[str, Check], optional: Mapping[str, Check] | None = None
) -> Check:
    """Return the check of an object with these keys; others are of a later version."""
    checks = {**required, **(optional or {})}
    return lambda x: (
        isinstance(x, dict)
        and required.keys() <= x.keys()
        and all(check(x[name]) for name, check in checks.items() if name in x)
    )


def is_text(x: Any) -> bool:
    """Return whether a value is text."""
    return isinstance(x, str)


def is_null(x: Any) -> bool:
    """Return whether a value is null."""
    return x is None


def is_attribute(x: Any) -> bool:
    """Return whether a value is one of an attribute of a feature file."""
    return isinstance(x, str | bool) or number(-MAX_NUMBER)(x)


def is_attributes(x: Any) -> bool:
    """Return whether a value has the attributes of a feature file, see also `Recipe`."""
    texts = ("command", "data_root", "data_sha256", "backbone_path")
    return json_object({}, dict.fromkeys(texts, is_text))(x) and all(map(is_attribute, x.values()))


SHARE = number(0, 1)
CALIBRATION = json_object(
    {
        **{"log_loss": number(), "brier": number(0, 2), "ece": SHARE, "ece_ci95": interval(SHARE)},
        "bins": list_of(json_object({"confidence": SHARE, "accuracy": SHARE, "count": integer(1)})),
    }
)
# The keys of all runs. What reads a run takes no other keys than those of these tables.
COMMON: dict[str, Check] = {
    "pooling": is_text,
    "classifier": is_text,
    "normalize": lambda x: x in NORMALIZE,
    "top_variance": nullable(integer(1)),
    "label_smoothing": SHARE,
    "temperature": number(1e-6, 1e6),
    "folds": integer(),
    **{"n_train": integer(1), "n_test": integer(), "n_classes": integer(2)},
    **{"n_features": integer(1), "bytes": integer(1), "seconds": number()},
    "confused": list_of(json_object({"count": integer(1), "true": is_text, "predicted": is_text})),
    "extraction": is_attributes,
    **{"run": is_text, "command": is_text},
}
OPTIONAL: dict[str, Check] = {  # not in runs of earlier versions, or without an option
    "class_weight": lambda x: x in CLASS_WEIGHTS,
    "n_train_per_class": interval(integer()),
    "novelty": json_object(
        {"auroc": SHARE, "auroc_ci95": interval(SHARE), "false_alarms_at_95": SHARE}
    ),
    "epochs": nullable(integer()),
    "sha256": json_object(dict.fromkeys(ARRAY_FILES, is_text)),
    **{"seed": integer(), "versions": is_text, "features_file": is_text, "fitted_on": is_text},
}
ON_TEST_PHOTOS: dict[str, Check] = {
    **{"top1": SHARE, "top1_ci95": interval(SHARE), "top5": SHARE},
    "mean_per_class_accuracy": SHARE,
    "calibration": json_object({"before": CALIBRATION, "after": CALIBRATION}),
}
OUT_OF_FOLD: dict[str, Check] = {"oof_top1": SHARE, "oof_log_loss": number()}
NETWORK: dict[str, Check] = {
    **{"hidden": integer(1), "dropout": SHARE},
    **{"channels": integer(1), "frozen": lambda x: isinstance(x, bool)},
}


def parse_metrics(text: str) -> dict[str, Any]:
    """Return the content of a metrics.json.

    Raises:
        KeyError: a key is missing.
        ValueError: a value is not what `train` writes, or the text is not JSON.
    """
    metrics = json.loads(text, object_pairs_hook=_with_distinct_keys)
    if not isinstance(metrics, dict):
        raise ValueError("it is not an object of JSON")
    _check(metrics, COMMON)
    _check(metrics, {name: check for name, check in OPTIONAL.items() if name in metrics})
    _check(metrics, _classifier_checks(get_classifier(metrics["classifier"])))
    tested = ON_TEST_PHOTOS if metrics["n_test"] else dict.fromkeys(ON_TEST_PHOTOS, is_null)
    _check({"calibration": None, **metrics}, tested)
    _check(metrics, OUT_OF_FOLD if metrics["folds"] else dict.fromkeys(OUT_OF_FOLD, is_null))
    parse_recipe(metrics)
    return metrics


def parse_recipe(metrics: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a run's features, for its poolings.

    Raises:
        KeyError, ValueError: see `Recipe.from_attributes`; or a pooling is unknown.
    """
    specs = tuple(metrics["pooling"].split("+"))
    for spec in specs:
        get_pooling(spec)  # raises
    return Recipe.from_attributes(metrics["extraction"], specs)


def _classifier_checks(classifier: Classifier) -> dict[str, Check]:
    """Return the checks of the keys that depend on the classifier."""
    has_c = "C" in classifier.options
    of_c: dict[str, Check] = {"C": number() if has_c else is_null}
    point: dict[str, Check] = {"label_smoothing": SHARE, "top1": SHARE, "log_loss": number()}
    curve = list_of(json_object(point | of_c) if has_c else json_object(point, of_c))
    options = (name for name in NETWORK_OPTIONS if name in classifier.options)
    return {**of_c, "curve": curve, **{name: NETWORK[name] for name in options}}


def _check(metrics: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Raise a KeyError or a ValueError unless each value passes its check."""
    for name, check in checks.items():
        if not check(metrics[name]):
            value = repr(metrics[name])
            shown = value if len(value) <= MAX_SHOWN else f"{value[: MAX_SHOWN - 1]}…"
            raise ValueError(f"its {name} is {shown}")


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, or raise a ValueError if it has a key twice."""
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("it has a key twice")
    return values
