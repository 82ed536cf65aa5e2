"""Run folders like those that `train` writes, and the page of `report`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.photos.lists.manifest import manifest_csv
from bilinear_cli.run import load_model, read_photo_rows, save_model
from bilinear_cli.training.feature_transform import FeatureTransform
from bilinear_cli.training.metrics import calibration, evaluate
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.training.novelty import Novelty
from bilinear_cli.training.primal import Linear
from support.commands import run_command
from support.feature_files import ATTRIBUTES
from support.photos import make_photo

CLASSES = ("auk", "crow", "wren")
TEMPERATURE = 0.5
EXTRACTION = ATTRIBUTES | {"views": "original"}
HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "‮kcalb\u2066 ʇ",
    "שחרור",
    "x" * 300,
    "../../etc/passwd",
    "a|b`c`*d*",
    "{{ 7 * 7 }}",
    "</bdi></table></script>",
)


def make_run(
    folder: Path,
    classes: Sequence[str] = CLASSES,
    *,
    photos: bool = True,
    tested: bool = True,
    per_class: int = 4,
    **metrics: Any,
) -> Path:
    """Write a run folder, and return it.

    Args:
        folder: of the run; its photos are in the folder `photos` beside it.
        photos: False: the photos do not exist.
        tested: False: there are no test photos.
        per_class: number of training photos, and of test photos. One more photo is in no fold.
        metrics: replace values of `metrics.json`.
    """
    folder.mkdir(parents=True)
    root = folder.parent / "photos"
    scores, rows = {}, []
    for split, name in (("train", "oof"), ("test", "test")):
        n = per_class * len(classes) if tested or split == "train" else 0
        labels = np.arange(n) % len(classes)
        paths = [f"{name} {i}.png" for i in range(n)]
        scores[split] = (random_scores(labels, len(classes), seed=len(name)), labels)
        rows += [
            (path, classes[labels[i]], split, f"group of {path}") for i, path in enumerate(paths)
        ]
        sha256 = [""] * n
        if photos:
            files = [make_photo(root / path, seed=i) for i, path in enumerate(paths)]
            sha256 = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        write_scores(folder / f"{name}.npz", *scores[split], paths, sha256=np.array(sha256, "S64"))
    rows.append(("in no fold.png", classes[0], "train", "alone"))
    (folder / "labels.csv").write_text(manifest_csv(rows, folder / "labels.csv"), encoding="utf-8")
    values = metrics_of(scores, np.array(classes), root) | metrics
    save_model(folder / "model.npz", model_of(values, np.array(classes)))
    (folder / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def model_of(metrics: Mapping[str, Any], class_names: np.ndarray) -> Model:
    """Return a model with these metrics, of a pooling that is stored without normalisation."""
    d, k = metrics["n_features"], len(class_names)
    moments = np.zeros(d, np.float32), np.ones(d, np.float32)
    transform = FeatureTransform(metrics["pooling"], None, d, "standard", *moments)
    hidden = metrics.get("hidden", k)
    first, last = (Linear(np.eye(m, n), np.zeros(n)) for m, n in ((d, hidden), (hidden, k)))
    second, temperature = last if "hidden" in metrics else None, metrics["temperature"]
    return Model(first, second, [transform], class_names, temperature=temperature)


def remove_digests(run: Path) -> Path:
    """Remove the digests of a run's files, as in a run of version 0.1, and return the run."""
    path = run / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    metrics.pop("sha256", None)
    path.write_text(json.dumps(metrics), encoding="utf-8")
    return run


def change_model(run: Path, **changes: Any) -> None:
    """Replace fields of a run's model, which then has no recipe, as in a run of version 0.1."""
    save_model(run / "model.npz", replace(load_model(run), **changes))
    remove_digests(run)


def change_metrics(run: Path, **changes: Any) -> None:
    """Replace values of a run's `metrics.json`."""
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


