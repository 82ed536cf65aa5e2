"""All commands in 8 bits, with VGG16's published weights; and features of several precisions."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result
from support.commands import error_line, run_command
from support.dask_processes import thread_worker
from support.errors import assert_names, warnings
from support.photos import class_folders

from bilinear_cli.networks import engines, weights
from bilinear_cli.networks.engines import int8_sha256
from bilinear_cli.networks.network import Network
from bilinear_cli.networks.weights import Weights
from bilinear_cli.store import FeatureFile, FeatureWriter

pytestmark = [pytest.mark.slow, pytest.mark.weights]
N_PHOTOS = 8
POOLINGS = ("max", "bilinear")
MIX = "--allow-precision-mix"
MEASURED = engines.MEASURED["int8"]
Extract = Callable[..., Result]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "birds"
    return class_folders(folder, {"wren": N_PHOTOS // 2, "robin": N_PHOTOS // 2})


@pytest.fixture(scope="module")
def cache(
    real_weights: Weights, int8_network: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.MonkeyPatch]:
    """Use a cache of this module with the 8-bit network; read the weights only once."""
    folder = tmp_path_factory.mktemp("cache")
    assert real_weights.path
    (folder / "vgg16.npz").symlink_to(real_weights.path.resolve())
    (folder / int8_network.name).symlink_to(int8_network)
    load = weights.load_vgg16_weights

    def load_vgg16_weights(source: str = "auto") -> Weights:
        return real_weights if source == "auto" else load(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILINEAR_CACHE", str(folder))
        patch.setattr(weights, "load_vgg16_weights", load_vgg16_weights)
        yield patch


@pytest.fixture(scope="module")
def extract(birds: Path, cache: pytest.MonkeyPatch) -> Extract:
    """Return extract(precision, output, *options)."""
    words = ["extract", "--data", birds, "--image-size", 64, "--batch-size", 1]
    words += [word for spec in POOLINGS for word in ("--pooling", spec)]

    def run(precision: str, output: str | Path, *options: Any, code: int = 0) -> Result:
        return run_command(*words, "--precision", precision, "-o", output, *options, code=code)

    return run


@pytest.fixture(scope="module")
def feature_files(extract: Extract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of files and shards in float32 (exact) and int8 (rounded)."""
    folder = tmp_path_factory.mktemp("features")
    extract("float32", folder / "exact.h5")
    extract("float32", folder / "exact-1.h5", "--shard", "1/2")
    extract("int8", folder / "rounded.h5")
    extract("int8", folder / "rounded-1.h5", "--shard", "1/2")
    extract("int8", folder / "rounded-2.h5", "--shard", "2/2")
    return folder


