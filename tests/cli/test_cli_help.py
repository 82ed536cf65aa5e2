"""Help, version, completion, and answers to words that no command knows."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.commands import BILINEAR, ROOT, environment, error_line, run_command, run_python
from support.errors import assert_names, assert_suggests

from bilinear_cli.cli import cli
from bilinear_cli.networks import weights

# Ctrl-C while Python looks for a module of the program
CTRL_C = """
import os, signal, sys

class Finder:
    def find_spec(name, *_):
        if name == "bilinear_cli.cli.base":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
sys.meta_path.insert(0, Finder)
"""


def modules_of(*words: str) -> set[str]:
    """Return the packages that a process has imported after a command."""
    code = (
        "import sys; from bilinear_cli.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    *printed, modules = run_python(code, *words).splitlines()
    assert printed
    return set(modules.split())


def test_help_imports_no_large_package() -> None:
    large = {"tensorflow", "keras", "numpy", "h5py", "sklearn", "scipy", "dask", "distributed"}
    assert not large & modules_of("--help")


def test_info_imports_neither_tensorflow_nor_sklearn(features: Path) -> None:
    assert not {"tensorflow", "keras", "sklearn", "scipy"} & modules_of("info", str(features))


@pytest.mark.parametrize(
    "command", [[shutil.which("bilinear", path=Path(sys.executable).parent)], BILINEAR]
)
def test_the_installed_script_and_the_package_print_the_version(command: list[str]) -> None:
    process = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert process.stdout == f"{project['version']}\n"
    assert project["scripts"] == {"bilinear": "bilinear_cli.__main__:main"}


def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CTRL_C)
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    process = subprocess.run(BILINEAR, capture_output=True, env=environment(PYTHONPATH=paths))
    assert (process.returncode, process.stdout, process.stderr) == (130, b"", b"")


def test_ctrl_c_during_the_import_of_a_module_in_c_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Simulated: modules made with pybind11 raise an ImportError from a KeyboardInterrupt."""
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    monkeypatch.setattr(weights, "load_vgg16_weights", Mock(side_effect=error))
    error_line(run_command("weights", code=130))


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_and_stands_among_the_common_tasks(command: str) -> None:
    page = run_command(command, "-h").stdout
    names = [name for option in cli.commands[command].params for name in option.opts]
    assert [name for name in names if name.startswith("-") and name not in page] == []
    assert f"bilinear {command} " in (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    line = run_command("extrakt", code=2).stderr
    assert "extrakt" in line
    assert_suggests(line, "extract", cli.commands)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["extract", "--poling", "max"], ["--poling", "--pooling"]),
        (["train", "--features", "x.h5", "--clasifier", "svm"], ["--clasifier", "--classifier"]),
        (["train", "--features", "x.h5", "--classifier", "swm"], ["--classifier", "swm", "svm"]),
    ],
)
def test_an_unknown_option_or_value_is_answered_with_the_nearest(
    words: list[str], facts: list[str]
) -> None:
    stderr = run_command(*words, code=2).stderr
    assert_names(stderr.splitlines()[-1], *facts)
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["extract", "photos"], ["(photos)", "--data"]),
        (["extract", "--pooling", "max", "bilinear"], ["(bilinear)", "each value"]),
        (["extract", "--pooling", "max,avg,"], ["'max,avg,'", "--pooling max --pooling avg"]),
        (["train", "x.h5", "--features", "x.h5"], ["(x.h5)", "--features"]),
        (["train", "-q", "--features", "x.h5"], ["'-q'", "bilinear -q train"]),
        (["info", "x.h5", "--config", "a.toml"], ["bilinear --config info"]),
    ],
)
def test_what_stands_at_a_wrong_place_is_answered_with_the_right_one(
    words: list[str], facts: list[str]
) -> None:
    assert_names(run_command(*words, code=2).stderr.splitlines()[-1], *facts)


def test_the_page_of_commands_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "commands.py"))["page"]()
    assert (ROOT / "docs" / "commands.md").read_text("utf-8") == page, "run make docs"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.slow
def test_shells_complete(shell: str) -> None:
    code = "from bilinear_cli.__main__ import main; main()"
    assert "bilinear" in run_python(code, _BILINEAR_COMPLETE=f"{shell}_source")
    typed = {"COMP_WORDS": "bilinear ex", "COMP_CWORD": "ex" if shell == "fish" else "1"}
    stdout = run_python(code, _BILINEAR_COMPLETE=f"{shell}_complete", **typed)
    words = re.split(r"[\s,]+", stdout)
    assert {"extract", "explain", "export"} <= set(words)
    assert "train" not in words
