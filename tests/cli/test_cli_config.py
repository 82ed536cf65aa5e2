"""Options from a config file and from the environment."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from support.commands import ROOT, error_line, run_command
from support.errors import assert_suggests

from bilinear_cli.cli import cli

pytestmark = pytest.mark.usefixtures("small_network")
CONFIG = Path("c.toml")
OPTIONS = ["image-size", "pooling", "resize", "output"]
CONFIGS = [*(ROOT / "configs").glob("*.toml")]


def test_a_config_sets_defaults_and_flags_have_priority(birds: Path) -> None:
    CONFIG.write_text('[extract]\npooling = ["avg"]\noutput = "c.h5"\nlimit = 6\n')
    extract = ["--config", CONFIG, "extract", "--data", birds]
    assert run_command(*extract).stdout == "c.h5\n"
    assert run_command(*extract, "-o", "d.h5", "--limit", "12").stdout == "d.h5\n"
    with h5py.File("c.h5") as by_config, h5py.File("d.h5") as by_flags:
        assert list(by_config["features"]) == list(by_flags["features"]) == ["avg"]
        assert np.bincount(by_config["labels"]).tolist() == [2, 2, 2]
        assert np.bincount(by_flags["labels"]).tolist() == [4, 4, 4]
        assert (by_config.attrs["limit"], by_flags.attrs["limit"]) == (6, 12)


def test_the_environment_has_priority_over_a_config(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONFIG.write_text('[extract]\nlimit = 9\npooling = "max"')
    monkeypatch.setenv("BILINEAR_EXTRACT_LIMIT", "6")
    run_command("--config", CONFIG, "extract", "--data", birds, "-o", "x.h5")
    with h5py.File("x.h5") as file:
        assert len(file["labels"]) == 6
        assert list(file["features"]) == ["max"]


@pytest.mark.parametrize(
    ("text", "command", "default"),
    [
        ('[extract]\ndata = "vögel"\n[train]\nC = 0.75\n', "extract", "vögel"),
        ('[extract]\ndata = "vögel"\n[train]\nC = 0.75\n', "train", "0.75"),
        ("", "train", "softmax"),
        ("[train]\n", "train", "softmax"),
    ],
)
def test_help_shows_the_defaults_of_a_config(text: str, command: str, default: str) -> None:
    CONFIG.write_text(text, encoding="utf-8")
    assert default in run_command("--config", CONFIG, command, "--help").stdout


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[extract]\nC = 1\n", ["'C'", "extract", "image-size", "pooling", "data"]),
        ("[extract]\n-o = 1\n", ["'-o'", "extract", "image-size", "output"]),
        ("pooling = 'max'\n", ["pooling", *cli.commands]),
        ("train = 'svm'\n", ["train", "[train]"]),
        ("[extract\n", []),
        ("a = 1\na = 2\n", []),
        (b"a = '\xff'\n", []),
        (None, []),
    ],
)
def test_the_error_of_a_bad_config_names_the_file_and_the_known_names(
    text: str | bytes | None, facts: list[str]
) -> None:
    if text is not None:
        CONFIG.write_bytes(text if isinstance(text, bytes) else text.encode())
    error_line(run_command("--config", CONFIG, "extract", code=1), CONFIG, *facts)


@pytest.mark.parametrize(
    ("text", "facts", "known"),
    [
        ("[extract]\nimage_size = 448\n", ["extract", "image_size"], OPTIONS),
        ("[extract]\nimage-siz = 448\n", ["extract", "image-siz"], OPTIONS),
        ("[trane]\nC = 1\n", ["trane"], ["train", *cli.commands]),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    text: str, facts: list[str], known: list[str]
) -> None:
    CONFIG.write_text(text)
    line = error_line(run_command("--config", CONFIG, "extract", code=1), CONFIG, *facts)
    assert_suggests(line, known[0], known)


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_the_configs_of_the_project_are_valid(path: Path) -> None:
    run_command("--config", path, "extract", "--help")
