"""Every example of every `--help`, typed as it stands there."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bilinear_cli.cli import cli
from bilinear_cli.data import sample

COMMANDS: dict[str, click.Command] = {"bilinear": cli, **cli.commands}
# What an example takes that is not made here under that name.
STAND_INS = {"/shared/": "", "tcp://host:8786": "local:1"}
MADE = (
    "extract --data photos --pooling max --pooling bilinear -o x.h5",
    "extract --data photos --pooling conv5 -o maps.h5",
    "extract --data photos -o old.h5",
    "extract --data photos --pooling max --shard 1/2 -o a.h5",
    "extract --data photos --pooling max --shard 2/2 -o b.h5",
    "train --features x.h5 --pooling bilinear -C 1 --label-smoothing 0",
)


def examples(command: click.Command) -> list[str]:
    """Return the lines of a command's help that are to be typed."""
    block = (command.help or "").partition("\b\n")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines() if line.strip()]


def typed(line: str) -> str:
    """Type a line in the folder that is the working one, and return what it prints."""
    before, pipe, after = line.rpartition(" | ")
    words = shlex.split((after if pipe else line).partition(" > ")[0])
    assert words.pop(0) == "bilinear", line
    words = [name for word in words for name in _globbed(word)]
    given = subprocess.run(before, shell=True, capture_output=True, check=True).stdout
    result = CliRunner().invoke(cli, words, input=given)
    assert result.exit_code == 0, f"{line}: {result.output}{result.exception!r}"
    return result.stdout


def _globbed(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Give a small random network, and a sample of few drawings, to all examples."""
    with pytest.MonkeyPatch.context() as patch:
        for command in COMMANDS:
            patch.setenv(f"BILINEAR_{command.upper()}_WEIGHTS", "random")
        patch.setenv("BILINEAR_EXTRACT_IMAGE_SIZE", "32")
        patch.setenv("BILINEAR_EXTRACT_BATCH_SIZE", "4")
        patch.setenv("BILINEAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(sample, "N_DRAWINGS", 4)
        yield patch


@pytest.fixture
def folder(
    prepared: pytest.MonkeyPatch,
    class_folders: Callable[..., Path],
    make_photo: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Work in a folder that has what examples take: photos, feature files, runs."""
    stage = tmp_path_factory.getbasetemp() / "stage-of-examples"
    if not stage.exists():
        class_folders(stage / "photos", {"wren": 6, "robin": 6})
        make_photo(stage / "new.jpg", seed=99)
        _write_cub(stage / "CUB_200_2011", make_photo)
        monkeypatch.chdir(stage)
        for line in MADE:
            typed(f"bilinear -q {line}")
        shutil.copytree("runs/x-bilinear-softmax", "runs/birds-bilinear-softmax")
    shutil.copytree(stage, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def _write_cub(root: Path, make_photo: Callable[..., Path]) -> None:
    photos = [(i, 1 + i // 2, i % 2) for i in range(4)]
    for i, label, _ in photos:
        make_photo(root / "images" / f"00{label}.Bird" / f"{i}.jpg", seed=i)
    tables = {
        "images": [f"{i} 00{label}.Bird/{i}.jpg" for i, label, _ in photos],
        "classes": ["1 001.Bird", "2 002.Bird"],
        "image_class_labels": [f"{i} {label}" for i, label, _ in photos],
        "train_test_split": [f"{i} {train}" for i, _, train in photos],
    }
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_help_run(name: str, folder: Path) -> None:
    lines = examples(COMMANDS[name])
    assert lines
    for line in lines:
        for theirs, ours in STAND_INS.items():
            line = line.replace(theirs, ours)
        output = re.search(r" -o (\S+)", line)
        if output:
            Path(output[1]).unlink(missing_ok=True)
        shown = typed(line)
        assert shown, line
        if output:
            assert Path(output[1]).stat().st_size > 0, line


@pytest.mark.parametrize("name", COMMANDS)
def test_no_example_is_left_out(name: str) -> None:
    shown = CliRunner().invoke(COMMANDS[name], ["--help"]).stdout
    there = [line.strip() for line in shown.splitlines() if re.match(r"  (.* \| )?bilinear ", line)]
    assert there == examples(COMMANDS[name])
