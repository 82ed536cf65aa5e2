"""The commands and the code of README and docs/ run, and the site builds without a broken link."""

import functools
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import keras
import numpy as np
import pytest
from support.boxes import megadetector_file
from support.commands import ROOT, run_command, set_quick_options
from support.network import use_untrained_networks
from support.photos import class_folders, make_photo, use_small_sample
from support.thin_network import thin_networks

from bilinear_cli.cli import cli

DOCS = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {path.stem: path.read_text("utf-8") for path in [*ROOT.glob("*.md"), *DOCS]}
# Pages whose commands run one after the other, in one folder.
YOUR_PHOTOS = (["README", "tasks"], ["tutorial", "reading-the-report"])
SAMPLE = "choosing"
OF_CI = "predict"
RUN = [page for pages in (*YOUR_PHOTOS, [SAMPLE, OF_CI]) for page in pages]
# These commands change the environment, take minutes, or need photos that may not be redistributed.
NOT_RUN = re.compile(r"git clone|cd |python3 -m venv|source |pip install|make \w+ DATA=cub100$")
CONV1X1 = {"BILINEAR_TRAIN_C": "auto", "BILINEAR_TRAIN_CHANNELS": "8"}
CHANNELS = 144  # required by --pooling bilinear:144


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of code of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.M | re.S)


def commands(page: str) -> list[str]:
    """Return the commands of a page, without comments."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)# .*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


# Commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in TEXTS if "bilinear " in str(commands(page))])
def test_the_options_of_commands_exist(page: str) -> None:
    for line in commands(page):
        if match := re.search(r"(?:^|[|(] ?)bilinear ([^|)>]*)", line):
            _, (name, *words), _ = parse(cli, shlex.split(match[1]))
            parse(cli.commands[name], words)


def parse(command: click.Command, words: list[str]) -> tuple[dict, list[str], list]:
    """Return options, arguments and order; raise if an option does not exist."""
    context = click.Context(command, **cli.context_settings)
    return command.make_parser(context).parse_args(words)


@pytest.fixture
def thin_commands(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Let commands run in an empty folder, with a thin network and little training."""
    with thin_networks(CHANNELS) as patch:
        patch.chdir(tmp_path)
        set_quick_options(patch, batch_size=4)
        use_untrained_networks(patch)
        yield patch


def run_page(page: str) -> None:
    """Run the commands of a page that start the program."""
    for line in commands(page):
        program, *words = shlex.split(line)
        if program == "bilinear":
            run_command(*words, env=CONV1X1 if "conv1x1" in words else {})


def prepare_photos() -> None:
    """Make the photos and lists that the pages name."""
    class_folders(Path("photos"), {"wren": 3, "robin": 4})
    rows = [f"{path.parent.name}/{path.name},{path.parent.name}" for path in Path().rglob("*.png")]
    Path("photos/corrected.csv").write_text("\n".join(["path,label", *rows]))
    Path("photos.csv").write_text("\n".join(["path,label", *(f"photos/{row}" for row in rows)]))
    boxes = [("1", 0.9, (0.1, 0.1, 0.8, 0.8))]
    megadetector_file(Path("md.json"), {row.split(",")[0]: boxes for row in rows})
    for name in ("wren", "yellow-billed-cuckoo"):
        make_photo(Path(f"new/{name}.jpg"), seed=99)


@pytest.mark.slow
@pytest.mark.parametrize("pages", YOUR_PHOTOS, ids=str)
def test_commands_for_your_own_photos(pages: list[str], thin_commands: pytest.MonkeyPatch) -> None:
    prepare_photos()
    for page in pages:
        run_page(page)


@pytest.mark.slow
def test_commands_for_the_sample(thin_commands: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_small_sample(thin_commands, tmp_path / "cache", 2, 3)
    run_page(SAMPLE)


def commands_of_ci() -> set[str]:
    """Return the commands of a page that `.ci/as_typed.py` prints for `.ci/run`."""
    (page,) = re.findall(r"as_typed.py (\S+)", (ROOT / ".ci/run").read_text("utf-8"))
    assert page == f"docs/{OF_CI}.md"
    script = [sys.executable, ROOT / ".ci/as_typed.py", page]
    lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split("  #")[0].strip() for line in lines}


def test_every_command_of_these_pages_is_run_by_a_test_or_by_the_ci() -> None:
    lines = {line for page in RUN for line in commands(page) if not NOT_RUN.match(line)}
    tested = {line for page in {*RUN} - {OF_CI} for line in commands(page) if "bilinear " in line}
    assert lines == tested | commands_of_ci() | {"make reproduce", "make test"}
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search("^make reproduce$.*|make test$", ci, re.M)


# The site -------------------------------------------------------------------------------------


def test_a_renewed_table_replaces_the_one_of_before() -> None:
    renewed = runpy.run_path(str(ROOT / "docs" / "tables.py"))["renewed"]
    comparison = "sample\n| pooling |\n| - |\n| max |\n\n| another table |\n"
    before, after = (
        {*page.splitlines()} for page in (TEXTS["choosing"], renewed(TEXTS["choosing"], comparison))
    )
    assert {"| pooling |", "| max |"} < after - before
    assert [line for line in before - after if not line.startswith(("| ", "*Measured"))] == []
    assert "| another table |" not in after


def test_the_page_on_installation_lists_all_extras() -> None:
    table = re.findall(r"^\| (`.*?) \|", TEXTS["install"], re.M)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {*re.findall(r"`(\w+)`", str(table))} == {*extras["optional-dependencies"]}


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_local_links_outside_of_the_site_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


# Python code ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in TEXTS if blocks(page, "(?:python|json)")])
def test_code_parses(page: str) -> None:
    for code in blocks(page, "python"):
        compile(code, page, "exec")
    for text in blocks(page, "json"):
        json.loads(text)


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
    """Return the block of Python that contains these words."""
    (code,) = [block for block in blocks("keras", "python") if words in block]
    return code


@pytest.mark.slow
def test_an_exported_model_is_used_as_documented(
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
def test_the_layer_in_a_network_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    original = keras.applications.MobileNet
    monkeypatch.setattr(
        keras.applications, "MobileNet", lambda **options: original(weights=None, **options)
    )
    names = {"n_classes": 3}
    exec(python_with("BilinearPooling("), names)
    probabilities = names["network"](np.zeros((1, 224, 224, 3), np.float32))
    np.testing.assert_allclose(np.sum(probabilities), 1, rtol=1e-5)
