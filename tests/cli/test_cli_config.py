"""Options from a config file and from the environment."""

import os
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from support.commands import ROOT, error_line, run_command
from support.errors import assert_names, assert_suggests, warnings
from support.photos import make_photo

from bilinear_cli.cli import cli
from bilinear_cli.cli.config import TEXT, add_environment, long_options, read_config
from bilinear_cli.cli.options import PathType, SpecType
from bilinear_cli.errors import BilinearError

pytestmark = pytest.mark.usefixtures("small_network")
CONFIG = Path("c.toml")
OPTIONS = ["image-size", "pooling", "resize", "output"]
OPTIONS_OF = {name: long_options(command) for name, command in cli.commands.items()}
PATHS_OF = {
    name: {key: x for key, x in options.items() if isinstance(x.type, PathType | SpecType)}
    for name, options in OPTIONS_OF.items()
}
TOML_VALUES = {
    *("true", "64", "0.5", "nan", "'text'", "''", "[]", "['text']", "[[64]]", "{}", "{a = 1}"),
    *("1979-05-27", "07:32:00"),
}
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
def test_help_shows_the_defaults_of_a_config(
    text: str, command: str, default: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILINEAR_TRAIN_C")
    CONFIG.write_text(text, encoding="utf-8")
    assert default in run_command("--config", CONFIG, command, "--help").stdout


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[extract]\nC = 1\n", ["'C'", "extract", "image-size", "pooling", "data"]),
        ("[extract]\n-o = 1\n", ["'-o'", "extract", "image-size", "output"]),
        ("pooling = 'max'\n", ["pooling", *(f"[{name}]" for name in cli.commands)]),
        ("train = 'svm'\n", ["train", "[train]"]),
        ("[extract\n", []),
        ("a = 1\na = 2\n", []),
        ("a = " + "[" * 5000, []),
        ("a = " + "9" * 5000, []),
        (b"a = '\xff'\n", ["UTF-8"]),
        (b"\xef\xbb\xbf[train]\r\ndata = 5\r\n", ["[train] data"]),
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


# Types of values ---------------------------------------------------------------------------


def config_error(name: str, key: str, value: str) -> str:
    """Return the error of a config that sets one option to a TOML value; empty if it is taken."""
    CONFIG.write_text(f"[{name}]\n{key} = {value}\n", encoding="utf-8")
    try:
        read_config(CONFIG, cli.commands)
    except BilinearError as error:
        assert_names(str(error), f"{CONFIG}: [{name}] {key}: ")
        return str(error)
    return ""


def taken_values(key: str, option: click.Option) -> set[str]:
    """Return those of `TOML_VALUES` that an option takes."""
    special = {"columns": {"{}"}, "scales": {"64", "[]"}, "C": {"64", "0.5"}}
    special |= {"label-smoothing": {"0.5"}, "layer": {"'text'", "''"}}
    special |= {"shard": {"'text'", "''"}, "class": {"'text'", "''"}}
    if key in special:
        return special[key]
    if option.is_flag:
        return {"true"}
    if option.multiple:
        return {"'text'", "[]", "['text']"} | ({"''"} if key == "pooling" else set())
    if isinstance(option.type, click.Choice):
        return set()
    if isinstance(option.type, click.FloatRange):
        return {"0.5"}
    return {"64"} if isinstance(option.type, click.IntRange) else {"'text'"}


@pytest.mark.parametrize("name", cli.commands)
def test_an_option_takes_only_values_of_its_type(name: str) -> None:
    for key, option in OPTIONS_OF[name].items():
        taken = {value for value in TOML_VALUES if not config_error(name, key, value)}
        assert taken == taken_values(key, option), key


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("extract", "flip", "false", False),
        ("extract", "limit", "6", "6"),
        ("extract", "scales", "[224, 320]", [224, 320]),
        ("extract", "columns", "{path = 'file'}", {"path": "file"}),
        ("extract", "pooling", "'max'", ["max"]),
        ("train", "C", "'auto'", "auto"),
        ("train", "C", "1e-3", "0.001"),
        ("predict", "csv", "true", "csv"),
        ("train", "json", "true", True),
    ],
)
def test_a_value_becomes_what_the_command_line_gives(
    name: str, key: str, value: str, expected: Any
) -> None:
    assert not config_error(name, key, value)
    assert [*read_config(CONFIG, cli.commands)[name].values()] == [expected]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limit", "0"),
        ("limit", "3.0"),
        ("limit", "'abc'"),
        ("margin", "'nan'"),
        ("margin", "-inf"),
        ("min-confidence", "1e999"),
        ("scales", "[224, true]"),
        ("resize", "'Crop'"),
        ("output", r'"a\u0000b"'),
        ("columns", "{path = ''}"),
        ("pooling", "['max', ['avg']]"),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: str) -> None:
    assert config_error("extract", key, value)


