"""A feature file or a run -> what it is and how it was made, as facts and commands."""

import json
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import abbreviate, printable, truncate
from bilinear_cli.photos.photo_set import count_photos
from bilinear_cli.run import read_labels, read_metrics
from bilinear_cli.store import FeatureFile, parameter_sha256

RUN_KEYS = (  # of metrics.json
    *("pooling", "classifier", "top1", "top1_ci95", "oof_top1", "C", "label_smoothing", "epochs"),
    *("folds", "temperature", "n_features", "fitted_on", "seed"),
    *("features_file", "seconds", "versions", "command"),
)


def describe(file: FeatureFile, by_class: bool = False) -> str:
    """Return what a feature file, complete or not, holds and how it was made, one fact per line.

    With `by_class`, lines with the number of photos of each class follow.
    """
    facts: dict[str, Any] = {"file": file.path, "rows": len(file.labels)}
    if not file.attributes["complete"]:
        facts["rows"] = f"{file.rows_done} of {len(file.labels)}, incomplete"
    for spec, shape in file.shapes.items():
        layout = file.layout(spec)
        facts[spec] = f"{' x '.join(map(str, shape[1:]))} {layout.pop('dtype')}, " + ", ".join(
            f"{key} {value}" for key, value in layout.items() if value and key != "pooling"
        )
    for name, array in file.parameters.items():
        facts[name] = f"{' x '.join(map(str, array.shape))}, sha256 {parameter_sha256(array)}"
    first_rows = np.unique(file.photo, return_index=True)[1]
    names = np.array(file.class_names)
    counts = count_photos(names[file.labels[first_rows]], file.split[first_rows], names)
    facts |= _totals(counts) | {"size": _size(file.files)} | _typed_attributes(file.attributes)
    if file.skipped:
        skipped = (f"{path} ({reason})" for path, reason in file.skipped.items())
        facts["skipped"] = abbreviate(skipped)
    return _lines(facts | _by_class(counts) if by_class else facts)


def describe_run(run: Path, by_class: bool = False) -> str:
    """Return what the run in a folder is and how it was made, as `describe` does.

    Raises:
        BilinearError: the folder is no run.
    """
    metrics, labels = read_metrics(run), read_labels(run)
    counts = count_photos([row[1] for row in labels], [row[2] for row in labels])
    facts = {"run": run} | _totals(counts) | {"size": _size(run.iterdir())} | run_facts(metrics)
    return _lines(facts | _by_class(counts) if by_class else facts)


def run_facts(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return how a run was made, then how its features were made."""
    extraction = _typed_attributes(metrics["extraction"])
    return _typed_attributes({name: metrics.get(name) for name in RUN_KEYS}) | {
        f"features: {name}": value for name, value in extraction.items()
    }


def _totals(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    facts = {}
    for split in ("train", "test"):
        n = [n_photos[split] for n_photos in counts.values()]
        facts[split] = f"{sum(n)} photos, {min(n)} to {max(n)} of a class"
    return facts | {"classes": str(len(counts))}


def _size(files: Iterable[Path]) -> str:
    return f"{sum(path.stat().st_size for path in files):,} bytes"


def _by_class(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    return {
        f"class {truncate(name)}": f"{n['train']} train, {n['test']} test"
        for name, n in counts.items()
    }


def _typed_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that are not empty; a command as it was typed."""
    return {
        name: typed(value) if name == "command" else value
        for name, value in attributes.items()
        if value not in ("", None)
    }


def _lines(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(printable(f"{name:{width}}  {as_text(x)}") for name, x in facts.items())


def as_text(value: Any) -> str:
    """Return a value as text; floats, also in lists, have four significant digits."""
    if isinstance(value, list):
        return " to ".join(map(as_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def commands(metrics: dict[str, Any]) -> list[str]:
    """Return the commands that made a run, as they were typed: extraction, then training."""
    recorded = [metrics["extraction"].get("command", ""), metrics.get("command", "")]
    return [line for line in map(typed, recorded) if line]


def typed(command: Any) -> str:
    """Return a recorded command as it was typed; a file from a stranger may hold any value."""
    with suppress(ValueError, TypeError):
        return shlex.join(json.loads(command))
    return str(command)
