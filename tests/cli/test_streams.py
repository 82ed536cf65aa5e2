"""The standard streams: encodings that lack characters, closed ones, full disks, lost readers."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import environment, run_command, set_quick_options
from support.errors import assert_names
from support.network import use_small_network
from support.photos import class_folders

from bilinear_cli.cli import cli, streams

CLASSES = ("Zaunkönig", "鷦鷯", "🐦 \u200b")
# Encoding -> that of the output, and how it has two classes. Nobody means ASCII.
IN_TEXT = {
    "cp1252": ("cp1252", ["Zaunkönig", r"\u9de6\u9def"]),
    "ascii": ("utf-8", CLASSES[:2]),
}
FULL = Path("/dev/full")

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos, features and a run of classes with such names."""
    folder = tmp_path_factory.mktemp("named")
    class_folders(folder / "birds", dict.fromkeys(CLASSES, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        set_quick_options(patch, batch_size=8)
        use_small_network(patch)
        run_command("extract", "--data", "birds", "--pooling", "max", "-o", "x.h5")
        run_command("train", "--features", "x.h5")
    return folder


Start = Callable[..., int]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that runs a command on given streams as the program does."""
    logger = logging.getLogger("bilinear_cli")
    level, handlers = logger.level, logger.handlers
    streams._warn_of_escapes.cache_clear()

    def run(*words: Any, **files: Any) -> int:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, files.get(name, getattr(sys, name)))
        streams.prepare_streams()
        with pytest.raises(SystemExit) as end:
            cli([*map(str, words)], prog_name="bilinear")
        sys.stdout.flush()  # Python does so at its end
        sys.stderr.flush()
        return int(end.value.code or 0)

    yield run
    logger.setLevel(level)
    logger.handlers = handlers


COMMANDS = {
    "check": ["check", "--data", "birds"],
    "train": ["train", "--features", "x.h5", "-o", "runs2"],
    "info": ["info", "x.h5", "--by-class"],
    "info of a run": ["info", "runs/x-max-softmax", "--by-class"],
    "predict": ["predict", "runs/x-max-softmax", "birds/鷦鷯/0.png"],
    "predict --csv": ["predict", "runs/x-max-softmax", "birds/鷦鷯/0.png", "--csv"],
}
OF_JSON = {
    "check": [*COMMANDS["check"], "--json"],
    "train": [*COMMANDS["train"], "--json"],
    "predict": [*COMMANDS["predict"], "--json"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("encoding", IN_TEXT)
def test_names_that_an_encoding_lacks_are_escaped(
    command: list[str], encoding: str, named: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(named)
    with open("out", "w", encoding=encoding) as out, open("err", "w", encoding=encoding) as err:
        assert start(*command, stdout=out, stderr=err) == 0
    written, names = IN_TEXT[encoding]
    text, messages = (Path(name).read_text(written) for name in ("out", "err"))
    if command[0] != "train":  # which names only those classes that it confuses
        assert_names(" ".join(text.splitlines()), *names)
        lines = [line for line in messages.splitlines() if "PYTHONIOENCODING" in line]
        assert [written in line for line in lines] == [True] * (written == encoding)
    else:
        assert Path("runs2/x-max-softmax/metrics.json").is_file()


@pytest.mark.parametrize("command", OF_JSON.values(), ids=OF_JSON)
def test_json_is_right_in_any_encoding(
    command: list[str], named: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(named)
    with open("out", "w", encoding="cp1252") as out:
        assert start(*command, stdout=out) == 0
    answer = json.loads(Path("out").read_text("ascii"))
    if command[0] == "check":
        assert {*answer["classes"]} == {*CLASSES}
    elif command[0] == "predict":
        assert {x["name"] for x in answer["names"]} == {*CLASSES}


def test_utf8_needs_no_escapes_and_paths_keep_their_bytes(
    named: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(named)
    output = os.fsdecode(b"\xff.md")
    with open("out", "w", encoding="utf-8") as out:
        assert start("predict", "runs/x-max-softmax", "birds", "--json", stdout=out) == 0
    assert "鷦鷯" in Path("out").read_text("utf-8")
    with open("out", "w", encoding="utf-8") as out:
        assert start("report", "runs/x-max-softmax", "-o", output, stdout=out) == 0
    assert Path("out").read_bytes() == b"\xff.md\n"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["info", "x.h5"], ["--help"], ["predict", "--help"]])
def test_a_full_disk_behind_standard_output_is_one_line(
    words: list[str], named: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(named)
    with FULL.open("w") as full, open("err", "w") as err:
        assert start(*words, stdout=full, stderr=err) == 1
    assert_names(Path("err").read_text().removesuffix("\n"), "standard output", "space")


def test_messages_without_a_reader_end_nothing(
    named: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(named)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe, open("out", "w") as out:
        assert start("train", "--features", "x.h5", "-o", "r", stdout=out, stderr=pipe) == 0
        assert start("info", "nothing.h5", stdout=out, stderr=pipe) == 1
    assert Path("r/x-max-softmax/metrics.json").is_file()
    assert "x-max-softmax" in Path("out").read_text()


def test_a_reader_that_goes_away_ends_predict_quietly(
    named: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(named)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe, open("err", "w") as err:
        words = ["-q", "predict", "runs/x-max-softmax", "birds"]
        assert start(*words, stdout=pipe, stderr=err) == 1
    assert Path("err").read_text() == ""


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.slow
def test_closed_streams(prepared: Path, tmp_path: Path) -> None:
    """A file that is opened gets the number of no stream, and lost results are said."""
    code = (
        "import os, sys\n"
        "from bilinear_cli.cli import main\n"
        "def opened(**_):\n"
        "    file = open('new', 'wb')\n"
        "    os.write(2, b'a message of a library')\n"
        "    raise SystemExit(file.fileno() < 3)\n"
        "import bilinear_cli.cli\n"
        "if sys.argv[1] == 'open': bilinear_cli.cli.cli = opened\n"
        "main()\n"
    )

    def run(closed: str, *words: Any) -> subprocess.CompletedProcess:
        shell = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code]
        command = [*shell, *map(str, words)]
        return subprocess.run(command, env=environment(), capture_output=True, text=True)

    assert run("<&- >&- 2>&-", "open").returncode == 0
    assert Path("new").read_bytes() == b""
    lost = run(">&-", "info", prepared / "x.h5")
    assert lost.returncode == 1
    assert_names(lost.stderr.removesuffix("\n"), "standard output")
    kept = run("<&- 2>&-", "info", prepared / "x.h5")
    assert kept.returncode == 0
    assert "x.h5" in kept.stdout
    assert run("2>&-", "info", "nothing.h5").returncode == 1
