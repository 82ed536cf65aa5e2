"""`bilinear extract --scheduler` with an ONNX network: the bytes of one process."""

from pathlib import Path

import pytest
from support.commands import error_line, run_command
from support.onnx_networks import FOLDER
from support.photos import class_folders
from support.shards import assert_same

from bilinear_cli.store import FeatureFile

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_workers_write_the_bytes_of_one_process(
    address: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = class_folders(tmp_path / "birds", {"tit": 4, "wren": 4})
    monkeypatch.chdir(FOLDER)  # the workers are elsewhere
    words = ["extract", "--data", photos, "--backbone", "./dinov2", "--batch-size", "2"]
    words += ["--pooling", "cls", "--pooling", "bilinear"]
    run_command(*words, "--scheduler", address, "-o", output)
    alone = tmp_path / "one" / "y.h5"
    run_command(*words, "-o", alone)
    assert_same(output, alone)
    with FeatureFile(output) as file:
        assert file.recipe.engine == "onnxruntime"


def test_workers_choose_the_batch_size(address: str, output: Path, tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "birds", {"tit": 1, "wren": 1})
    words = ["extract", "--data", photos, "--scheduler", address, "--pooling", "max", "-o", output]
    run_command(*words, "--backbone", FOLDER / "resnet")
    with FeatureFile(output) as file:
        assert file.recipe.batch_size > 0


def test_a_network_without_a_class_token_is_one_line(
    address: str, output: Path, tmp_path: Path
) -> None:
    photos = class_folders(tmp_path / "birds", {"tit": 1, "wren": 1})
    words = ["extract", "--data", photos, "--scheduler", address, "--pooling", "cls", "-o", output]
    error_line(run_command(*words, "--backbone", FOLDER / "siglip", code=2), "cls", "avg")
