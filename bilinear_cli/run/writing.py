"""A trained classifier -> its run folder."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilinear_cli.files import atomic_write, file_sha256, portable_name
from bilinear_cli.photos.lists.manifest import manifest_csv
from bilinear_cli.progress import Progress
from bilinear_cli.run.metrics import ARRAY_FILES, parse_recipe
from bilinear_cli.run.model import save_model
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry

if TYPE_CHECKING:
    from bilinear_cli.photos.photo_set import PhotoSet
    from bilinear_cli.training.options import TrainOptions
    from bilinear_cli.training.reducers import Workers
    from bilinear_cli.training.train import TrainingResult

log = logging.getLogger(__name__)


def train(
    file: FeatureFile,
    spec: str,
    options: "TrainOptions",
    runs: Path,
    *,
    photo_set: "PhotoSet | None" = None,
    command: str = "[]",
    progress: Progress | None = None,
    workers: "Workers | None" = None,
) -> dict[str, Any]:
    """Fit a classifier on a pooling, score the test photos once, and write the run folder.

    Args:
        file, spec, options, photo_set, progress, workers: see `training.train.fit_and_score`.
        runs: the folder of run folders.
        command: the command line to record, a JSON list of words.

    Returns:
        The content of `metrics.json`.

    Raises:
        BilinearError: the rows are too few to train on, or the folder cannot be written.
        FeatureFileError: the file does not state how it was made.
        UsageError: the options do not fit the file.
    """
    from bilinear_cli.training.train import fit_and_score

    file.recipe  # noqa: B018 - raises, before the fit, for attributes that no run can state
    result = fit_and_score(
        file, spec, options, photo_set=photo_set, progress=progress, workers=workers
    )
    folder = runs / run_name(file, spec, options)
    if folder.exists():
        log.warning("replacing the existing run %s", folder)
    metrics = result.metrics | {"run": str(folder), "command": command}
    return write_run(folder, replace(result, metrics=metrics))


def run_name(file: FeatureFile, spec: str, options: "TrainOptions") -> str:
    """Return the name of a run's folder, which states what differs between runs."""
    folder = file.path.parent
    is_of_shards = folder.name.endswith(".h5.shards")  # whose files have the same names everywhere
    words = [(folder.with_suffix("") if is_of_shards else file.path).stem]
    words += [portable_name(spec)]
    words += [f"top{options.top_variance}"] if options.top_variance else []
    words += [options.normalize] if options.normalize != "auto" else []
    words += [options.class_weight] if options.class_weight != "none" else []
    words += [options.classifier, *registry.get_classifier(options.classifier).words(options)]
    return "-".join(words)


def write_run(folder: Path, result: "TrainingResult") -> dict[str, Any]:
    """Write the run folder; an existing one is replaced at the end. Return its metrics."""
    rows = result.rows
    first = np.unique(rows.photo, return_index=True)[1]
    columns = (rows.paths, rows.class_names[rows.labels], rows.split, rows.group)
    photo_rows = zip(*(column[first] for column in columns), strict=True)
    labels = manifest_csv(photo_rows, folder / "labels.csv")
    with atomic_write(folder, replace_folder=True) as new:
        new.mkdir()
        (new / "labels.csv").write_text(labels, encoding="utf-8", newline="")
        save_model(new / "model.npz", result.model, parse_recipe(result.metrics))
        for name, (rows, scores) in result.scores.items():
            arrays = {"paths": rows.paths, "labels": rows.labels, "photo": rows.photo}
            arrays |= {} if rows.box is None else {"box": rows.box}
            if rows.sha256 is not None:
                arrays["sha256"] = rows.sha256.astype("S64")
            np.savez(new / f"{name}.npz", scores=scores.astype(np.float32), **arrays)  # type: ignore[arg-type]
        metrics = result.metrics | {"sha256": {x: file_sha256(new / x) for x in ARRAY_FILES}}
        text = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
        # A path that is not UTF-8 becomes escapes of JSON, and is read as it was
        (new / "metrics.json").write_bytes(text.encode(errors="backslashreplace"))
    return metrics