def spread_novelty(run: Path, scores: np.ndarray) -> Novelty:
    """Give a run many held-out photos, whose novelty spreads evenly over that of these scores."""
    model = load_model(run)
    assert model.novelty
    k = len(model.class_names)
    novelty = replace(model.novelty, counts=np.full(k, 66.0))
    values = novelty.score(scores)
    novelty = replace(novelty, known=np.linspace(values.min(), values.max(), 66 * k))
    change_model(run, novelty=novelty)
    return novelty


def random_scores(labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Return scores (n, classes). About two thirds predict the label, others the next class."""
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(len(labels)) < 0.67, labels, (labels + 1) % n_classes)
    noise = rng.normal(0, 0.5, (len(labels), n_classes))
    return (4 * np.eye(n_classes)[predicted] + noise).astype(np.float32)


def write_scores(
    path: Path,
    scores: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    paths: Sequence[str],
    **columns: np.ndarray,
) -> None:
    """Write `test.npz` or `oof.npz` with one row per photo."""
    arrays = {"labels": labels, "paths": np.array(paths, str), "photo": np.arange(len(paths))}
    np.savez(path, scores=scores, **arrays, **columns)  # type: ignore[arg-type]


def replace_photos(
    run: Path,
    name: str,
    scores: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    paths: Sequence[str],
) -> None:
    """Replace the photos of `test.npz` or `oof.npz`, of a run with the classes `CLASSES`."""
    write_scores(run / f"{name}.npz", scores, labels, paths)
    split = "test" if name == "test" else "train"
    rows = [row for row in read_photo_rows(run) if row[2] != split]
    rows += [[x, CLASSES[label], split, x] for x, label in zip(paths, labels, strict=True)]
    (run / "labels.csv").write_text(manifest_csv(rows, run / "labels.csv"), encoding="utf-8")
    change_metrics(run, **{f"n_{split}": len(paths)})
    if name == "test" and len(paths):
        change_metrics(run, calibration=_calibrations(scores, np.array(labels)))


def _calibrations(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the calibration of test photos before and after the division by `TEMPERATURE`."""
    before, after = (calibration(to_probabilities(scores, t), labels) for t in (1, TEMPERATURE))
    return {"before": before, "after": after}


def metrics_of(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: np.ndarray, root: Path
) -> dict[str, Any]:
    """Return the content of `metrics.json`; `scores` is split -> scores and labels."""
    test_scores, labels = scores["test"]
    missing = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
    accuracy: dict[str, Any] = {**dict.fromkeys(missing), "confused": []}
    if len(labels):
        accuracy = evaluate(test_scores, labels, class_names)
        accuracy["calibration"] = _calibrations(test_scores, labels)
    n_train, n_test, n_classes = len(scores["train"][1]) + 1, len(labels), len(class_names)
    extract = json.dumps(["bilinear", "extract", "-o", "x y.h5"])
    train = json.dumps(["bilinear", "train", "--features", "x y.h5"])
    curve = [(0.0, 1.0, 0.5), (0.0, 10.0, 0.7), (0.1, 1.0, 0.6), (0.1, 10.0, 0.65)]
    return {
        **accuracy,
        "temperature": TEMPERATURE,
        **{"classifier": "softmax", "pooling": "max", "normalize": "auto", "top_variance": None},
        **{"n_train": n_train, "n_test": n_test, "n_classes": n_classes, "n_features": 512},
        **{"bytes": 2048, "seed": 0, "versions": "numpy 2", "seconds": 1.0},
        **{"features_file": "x.h5", "fitted_on": "train", "run": "runs/x", "command": train},
        "extraction": EXTRACTION | {"data_root": str(root), "command": extract},
        **{"C": 10.0, "label_smoothing": 0.0, "folds": 5, "oof_top1": 0.7, "oof_log_loss": 1.0},
        "curve": [
            {"label_smoothing": smoothing, "C": c, "top1": top1, "log_loss": 1.0}
            for smoothing, c, top1 in curve
        ],
    }


def report_html(*runs: Path) -> str:
    """Run `report` on these runs, and return the page."""
    output = runs[0].parent / "report.html"
    run_command("report", *runs, "-o", output)
    return output.read_text("utf-8")
