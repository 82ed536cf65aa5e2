"""Tests of the command `report`: formats, files, errors."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import error_line, run_command
from support.runs import make_run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("command") / "run", photos=False)


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return shutil.copytree(original, tmp_path / "run")


@pytest.mark.slow
def test_the_suffix_chooses_the_format(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.md"
    run_command("report", run, "-o", output)
    assert output.read_text().startswith("# ")
    run_command("report", run, "-o", output, "--format", "html")
    assert output.read_text().startswith("<!DOCTYPE html>")
    result = run_command("report", run, "-o", tmp_path / "x.htlm", code=2)
    error_line(result, tmp_path / "x.htlm", ".html", ".md", "--format")


def test_a_file_with_a_long_name(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new folder" / ("x" * 250 + ".md")
    run_command("report", run, "-o", output)
    assert output.is_file()


def test_the_file_has_the_usual_permissions(run: Path, tmp_path: Path) -> None:
    output, usual = tmp_path / "report.md", tmp_path / "usual"
    run_command("report", run, "-o", output)
    usual.touch()
    assert stat.S_IMODE(output.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_an_earlier_report_stays_if_writing_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "x.md"
    output.parent.mkdir()
    output.write_text("earlier")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    error_line(run_command("report", run, "-o", output, code=1), output, "No space left on device")
    assert [*output.parent.iterdir()] == [output]
    assert output.read_text() == "earlier"


@pytest.mark.parametrize("name", ["test.npz", "oof.npz", "model.npz", "metrics.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"PK",
        lambda data: data[:400],
        lambda data: data.replace(b"1", b"{").replace(b"PK", b"KP", 1),
    ],
    ids=["another", "short", "changed"],
)
def test_a_damaged_run_is_one_line(
    name: str, damage: Callable[[bytes], bytes], run: Path, tmp_path: Path
) -> None:
    (run / name).write_bytes(damage((run / name).read_bytes()))
    error_line(run_command("report", run, "-o", tmp_path / "x.html", code=1), run, name)
    assert not (tmp_path / "x.html").exists()


def test_a_run_of_an_earlier_version_is_one_line(run: Path, tmp_path: Path) -> None:
    (run / "labels.csv").unlink()
    error_line(run_command("report", run, "-o", tmp_path / "x.html", code=1), run, "labels.csv")


@pytest.mark.parametrize("name", ["top5", "n_features", "label_smoothing"])
@pytest.mark.parametrize("output", [[], ["--format", "md"]], ids=["table", "md"])
def test_a_missing_figure_is_named(name: str, output: list[str], run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics[name]
    (run / "metrics.json").write_text(json.dumps(metrics))
    error_line(run_command("report", run, *output, code=1), run, "metrics.json", name)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(
    package: str, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("page", "plots"):  # as if they were never imported
        monkeypatch.delitem(sys.modules, f"bilinear_cli.report.{name}", raising=False)
        monkeypatch.delattr(f"bilinear_cli.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    result = run_command("report", run, "-o", tmp_path / "x.html", code=1)
    error_line(result, package, "pip install 'bilinear-cli[report]'", "--format md")
    assert not (tmp_path / "x.html").exists()
