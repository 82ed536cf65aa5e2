"""The commands of the README run as they are printed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import ROOT, run_command, set_quick_options
from support.photos import class_folders, make_photo, use_small_sample
from support.thin_network import thin_networks

from bilinear_cli.training import conv1x1

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
    """Let commands run in an empty folder, with a thin network and little tuning."""
    with thin_networks(CHANNELS) as patch:
        patch.chdir(tmp_path)
        set_quick_options(patch, batch_size=4)
        patch.setattr(conv1x1, "PATIENCE", 1)
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


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b[A-Z]+_(?:HERE|TABLE)\b", README)
