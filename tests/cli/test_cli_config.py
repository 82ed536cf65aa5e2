"""Options from a config file and from the environment."""

from pathlib import Path

import h5py
import pytest
from support.commands import ROOT, error_line, run_command
from support.errors import assert_names, assert_suggests

from bilinear_cli.cli import cli

pytestmark = pytest.mark.usefixtures("small_network")


def test_a_config_sets_defaults_and_flags_have_priority(birds: Path) -> None:
    Path("c.toml").write_text('[extract]\npooling = ["avg"]\noutput = "c.h5"\nlimit = 9\n')
    extract = ["--config", "c.toml", "extract", "--data", birds]
    assert run_command(*extract).stdout == "c.h5\n"
    assert run_command(*extract, "-o", "d.h5", "--limit", "12").stdout == "d.h5\n"
    with h5py.File("c.h5") as by_config, h5py.File("d.h5") as by_flags:
        assert list(by_config["features"]) == list(by_flags["features"]) == ["avg"]
        assert (len(by_config["labels"]), len(by_flags["labels"])) == (9, 12)


def test_the_environment_has_priority_over_a_config(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("c.toml").write_text("[extract]\nlimit = 9\n")
    monkeypatch.setenv("BILINEAR_EXTRACT_LIMIT", "6")
    options = ["--data", birds, "--pooling", "max", "-o", "x.h5"]
    run_command("--config", "c.toml", "extract", *options)
    with h5py.File("x.h5") as file:
        assert len(file["labels"]) == 6


def test_an_unknown_key_in_a_config_is_answered_with_the_nearest() -> None:
    Path("c.toml").write_text("[extract]\nimage-siz = 64\n")
    line = error_line(run_command("--config", "c.toml", "extract", code=1))
    assert_names(line, "c.toml", "extract", "image-siz")
    known = [o.removeprefix("--") for p in cli.commands["extract"].params for o in p.opts]
    assert_suggests(line, "image-size", [name for name in known if len(name) > 4])


def test_the_configs_of_the_project_are_valid() -> None:
    configs = sorted((ROOT / "configs").glob("*.toml"))
    assert [path.stem for path in configs] == ["birds448", "post", "sample"]
    for path in configs:
        run_command("--config", path, "extract", "--help")
