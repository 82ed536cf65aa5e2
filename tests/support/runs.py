"""Run folders like those that `train` writes, and the page of `report`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bilinear_cli.photos.lists.manifest import manifest_csv
from bilinear_cli.run import load_model, save_model
from bilinear_cli.training.metrics import calibration, evaluate
from bilinear_cli.training.model import Model, to_probabilities
from bilinear_cli.training.novelty import Novelty
from bilinear_cli.training.primal import Linear
from support.commands import run_command
from support.photos import make_photo

CLASSES = ("auk", "crow", "wren")
TEMPERATURE = 0.5
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
        write_scores(folder / f"{name}.npz", *scores[split], paths)
        for i, path in enumerate(paths):
            rows.append((path, classes[labels[i]], split, f"group of {path}"))
            if photos:
                make_photo(root / path, seed=i)
    rows.append(("in no fold.png", classes[0], "train", "alone"))
    (folder / "labels.csv").write_text(manifest_csv(rows, folder / "labels.csv"), encoding="utf-8")
    identity = Linear(np.eye(len(classes)), np.zeros(len(classes)))
    save_model(folder / "model.npz", Model(identity, None, [], np.array(classes)))
    text = json.dumps(metrics_of(scores, np.array(classes), root) | metrics)
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    return folder


def spread_novelty(run: Path, scores: np.ndarray) -> Novelty:
    """Give a run 200 held-out photos, whose novelty spreads evenly over that of these scores."""
    model = load_model(run)
    assert model.novelty
    values = model.novelty.score(scores)
    novelty = replace(model.novelty, known=np.linspace(values.min(), values.max(), 200))
    save_model(run / "model.npz", replace(model, novelty=novelty))
    return novelty


def random_scores(labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Return scores (n, classes). About two thirds predict the label, others the next class."""
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(len(labels)) < 0.67, labels, (labels + 1) % n_classes)
    noise = rng.normal(0, 0.5, (len(labels), n_classes))
    return (4 * np.eye(n_classes)[predicted] + noise).astype(np.float32)


def write_scores(
    path: Path, scores: np.ndarray, labels: Sequence[int] | np.ndarray, paths: Sequence[str]
) -> None:
    """Write `test.npz` or `oof.npz` with one row per photo."""
    photo = np.arange(len(paths))
    np.savez(path, scores=scores, labels=labels, paths=np.array(paths, str), photo=photo)


def metrics_of(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: np.ndarray, root: Path
) -> dict[str, Any]:
    """Return the content of `metrics.json`; `scores` is split -> scores and labels."""
    test_scores, labels = scores["test"]
    missing = ("top1", "top1_ci95", "top5", "mean_per_class_accuracy", "log_loss")
    accuracy: dict[str, Any] = {**dict.fromkeys(missing), "confused": []}
    if len(labels):
        before, after = (
            calibration(to_probabilities(test_scores, t), labels) for t in (1, TEMPERATURE)
        )
        accuracy = evaluate(test_scores, labels, class_names)
        accuracy["calibration"] = {"before": before, "after": after}
    n_train, n_test, n_classes = len(scores["train"][1]), len(labels), len(class_names)
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
        "extraction": {"data_root": str(root), "command": extract},
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
