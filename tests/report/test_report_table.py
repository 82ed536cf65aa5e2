"""Tests of the tables and lines that people read."""

from pathlib import Path
from typing import Any

import pytest
from support.commands import run_command
from support.errors import assert_names, raises
from support.pages import markdown_cells
from support.runs import make_run

from bilinear_cli.errors import BilinearError
from bilinear_cli.report.text import confused_pairs_line, features_label, have_same_photos, table
from bilinear_cli.run import read_metrics


def metrics(**changes: Any) -> dict[str, Any]:
    """Return a run's metrics, as far as a table needs them."""
    return {
        "pooling": "bilinear",
        "classifier": "softmax",
        "top_variance": None,
        "normalize": "auto",
        "n_features": 131_328,
        "bytes": 262_656,
        "top1": 0.71234,
        "top1_ci95": [0.6953, 0.7287],
        "top5": 0.91,
        "seconds": 83.25,
        "confused": [],
        "mean_per_class_accuracy": 0.7,
        "label_smoothing": 0.0,
        "extraction": {"data_kind": "cub", "layer": "block5_conv3", "image_size": 224},
        "run": "runs/x-bilinear-softmax",
        **changes,
    }


def test_runs_of_the_same_kind_have_their_names() -> None:
    runs, names = [metrics(), metrics(), metrics(pooling="max")], ["runs/x", "runs/new", "runs/m"]
    heads, _, *rows = markdown_cells(table(runs, names).splitlines())
    assert [heads[:2], *(row[:2] for row in rows)] == [
        ["run", "pooling"],
        *(["runs/x", "bilinear"], ["runs/new", "bilinear"], ["runs/m", "max"]),
    ]
    assert markdown_cells(table(runs[1:], names[1:]).splitlines())[0][0] == "pooling"


def test_runs_on_other_photos_are_not_comparable(tmp_path: Path) -> None:
    photos = [{"n_train": 9, "folds": i, "extraction": {"data_sha256": "aab"[i]}} for i in range(3)]
    assert [have_same_photos(photos[:2]), have_same_photos(photos)] == [True, False]
    runs = [make_run(tmp_path / f"{n}", photos=False, per_class=n) for n in (4, 5)]
    warned = run_command("report", *runs)
    assert [str(run) in warned.stdout for run in runs] == [True, True]
    assert "compare" in warned.stderr
    assert "compare" in run_command("report", *runs, "--format", "md").stdout
    assert run_command("report", runs[0]).stderr == ""


POST = {"data_kind": "cub", "layer": "block5_pool", "image_size": 224}


def cells(*runs: dict[str, Any]) -> list[list[str]]:
    """Return the cells of a table: its heads, its rule, its rows."""
    return markdown_cells(table(runs).splitlines())


def test_a_table_is_aligned_and_has_a_row_for_each_run() -> None:
    untested = {"top1": None, "top1_ci95": None, "top5": None}
    runs = [
        metrics(),
        metrics(pooling="avg", n_features=512, bytes=2048, seconds=4, top1=1, top1_ci95=[0.99, 1]),
        metrics(pooling="max", classifier="mlp", normalize="standard", **untested),
    ]
    assert table(runs).splitlines() == [
        "| pooling       | classifier | numbers |   bytes |  top-1 |        95 % |  top-5 |    s |",
        "| ------------- | ---------- | ------: | ------: | -----: | ----------: | -----: | ---: |",
        "| bilinear      | softmax    | 131,328 | 262,656 | 0.7123 | 0.695-0.729 | 0.9100 | 83.2 |",
        "| avg           | softmax    |     512 |   2,048 | 1.0000 | 0.990-1.000 | 0.9100 |  4.0 |",
        "| max, standard | mlp        | 131,328 | 262,656 |      - |           - |      - | 83.2 |",
    ]


def test_the_posts_figures_stand_beside_its_own_recipe() -> None:
    heads, _, *rows = cells(metrics(extraction=POST), metrics(extraction=POST, pooling="avg"))
    assert len(heads) == 9
    assert [row[8] for row in rows] == ["0.77", "-"]


@pytest.mark.parametrize(
    "changes",
    [
        {"extraction": POST | {"data_kind": "folders"}},
        {"extraction": POST | {"layer": "block5_conv3"}},
        {"extraction": POST | {"image_size": 448}},
        {"extraction": {}},
        {"extraction": POST, "label_smoothing": 0.1},
    ],
)
def test_the_posts_figures_stand_beside_no_other_recipe(changes: dict[str, Any]) -> None:
    assert {len(row) for row in cells(metrics(extraction=POST), metrics(**changes))} == {8}


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"top_variance": 20_000}, ["bilinear", "20,000"]),
        ({"normalize": "none", "pooling": "max+sum"}, ["max+sum", "none"]),
        ({"top_variance": 9, "normalize": "sqrt-l2"}, ["bilinear", "9", "sqrt-l2"]),
        ({"channels": 144, "frozen": False, "pooling": "conv5"}, ["conv5", "144"]),
    ],
)
def test_a_name_says_what_was_trained_on(changes: dict[str, Any], facts: list[str]) -> None:
    name = features_label(metrics(**changes))
    assert name.startswith(facts[0])
    assert all(fact in name for fact in facts)


@pytest.mark.parametrize(("n_train_per_class", "column"), [([3, 30], False), ([3, 31], True)])
def test_mean_class_accuracy_stands_beside_top1_if_classes_are_unequal(
    n_train_per_class: list[int], column: bool
) -> None:
    untested = {"top1": None, "top1_ci95": None, "top5": None, "mean_per_class_accuracy": None}
    runs = [metrics(n_train_per_class=n_train_per_class), metrics(), metrics(**untested)]
    columns = [list(cells) for cells in zip(*cells(*runs), strict=True)]
    means = [x[2:] for x in columns if x[0] == "mean class"]
    assert means == ([["0.7000", "0.7000", "-"]] if column else [])
    assert len(columns) == 8 + column


def test_balanced_classes_are_named_with_the_classifier() -> None:
    rows = cells(metrics(), metrics(class_weight="balanced"))
    assert [row[1] for row in rows[2:]] == ["softmax", "softmax, balanced"]


def test_the_defaults_are_not_in_a_name() -> None:
    assert features_label(metrics()) == "bilinear"
    frozen, trained = (
        features_label(metrics(channels=9, frozen=frozen)) for frozen in (True, False)
    )
    assert frozen.startswith(trained)
    assert frozen != trained


def test_the_three_most_confused_pairs_are_named() -> None:
    pairs = [{"count": n, "true": f"auk {n}", "predicted": "crow"} for n in (9, 7, 3, 1)]
    line = confused_pairs_line(metrics(confused=pairs))
    counted = ["auk 9", "(9)", "auk 7", "(7)", "auk 3", "(3)"]
    assert_names(line, "bilinear", "0.7000", *counted, "runs/x-bilinear-softmax")
    assert line.count("crow") == 3
    assert "auk 1" not in line
    assert_names(confused_pairs_line(metrics()), "bilinear", "0.7000", "runs/x-bilinear-softmax")


@pytest.mark.parametrize("text", [None, "{", "", "[]"])
def test_a_folder_without_metrics_is_one_line(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with raises(BilinearError, tmp_path, "metrics.json"):
        read_metrics(tmp_path)
