"""`bilinear extract` and `bilinear merge`: files, output and refused options."""

import json
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from PIL import Image
from support.commands import error_line, run_command
from support.errors import assert_names, assert_suggests
from support.network import random_kernel, small_network

from bilinear_cli.errors import BadPhotoError
from bilinear_cli.networks.applications import NETWORKS

pytestmark = pytest.mark.usefixtures("small_network")
MAX = ("--pooling", "max")


def network_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command fail if it loads the network."""
    monkeypatch.setattr("bilinear_cli.networks.network.Network.load", None)


def test_extract_prints_the_path_and_the_next_command_for_a_shell(birds: Path) -> None:
    birds.rename("my birds")
    result = run_command("extract", "--data", "my birds", *MAX)
    path = "features/my birds-block5_conv3-32.h5"
    assert result.stdout == f"{path}\n"
    words = shlex.split(result.stderr.splitlines()[-1])
    assert words[-4:] == ["bilinear", "train", "--features", path]
    assert Path(path).is_file()


def test_quiet_leaves_only_the_result_whatever_noise_is_in_exif(birds: Path) -> None:
    noise = b"Exif\0\0II*\0" + bytes(range(200))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    photo.save(birds / "wren" / "new.jpg", exif=noise)
    result = run_command("-q", "extract", "--data", birds, *MAX, "-o", "x.h5")
    assert (result.stdout, result.stderr) == ("x.h5\n", "")


def test_a_complete_file_is_left_as_it_is(
    birds: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_not_loaded(monkeypatch)
    before = features.stat().st_mtime_ns
    result = run_command("extract", "--data", birds, *MAX, "--pooling", "bilinear", "-o", features)
    lines = [line for line in result.stderr.splitlines() if "bilinear train" not in line]
    assert any("x.h5" in line for line in lines)
    assert features.stat().st_mtime_ns == before


@pytest.mark.slow
def test_shards_of_views_are_merged_and_trained_together(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = ["extract", "--data", birds, *MAX, "--flip", "--scales", "32,48"]
    single = run_command(*extract).stdout.strip()
    assert single == "features/birds-block5_conv3-32-48-flip.h5"
    shards = [run_command(*extract, "--shard", f"{i}/2").stdout.strip() for i in (1, 2)]
    assert shards[0] == "features/birds-block5_conv3-32-48-flip-shard1of2.h5"
    assert run_command("merge", *shards, "-o", "merged.h5").stdout == "merged.h5\n"
    with h5py.File("merged.h5") as merged, h5py.File(single) as single_run:
        assert merged["view"].asstr()[:4].tolist() == ["original", "flip", "48", "48-flip"]
        np.testing.assert_array_equal(merged["features/max"][()], single_run["features/max"][()])
    network_not_loaded(monkeypatch)
    run_command(*extract, "-o", "merged.h5")  # it is complete
    runs = []
    for files in (["merged.h5"], shards):
        words = [word for file in files for word in ("--features", file)]
        runs += json.loads(run_command("train", *words, "--json").stdout)["results"]
    assert runs[0]["top1"] == runs[1]["top1"]
    assert (runs[1]["n_rows"], runs[1]["features_file"]) == (72, " ".join(shards))
    error_line(run_command("train", "--features", shards[0], code=1), "2/2", 1)


def test_skip_bad_leaves_out_files_that_are_no_photos(birds: Path) -> None:
    (birds / "wren" / "2.png").write_text("no photo")
    extract = ["extract", "--data", birds, *MAX, "-o", "x.h5"]
    error_line(run_command(*extract, code=1), "wren/2.png", "--skip-bad")
    assert not Path("x.h5").exists()
    result = run_command(*extract, "--skip-bad")
    assert "wren/2.png" in result.stderr
    with h5py.File("x.h5") as file:
        assert file["features/max"].shape == (17, 6)
        assert file["skipped/paths"].asstr()[()].tolist() == ["wren/2.png"]
    assert "wren/2.png" in run_command("info", "x.h5").stdout


def test_a_set_without_a_readable_photo_is_refused(birds: Path) -> None:
    for path in birds.rglob("*.png"):
        path.write_text(f"no photo {path}")
    result = run_command("extract", "--data", birds, *MAX, "-o", "x.h5", "--skip-bad", code=1)
    error_line(result, "birds")
    assert not Path("x.h5").exists()


def test_stored_maps_are_pooled_as_photos_are(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_command("extract", "--data", birds, "--pooling", "conv5", *MAX, "-o", "maps.h5")
    pool = ["extract", "--maps", "maps.h5", "--pooling", "bilinear:4", "--pooling", "compact:16"]
    result = run_command(*pool)
    path = result.stdout.strip()
    assert path == "features/maps-bilinear-4-compact-16.h5"
    assert f"bilinear train --features {path}" in result.stderr.splitlines()[-1]
    before = Path(path).stat().st_mtime_ns
    assert run_command(*pool).stdout.strip() == path
    assert Path(path).stat().st_mtime_ns == before
    options = ["--pooling", "bilinear:4", "--projection", path, "-o", "y.h5"]
    assert run_command("extract", "--data", birds, *options).stdout == "y.h5\n"
    with h5py.File("y.h5") as from_photos, h5py.File(path) as from_maps:
        a, b = (file["features/bilinear:4"][()] for file in (from_photos, from_maps))
        np.testing.assert_allclose(a, b, atol=2e-3)
        assert from_photos["paths"][()].tolist() == from_maps["paths"][()].tolist()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BadPhotoError, 1)])
def test_a_run_that_stops_names_the_option_that_prevents_a_resume(
    error: type[BaseException], code: int, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Mock(side_effect=error("stopped"))
    monkeypatch.setattr("bilinear_cli.extraction.extract.extract", stop)
    extract = ["extract", "--data", birds, "-o", "x.h5"]
    assert "--overwrite" not in error_line(run_command(*extract, code=code))
    assert "--overwrite" in error_line(run_command(*extract, "--overwrite", code=code))


# Options that are refused ------------------------------------------------------------------


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
        (2, ["--seed", "-1"], ["--seed", "-1", "0<=x<=4294967295"]),
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
    monkeypatch.setattr("bilinear_cli.networks.network.Network.load", lambda *_: wide)
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
