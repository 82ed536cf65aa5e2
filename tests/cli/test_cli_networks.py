"""Commands with the true networks: VGG16, random and published, and another of Keras's."""

import json
import os
from pathlib import Path

import h5py
import pytest
from support.commands import error_line, run_command
from support.errors import assert_names
from support.photos import class_folders, use_small_sample

from bilinear_cli.networks.weights import Weights

pytestmark = pytest.mark.slow


@pytest.fixture
def few_birds(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "birds", {"wren": 3, "robin": 3})


def test_random_vgg16_from_photos_to_an_exported_model(few_birds: Path) -> None:
    run_command("extract", "--data", few_birds, "--pooling", "bilinear", "-o", "x.h5")
    with h5py.File("x.h5") as file:
        assert (file.attrs["backbone"], file.attrs["layer"]) == ("vgg16", "block5_conv3")
        assert file["features/bilinear"].shape == (6, 512 * 513 // 2)
    run_command("train", "--features", "x.h5")
    Path("x.h5").unlink()
    run = "runs/x-bilinear-softmax"
    line = run_command("predict", run, few_birds / "wren" / "0.png").stdout
    assert len(line.split("\t")) == 4
    result = run_command("export", run, "birds.keras")
    assert result.stdout == "birds.keras\n"
    assert_names(result.stderr.strip(), "RGB", 255, 32, "squash")
    assert Path("birds.keras").stat().st_size > 10**7
    error_line(run_command("export", "nowhere", "x.keras", code=1), "nowhere")


def test_another_network_and_layer(few_birds: Path) -> None:
    extract = ["extract", "--data", few_birds, "--backbone", "MobileNet"]
    path = run_command(*extract, "--pooling", "max", "--pooling", "bilinear:8").stdout.strip()
    assert path == "features/birds-mobilenet-conv_pw_13_relu-32.h5"
    with h5py.File(path) as file:
        assert (file.attrs["backbone"], file.attrs["layer"]) == ("mobilenet", "conv_pw_13_relu")
        assert file["features/max"].shape == (6, 1024)
    run_command(*extract, "--layer", "conv_pw_3_relu", "--pooling", "bilinear", "-o", "y.h5")
    (result,) = json.loads(run_command("train", "--features", "y.h5", "--json").stdout)["results"]
    assert result["n_features"] == 128 * 129 // 2
    line = run_command("predict", result["run"], few_birds / "wren" / "0.png").stdout
    assert len(line.split("\t")) == 4


@pytest.mark.weights
def test_weights_prints_path_digest_and_licence(users_cache: None, real_weights: Weights) -> None:
    lines = run_command("weights").stdout.splitlines()
    table = dict(line.split(maxsplit=1) for line in lines)
    assert table["path"] == str(real_weights.path)
    digest = "98fdd1e15f8015744b35f21229146b494216fb1051982559233b885e48776ac5"
    assert table["sha256"].startswith(digest)
    assert table["published"] == "yes"
    assert "CC BY 4.0" in table["licence"]


@pytest.mark.weights
def test_the_two_commands_on_the_sample(
    real_weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed as in the README, with VGG16's published weights and few of the drawn moths."""
    for name in [name for name in os.environ if name.startswith("BILINEAR_")]:
        monkeypatch.delenv(name)
    use_small_sample(monkeypatch, tmp_path / "cache", 3, 4)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "vgg16.npz").symlink_to(real_weights.path)
    assert run_command("extract", "--pooling", "bilinear", "-o", "x.h5").stdout == "x.h5\n"
    (result,) = json.loads(run_command("train", "--features", "x.h5", "--json").stdout)["results"]
    assert (result["n_train"], result["n_test"], result["n_classes"]) == (6, 6, 3)
    assert result["top1"] > 0.5  # chance is 0.33