@pytest.mark.parametrize(("name", "key"), [("train", "C"), ("train", "folds"), ("check", "margin")])
def test_true_in_place_of_a_number_is_named_as_in_toml(name: str, key: str) -> None:
    assert_names(config_error(name, key, "true"), "number", "true or false")


@pytest.mark.parametrize("option", ["-C", "--label-smoothing", "--dropout"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-0.5", "auto-0"])
def test_what_is_no_number_is_refused(option: str, value: str) -> None:
    result = run_command("train", option, value, code=2)
    assert_names(error_line(result), option)


# The environment ---------------------------------------------------------------------------


def example(option: click.Option) -> str:
    """Return text that an option takes."""
    if option.is_flag:
        return "yes"
    if isinstance(option.type, click.Choice):
        return str(option.type.choices[0])
    if option.name == "columns":
        return "path=file"
    if isinstance(option.type, click.IntRange) or option.name == "scales":
        return "64"
    return "text" if isinstance(option.type, TEXT) else "0.5"


@pytest.mark.parametrize("name", cli.commands)
def test_each_option_has_a_variable_of_its_long_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, option in OPTIONS_OF[name].items():
        text = example(option)
        monkeypatch.setenv(f"BILINEAR_{name}_{key}".upper().replace("-", "_"), text)
        default = add_environment(name, cli.commands[name], {})[option.name]
        if option.is_flag:
            assert default is True or default == key
        else:
            assert default == ([text] if option.multiple else text), key


def test_variables_with_several_values(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILINEAR_EXTRACT_POOLING", "max  avg")
    run_command("extract", "--data", "birds", "-o", "y.h5")
    with h5py.File("y.h5") as file:
        assert list(file["features"]) == ["avg", "max"]
    monkeypatch.setenv("BILINEAR_TRAIN_FEATURES", os.pathsep.join(["x.h5", "y.h5"]))
    assert_names(error_line(run_command("train", code=1)), "x.h5", "y.h5")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "LIMIT", "FLIP", "OUTPUT"):
        monkeypatch.setenv(f"BILINEAR_EXTRACT_{name}", "")
    assert (
        not {"data", "limit", "flip", "output"}
        & add_environment("extract", cli.commands["extract"], {}).keys()
    )


def test_a_variable_unsets_a_flag_of_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"form": "json"}
    monkeypatch.setenv("BILINEAR_PREDICT_JSON", "0")
    assert "form" not in add_environment("predict", cli.commands["predict"], config)
    monkeypatch.setenv("BILINEAR_PREDICT_CSV", "1")
    assert add_environment("predict", cli.commands["predict"], config)["form"] == "csv"
    monkeypatch.setenv("BILINEAR_EXTRACT_FLIP", "0")
    defaults = add_environment("extract", cli.commands["extract"], {"flip": True})
    assert defaults["flip"] is False


def test_a_wrong_variable_is_named_by_its_command_only(
    features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILINEAR_EXTRACT_LIMIT", "abc")
    error_line(run_command("extract", code=2), "BILINEAR_EXTRACT_LIMIT: ", "'abc'")
    run_command("info", features)


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("BILINEAR_EXTRACT_IMAGESIZE", "BILINEAR_EXTRACT_IMAGE_SIZE"),
        ("BILINEAR_CACHE_DIR", "BILINEAR_CACHE"),
        ("BILINEAR_INFO_WEIGHTS", "WEIGHTS"),
    ],
)
def test_an_unknown_variable_is_warned_of_once(
    variable: str,
    nearest: str,
    features: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(variable, "448")
    monkeypatch.setenv("BILINEAR_EMPTY", "")
    monkeypatch.setenv("BILINEAR_QUIET", "0")
    run_command("info", features)
    (warning,) = warnings(caplog)
    assert_names(warning, variable, nearest)


def test_variables_of_the_group(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CONFIG.write_text("[train]\noutput = 'elsewhere'\n[extract]\nnovelty = 1\n")
    monkeypatch.setenv("BILINEAR_CONFIG", str(CONFIG))
    error_line(run_command("info", features, code=1), CONFIG, "novelty")
    monkeypatch.setenv("BILINEAR_CONFIG", "")
    monkeypatch.setenv("BILINEAR_QUIET", "perhaps")
    error_line(run_command("info", features, code=2), "BILINEAR_QUIET", "perhaps")


# Paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cli.commands)
def test_an_empty_path_is_refused(name: str) -> None:
    for key in PATHS_OF[name]:
        error_line(run_command(name, f"--{key}", "", code=2), f"--{key}", "empty")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "run", ""],
        ["predict", "", "x.png"],
        ["report", ""],
        ["merge", "", "-o", "x.h5"],
        ["info", ""],
        ["explain", "run", ""],
        ["export", "run", ""],
        ["--config", "", "info", "x.h5"],
    ],
)
def test_an_empty_argument_is_refused(words: list[str]) -> None:
    error_line(run_command(*words, code=2), "empty")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder, which is not the working folder."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", cli.commands)
