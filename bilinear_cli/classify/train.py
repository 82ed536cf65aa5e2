"""Stage 2: feature file -> selection -> classifier -> figures -> run folder."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.classify import gram, inputs
from bilinear_cli.classify.classifiers import CLASSIFIERS, Linear
from bilinear_cli.classify.metrics import by_photo, evaluate
from bilinear_cli.classify.model import Model, save_model
from bilinear_cli.classify.rows import Rows, choose_rows
from bilinear_cli.classify.select import Options, fit_chosen
from bilinear_cli.data.dataset import Dataset
from bilinear_cli.errors import BilinearError, UsageError, one_of
from bilinear_cli.store import FeatureFile

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "numpy", "scipy", "scikit-learn", "h5py")
Progress = Callable[[int, int], None]


def train(
    file: FeatureFile,
    spec: str,
    options: Options,
    runs: Path,
    *,
    dataset: Dataset | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a classifier on a pooling, score the test photos once, and write the run folder.

    Args:
        file: the features.
        spec: a pooling of the file, or several joined by `+`.
        options: how.
        runs: where run folders are.
        dataset: labels, split and groups to take instead of the file's, by the photos' SHA-256.
        progress: told (done, total) while the features are read.

    Returns:
        What `metrics.json` says.

    Raises:
        BilinearError: there is nothing to learn from.
        UsageError: the options do not fit the file.
    """
    began = time.perf_counter()
    one_of("classifier", options.classifier, CLASSIFIERS)
    rows = choose_rows(file, dataset, options.min_photos)
    stored = _stored(file, spec, options, rows)
    is_train = rows.split == "train"
    learn, test = rows.take(is_train), rows.take(~is_train)
    parts = inputs.fit_parts(
        stored, learn.number, normalize=options.normalize, top_variance=options.top_variance
    )
    d = sum(part.n_features for part in parts)
    reduced = gram.coordinates(
        inputs.blocks(parts, stored, learn.number), len(learn.number), d, progress
    )
    fit = fit_chosen(reduced, learn, options)
    every = np.concatenate([learn.number, test.number])
    weights, offset, projected = gram.recover(
        inputs.blocks(parts, stored, every), len(learn.number), d, reduced.basis @ fit.first.weights
    )
    first = Linear(weights, (fit.first.intercept - offset).astype(np.float32))
    model = Model(first, fit.second, parts, rows.class_names)
    scores = model.rest(projected + first.intercept)
    metrics = {
        **_figures(test, scores),
        **_facts(file, spec, options, learn, test, d),
        **fit.report,
        "bytes": sum(part.n_features * stored[part.spec].dtype.itemsize for part in parts),
        "seconds": round(time.perf_counter() - began, 2),
    }
    folder = runs / _run_name(file, spec, options)
    metrics["run"] = str(folder)
    if folder.exists():
        log.warning("replacing the earlier run %s", folder)
    _write_run(folder, metrics, model, {"oof": (fit.oof_rows, fit.oof), "test": (test, scores)})
    return metrics


def _stored(file: FeatureFile, spec: str, options: Options, rows: Rows) -> dict[str, np.ndarray]:
    specs = spec.split("+")
    if options.top_variance and len(specs) > 1:
        raise UsageError("--top-variance takes one pooling, not several side by side")
    return {name: file.rows(name, rows.number) for name in specs}


# What is written --------------------------------------------------------------------------


def _figures(test: Rows, scores: np.ndarray) -> dict[str, Any]:
    """Return the figures on the test photos; None for each if there are none."""
    if not len(test.number):
        log.warning("no test photos: see the out-of-fold accuracy")
        nothing = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
        return {**dict.fromkeys(nothing), "confused": []}
    first, mean = by_photo(test.photo, scores)
    return evaluate(mean, test.labels[first], test.class_names)


def _facts(
    file: FeatureFile, spec: str, options: Options, learn: Rows, test: Rows, n_features: int
) -> dict[str, Any]:
    return {
        "classifier": options.classifier,
        "pooling": spec,
        "normalize": options.normalize,
        "top_variance": options.top_variance,
        "n_train": len(np.unique(learn.photo)),
        "n_test": len(np.unique(test.photo)),
        "n_rows": len(learn.number) + len(test.number),
        "n_features": n_features,
        "n_classes": len(learn.class_names),
        "seed": options.seed,
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "features_file": str(file.path),
        "extraction": file.attributes,
    }


def _run_name(file: FeatureFile, spec: str, options: Options) -> str:
    words = [file.path.stem, spec]
    words += [f"top{options.top_variance}"] if options.top_variance else []
    words += [options.normalize] if options.normalize != "auto" else []
    return "-".join([*words, options.classifier])


def _write_run(
    folder: Path,
    metrics: dict[str, Any],
    model: Model,
    scored: dict[str, tuple[Rows, np.ndarray]],
) -> None:
    """Write the run folder beside its place, then move it there; an older one goes last."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
        ) as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            new.mkdir()
            text = json.dumps(metrics, indent=1, ensure_ascii=False)
            (new / "metrics.json").write_text(text + "\n", encoding="utf-8")
            save_model(new / "model.npz", model)
            for name, (rows, scores) in scored.items():
                columns = {"paths": rows.paths, "labels": rows.labels, "photo": rows.photo}
                np.savez(new / f"{name}.npz", scores=scores.astype(np.float32), **columns)  # type: ignore[arg-type]
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
    except OSError as error:
        raise BilinearError(f"cannot write {folder}: {error.strerror or error}") from error
