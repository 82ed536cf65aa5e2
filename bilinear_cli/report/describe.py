"""A feature file or a run -> what it is and how it was made, a line a fact."""

from typing import Any

import numpy as np

from bilinear_cli.errors import printable, some
from bilinear_cli.report.made import typed
from bilinear_cli.store import FeatureFile, parameter_sha256

OF_A_RUN = (
    *("pooling", "classifier", "top1", "top1_ci95", "oof_top1", "C", "label_smoothing", "epochs"),
    *("temperature", "n_train", "n_test", "n_classes", "n_features", "fitted_on", "seed"),
    *("features_file", "seconds", "versions", "command"),
)


def describe(file: FeatureFile, by_class: bool = False) -> str:
    """Return what a feature file holds and how it was made, a line a fact.

    Args:
        file: a feature file, finished or not.
        by_class: say how many photos each class has, too.
    """
    facts: dict[str, Any] = {"file": file.path, "rows": len(file.labels)}
    if not file.attributes["complete"]:
        facts["rows"] = f"{file.rows_done} of {len(file.labels)}, incomplete"
    for spec, shape in file.shapes.items():
        layout = file.layout(spec)
        facts[spec] = f"{' x '.join(map(str, shape[1:]))} {layout.pop('dtype')}, " + ", ".join(
            f"{k} {v}" for k, v in layout.items() if v and k != "pooling"
        )
    for name, array in file.parameters.items():
        facts[name] = f"{' x '.join(map(str, array.shape))}, sha256 {parameter_sha256(array)}"
    photos = np.unique(file.photo, return_index=True)[1]
    for part in ("train", "test"):
        facts[part] = f"{int(np.sum(file.split[photos] == part))} photos"
    facts["classes"] = len(file.class_names)
    per_class = {part: _photos_of_classes(file, part) for part in ("train", "test")}
    spans = [f"{part} {count.min()} to {count.max()}" for part, count in per_class.items()]
    facts["of-a-class"] = f"{', '.join(spans)} photos"
    facts["size"] = f"{sum(path.stat().st_size for path in file.files):,} bytes"
    facts |= _attributes(file.attributes)
    if file.skipped:
        facts["skipped"] = some(f"{path} ({why})" for path, why in file.skipped.items())
    if by_class:
        for k, name in enumerate(file.class_names):
            facts[f"class {name}"] = ", ".join(f"{n[k]} {part}" for part, n in per_class.items())
    return _lines(facts)


def describe_run(metrics: dict[str, Any]) -> str:
    """Return what a run is and how it was made, a line a fact.

    Args:
        metrics: of `read_metrics`.
    """
    facts = {name: metrics[name] for name in OF_A_RUN if metrics.get(name) is not None}
    made = {f"features: {k}": v for k, v in _attributes(metrics["extraction"]).items()}
    return _lines(_attributes(facts) | made)


def _photos_of_classes(file: FeatureFile, part: str) -> np.ndarray:
    """Return how many photos each class has in a part of the split, int (classes,)."""
    first = np.unique(file.photo, return_index=True)[1]
    labels = file.labels[first][file.split[first] == part]
    return np.bincount(labels, minlength=len(file.class_names))


def _attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes that say something; a command as it is typed."""
    said = {name: value for name, value in attributes.items() if value not in ("", None)}
    if "command" in said:
        said["command"] = typed(said["command"])
    return said


def _lines(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(printable(f"{name.ljust(width)}  {value}") for name, value in facts.items())
