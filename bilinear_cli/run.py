"""The run folder: metrics, labels, the model and the scores. It is written and read here alone."""

import csv
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from bilinear_cli.errors import BilinearError, nearest
from bilinear_cli.photos.manifest import manifest_csv
from bilinear_cli.poolings.registry import check_parameter, get_pooling
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry

if TYPE_CHECKING:  # what reads a run's metrics alone takes no library of training
    from bilinear_cli.photos.photo_set import PhotoSet
    from bilinear_cli.training.model import Model
    from bilinear_cli.training.options import TrainOptions
    from bilinear_cli.training.reducers import Progress, Workers
    from bilinear_cli.training.rows import Rows

log = logging.getLogger(__name__)

PARAMETER = "parameter-"  # before the name of one
DAMAGE = (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error)  # of an npz file
OPTIONAL = ("columns", "mean", "std", "kernel")  # arrays of a `FeatureTransform`
NEEDED = (  # of a run's figures, by what shows them
    *("pooling", "classifier", "normalize", "top_variance", "label_smoothing", "n_features"),
    *("bytes", "seconds", "top1", "top5", "mean_per_class_accuracy", "confused", "extraction"),
    *("n_train", "n_test", "n_classes", "run"),
)


def train(
    file: FeatureFile,
    spec: str,
    options: "TrainOptions",
    runs: Path,
    *,
    photo_set: "PhotoSet | None" = None,
    command: str = "[]",
    progress: "Progress | None" = None,
    workers: "Workers | None" = None,
) -> dict[str, Any]:
    """Fit a classifier on a pooling, score the test photos once, and write the run folder.

    Args:
        file, spec, options, photo_set, progress, workers: see `training.train.fit_and_score`.
        runs: where run folders are.
        command: to be recorded, a JSON list of words.

    Returns:
        What `metrics.json` says.

    Raises:
        BilinearError: there is nothing to learn from, or the folder cannot be written.
        UsageError: the options do not fit the file.
    """
    from bilinear_cli.training.train import fit_and_score

    trained = fit_and_score(
        file, spec, options, photo_set=photo_set, progress=progress, workers=workers
    )
    folder = runs / run_name(file, spec, options)
    metrics = trained.metrics | {"run": str(folder), "command": command}
    if folder.exists():
        log.warning("replacing the earlier run %s", folder)
    write_run(folder, metrics, trained.model, trained.scored, labels_of(trained.rows))
    return metrics


def run_name(file: FeatureFile, spec: str, options: "TrainOptions") -> str:
    """Return the name of a run's folder, from what sets runs apart."""
    folder = file.path.parent
    kept = folder.name.endswith(".h5.shards")  # a cluster's, whose own names are all alike
    words = [(folder.with_suffix("") if kept else file.path).stem, spec.replace(":", "-")]
    words += [f"top{options.top_variance}"] if options.top_variance else []
    words += [options.normalize] if options.normalize != "auto" else []
    words += [options.classifier, *registry.get_classifier(options.classifier).words(options)]
    return "-".join(words)


def labels_of(rows: "Rows") -> str:
    """Return what the photos were taken for and used for, as a manifest below their root."""
    first = np.unique(rows.photo, return_index=True)[1]
    names = rows.class_names[rows.labels]
    columns = (rows.paths, names, rows.split, rows.group)
    return manifest_csv(zip(*(column[first] for column in columns), strict=True))


