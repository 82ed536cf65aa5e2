"""Options of `bilinear extract` that are refused: the exit code, the facts, and nothing written."""

from pathlib import Path
from typing import Any

import h5py
import pytest
from support.commands import error_line, run_command
from support.errors import assert_names, assert_suggests
from support.network import random_kernel, small_network

from bilinear_cli.networks.applications import NETWORKS

pytestmark = pytest.mark.usefixtures("small_network")


def refused(*words: Any, code: int) -> str:
    """Run a command that ends with this code, and return its last line on stderr."""
    before = sorted(Path().rglob("*"))
    result = run_command("extract", *words, code=code)
    assert sorted(Path().rglob("*")) == before
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "options", "facts"),
    [
        (2, ["--scales", "32,48", "--pooling", "conv5"], ["conv5", "--scales"]),
        (2, ["--scales", "32,32"], ["--scales", "32,32"]),
        (2, ["--scales", "32,x"], ["--scales", "'x'"]),
        (2, ["--scales", "8"], ["--scales", 8, "x>=32"]),
        (2, ["--shard", "3/2"], ["'3/2'"]),
        (2, ["--no-merge"], ["--no-merge", "--scheduler"]),
        (2, ["--shard", "1/2", "--scheduler", "local:1"], ["--shard", "--scheduler"]),
        (2, ["--seed", "-1"], ["--seed", "-1", "0<=x<=2147483647"]),
        (2, ["-o", "birds"], ["birds", "--output"]),
        (2, ["-o", "."], [". ", "--output"]),
        (1, ["-o", "birds/wren/0.png/x.h5"], ["birds/wren/0.png/x.h5"]),
        (1, ["--data", "nowhere"], ["'nowhere'"]),
        (2, ["--maps", "x.h5"], ["--maps", "--data"]),
        (1, ["--projection", "x.h5", "--pooling", "bilinear:4"], ["x.h5", "projection-4"]),
    ],
)
def test_bad_options(code: int, options: list[str], facts: list[Any], features: Path) -> None:
    assert_names(refused("--data", "birds", "-o", "y.h5", *options, code=code), *facts)


@pytest.mark.parametrize(
    ("code", "options", "facts"),
    [
        (2, ["--flip"], ["--maps", "--flip"]),
        (2, [], ["x.h5", "max", "bilinear"]),
        (1, ["--maps", "nowhere.h5"], ["nowhere.h5"]),
    ],
)
def test_bad_maps(code: int, options: list[str], facts: list[str], features: Path) -> None:
    assert_names(refused("--maps", features, "-o", "y.h5", *options, code=code), *facts)


def test_an_unknown_network_is_answered_with_the_nearest(birds: Path) -> None:
    line = refused("--data", birds, "--backbone", "resnet5", "-o", "y.h5", code=2)
    assert_suggests(line, "resnet50", NETWORKS)


def test_bilinear_of_too_many_channels_is_refused(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = small_network(kernel=random_kernel(1280))
    monkeypatch.setattr("bilinear_cli.networks.load.Network.load", lambda *_: wide)
    line = refused("--data", birds, "--pooling", "bilinear", "-o", "y.h5", code=2)
    assert_names(line, "bilinear", "1,280", "819,840", "compact:8192")


def test_another_pooling_of_a_complete_file_is_refused(features: Path) -> None:
    before = features.stat().st_mtime_ns
    extract = ["extract", "--data", "birds", "--pooling", "avg", "-o", features]
    line = error_line(run_command(*extract, code=1))
    assert_names(line, features, "bilinear", "max", "avg", "--output", "--overwrite")
    assert features.stat().st_mtime_ns == before
    run_command(*extract, "--overwrite")
    with h5py.File(features) as file:
        assert list(file["features"]) == ["avg"]
