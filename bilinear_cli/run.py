"""The run folder: metrics, labels, model and scores. Only this module writes and reads it."""

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilinear_cli.errors import BilinearError, Progress, closest_match
from bilinear_cli.files import BROKEN_ZIP, atomic_write, portable_name
from bilinear_cli.photos.lists.manifest import manifest_csv
from bilinear_cli.poolings.registry import check_parameter, get_pooling
from bilinear_cli.recipe import Recipe
from bilinear_cli.store import FeatureFile
from bilinear_cli.training import registry

if TYPE_CHECKING:  # reading metrics imports no library of training
    from bilinear_cli.photos.photo_set import PhotoSet
    from bilinear_cli.training.model import Model
    from bilinear_cli.training.novelty import Novelty
    from bilinear_cli.training.options import TrainOptions
    from bilinear_cli.training.reducers import Workers
    from bilinear_cli.training.train import TrainingResult

log = logging.getLogger(__name__)

# Prefixes of the names of parameters, and of the arrays of a `Novelty`, in model.npz
PARAMETER_PREFIX, NOVELTY_PREFIX = "parameter-", "novelty-"
# What reading a damaged file of a run can raise
READ_ERRORS = (*BROKEN_ZIP, KeyError, AttributeError, csv.Error)
# Fields of a `FeatureTransform` in model.npz
OPTIONAL_ARRAYS = ("columns", "mean", "std", "kernel")
SCALAR_FIELDS = ("n_features", "normalize", "factor")
REQUIRED_METRICS = (
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
        UsageError: the options do not fit the file.
    """
    from bilinear_cli.training.train import fit_and_score

    result = fit_and_score(
        file, spec, options, photo_set=photo_set, progress=progress, workers=workers
    )
    folder = runs / run_name(file, spec, options)
    if folder.exists():
        log.warning("replacing the existing run %s", folder)
    metrics = result.metrics | {"run": str(folder), "command": command}
    write_run(folder, replace(result, metrics=metrics))
    return metrics


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


def write_run(folder: Path, result: "TrainingResult") -> None:
    """Write the run folder; an existing one is replaced at the end."""
    rows = result.rows
    first = np.unique(rows.photo, return_index=True)[1]
    columns = (rows.paths, rows.class_names[rows.labels], rows.split, rows.group)
    photo_rows = zip(*(column[first] for column in columns), strict=True)
    labels = manifest_csv(photo_rows, folder / "labels.csv")
    with atomic_write(folder, replace_folder=True) as new:
        new.mkdir()
        text = json.dumps(result.metrics, indent=1, ensure_ascii=False) + "\n"
        # A path that is not UTF-8 becomes escapes of JSON, and is read as it was
        (new / "metrics.json").write_bytes(text.encode(errors="backslashreplace"))
        (new / "labels.csv").write_text(labels, encoding="utf-8", newline="")
        save_model(new / "model.npz", result.model)
        for name, (rows, scores) in result.scores.items():
            arrays = {"paths": rows.paths, "labels": rows.labels, "photo": rows.photo}
            arrays |= {} if rows.box is None else {"box": rows.box}
            np.savez(new / f"{name}.npz", scores=scores.astype(np.float32), **arrays)  # type: ignore[arg-type]


def save_model(path: Path, model: "Model") -> None:
    """Write a model as plain arrays."""
    arrays = {
        "weights": model.first.weights,
        "intercept": model.first.intercept,
        "class_names": model.class_names,
        "temperature": np.array(model.temperature),
        "poolings": np.array([transform.spec for transform in model.transforms]),
    }
    if model.second:
        arrays |= {"weights2": model.second.weights, "intercept2": model.second.intercept}
    if model.novelty:
        arrays |= {f"{NOVELTY_PREFIX}{name}": x for name, x in vars(model.novelty).items()}
    for i, transform in enumerate(model.transforms):
        values = {name: getattr(transform, name) for name in (*OPTIONAL_ARRAYS, *SCALAR_FIELDS)}
        arrays |= {f"{name}{i}": np.asarray(x) for name, x in values.items() if x is not None}
    # Without the metadata of h5py's types: NumPy warns that it does not store them.
    arrays |= {
        f"{PARAMETER_PREFIX}{name}": x.astype(x.dtype.str) for name, x in model.parameters.items()
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_model(run: Path) -> "Model":
    """Read the model of a run folder.

    Raises:
        BilinearError: the folder has no model, or the model is damaged.
    """
    from bilinear_cli.training.feature_transform import FeatureTransform
    from bilinear_cli.training.model import Model
    from bilinear_cli.training.primal import Linear

    with _open_arrays(run / "model.npz") as x:
        transforms = []
        for i, spec in enumerate(x["poolings"]):
            values: dict[str, Any] = {name: x.get(f"{name}{i}") for name in OPTIONAL_ARRAYS}
            values |= {name: x[f"{name}{i}"].item() for name in SCALAR_FIELDS}
            transforms.append(FeatureTransform(spec=str(spec), **values))
        poolings = [get_pooling(transform.spec) for transform in transforms]
        parameters = {
            name: x[f"{PARAMETER_PREFIX}{name}"]
            for pooling in poolings
            for name in pooling.parameter_names
        }
        for name, array in parameters.items():
            check_parameter(name, array)
        first = Linear(x["weights"], x["intercept"])
        second = Linear(x["weights2"], x["intercept2"]) if "weights2" in x else None
        temperature = float(x.get("temperature", 1.0))
        if not 0 < temperature < np.inf:
            raise ValueError(f"its temperature is {temperature}")
        novelty = _read_novelty(x)
        return Model(first, second, transforms, x["class_names"], parameters, temperature, novelty)


def _read_novelty(arrays: Mapping[str, np.ndarray]) -> "Novelty | None":
    """Return the novelty in model.npz; None if it has none, as in runs of earlier versions.

    Raises:
        ValueError: its arrays do not fit the classes, or are not what `fit_novelty` returns.
    """
    from bilinear_cli.training.novelty import Novelty

    if not any(name.startswith(NOVELTY_PREFIX) for name in arrays):
        return None
    values: dict[str, Any] = {x.name: arrays[f"{NOVELTY_PREFIX}{x.name}"] for x in fields(Novelty)}
    k, n = len(arrays["class_names"]), values["known"].size
    shapes = {"counts": (k,), "mean": (k,), "known": (n,), "temperature": ()}
    for name, array in values.items():
        if array.shape != shapes.get(name, (k, k)) or not np.isfinite(array).all():
            raise ValueError(f"its {NOVELTY_PREFIX}{name} is damaged")
    if np.any(np.diff(values["known"]) < 0) or not values["temperature"] > 0:
        raise ValueError("its novelty is damaged")
    return Novelty(**values | {"temperature": float(values["temperature"])})


def read_novelty(run: Path) -> "Novelty | None":
    """Read the novelty of a run, None if it has none; raise as `load_model`."""
    with _open_arrays(run / "model.npz") as arrays:
        return _read_novelty(arrays)


def require_novelty(run: Path, option: str) -> "Novelty":
    """Read the novelty of a run, which an option needs.

    Raises:
        BilinearError: the run has none, or the model is damaged.
    """
    if novelty := read_novelty(run):
        return novelty
    raise BilinearError(
        f"{run} has no novelty score, which {option} needs: train again with this version, on "
        "classes with several photos"
    )


def _suggest_run(folder: Path) -> str:
    """Return a hint at a run in the folder, or at one beside it with a similar name; maybe none."""
    if inside := sorted(folder.glob("*/metrics.json")):
        return f". It contains runs, such as {inside[0].parent}"
    names = [other.parent.name for other in folder.parent.glob("*/metrics.json")]
    suggestion = closest_match(folder.name, names)
    return f". Did you mean {folder.parent / suggestion}?" if suggestion else ""


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the metrics of a run folder.

    Raises:
        BilinearError: the folder has no metrics, or they are damaged or incomplete.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise BilinearError(
            f"{run} is not a run of bilinear train, it has no metrics.json{_suggest_run(run)}"
        )
    with _damage(path):
        metrics = dict(json.loads(path.read_text(encoding="utf-8")))
        if missing := sorted({*REQUIRED_METRICS} - metrics.keys()):
            raise ValueError(f"it has no {missing[0]}")
        return metrics


def read_photo_rows(run: Path) -> list[list[str]]:
    """Read path, label, split and group of every photo of a run; raise as `read_scores`."""
    with _damage(run / "labels.csv"), (run / "labels.csv").open(encoding="utf-8", newline="") as f:
        return [*csv.reader(f)][1:]


def read_scores(run: Path, name: str) -> dict[str, np.ndarray]:
    """Read the scores of a run, averaged over the views of each photo.

    `name` is `test`, or `oof` for the out-of-fold scores of the training photos.

    Returns:
        `scores` (photos, classes), `labels` int (photos,), `paths` str (photos,), and `box` float64
        (photos, 4): the first box of each photo, or zeros.

    Raises:
        BilinearError: the file is missing or damaged.
    """
    from bilinear_cli.training.metrics import average_views

    with _open_arrays(run / f"{name}.npz") as arrays:
        first, scores = average_views(arrays["photo"], arrays["scores"])
        columns = {column: arrays[column][first] for column in ("labels", "paths")}
        box = arrays["box"][first] if "box" in arrays else np.zeros((len(first), 4))
        return {"scores": scores, **columns, "box": box}


def read_class_names(run: Path) -> np.ndarray:
    """Read the names of the columns of a run's scores, str (classes,); raise as `read_scores`."""
    with _open_arrays(run / "model.npz") as arrays:
        return arrays["class_names"]


@contextmanager
def _open_arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Open an npz file; NumPy by itself does not close a damaged one."""
    with _damage(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        yield arrays


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn the errors of reading a missing or damaged file into a BilinearError."""
    try:
        yield
    except BilinearError:
        raise
    except READ_ERRORS as error:
        advice = "write the run folder again with bilinear train"
        raise BilinearError(f"cannot read {path} ({error}): {advice}") from error


def read_backbone_path(run: Path) -> str:
    """Return where the ONNX network of a run's features was; empty for another network."""
    return str(read_metrics(run)["extraction"].get("backbone_path", ""))


def read_recipe(run: Path) -> Recipe:
    """Return the recipe of a run's features, for its model's poolings; raise as `read_metrics`."""
    metrics = read_metrics(run)
    with _damage(run / "metrics.json"):
        return Recipe.from_attributes(metrics["extraction"], tuple(metrics["pooling"].split("+")))
