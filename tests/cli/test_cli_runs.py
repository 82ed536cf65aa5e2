"""`bilinear info`, `report` and `explain`, and what a run folder holds."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.commands import error_line, run_command
from support.errors import assert_names

pytestmark = pytest.mark.usefixtures("small_network")


def info(*words: str | Path) -> dict[str, str]:
    """Return what `bilinear info` prints: the first column -> the rest of the line."""
    lines = [line.split("  ", 1) for line in run_command("info", *words).stdout.splitlines()]
    return {name.strip(): value.strip() for name, value in lines}


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d.,]*\d|\d", text)


def test_info_of_a_feature_file(features: Path) -> None:
    table = info(features)
    assert_names(table["bilinear"], 21, "float32", "upper-triangle")
    assert (table["image_size"], table["backbone"]) == ("32", "vgg16")
    assert numbers(table["train"]) == ["12", "4", "4"]
    assert numbers(table["test"]) == ["6", "2", "2"]
    assert numbers(table["size"]) == [f"{features.stat().st_size:,}"]
    assert "class wren" not in table
    assert numbers(info(features, "--by-class")["class wren"]) == ["4", "2"]


def test_info_of_a_run(run: Path) -> None:
    table = info(run)
    assert numbers(table["train"]) == ["12", "4", "4"]
    low, high = map(float, numbers(table["top1_ci95"]))
    assert 0 <= low <= float(table["top1"]) <= high <= 1
    assert table["classifier"] == "softmax"
    assert {"temperature", "classes", "features: backbone", "features: command"} <= set(table)
    assert "class wren" not in table
    assert numbers(info(run, "--by-class")["class wren"]) == ["4", "2"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        RuntimeError("OOM when allocating tensor with shape[3,3,256,512]"),
    ],
)
def test_missing_memory_is_one_line(
    error: Exception, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libraries raise is simulated; tests/test_kills.py has a real limit."""
    monkeypatch.setattr("bilinear_cli.report.text.describe", Mock(side_effect=error))
    error_line(run_command("info", features, code=1), "memory", "ulimit -v")


def test_a_folder_that_is_no_run_is_refused(run: Path) -> None:
    error_line(run_command("info", "birds", code=1), "birds")
    misspelt = error_line(run_command("report", "runs/x-max-sofmax", code=1))
    assert_names(misspelt, "runs/x-max-sofmax", "runs/x-max-softmax")
    assert_names(error_line(run_command("predict", "x.h5", "birds", code=1)), "x.h5", "a file")
    above = error_line(run_command("report", "runs", code=1))
    assert_names(above, "runs", "runs/x-bilinear-softmax")


def test_explain_splits_a_score_into_places_and_pairs_of_channels(run: Path) -> None:
    words = ["explain", "runs/x-bilinear-softmax", "birds/wren/0.png", "--class", "jay"]
    first, sums, places, *pairs, path = run_command(*words).stdout.splitlines()
    name, probability = first.split()
    assert name == "jay"
    assert 0 < float(probability) < 1
    score, intercept, total = map(float, re.findall(r"-?\d+\.\d+", sums))
    assert score == pytest.approx(intercept + total, abs=2e-4)
    above, below = map(float, re.findall(r"-?\d+\.\d+", places))
    assert total == pytest.approx(above + below, abs=2e-4)
    assert len(pairs) == 10
    assert path == "0-explained.png"
    assert Path(path).stat().st_size > 100


def test_explain_refuses_before_it_loads_the_network(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilinear_cli.networks.network.Network.load", None)
    photo = "birds/wren/0.png"
    error_line(run_command("explain", run, photo, code=1), "bilinear")
    words = ["explain", "runs/x-bilinear-softmax", photo, "--class", "robbin"]
    error_line(run_command(*words, code=2), "robbin", "robin")


@pytest.mark.parametrize(
    ("code", "words", "fact"),
    [
        (1, ["predict", "gone.jpg"], "runs/none"),
        (2, ["predict", "gone.jpg"], "gone.jpg"),
        (1, ["explain", "gone.jpg"], "gone.jpg"),
        (1, ["explain", "birds"], "birds"),
        (2, ["explain", "birds/wren/0.png", "--class", "robbin"], "robin"),
        (2, ["export", "x.h5"], ".keras"),
        (1, ["export", "old.keras"], "--overwrite"),
    ],
)
def test_a_wrong_argument_is_refused_before_tensorflow_is_loaded(
    code: int, words: list[str], fact: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("old.keras").write_text("old")
    for module in ("run_network.resolve_locally", "run_network.Network"):
        monkeypatch.setattr(f"bilinear_cli.{module}", None)
    command, *rest = words
    folder = fact if fact == "runs/none" else "runs/x-bilinear-softmax"
    error_line(run_command(command, folder, *rest, code=code), fact)
    assert Path("old.keras").read_text() == "old"


def test_explain_names_an_output_that_cannot_be_written(run: Path) -> None:
    Path("no").write_text("no folder")
    words = ["explain", "runs/x-bilinear-softmax", "birds/wren/0.png", "-o"]
    error_line(run_command(*words, "no/x.png", code=1), "no/x.png")
    error_line(run_command(*words, "x.txt", code=2), "x.txt")
    assert not [*Path().glob(".x*")]
