"""Functions that run commands, in this process or as a separate process."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bilinear_cli.cli import cli
from support.errors import assert_names

ROOT = Path(__file__).parents[2]
BILINEAR = [sys.executable, "-m", "bilinear_cli"]  # needs no script, which an environment may lack


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process that imports the program and `support`."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | variables


def run_python(code: str, *arguments: Any, **variables: str) -> str:
    """Run Python code of the checkout in a new process, and return its stdout."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe, variables = subprocess.PIPE, environment(**variables)
    return subprocess.run(command, check=True, stdout=pipe, text=True, env=variables).stdout


def start_python(code: str, *arguments: Any, **options: Any) -> subprocess.Popen:
    """Start Python code as a separate process; `options` are those of `Popen`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), **options)


def set_quick_options(patch: pytest.MonkeyPatch, batch_size: int) -> None:
    """Set defaults of commands to random weights, small photos and little tuning."""
    for name, command in cli.commands.items():
        if any(parameter.name == "weights" for parameter in command.params):
            patch.setenv(f"BILINEAR_{name.upper()}_WEIGHTS", "random")
    patch.setenv("BILINEAR_EXTRACT_IMAGE_SIZE", "32")
    patch.setenv("BILINEAR_EXTRACT_BATCH_SIZE", str(batch_size))
    patch.setenv("BILINEAR_TRAIN_C", "1")
    patch.setenv("BILINEAR_TRAIN_LABEL_SMOOTHING", "0")
    patch.setenv("BILINEAR_TRAIN_FOLDS", "2")


def run_command(*words: Any, code: int = 0, **options: Any) -> Result:
    """Run a command in this process, check its exit code, and return its result.

    The function restores the program's logger.
    """
    logger = logging.getLogger("bilinear_cli")
    level, handlers = logger.level, logger.handlers
    try:
        result = CliRunner().invoke(cli, [str(word) for word in words], **options)
    finally:
        logger.setLevel(level)
        logger.handlers = handlers
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def error_line(result: Result, *facts: Any) -> str:
    """Return the one error line on stderr, which must contain these facts. Stdout must be empty."""
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert_names(lines[0], *facts)
    return lines[0].removeprefix("Error: ")
