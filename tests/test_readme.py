"""The commands and the Python code of the README run, and `docs/plug_in.py` with them."""

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from support.commands import ROOT, run_command, set_quick_options
from support.network import use_untrained_networks
from support.photos import class_folders, make_photo, use_small_sample
from support.thin_network import thin_networks

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
COMMANDS = [[line.split("  #")[0].strip() for line in block.splitlines()] for block in BLOCKS]
# These commands need a GPU, or photos that may not be redistributed.
NOT_RUN = {
    "pip install '.[gpu]'",
    "make reproduce DATA=cub100",
    "make bench DATA=cub100",
    "make poolings DATA=cub100",
}
# One command of each block that runs here.
QUICK_START = "bilinear predict runs/x-bilinear-softmax photos/wren/new.jpg"
COMMON_TASKS = "bilinear info x.h5"
SAMPLE = "bilinear extract --pooling bilinear -o x.h5"
CONTROLS = "bilinear train --features grey.h5"
CONV1X1 = {"BILINEAR_TRAIN_C": "auto", "BILINEAR_TRAIN_CHANNELS": "8"}
CHANNELS = 144  # required by --pooling bilinear:144


def block_with(command: str) -> list[str]:
    (block,) = [block for block in COMMANDS if command in block]
    return block


def run_block(command: str) -> None:
    """Run the block of the README that contains this command."""
    for line in block_with(command):
        program, *words = shlex.split(line)
        assert program == "bilinear"
        run_command(*words, env=CONV1X1 if "conv1x1" in words else {})


@pytest.fixture
def thin_commands(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Let commands run in an empty folder, with a thin network and little training."""
    with thin_networks(CHANNELS) as patch:
        patch.chdir(tmp_path)
        set_quick_options(patch, batch_size=4)
        use_untrained_networks(patch)
        yield patch


@pytest.mark.slow
def test_commands_for_your_own_photos(thin_commands: pytest.MonkeyPatch) -> None:
    class_folders(Path("photos"), {"wren": 3, "robin": 4})
    make_photo(Path("photos/wren/new.jpg"), seed=99)
    photos = sorted(Path("photos").rglob("*.*"))
    rows = [f"{path.as_posix()},{path.parent.name}" for path in photos]
    Path("photos.csv").write_text("\n".join(["path,label", *rows]))
    run_block(QUICK_START)
    run_block(COMMON_TASKS)


@pytest.mark.slow
def test_commands_for_the_sample(thin_commands: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_small_sample(thin_commands, tmp_path / "cache", 2, 3)
    run_block(SAMPLE)
    run_block(CONTROLS)


def commands_of_ci() -> set[str]:
    """Return `make reproduce`, and the commands that `.ci/as_typed.py` prints for `.ci/run`."""
    (section,) = re.findall(r'as_typed.py "(.*?)"', (ROOT / ".ci/run").read_text("utf-8"))
    script = [sys.executable, ROOT / ".ci/as_typed.py", section]
    lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    return {"make reproduce", *(line.split("  #")[0].strip() for line in lines)}


def test_every_command_is_run_by_a_test_or_by_the_ci() -> None:
    blocks = [block_with(x) for x in (QUICK_START, COMMON_TASKS, SAMPLE, CONTROLS)]
    tested = {command for block in blocks for command in block}
    assert {line for block in COMMANDS for line in block} == tested | commands_of_ci() | NOT_RUN
    assert "\nmake reproduce\n" in (ROOT / ".ci" / "run").read_text("utf-8")


# Python code ----------------------------------------------------------------------------------


@pytest.mark.slow
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
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    (code,) = [block for block in blocks if words in block]
    return code


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_readmes_network(monkeypatch: pytest.MonkeyPatch) -> None:
    original = keras.applications.MobileNet
    monkeypatch.setattr(
        keras.applications, "MobileNet", lambda **options: original(weights=None, **options)
    )
    names = {"n_classes": 3}
    exec(python_with("BilinearPooling("), names)
    probabilities = names["network"](np.zeros((1, 224, 224, 3), np.float32))
    np.testing.assert_allclose(np.sum(probabilities), 1, rtol=1e-5)
