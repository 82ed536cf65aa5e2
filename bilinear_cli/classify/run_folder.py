"""What training leaves: figures, facts, the model, and scores, in a folder of its own."""

import json
import logging
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.classify.calibration import calibration
from bilinear_cli.classify.metrics import by_photo, evaluate
from bilinear_cli.classify.model import Model, probabilities_of, save_model
from bilinear_cli.classify.rows import Rows
from bilinear_cli.classify.select import Options
from bilinear_cli.data.manifest import manifest
from bilinear_cli.errors import BilinearError
from bilinear_cli.store import FeatureFile

log = logging.getLogger(__name__)

PACKAGES = ("bilinear-cli", "numpy", "scipy", "scikit-learn", "h5py")
THEIRS = {"mlp": ("hidden", "dropout"), "conv1x1": ("channels", "frozen")}  # to be recorded


def figures(test: Rows, scores: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return the figures on the test photos; None for each if there are none."""
    if not len(test.number):
        log.warning("no test photos: see the out-of-fold accuracy")
        nothing = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
        return {**dict.fromkeys(nothing), "confused": [], "temperature": temperature}
    first, mean = by_photo(test.photo, scores)
    labels = test.labels[first]
    before, after = (calibration(probabilities_of(mean, t), labels) for t in (1, temperature))
    return {
        **evaluate(mean, labels, test.class_names),
        "temperature": temperature,
        "calibration": {"before": before, "after": after},
    }


def facts(
    file: FeatureFile, spec: str, options: Options, learn: Rows, test: Rows, model: Model
) -> dict[str, Any]:
    """Return what a run was trained on, with what, and what of it a photo takes in a file."""
    numbers = [
        np.prod(file.shapes[p.spec][1:]) if p.kernel is not None else p.n_features
        for p in model.parts
    ]
    sizes = [file.row_dtype(part.spec).itemsize for part in model.parts]
    return {
        **{name: getattr(options, name) for name in THEIRS.get(options.classifier, ())},
        "classifier": options.classifier,
        "pooling": spec,
        "normalize": options.normalize,
        "top_variance": options.top_variance,
        "n_train": len(np.unique(learn.photo)),
        "n_test": len(np.unique(test.photo)),
        "n_rows": len(learn.number) + len(test.number),
        "n_features": sum(part.n_features for part in model.parts),
        "bytes": int(np.dot(numbers, sizes)),  # of what is read
        "n_classes": len(learn.class_names),
        "seed": options.seed,
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "features_file": " ".join(map(str, file.files)),
        "extraction": file.attributes,
    }


def run_name(file: FeatureFile, spec: str, options: Options) -> str:
    """Return the name of a run's folder, from what sets runs apart."""
    folder = file.path.parent
    kept = folder.name.endswith(".h5.shards")  # a cluster's, whose own names are all alike
    words = [(folder.with_suffix("") if kept else file.path).stem, spec.replace(":", "-")]
    words += [f"top{options.top_variance}"] if options.top_variance else []
    words += [options.normalize] if options.normalize != "auto" else []
    words += [options.classifier]
    if options.classifier == "conv1x1":
        words += [str(options.channels), *(["frozen"] if options.frozen else [])]
    return "-".join(words)


def labels_of(rows: Rows) -> str:
    """Return what the photos were taken for and used for, as a manifest below their root."""
    first = np.unique(rows.photo, return_index=True)[1]
    names = rows.class_names[rows.labels]
    columns = (rows.paths, names, rows.split, rows.group)
    return manifest(zip(*(column[first] for column in columns), strict=True))


def write_run(
    folder: Path,
    metrics: dict[str, Any],
    model: Model,
    scored: dict[str, tuple[Rows, np.ndarray]],
    labels: str,
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
            (new / "labels.csv").write_text(labels, encoding="utf-8", newline="")
            save_model(new / "model.npz", model)
            for name, (rows, scores) in scored.items():
                columns = {"paths": rows.paths, "labels": rows.labels, "photo": rows.photo}
                np.savez(new / f"{name}.npz", scores=scores.astype(np.float32), **columns)  # type: ignore[arg-type]
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(new, folder)
            except BaseException:
                if old.exists():
                    os.replace(old, folder)
                raise
    except OSError as error:
        raise BilinearError(f"cannot write {folder}: {error.strerror or error}") from error
