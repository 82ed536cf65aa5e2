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
    recorded = [metrics["extraction"].get("command", ""), metrics.get("command", "")]
    return [line for line in map(typed, recorded) if line]


def typed(command: Any) -> str:
    """Return a recorded command as it is typed; a stranger's may be anything."""
    with suppress(ValueError, TypeError):
        return shlex.join(json.loads(command))
    return str(command)


def facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of how a run was made, as (name, value)."""
    return [
        (title, f"{value:g}" if isinstance(value, float) else str(value))
        for titles, values in ((FACTS, metrics), (EXTRACTION, metrics["extraction"]))
        for name, title in titles.items()
        if (value := values.get(name)) not in (None, "")
    ]