def write_run(
    folder: Path,
    metrics: dict[str, Any],
    model: "Model",
    scored: "dict[str, tuple[Rows, np.ndarray]]",
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


def save_model(path: Path, model: "Model") -> None:
    """Write a model as plain arrays."""
    arrays = {
        "weights": model.first.weights,
        "intercept": model.first.intercept,
        "class_names": model.class_names,
        "temperature": np.array(model.temperature),
        "poolings": np.array([part.spec for part in model.transforms]),
    }
    if model.second:
        arrays |= {"weights2": model.second.weights, "intercept2": model.second.intercept}
    for i, part in enumerate(model.transforms):
        optional = {name: getattr(part, name) for name in OPTIONAL}
        arrays |= {f"{name}{i}": x for name, x in optional.items() if x is not None}
        arrays[f"n_features{i}"] = np.array(part.n_features)
        arrays[f"normalize{i}"] = np.array(part.normalize)
        arrays[f"factor{i}"] = np.array(part.factor)
    # Without the metadata of h5py's types, of which NumPy warns that it does not store it.
    arrays |= {f"{PARAMETER}{name}": x.astype(x.dtype.str) for name, x in model.parameters.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_model(run: Path) -> "Model":
    """Read the model of a run folder.

    Raises:
        BilinearError: there is none, or it is damaged.
    """
    from bilinear_cli.training.feature_transform import FeatureTransform
    from bilinear_cli.training.model import Model
    from bilinear_cli.training.primal import Linear

    path = run / "model.npz"
    if not path.is_file():
        raise BilinearError(f"there is no run in {run}: make one with bilinear train")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x = dict(arrays)
        second = Linear(x["weights2"], x["intercept2"]) if "weights2" in x else None
        parts = [
            FeatureTransform(
                str(spec),
                x.get(f"columns{i}"),
                int(x[f"n_features{i}"]),
                str(x[f"normalize{i}"]),
                x.get(f"mean{i}"),
                x.get(f"std{i}"),
                float(x[f"factor{i}"]),
                x.get(f"kernel{i}"),
            )
            for i, spec in enumerate(x["poolings"])
        ]
        names = [name for part in parts for name in get_pooling(part.spec).parameters]
        parameters = {name: x[f"{PARAMETER}{name}"] for name in names}
        for name in names:
            check_parameter(name, parameters[name])
        linear = Linear(x["weights"], x["intercept"])
        temperature = float(x.get("temperature", 1.0))
        if not 0 < temperature < np.inf:
            raise ValueError(f"its temperature is {temperature}")
        return Model(linear, second, parts, x["class_names"], parameters, temperature)
    except (*DAMAGE, TypeError, RuntimeError) as error:
        raise BilinearError(f"{path} is damaged ({error}): train again") from error


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the figures of a run folder.

    Raises:
        BilinearError: there are none.
    """
    no_run = f"{run} is no run of bilinear train"
    try:
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except OSError as error:
        there = [path.parent.name for path in run.parent.glob("*/metrics.json")]
        hint = f" (did you mean {run.parent / near}?)" if (near := nearest(run.name, there)) else ""
        raise BilinearError(f"{no_run}: its metrics.json: {error.strerror}{hint}") from error
    except ValueError as error:
        raise BilinearError(f"{no_run}: its metrics.json: {error}") from error
    if not isinstance(metrics, dict):
        raise BilinearError(f"{no_run}: its metrics.json is another's")
    if lacking := sorted(set(NEEDED) - metrics.keys()):
        raise BilinearError(f"{no_run}: its metrics.json lacks {lacking[0]}")
    return metrics


def read_labels(run: Path) -> list[list[str]]:
    """Read path, label, split and group of every photo of a run.

    Raises:
        BilinearError: they are missing.
    """
    try:
        with (run / "labels.csv").open(encoding="utf-8", newline="") as f:
            return [*csv.reader(f)][1:]
    except (OSError, ValueError, csv.Error) as error:
        raise BilinearError(f"{run} is no whole run: {error}: train again") from error


def read_scores(run: Path, name: str) -> dict[str, np.ndarray]:
    """Read the scores of a run, averaged over the views of each photo.

    Args:
        run: the folder.
        name: `test`, or `oof` for those of the training photos by their folds.

    Returns:
        `scores` (photos, classes), `labels` int (photos,), `paths` str (photos,).

    Raises:
        BilinearError: the file is missing or damaged.
    """
    from bilinear_cli.training.metrics import average_views

    with _open_arrays(run / f"{name}.npz") as arrays:
        first, scores = average_views(arrays["photo"], arrays["scores"])
        columns = {column: arrays[column][first] for column in ("labels", "paths")}
        return {"scores": scores, **columns}


def read_class_names(run: Path) -> np.ndarray:
    """Read what the scores of a run stand for, str (classes,); raise as `read_scores` does."""
    with _open_arrays(run / "model.npz") as arrays:
        return arrays["class_names"]


@contextmanager
def _open_arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Open a file of arrays; NumPy alone leaves a damaged one open."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except DAMAGE as error:
        why = f"{path.name}: {error}: train again"
        raise BilinearError(f"{path.parent} is no whole run: {why}") from error


def read_recipe(run: Path) -> Recipe:
    """Return how the features of a run were made, of the poolings that its model takes.

    Raises:
        BilinearError: the folder is no run.
    """
    metrics = read_metrics(run)
    try:
        return Recipe.from_attributes(metrics["extraction"], tuple(metrics["pooling"].split("+")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BilinearError(f"{run} does not say how its features were made: {error}") from error
