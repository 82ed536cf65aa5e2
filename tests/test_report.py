"""Tests of the tables and lines that people read."""

import json
from pathlib import Path
from typing import Any

import pytest

from bilinear_cli.errors import BilinearError
from bilinear_cli.report import confused, name_of, read_metrics, table


def result(**others: Any) -> dict[str, Any]:
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
        **others,
    }


RESULTS = [
    result(pooling="max", n_features=512, bytes=2048, seconds=4.0),
    result(),
    result(top_variance=20_000, n_features=10_123, bytes=20_246, top1=1.0, top1_ci95=[0.99, 1]),
    result(classifier="mlp", normalize="standard", top1=None, top1_ci95=None, top5=None),
]


def test_a_table_to_the_letter() -> None:
    assert table(RESULTS[:2]) == (
        "| pooling  | classifier | numbers |   bytes |  top-1 |        95 % |  top-5 |    s |\n"
        "| -------- | ---------- | ------: | ------: | -----: | ----------: | -----: | ---: |\n"
        "| max      | softmax    |     512 |   2,048 | 0.7123 | 0.695-0.729 | 0.9100 |  4.0 |\n"
        "| bilinear | softmax    | 131,328 | 262,656 | 0.7123 | 0.695-0.729 | 0.9100 | 83.2 |"
    )


POST = {"data_kind": "cub", "layer": "block5_pool", "image_size": 224}


def test_the_posts_figures_stand_beside_its_own_setting() -> None:
    lines = table([result(extraction=POST), result(extraction=POST, pooling="avg")]).splitlines()
    last = [line.split("|")[-2].strip() for line in lines]
    assert (last[0], last[2], last[3]) == ("post, 200 species", "0.77", "-")


@pytest.mark.parametrize(
    "other",
    [
        result(extraction=POST | {"data_kind": "folders"}),
        result(extraction=POST | {"layer": "block5_conv3"}),
        result(extraction=POST | {"image_size": 448}),
        result(extraction={}),
        result(extraction=POST, label_smoothing=0.1),
    ],
)
def test_and_beside_no_other(other: dict[str, Any]) -> None:
    assert "post" not in table([result(extraction=POST), other])


@pytest.mark.parametrize("n", range(1, len(RESULTS) + 1))
def test_a_table_is_aligned_and_valid_markdown(n: int) -> None:
    lines = table(RESULTS[:n]).splitlines()
    assert len(lines) == 2 + n
    assert len({len(line) for line in lines}) == 1
    bars = [[i for i, letter in enumerate(line) if letter == "|"] for line in lines]
    assert all(places == bars[0] for places in bars)
    assert len(bars[0]) == 9
    rule = [cell.strip() for cell in lines[1].strip("|").split("|")]
    assert all(cell.rstrip(":").strip("-") == "" and len(cell) >= 3 for cell in rule)
    assert [cell.endswith(":") for cell in rule] == [False] * 2 + [True] * 6


def test_a_run_without_test_photos_has_dashes() -> None:
    cells = [cell.strip() for cell in table([RESULTS[3]]).splitlines()[2].split("|")]
    assert cells[5:8] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ({}, "bilinear"),
        ({"top_variance": 20_000}, "bilinear, top 20,000 by variance"),
        ({"normalize": "none", "pooling": "max+sum"}, "max+sum, none"),
        (
            {"top_variance": 9, "normalize": "sqrt-l2"},
            "bilinear, top 9 by variance, sqrt-l2",
        ),
    ],
)
def test_a_name_says_what_was_trained_on(others: dict[str, Any], name: str) -> None:
    assert name_of(result(**others)) == name


def test_three_confused_pairs_are_named() -> None:
    pairs = [{"count": n, "true": f"auk {n}", "predicted": "crow"} for n in (9, 7, 3, 1)]
    assert confused(result(confused=pairs)) == (
        "bilinear, mean over classes 0.7000, most confused: "
        "auk 9 as crow (9), auk 7 as crow (7), auk 3 as crow (3); "
        "run: runs/x-bilinear-softmax"
    )
    assert (
        confused(result())
        == "bilinear, mean over classes 0.7000, most confused: none; run: runs/x-bilinear-softmax"
    )


def test_metrics_come_back(tmp_path: Path) -> None:
    counts = {"n_train": 4, "n_test": 2, "n_classes": 2}
    (tmp_path / "metrics.json").write_text(
        json.dumps(result(pooling="mäx", **counts)), encoding="utf-8"
    )
    assert read_metrics(tmp_path) == result(pooling="mäx", **counts)


@pytest.mark.parametrize("text", [None, "{", ""])
def test_a_folder_without_metrics_is_one_line(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(BilinearError) as error:
        read_metrics(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} is no run of bilinear train: ")
