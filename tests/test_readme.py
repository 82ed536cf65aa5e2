"""Every command of the README, typed as it stands there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bilinear_cli.cli import cli
from bilinear_cli.data import sample

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
COMMANDS = [[line.split("  #")[0].strip() for line in block.splitlines()] for block in BLOCKS]
# What needs a machine with a GPU, and photos that may not be passed on.
NOT_RUN = {
    "pip install '.[gpu]'",
    "make reproduce DATA=cub100",
    "make bench DATA=cub100",
    "make poolings DATA=cub100",
}
TOUR, MORE = "bilinear predict runs/x-bilinear-softmax photos/wren/new.jpg", "bilinear info x.h5"
SAMPLE = "bilinear extract --pooling bilinear -o x.h5"
CONTROLS = "bilinear train --features grey.h5"


def run_by_ci() -> set[str]:
    """Return `make reproduce`, and what `.ci/as_typed.py` prints where `.ci/run` calls it."""
    (section,) = re.findall(r'as_typed.py "(.*?)"', (ROOT / ".ci/run").read_text("utf-8"))
    script = [sys.executable, ROOT / ".ci/as_typed.py", section]
    typed = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    return {"make reproduce", *(line.split("  #")[0].strip() for line in typed.splitlines())}


def block_with(command: str) -> list[str]:
    (found,) = [block for block in COMMANDS if command in block]
    return found


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], None]:
    """Return a function that types commands in an empty folder, with a small random network."""
    monkeypatch.chdir(tmp_path)
    for command in ("EXTRACT", "PREDICT", "EXPLAIN", "EXPORT", "WEIGHTS"):
        monkeypatch.setenv(f"BILINEAR_{command}_WEIGHTS", "random")
    monkeypatch.setenv("BILINEAR_EXTRACT_IMAGE_SIZE", "32")
    monkeypatch.setenv("BILINEAR_EXTRACT_BATCH_SIZE", "4")

    def run(commands: list[str]) -> None:
        for command in commands:
            program, *arguments = shlex.split(command)
            assert program == "bilinear"
            result = CliRunner().invoke(cli, arguments)
            assert result.exit_code == 0, f"{command}: {result.output}"

    return run


def test_the_tour_with_your_own_photos(
    typed: Callable[[list[str]], None], class_folders: Callable, make_photo: Callable
) -> None:
    class_folders(Path("photos"), {"wren": 3, "robin": 4})
    make_photo(Path("photos/wren/new.jpg"), seed=99)
    photos = sorted(path for path in Path("photos").rglob("*.*"))
    rows = [f"{path.as_posix()},{path.parent.name}" for path in photos]
    Path("photos.csv").write_text("\n".join(["path,label", *rows]))
    typed(block_with(TOUR))
    typed(block_with(MORE))


def test_the_sample(
    typed: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sample, "N_DRAWINGS", 4)
    typed(block_with(SAMPLE))
    typed(block_with(CONTROLS))


def test_every_command_is_run_somewhere() -> None:
    typed_here = {c for first in (TOUR, MORE, SAMPLE, CONTROLS) for c in block_with(first)}
    assert {line for block in COMMANDS for line in block} == typed_here | run_by_ci() | NOT_RUN
    assert "\nmake reproduce\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_no_placeholder_is_left() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert not re.findall(r"\b[A-Z]+_(?:HERE|TABLE)\b", text)
