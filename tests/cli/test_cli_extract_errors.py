"""Options of `bilinear extract` that are refused: the exit code, the facts, and nothing written."""

from pathlib import Path
from typing import Any

import h5py
import pytest
from support.commands import error_line, run_command
from support.errors import assert_names, assert_suggests
from support.network import random_kernel, small_network
from support.photos import class_folders

from bilinear_cli.poolings.registry import POOLINGS

pytestmark = pytest.mark.usefixtures("small_network")


def tree() -> list[Path]:
    return sorted(Path().rglob("*"))


def refused(*words: Any, code: int) -> str:
    """Run a command that ends with this code, and return its last line on stderr."""
    before = tree()
    result = run_command("extract", *words, code=code)
    assert tree() == before
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--scales", "32,48", "--pooling", "conv5"], ["conv5", "--scales"]),
        (["--scales", "32,32"], ["--scales", "32,32"]),
        (["--scales", "32,x"], ["--scales", "'x'"]),
        (["--scales", "8"], ["--scales", 8, "x>=32"]),
        (["--shard", "3/2"], ["'3/2'"]),
        (["--shard", "1/99"], [18, 3, 8, 99]),
        (["--no-merge"], ["--no-merge", "--scheduler"]),
        (["--pooling", "compact:0"], ["compact:0", 1]),
        (["--pooling", "bilinear:600"], ["bilinear:600", 6]),
        (["--pooling", "max:3"], ["max:3"]),
        (["--seed", "-1"], ["--seed", "-1", "0<=x<=2147483647"]),
        (["-o", "birds"], ["birds", "--output"]),
        (["-o", "."], [". ", "--output"]),
    ],
)
def test_bad_options(options: list[str], facts: list[Any], birds: Path) -> None:
    assert_names(refused("--data", birds, "-o", "y.h5", *options, code=2), *facts)


@pytest.mark.parametrize(
    ("code", "data", "facts"),
    [
        (1, "nowhere", ["'nowhere'"]),
        (1, "empty", ["empty"]),
        (1, "one", ["one ", "wren"]),
        (1, "no-label.csv", ["no-label.csv", "label"]),
        (1, "no-file.csv", ["no-file.csv", 2, "birds/wren/9.png"]),
        (1, "split.csv", ["split.csv", 2, "'valid'"]),
        (1, "untrained.csv", ["jay"]),
    ],
)
@pytest.mark.slow
def test_bad_photo_sets(code: int, data: str, facts: list[Any], birds: Path) -> None:
    Path("empty").mkdir()
    class_folders(Path("one"), {"wren": 2})
    Path("no-label.csv").write_text("path,species\nbirds/wren/0.png,wren\n")
    Path("no-file.csv").write_text("path,label\nbirds/wren/9.png,wren\n")
    Path("split.csv").write_text("path,label,split\nbirds/wren/0.png,wren,valid\n")
    Path("untrained.csv").write_text(
        "path,label,split\nbirds/wren/0.png,wren,train\nbirds/jay/0.png,jay,test\n"
    )
    line = refused("--data", data, "--pooling", "max", "-o", "y.h5", code=code)
    assert_names(line, *facts)


@pytest.mark.parametrize(
    ("code", "options", "facts"),
    [
        (2, ["--maps", "x.h5", "--data", "birds"], ["--maps", "--data"]),
        (2, ["--maps", "x.h5", "--flip"], ["--maps", "--flip"]),
        (1, ["--maps", "nowhere.h5"], ["nowhere.h5"]),
        (2, ["--maps", "x.h5"], ["x.h5", "max", "bilinear"]),
        (1, ["--projection", "x.h5", "--pooling", "bilinear:4"], ["x.h5", "projection-4"]),
        (1, ["--projection", "x.h5"], ["x.h5", "--pooling"]),
    ],
)
def test_bad_maps_and_projections(
    code: int, options: list[str], facts: list[str], features: Path
) -> None:
    data = [] if "--maps" in options else ["--data", "birds"]
    assert_names(refused(*data, "-o", "y.h5", *options, code=code), *facts)


def test_a_misspelt_pooling_is_answered_with_the_nearest() -> None:
    line = refused("--pooling", "bilinaer", code=2)
    assert "bilinaer" in line
    assert_suggests(line, "bilinear", POOLINGS)


def test_bilinear_of_too_many_channels_is_refused(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = small_network(kernel=random_kernel(1280))
    monkeypatch.setattr("bilinear_cli.networks.load.Network.load", lambda *_: wide)
    line = refused("--data", birds, "--pooling", "bilinear", "-o", "y.h5", code=2)
    assert_names(line, "bilinear", "1,280", "819,840", "compact:8192")


def test_a_file_cannot_stand_where_a_folder_has_to(birds: Path) -> None:
    output = birds / "wren" / "0.png" / "x.h5"
    assert_names(refused("--data", birds, "-o", output, code=1), output)


def test_another_pooling_of_a_complete_file_is_refused(features: Path) -> None:
    before = features.stat().st_mtime_ns
    extract = ["extract", "--data", "birds", "--pooling", "avg", "-o", features]
    line = error_line(run_command(*extract, code=1))
    assert_names(line, features, "bilinear", "max", "avg", "--output", "--overwrite")
    assert features.stat().st_mtime_ns == before
    run_command(*extract, "--overwrite")
    with h5py.File(features) as file:
        assert list(file["features"]) == ["avg"]
