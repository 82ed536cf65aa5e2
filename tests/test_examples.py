"""The examples of every `--help` run as they are printed."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click
import pytest
from support.commands import ROOT, run_command, set_quick_options
from support.dask_processes import thread_worker
from support.photos import class_folders, cub_folder, make_photo, use_small_sample
from support.thin_network import thin_networks

from bilinear_cli.cli import cli

pytestmark = pytest.mark.slow

COMMANDS: dict[str, click.Command] = {"bilinear": cli, **cli.commands}
PREPARED = (
    "extract --data photos --pooling max --pooling bilinear -o x.h5",
    "extract --data photos --pooling conv5 -o maps.h5",
    "extract --data photos -o old.h5",
    "extract --data photos --pooling max --shard 1/2 -o a.h5",
    "extract --data photos --pooling max --shard 2/2 -o b.h5",
    "train --features x.h5 --pooling bilinear",
)


def examples(command: click.Command) -> list[str]:
    """Return the command lines in a command's help."""
    block = (command.help or "").partition("\b\n")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines() if line.strip()]


def run_line(line: str) -> str:
    """Run a command line in the working folder, and return its stdout.

    A shell runs the command before a pipe. The function ignores a redirection to a file.
    """
    shell_command, _, command = line.rpartition(" | ")
    program, *words = shlex.split(command.partition(" > ")[0])
    assert program == "bilinear", line
    expanded = [sorted(map(str, Path().glob(x))) if "*" in x else [x] for x in words]
    process = subprocess.run(shell_command, shell=True, capture_output=True, check=True)
    return run_command(*chain.from_iterable(expanded), input=process.stdout).stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the photos, feature files and runs that the examples use.

    The networks are thin, the sample has few drawings, and training does not tune.
    """
    folder = tmp_path_factory.mktemp("prepared")
    with thin_networks(144) as patch:  # channels, required by --top-variance 20000
        set_quick_options(patch, batch_size=4)
        use_small_sample(patch, tmp_path_factory.mktemp("cache"), 2, 2)
        class_folders(folder / "photos", {"wren": 6, "robin": 6})
        make_photo(folder / "new.jpg", seed=99)
        shutil.copytree(ROOT / "tests/data_files/onnx/dinov2", folder / "dinov2-small")
        cub_folder(folder / "CUB_200_2011")
        patch.chdir(folder)
        for line in PREPARED:
            run_command("-q", *line.split())
        shutil.copytree("runs/x-bilinear-softmax", "runs/birds-bilinear-softmax")
        yield folder


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Return the address of a scheduler with one worker, whose networks are thin, too."""
    with thread_worker() as address:
        yield address


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.cluster if "tcp:" in (command.help or "") else ())
        for name, command in COMMANDS.items()
    ],
)
def test_the_examples_of_help_run(
    name: str,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    lines = examples(COMMANDS[name])
    assert lines
    for line in lines:
        if "tcp://" in line:
            line = line.replace("tcp://host:8786", request.getfixturevalue("scheduler"))
        line = line.replace("/shared/", "")
        outputs = [Path(output) for output in re.findall(r" -o (\S+)", line)]
        for output in outputs:
            output.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            if "--backbone dinov2-small" in line:  # its file decides what these options do
                patch.delenv("BILINEAR_EXTRACT_WEIGHTS")
                patch.delenv("BILINEAR_EXTRACT_IMAGE_SIZE")
            assert run_line(line), line
        assert all(output.stat().st_size > 0 for output in outputs), line


@pytest.mark.parametrize("name", COMMANDS)
def test_all_command_lines_of_help_are_examples(name: str) -> None:
    help_lines = run_command(*([] if name == "bilinear" else [name]), "--help").stdout.splitlines()
    lines = [line.strip() for line in help_lines if re.match(r"  (.* \| )?bilinear ", line)]
    assert lines == examples(COMMANDS[name])
