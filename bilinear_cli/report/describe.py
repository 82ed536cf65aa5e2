"""A feature file or a run -> what it is and how it was made, a line a fact."""

from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import abbreviate, printable, truncate
from bilinear_cli.photos.photo_set import count_photos
from bilinear_cli.report.provenance import typed
from bilinear_cli.run import read_labels, read_metrics
from bilinear_cli.store import FeatureFile, parameter_sha256

OF_A_RUN = (
    *("pooling", "classifier", "top1", "top1_ci95", "oof_top1", "C", "label_smoothing", "epochs"),
    *("temperature", "n_features", "fitted_on", "seed"),
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
    names = np.array(file.class_names)
    counts = count_photos(names[file.labels[photos]], file.split[photos], names)
    facts |= _totals(counts)
    facts["size"] = f"{sum(path.stat().st_size for path in file.files):,} bytes"
    facts |= _attributes(file.attributes)
    if file.skipped:
        facts["skipped"] = abbreviate(f"{path} ({why})" for path, why in file.skipped.items())
    return _lines(facts | _by_class(counts) if by_class else facts)


def describe_run(run: Path, by_class: bool = False) -> str:
    """Return what a run is and how it was made, a line a fact.

    Args:
        run: the folder.
        by_class: say how many photos each class has, too.

    Raises:
        BilinearError: it is no run.
    """
    metrics, labels = read_metrics(run), read_labels(run)
    counts = count_photos([row[1] for row in labels], [row[2] for row in labels])
    facts: dict[str, Any] = {"run": run}
    facts |= {name: metrics[name] for name in OF_A_RUN if metrics.get(name) is not None}
    facts |= _totals(counts)
    facts["size"] = f"{sum(path.stat().st_size for path in run.iterdir()):,} bytes"
    extraction = {f"features: {k}": v for k, v in _attributes(metrics["extraction"]).items()}
    return _lines(_attributes(facts) | extraction | (_by_class(counts) if by_class else {}))


def _totals(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    facts = {}
    for split in ("train", "test"):
        n = [of_class[split] for of_class in counts.values()]
        facts[split] = f"{sum(n)} photos, {min(n)} to {max(n)} of a class"
    return facts | {"classes": str(len(counts))}


def _by_class(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    return {
        f"class {truncate(name)}": f"{n['train']} train, {n['test']} test"
        for name, n in counts.items()
    }


def _attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes that say something; a command as it is typed."""
    return {
        name: typed(value) if name == "command" else value
        for name, value in attributes.items()
        if value not in ("", None)
    }


def _lines(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(printable(f"{name:{width}}  {_text(x)}") for name, x in facts.items())


def _text(value: Any) -> str:
    """Return a fraction, or a list of them, to four places or as few as it needs."""
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
