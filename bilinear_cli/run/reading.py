"""A run folder -> its metrics, its photos and their scores, and the recipe of its features."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.errors import BilinearError
from bilinear_cli.messages import closest_match
from bilinear_cli.photos.lists.manifest import PhotoRecord
from bilinear_cli.recipe import Recipe
from bilinear_cli.run.arrays import (
    BYTES,
    FLOAT,
    INTEGER,
    TEXT,
    Array,
    check_arrays,
    read_arrays,
)
from bilinear_cli.run.damage import read_errors
from bilinear_cli.run.metrics import parse_metrics, parse_recipe

SCORES = {  # of oof.npz and test.npz; earlier versions wrote neither `box` nor `sha256`
    "scores": Array(FLOAT, ("rows", "columns")),
    "labels": Array(INTEGER, ("rows",), lambda x: (x >= 0).all()),
    "paths": Array(TEXT, ("rows",)),
    "photo": Array(INTEGER, ("rows",), lambda x: (x >= 0).all()),
    "box": Array(FLOAT, ("rows", 4)),
    "sha256": Array(BYTES, ("rows",)),
}


def _not_a_run(path: Path) -> str:
    """Return why a path without metrics.json is no run, and what to do."""
    if path.is_file():
        return f"{path} is a file. Give the run folder that bilinear train wrote."
    if (path / "model.npz").is_file():
        return f"{path} is damaged: it has no metrics.json. Train again with bilinear train."
    return f"{path} is not a run of bilinear train, it has no metrics.json{_suggest_run(path)}"


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
        raise BilinearError(_not_a_run(run))
    with read_errors(path):
        return parse_metrics(path.read_text(encoding="utf-8-sig"))


def read_photo_rows(run: Path) -> list[list[str]]:
    """Read path, label, split and group of every photo of a run; raise as `read_scores`."""
    metrics, path = read_metrics(run), run / "labels.csv"
    with read_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        if not (text := file.read()).endswith("\n"):
            raise ValueError("it is empty or cut off")
        heads, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if heads != [*PhotoRecord._fields] or any(len(row) != len(heads) for row in rows):
            raise ValueError("it has other columns")
        n_photos = Counter(PhotoRecord(*row).split for row in rows)
        if n_photos != Counter(train=metrics["n_train"], test=metrics["n_test"]):
            raise ValueError("it has other numbers of photos than metrics.json")
        if len({PhotoRecord(*row).label for row in rows}) != metrics["n_classes"]:
            raise ValueError("it has another number of classes than metrics.json")
        return rows


def read_scores(run: Path, name: str) -> dict[str, np.ndarray]:
    """Read the scores of a run, averaged over the views of each photo.

    `name` is `test`, or `oof` for the out-of-fold scores of the training photos.

    Returns:
        `scores` (photos, classes), `labels` int (photos,), `paths` str (photos,), `box` float
        (photos, 4): the first box of each photo, or zeros, and `sha256` str (photos,): of the
        photos' files at extraction, or empty texts for a run of earlier versions.

    Raises:
        BilinearError: the folder is not a run, or the file is missing or damaged.
    """
    metrics, path = read_metrics(run), run / f"{name}.npz"
    split = "test" if name == "test" else "train"
    labels = [(row[0], row[1]) for row in read_photo_rows(run) if row[2] == split]
    with read_errors(path):
        arrays = read_arrays(path, metrics.get("sha256"))
        photos = _average_views(arrays, metrics["n_classes"])
        n_photos = len(photos["labels"])
        if name == "test":
            has_all = n_photos == metrics["n_test"]
        else:  # a fold may leave photos out, but not all
            has_all = n_photos > 0 or not metrics["folds"]
        if not has_all:
            raise ValueError("it has another number of photos than metrics.json")
        _check_labels(photos, labels)
        return photos


def _check_labels(photos: Mapping[str, np.ndarray], labels: Sequence[tuple[str, str]]) -> None:
    """Raise a ValueError unless the photos are among those of `labels`, with the same labels.

    `labels` are pairs of a path and a name of a class. A label stands for one name.
    """
    paths, name_of = photos["paths"].tolist(), dict(labels)
    if not Counter(paths) <= Counter(path for path, _ in labels):
        raise ValueError("it has other photos than labels.csv")
    names = [name_of[path] for path in paths]
    pairs = {*zip(photos["labels"].tolist(), names, strict=True)}
    if not len(pairs) == len({label for label, _ in pairs}) == len({*names}):
        raise ValueError("it has other labels than labels.csv")


def check_class_names(
    run: Path, photo_rows: Sequence[Sequence[str]], paths: np.ndarray, names: np.ndarray
) -> None:
    """Raise a BilinearError unless photos have the classes of `labels.csv` in a run's model.

    `photo_rows` are those of `read_photo_rows`, and `names` the model's class of each path.
    """
    label_of = {path: label for path, label, *_ in photo_rows}
    with read_errors(run / "model.npz"):
        if [label_of[path] for path in paths] != names.tolist():
            raise ValueError("its class_names are not those of labels.csv")


def _average_views(arrays: dict[str, np.ndarray], n_classes: int) -> dict[str, np.ndarray]:
    """Return what `read_scores` returns, or raise a KeyError or a ValueError."""
    from bilinear_cli.training.metrics import average_views

    n_rows = len(arrays["scores"])
    arrays = {"box": np.zeros((n_rows, 4)), "sha256": np.zeros(n_rows, "S64")} | arrays
    sizes = check_arrays(arrays, SCORES)
    if (n_rows and sizes["columns"] != n_classes) or not (arrays["labels"] < n_classes).all():
        raise ValueError("it has another number of classes than metrics.json")
    first, scores = average_views(arrays["photo"], arrays["scores"])
    rows = zip(*(arrays[name].tolist() for name in ("photo", "paths", "labels")), strict=True)
    if len({*rows}) != len(first):
        raise ValueError("rows of one photo have several paths or labels")
    columns = {name: arrays[name][first] for name in ("labels", "paths", "box")}
    sha256 = arrays["sha256"][first].astype(str)
    return {"scores": scores.reshape(-1, n_classes), **columns, "sha256": sha256}


def read_backbone_path(run: Path) -> str:
    """Return where the ONNX network of a run's features was; empty for another network."""
    return str(read_metrics(run)["extraction"].get("backbone_path", ""))


def read_recipe(run: Path) -> Recipe:
    """Return the recipe of a run's features, for its model's poolings; raise as `read_metrics`."""
    return parse_recipe(read_metrics(run))
