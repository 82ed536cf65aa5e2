"""That the example of the layer in another network runs, and the README's lines do too."""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest

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


def test_the_readmes_network(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    real = keras.applications.MobileNet
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **how: real(weights=None, **how))
    names = {"n_classes": 3}
    exec(code, names)
    found = names["network"](np.zeros((1, 224, 224, 3), np.float32))
    np.testing.assert_allclose(np.sum(found), 1, rtol=1e-5)
