"""That the example of the layer in another network runs, and the README's lines do too."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from bilinear_cli.cli import cli
from bilinear_cli.data import sample

ROOT = Path(__file__).parent.parent


def test_the_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path))
    monkeypatch.setattr(sample, "N_DRAWINGS", 4)
    spec = importlib.util.spec_from_file_location("plug_in", ROOT / "docs" / "plug_in.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(["--weights", "random", "--epochs", "1"])
    said = capsys.readouterr().out
    assert "random weights; chance is 0.083" in said
    accuracies = re.findall(r"^(?:global|Bilinear).* (\d\.\d{3})   \(\d+ s\)$", said, re.M)
    assert len(accuracies) == 2


def python_with(words: str) -> str:
    """Return the README's block of Python that has these words."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (code,) = [block for block in blocks if words in block]
    return code


def test_the_readmes_way_to_use_an_exported_model(
    class_folders: Callable,
    make_photo: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("EXTRACT", "PREDICT", "EXPORT"):
        monkeypatch.setenv(f"BILINEAR_{command}_WEIGHTS", "random")
    class_folders(Path("photos"), {"wren": 3, "robin": 3})
    make_photo(Path("new.jpg"), size=(300, 260), seed=9)
    run = "runs/x-bilinear-softmax"
    for line in (
        "extract --data photos --pooling bilinear --precision float32 --batch-size 2 -o x.h5",
        "train --features x.h5 -C 10 --label-smoothing 0",
        f"export {run} birds.keras",
        f"predict {run} new.jpg --top 1",
    ):
        shown = CliRunner().invoke(cli, line.split())
        assert shown.exit_code == 0, shown.output
    name, probability = shown.stdout.split("\t")[1].split()
    exec(python_with("load_model"), {})
    found, there = capsys.readouterr().out.split()[-2:]  # after the bar of Keras
    assert found == name
    assert float(there) == pytest.approx(float(probability), abs=2e-3)


def test_the_readmes_network(monkeypatch: pytest.MonkeyPatch) -> None:
    code = python_with("BilinearPooling(")
    real = keras.applications.MobileNet
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **how: real(weights=None, **how))
    names = {"n_classes": 3}
    exec(code, names)
    found = names["network"](np.zeros((1, 224, 224, 3), np.float32))
    np.testing.assert_allclose(np.sum(found), 1, rtol=1e-5)
