"""A folder with photos, a feature file of the small network, and runs, made once."""

import shutil
from pathlib import Path

import pytest
from support.commands import run_command, set_quick_options
from support.network import use_small_network
from support.photos import class_folders


@pytest.fixture(autouse=True)
def _quick_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, with the smallest photos, and without tuning."""
    monkeypatch.chdir(tmp_path)
    _set_options(monkeypatch)


def _set_options(patch: pytest.MonkeyPatch) -> None:
    set_quick_options(patch, batch_size=8)
    patch.delenv("BILINEAR_WEIGHTS_WEIGHTS")  # `bilinear weights` prints the published ones
    patch.setenv("BILINEAR_EXTRACT_PRECISION", "float32")


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands with the small network: 4 x 4 maps of 6 channels."""
    use_small_network(monkeypatch)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with birds/, x.h5 (max and bilinear), and a run of each pooling."""
    folder = tmp_path_factory.mktemp("prepared")
    class_folders(folder / "birds", {"wren": 6, "robin": 6, "jay": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _set_options(patch)
        use_small_network(patch)
        poolings = ["--pooling", "max", "--pooling", "bilinear"]
        run_command("extract", "--data", "birds", *poolings, "-o", "x.h5")
        run_command("train", "--features", "x.h5")
    return folder


@pytest.fixture
def birds(prepared: Path, tmp_path: Path) -> Path:
    """Return a folder of 18 photos of three classes, in the working folder."""
    shutil.copytree(prepared / "birds", tmp_path / "birds")
    return Path("birds")


@pytest.fixture
def features(birds: Path, prepared: Path, tmp_path: Path) -> Path:
    """Return the feature file of these photos."""
    shutil.copy(prepared / "x.h5", tmp_path)
    return Path("x.h5")


@pytest.fixture
def run(features: Path, prepared: Path, tmp_path: Path) -> Path:
    """Return the run of max; that of bilinear stands beside it."""
    shutil.copytree(prepared / "runs", tmp_path / "runs")
    return Path("runs/x-max-softmax")
