"""A run's figures -> how it was made, as commands, and as facts."""

import json
import shlex
from contextlib import suppress
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
    "mixed_with": "rows also in",
    "created": "features made",
    "versions": "versions of extraction",
    "weights_sha256": "SHA-256 of the weights",
}


def commands(metrics: dict[str, Any]) -> list[str]:
    """Return the commands that made a run, as they were typed: extraction, then training."""
    made = [metrics["extraction"].get("command", ""), metrics.get("command", "")]
    return [line for line in map(typed, made) if line]


def typed(command: Any) -> str:
    """Return a recorded command as it is typed; a stranger's may be anything."""
    with suppress(ValueError, TypeError):
        return shlex.join(json.loads(command))
    return str(command)


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of how a run was made, as (name, value)."""
    found = [(said, metrics.get(name)) for name, said in FACTS.items()]
    found += [(said, metrics["extraction"].get(name)) for name, said in EXTRACTION.items()]
    return [
        (said, f"{value:g}" if isinstance(value, float) else str(value))
        for said, value in found
        if value is not None and value != ""
    ]