def test_the_home_folder_is_known_everywhere(name: str, home: Path) -> None:
    for key, option in PATHS_OF[name].items():
        assert str(option.type.convert("~/x", option, None)) == str(home / "x"), key
        result = run_command(name, f"--{key}", "~nobody-here/x", code=2)
        error_line(result, f"--{key}", "~nobody-here/x")


def test_home_in_a_config_a_variable_and_a_list(
    birds: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    birds.rename(home / "birds")
    rows = [f"~/birds/{name}/{i}.png,{name}" for name in ("jay", "wren") for i in (0, 1, 2)]
    (home / "list.csv").write_text("\n".join(["path,label", *rows]))
    CONFIG.write_text("[extract]\ndata = '~/list.csv'\npooling = 'max'\n")
    monkeypatch.setenv("BILINEAR_EXTRACT_OUTPUT", "~/x.h5")
    run_command("--config", CONFIG, "extract")
    with h5py.File(home / "x.h5") as file:
        assert len(file["labels"]) == 6
    assert run_command("info", "~/x.h5").stdout
    assert not Path("~").exists()


def test_a_name_that_only_begins_with_a_tilde(run: Path, home: Path) -> None:
    """Office programs write such files, and a shell finds them for `*.png`."""
    for name in ("~$1.png", "~/2.png"):
        make_photo(Path(name))
    lines = run_command("predict", run, "~$1.png", "./~/2.png").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["~$1.png", "~/2.png"]
    make_photo(home / "3.png")
    listed = run_command("predict", run, "-", input="~$1.png\n./~/2.png\n~/3.png\n").stdout
    names = [line.split("\t")[0] for line in listed.splitlines()]
    assert names == ["~$1.png", "~/2.png", str(home / "3.png")]
