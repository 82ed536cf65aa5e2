"""The README's Python code, and the example of the layer in another network."""

import functools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from support.commands import ROOT, run_command
from support.photos import class_folders, make_photo, use_small_sample
from support.thin_network import thin_networks

pytestmark = pytest.mark.slow


def test_the_example_trains_both_networks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    use_small_sample(monkeypatch, tmp_path, 3, 2)
    monkeypatch.syspath_prepend(ROOT / "docs")
    import plug_in as example

    monkeypatch.setattr(example, "SIZE", 32)
    # Graphs of MobileNet take ten seconds, and one step of each network does without them.
    eagerly = functools.partialmethod(keras.Sequential.compile, run_eagerly=True)
    monkeypatch.setattr(keras.Sequential, "compile", eagerly)
    example.main(["--weights", "random", "--epochs", "1"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert re.findall(r"\d[\d.]*", head.replace(example.LAYER, "")) == ["3", "3", "3", "0.333"]
    assert example.LAYER in head
    accuracies = [re.fullmatch(r"(.*?) +(\d\.\d{3}) .*", row) for row in rows]
    assert [match[1] for match in accuracies] == list(example.POOLINGS)


def python_with(words: str) -> str:
    """Return the README's block of Python that contains these words."""
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    (code,) = [block for block in blocks if words in block]
    return code


def test_the_readmes_way_to_use_an_exported_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("EXTRACT", "PREDICT", "EXPORT"):
        monkeypatch.setenv(f"BILINEAR_{command}_WEIGHTS", "random")
    class_folders(Path("photos"), {"wren": 3, "robin": 3})
    make_photo(Path("new.jpg"), size=(300, 260), seed=9)
    run = "runs/x-bilinear-softmax"
    with thin_networks():
        for line in (
            "extract --data photos --pooling bilinear --precision float32 --batch-size 2 -o x.h5",
            "train --features x.h5 -C 10 --label-smoothing 0",
            f"export {run} birds.keras",
            f"predict {run} new.jpg --top 1",
        ):
            stdout = run_command(*line.split()).stdout
    name, probability = stdout.split("\t")[1].split()
    exec(python_with("load_model"), {})
    keras_name, keras_probability = capsys.readouterr().out.split()[-2:]  # after Keras's bar
    assert keras_name == name
    assert float(keras_probability) == pytest.approx(float(probability), abs=2e-3)


def test_the_readmes_network(monkeypatch: pytest.MonkeyPatch) -> None:
    original = keras.applications.MobileNet
    monkeypatch.setattr(
        keras.applications, "MobileNet", lambda **options: original(weights=None, **options)
    )
    names = {"n_classes": 3}
    exec(python_with("BilinearPooling("), names)
    probabilities = names["network"](np.zeros((1, 224, 224, 3), np.float32))
    np.testing.assert_allclose(np.sum(probabilities), 1, rtol=1e-5)
