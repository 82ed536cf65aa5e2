"""A run's figures -> how it was made, as commands, and as facts."""

import json
import re
import shlex
from typing import Any

FACTS = {
    "n_classes": "classes",
    "n_train": "photos to train on",
    "n_test": "photos to test on",
    "C": "C",
    "label_smoothing": "label smoothing",
    "epochs": "epochs",
    "folds": "folds",
    "temperature": "temperature",
    "fitted_on": "fitted on",
    "seed": "seed",
    "seconds": "seconds of training",
    "versions": "versions of training",
}
EXTRACTION = {
    "data": "data",
    "data_kind": "kind of data",
    "backbone": "network",
    "layer": "layer",
    "image_size": "image size, pixels",
    "resize": "resize",
    "views": "views",
    "precision": "precision",
    "created": "features made",
    "versions": "versions of extraction",
    "weights_sha256": "SHA-256 of the weights",
}


def commands(metrics: dict[str, Any]) -> list[str]:
    """Return the commands that made a run, as far as it says: extraction, then training."""
    made = metrics["extraction"].get("command") or ""
    try:
        words = json.loads(made)
        made = shlex.join(map(str, words)) if isinstance(words, list) else made
    except ValueError:
        pass  # it stands there as a line
    return [line for line in (made, _training(metrics)) if line]


def _training(metrics: dict[str, Any]) -> str:
    """Return the command; what follows from the folds is left to them."""
    words = ["bilinear", "train"]
    for file in re.split(r"(?<=\.h5) ", metrics.get("features_file", "")):
        words += ["--features", file]
    words += ["--pooling", metrics["pooling"], "--classifier", metrics["classifier"]]
    values = {
        "--normalize": metrics["normalize"] if metrics["normalize"] != "auto" else None,
        "--top-variance": metrics["top_variance"],
        "-C": _only(metrics, "C"),
        "--label-smoothing": _only(metrics, "label_smoothing"),
        "--hidden": metrics.get("hidden"),
        "--dropout": metrics.get("dropout"),
        "--channels": metrics.get("channels"),
        "--seed": metrics.get("seed"),
    }
    for option, value in values.items():
        words += [option, str(value)] if value is not None else []
    words += ["--frozen"] if metrics.get("frozen") else []
    words += ["--refit-all"] if metrics.get("fitted_on") == "train and test" else []
    return shlex.join(words)


def _only(metrics: dict[str, Any], name: str) -> Any:
    """Return a setting if it was given: then no other value was tried."""
    given = metrics["classifier"] not in ("svm", "ridge") or name == "C"
    tried = {point.get(name) for point in metrics.get("curve") or [metrics]}
    return metrics.get(name) if given and len(tried) == 1 else None


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of how a run was made, as (name, value)."""
    found = [(said, metrics.get(name)) for name, said in FACTS.items()]
    found += [(said, metrics["extraction"].get(name)) for name, said in EXTRACTION.items()]
    return [
        (said, f"{value:g}" if isinstance(value, float) else str(value))
        for said, value in found
        if value is not None and value != ""
    ]
