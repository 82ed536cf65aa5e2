"""`bilinear train`: results on stdout, run folders, labels from elsewhere, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import error_line, run_command
from support.errors import assert_names, assert_suggests
from support.feature_files import write_features
from support.network import use_untrained_networks

pytestmark = pytest.mark.usefixtures("small_network")
CONV1X1 = ("--classifier", "conv1x1", "--channels", "4", "-C", "auto")


def results_of(*words: Any) -> list[dict]:
    return json.loads(run_command("train", *words, "--json").stdout)["results"]


def test_train_prints_a_table_of_all_poolings(features: Path) -> None:
    stdout = run_command("train", "--features", features).stdout
    rows = [line.split("|")[1].strip() for line in stdout.splitlines() if "|" in line]
    assert rows[0] == "pooling"
    assert set(rows[2:]) == {"max", "bilinear"}
    assert Path("runs/x-max-softmax/metrics.json").is_file()


def test_train_prints_one_json_object(features: Path) -> None:
    tuned = ["-C", "auto", "--label-smoothing", "auto", "--folds", "3"]
    (result,) = results_of("--features", features, "--pooling", "max+bilinear", *tuned)
    names = "top1 top1_ci95 top5 mean_per_class_accuracy classifier pooling C n_train n_test n_rows"
    names += " n_features n_classes seed seconds versions features_file run"
    assert set(names.split()) <= set(result)
    assert (result["n_train"], result["n_test"], result["n_rows"]) == (12, 6, 18)
    assert (result["n_features"], result["n_classes"]) == (6 + 21, 3)


@pytest.mark.parametrize(("weight", "n_warnings"), [("none", 1), ("balanced", 0)])
def test_unequal_classes_are_warned_of_once(
    weight: str, n_warnings: int, birds: Path, features: Path
) -> None:
    photos = [path.relative_to(birds) for path in sorted(birds.rglob("*.png"))]
    names, splits = ["jay", *["wren"] * 13, *["robin"] * 3, "jay"], ["train"] * 17 + ["test"]
    rows = [",".join(map(str, row)) for row in zip(photos, names, splits, strict=True)]
    (birds / "unequal.csv").write_text("\n".join(["path,label,split", *rows]))
    options = ["--data", birds / "unequal.csv", "--classifier", "ridge", "--class-weight", weight]
    result = run_command("train", "--features", features, *options)
    lines = [line for line in result.stderr.splitlines() if "--class-weight" in line]
    assert len(lines) == n_warnings
    for line in lines:
        assert_names(line, "10 : 1", 1, 13, "balanced")
    assert "mean class" in result.stdout.splitlines()[0]


def test_novelty_is_a_line_and_an_entry_of_the_json(features: Path, tmp_path: Path) -> None:
    labels = np.arange(50) % 5
    rows = {"max": np.random.default_rng(0).normal(size=(50, 8)) + np.eye(5, 8)[labels]}
    path = write_features(tmp_path / "five.h5", rows, labels, ["train"] * 50)
    (result,) = results_of("--features", path, "--novelty")
    novelty = result["novelty"]
    stdout = run_command("train", "--features", path, "--novelty").stdout
    assert f"{novelty['auroc']:.3f}" in stdout.splitlines()[-1]
    few = run_command("train", "--features", features, "--pooling", "max", "--novelty")
    assert_names(next(line for line in few.stderr.splitlines() if "--novelty" in line), 5, 3)
    assert "novelty" not in json.loads(Path("runs/x-max-softmax/metrics.json").read_text())


@pytest.mark.slow
def test_corrected_labels_of_a_run_change_the_result(birds: Path, features: Path) -> None:
    train = ["--features", features, "--pooling", "max"]
    (before,) = results_of(*train)
    table = Path("runs/x-max-softmax/labels.csv").read_text()
    head, *lines = table.splitlines()
    assert head == "path,label,split,group"
    assert len(lines) == 18
    assert {line.split(",")[1] for line in lines} == {"wren", "robin", "jay"}
    (birds / "corrected.csv").write_text(table)
    (same,) = results_of(*train, "--data", birds / "corrected.csv")
    for name in ("n_train", "n_test", "oof_log_loss"):
        assert same[name] == pytest.approx(before[name])
    (birds / "corrected.csv").write_text(table.replace("0.png,jay", "0.png,wren"))
    (corrected,) = results_of(*train, "--data", birds / "corrected.csv")
    assert corrected["oof_log_loss"] != pytest.approx(before["oof_log_loss"])


@pytest.mark.parametrize(
    ("code", "options", "facts"),
    [
        (1, ["--features", "nowhere.h5"], ["nowhere.h5"]),
        (1, ["--features", "birds/wren/0.png"], ["birds/wren/0.png"]),
        (2, ["--top-variance", "71"], ["--top-variance", 71, 6]),
        (1, ["--min-photos", "19"], [19]),
        (1, ["-o", "birds/wren/0.png"], ["birds/wren/0.png"]),
        (2, ["--scheduler", "local:1", *CONV1X1], ["--scheduler", "conv1x1"]),
    ],
)
def test_bad_input_to_train(
    code: int, options: list[str], facts: list[Any], features: Path
) -> None:
    words = [] if "--features" in options else ["--features", features]
    train = ["train", *words, "--pooling", "max", "-o", "runs", *options]
    error_line(run_command(*train, code=code), *facts)
    assert not Path("runs").exists()


def test_a_file_without_features_for_the_classifier_is_named(birds: Path, features: Path) -> None:
    error_line(run_command("train", "--features", features, *CONV1X1, code=2), features, "maps")
    run_command("extract", "--data", birds, "--pooling", "maps", "-o", "maps.h5")
    error_line(run_command("train", "--features", "maps.h5", code=2), "maps.h5", "conv1x1")


def test_a_misspelt_pooling_of_a_file_is_answered_with_the_nearest(features: Path) -> None:
    train = ["train", "--features", features, "--pooling", "maks"]
    line = error_line(run_command(*train, code=2), features, "maks")
    assert_suggests(line, "max", ["bilinear", "max"])


@pytest.mark.parametrize("pooling", ["compact:16", "bilinear:4", "conv5"])
@pytest.mark.slow
def test_a_run_names_photos_without_its_feature_file(
    pooling: str, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hashes, or the projection, of a pooling are in the run."""
    use_untrained_networks(monkeypatch)
    run_command("extract", "--data", birds, "--pooling", pooling, "-o", "x.h5")
    (result,) = results_of("--features", "x.h5", *(CONV1X1 if pooling == "conv5" else []))
    Path("x.h5").unlink()
    with np.load(Path(result["run"]) / "test.npz") as test:
        scores, paths = test["scores"] / result["temperature"], test["paths"]
    stdout = run_command("predict", result["run"], *(birds / path for path in paths)).stdout
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = -np.sort(-powers / powers.sum(axis=1, keepdims=True), axis=1)
    lines = [line.split("\t")[1:-1] for line in stdout.splitlines()]
    probabilities = [[float(name.split()[-1]) for name in names] for names in lines]
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)