@pytest.fixture
def files(feature_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with copies of the feature files."""
    shutil.copytree(feature_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(files: None) -> Callable[[str], Path]:
    """Return train(name of a feature file), which returns the run folder."""

    def run(name: str) -> Path:
        options = ["--pooling", "bilinear", "-C", 1, "--label-smoothing", 0]
        run_command("train", "--features", f"{name}.h5", *options)
        return Path("runs") / f"{name}-bilinear-softmax"

    return run


def rows(path: str) -> dict[str, bytes]:
    """Return the stored rows of all photos."""
    with FeatureFile(Path(path)) as file:
        return {spec: file.read_stored(spec, np.arange(N_PHOTOS)).tobytes() for spec in file.shapes}


# 8 bits -----------------------------------------------------------------------------------


def test_info_names_the_network_and_its_library(files: None) -> None:
    info = run_command("info", "rounded.h5").stdout
    assert re.search(rf"^int8_sha256 +{int8_sha256()}$", info, re.M)
    assert "ai-edge-litert " in info
    assert "ai-edge-litert" not in run_command("info", "exact.h5").stdout


def test_an_interrupted_run_is_resumed_in_its_own_precision(
    files: None,
    extract: Extract,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append, appended, interruptions = FeatureWriter.append, [], [KeyboardInterrupt]

    def watched(self: FeatureWriter, *rows: Any) -> None:
        if len(appended) == 3 and interruptions:
            raise interruptions.pop()
        appended.append(self.rows_done)
        append(self, *rows)

    monkeypatch.setattr(FeatureWriter, "append", watched)
    extract("int8", "x.h5", code=130)
    assert not Path("x.h5").exists()
    extract("auto", "x.h5")
    assert appended == [*range(N_PHOTOS)]
    assert rows("x.h5") == rows("rounded.h5")
    assert not warnings(caplog)


def test_merged_shards_equal_one_run(files: None) -> None:
    run_command("merge", "rounded-2.h5", "rounded-1.h5", "-o", "merged.h5")
    assert rows("merged.h5") == rows("rounded.h5")


@pytest.mark.cluster
def test_a_worker_gives_the_same_rows(files: None, extract: Extract) -> None:
    with thread_worker() as address:
        extract("int8", "x.h5", "--scheduler", address)
    assert rows("x.h5") == rows("rounded.h5")


def test_a_run_predicts_and_explains(train: Callable[[str], Path], birds: Path) -> None:
    run = train("rounded")
    lines = run_command("predict", run, birds / "wren").stdout.splitlines()
    assert len(lines) == N_PHOTOS // 2
    run_command("explain", run, birds / "wren" / "0.png")
    assert Path("0-explained.png").exists()


# Several precisions -----------------------------------------------------------------------


def test_a_file_keeps_its_precision(files: None, extract: Extract) -> None:
    assert rows("exact.h5") != rows("rounded.h5")
    error_line(extract("int8", "exact.h5", code=1), "exact.h5", "precision", "float32", "int8")


def test_rows_of_another_precision_are_reused_only_if_allowed(
    files: None,
    extract: Extract,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reuse = ("--reuse", "rounded.h5")
    error = error_line(extract("float32", "x.h5", *reuse, code=1))
    assert_names(error, "rounded.h5", "precision", "int8", "float32", MIX)
    assert not Path("x.h5").exists()

    extract("float32", "x.h5", *reuse, MIX)
    assert_names(*warnings(caplog), "rounded.h5", MEASURED)
    assert rows("x.h5") == rows("rounded.h5")
    info = run_command("info", "x.h5").stdout
    assert re.search("^precision +float32$", info, re.M)
    assert re.search("^mixed_with +int8$", info, re.M)
    error_line(extract("float32", "y.h5", "--reuse", "x.h5", code=1), "x.h5", "mixed-with", "int8")

    # the file is complete
    monkeypatch.setattr(Network, "load", None)
    modified = Path("x.h5").stat().st_mtime_ns
    for name in ("float32", "auto"):
        extract(name, "x.h5", *reuse, MIX)
    assert Path("x.h5").stat().st_mtime_ns == modified


def test_auto_takes_the_precision_of_the_reused_file(files: None, extract: Extract) -> None:
    extract("auto", "x.h5", "--reuse", "rounded.h5", MIX)
    info = run_command("info", "x.h5").stdout
    assert re.search("^precision +int8$", info, re.M)
    assert "mixed_with" not in info


def test_shards_are_merged_only_if_allowed(files: None, caplog: pytest.LogCaptureFixture) -> None:
    shards = ["exact-1.h5", "rounded-2.h5"]
    for first, second in (shards, shards[::-1]):
        error = error_line(run_command("merge", first, second, "-o", "x.h5", code=1))
        assert_names(error, *shards, "precision", "float32", "int8", MIX)
    features = [word for path in shards for word in ("--features", path)]
    error_line(run_command("train", *features, code=1), *shards, "precision")
    assert not Path("x.h5").exists()

    run_command("merge", *shards, "-o", "x.h5", MIX)
    assert_names(*warnings(caplog), *shards, MEASURED)
    assert re.search("^mixed_with +int8$", run_command("info", "x.h5").stdout, re.M)
    exact, rounded = rows("exact.h5"), rows("rounded.h5")
    for spec, merged in rows("x.h5").items():
        half = len(merged) // 2
        assert merged == exact[spec][:half] + rounded[spec][half:]


@pytest.mark.parametrize("first", ["exact-1.h5", "rounded-1.h5"])
def test_shards_of_other_versions_are_not_merged_even_if_mixing_is_allowed(
    first: str, files: None
) -> None:
    with h5py.File("rounded-2.h5", "r+") as file:
        versions = file.attrs["versions"]
        file.attrs["versions"] = re.sub("tensorflow [^,]*", "tensorflow 1.0", versions)
    error = error_line(run_command("merge", first, "rounded-2.h5", "-o", "x.h5", MIX, code=1))
    assert_names(error, first, "rounded-2.h5", "versions", "tensorflow 1.0")


def test_predict_takes_another_precision_only_if_allowed(
    train: Callable[[str], Path], birds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train("exact")
    predict = ("predict", run, birds / "wren", "--precision")
    error_line(run_command(*predict, "int8", code=1), run, "float32", "int8", MIX)
    caplog.clear()
    run_command(*predict, "int8", MIX)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert any("int8" in line for line in lines)
    assert_names(*warnings(caplog), run, "int8", MEASURED)
    caplog.clear()
    run_command(*predict, "float32")
    assert not warnings(caplog)


def test_another_8_bit_network_counts_as_another_precision(
    train: Callable[[str], Path],
    extract: Extract,
    birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from bilinear_cli.networks import int8

    run = train("rounded")
    (model,) = weights.cache_folder().glob("*.tflite")
    _, _, model_bytes = model.read_bytes().partition(b"\n")
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(int8, "build_int8", lambda *_: model_bytes)
    monkeypatch.setattr(engines, "INT8_NETWORK_VERSION", 0)
    predict = ("predict", run, birds / "wren")
    error_line(run_command(*predict, code=1), run, "int8", MIX)
    caplog.clear()
    run_command(*predict, MIX)
    assert_names(*warnings(caplog), run, MEASURED)
    error_line(extract("int8", "rounded.h5", code=1), "rounded.h5", "int8-sha256", int8_sha256())


# Where int8 works ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--backbone", "resnet50", "--weights", "random"], ["vgg16", "resnet50"]),
        (["--weights", "random"], ["VGG16"]),
    ],
)
def test_other_networks_and_weights_are_refused_before_anything_is_written(
    options: list[str], facts: list[str], extract: Extract, tmp_path: Path
) -> None:
    error_line(extract("int8", tmp_path / "x.h5", *options, code=2), "--precision int8", *facts)
    assert [*tmp_path.iterdir()] == []


def test_without_the_extra_nothing_is_fetched(
    extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    monkeypatch.setattr(Network, "weights", None)
    error = error_line(extract("int8", tmp_path / "x.h5", code=1))
    assert_names(error, "--precision int8", "ai-edge-litert", "bilinear-cli[int8]")
    assert [*tmp_path.iterdir()] == []
