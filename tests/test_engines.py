"""All commands with the engines of VGG16, in a network of few channels."""

import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result
from support.commands import error_line, run_command, set_quick_options
from support.errors import assert_names, messages, warnings
from support.feature_files import contents
from support.photos import class_folders
from support.thin_network import thin_networks

from bilinear_cli.networks import backbone
from bilinear_cli.networks.engines import MEASURED_ENGINES
from bilinear_cli.networks.network import Network
from bilinear_cli.store import FeatureFile, FeatureWriter

pytestmark = pytest.mark.slow
N_PHOTOS = 8
POOLINGS = ("max", "bilinear")
FILES = {"tensorflow": "plain", "ncnn": "fast"}
Extract = Callable[..., Result]
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "birds"
    return class_folders(folder, {"wren": N_PHOTOS // 2, "robin": N_PHOTOS // 2})


@pytest.fixture(scope="module")
def extract(birds: Path) -> Iterator[Extract]:
    """Return extract(engine, output, *options), on a CPU without bfloat16."""
    words = ["extract", "--data", birds]
    words += [word for spec in POOLINGS for word in ("--pooling", spec)]

    def run(engine: str, output: str | Path, *options: Any, code: int = 0) -> Result:
        return run_command(*words, "--engine", engine, "-o", output, *options, code=code)

    with thin_networks() as patch:
        set_quick_options(patch, batch_size=1)
        patch.setenv("BILINEAR_EXTRACT_IMAGE_SIZE", "64")
        patch.setattr(backbone, "_has_bfloat16", lambda: False)
        yield run


@pytest.fixture(scope="module")
def feature_files(extract: Extract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a file and a shard by TensorFlow (plain) and by ncnn (fast)."""
    folder = tmp_path_factory.mktemp("features")
    extract("tensorflow", folder / "plain.h5", "--precision", "float32")
    extract("tensorflow", folder / "plain-1.h5", "--precision", "float32", "--shard", "1/2")
    extract("ncnn", folder / "fast.h5")
    extract("auto", folder / "fast-2.h5", "--shard", "2/2")
    return folder


@pytest.fixture
def files(feature_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder with copies of the feature files."""
    shutil.copytree(feature_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def half_done(files: None, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Interrupt a run by ncnn after three photos, and return its unfinished file."""
    append = FeatureWriter.append

    def append_three(self: FeatureWriter, *rows: Any) -> None:
        if self.photos_done == 3:
            raise KeyboardInterrupt
        append(self, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "append", append_three)
        extract("ncnn", "x.h5", code=130)
    return Path("x.h5.partial")


@pytest.fixture
def train(files: None) -> Run:
    """Return train(name of a feature file), which returns the run folder."""

    def run(name: str) -> Path:
        run_command("train", "--features", f"{name}.h5", "--pooling", "bilinear")
        return Path("runs") / f"{name}-bilinear-softmax"

    return run


def rows(path: str) -> dict[str, np.ndarray]:
    """Return the stored rows of all photos."""
    with FeatureFile(Path(path)) as file:
        return {spec: file.read_stored(spec, np.arange(N_PHOTOS)) for spec in file.shapes}


def assert_info(path: str, **attributes: str | None) -> None:
    """Check attributes that `info` prints; None: it does not print them."""
    info = run_command("info", path).stdout
    for name, value in attributes.items():
        found = re.search(rf"^{name} +(.*)$", info, re.M)
        assert (found and found[1]) == value


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that name the measured difference of the engines."""
    return [x for x in messages(caplog, logging.INFO) if MEASURED_ENGINES in x]


# ncnn -------------------------------------------------------------------------------------


def test_info_names_the_engine_and_its_version(files: None) -> None:
    import ncnn

    assert_info("fast.h5", engine="ncnn", precision="float32", mixed_engines=None)
    assert f"ncnn {ncnn.__version__}" in run_command("info", "fast.h5").stdout
    assert_info("plain.h5", engine=None)
    assert "ncnn" not in run_command("info", "plain.h5").stdout


def test_the_engines_differ_by_rounding_only(files: None) -> None:
    by_tensorflow, by_ncnn = rows("plain.h5"), rows("fast.h5")
    assert any((by_tensorflow[spec] != by_ncnn[spec]).any() for spec in POOLINGS)
    for spec in POOLINGS:
        x, y = (rows[spec].astype(float) for rows in (by_tensorflow, by_ncnn))
        assert np.abs(x - y).max() <= 1e-3 * np.abs(x).max()


def test_an_interrupted_run_is_resumed_by_its_own_engine(
    half_done: Path,
    extract: Extract,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(backbone, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(backbone, "ncnn_fault", lambda: "ncnn is slow")  # auto is tensorflow
    extract("auto", "x.h5")
    without = ("created", "command")
    assert contents(Path("x.h5"), without) == contents(Path("fast.h5"), without)
    assert not warnings(caplog)


def test_without_ncnn_an_interrupted_run_waits_for_it(
    half_done: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = half_done.read_bytes()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ncnn", None)
        for engine in ("auto", "ncnn"):
            error_line(
                extract(engine, "x.h5", code=1), "ncnn", "bilinear-cli[fast]", "--engine tensorflow"
            )
    assert half_done.read_bytes() == before
    extract("auto", "x.h5")
    for spec, x in rows("x.h5").items():
        assert x.tobytes() == rows("fast.h5")[spec].tobytes()


def test_an_interrupted_run_is_not_resumed_by_another_engine(
    half_done: Path, extract: Extract
) -> None:
    before = half_done.read_bytes()
    error = error_line(extract("tensorflow", "x.h5", code=1))
    assert_names(error, half_done, "engine", "ncnn", "tensorflow", "--overwrite")
    assert half_done.read_bytes() == before


def test_a_complete_file_needs_no_ncnn(
    files: None,
    extract: Extract,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    monkeypatch.setattr(Network, "load", None)
    modified = Path("fast.h5").stat().st_mtime_ns
    assert extract("auto", "fast.h5").stdout == "fast.h5\n"
    assert Path("fast.h5").stat().st_mtime_ns == modified
    assert any("fast.h5" in line for line in messages(caplog, logging.INFO))
    error_line(extract("tensorflow", "fast.h5", code=1), "fast.h5", "engine")


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--precision", "bfloat16"], "bfloat16"),
        (["--precision", "int8"], "int8"),
        (["--backbone", "resnet50"], "resnet50"),
    ],
)
def test_other_precisions_and_networks_are_refused_before_anything_is_written(
    options: list[str], fact: str, extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "weights", None)
    error = extract("ncnn", tmp_path / "x.h5", *options, code=2)
    error_line(error, "--engine ncnn", "vgg16", "float32", fact)
    assert [*tmp_path.iterdir()] == []


# Both engines -----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("plain-1", "fast-2"), ("fast-2", "plain-1")])
def test_shards_of_both_engines_are_merged(
    names: tuple[str, str], files: None, caplog: pytest.LogCaptureFixture
) -> None:
    run_command("merge", *[f"{name}.h5" for name in names], "-o", "x.h5")
    (line,) = logged(caplog)
    assert_names(line, "plain-1.h5", "fast-2.h5", "tensorflow", "ncnn")
    assert not warnings(caplog)
    assert_info("x.h5", mixed_engines="ncnn", engine=None)  # as the first shard
    halves = rows("plain.h5"), rows("fast.h5")
    for spec, merged in rows("x.h5").items():
        first, second = (x[spec] for x in halves)
        expected = np.concatenate([first[: N_PHOTOS // 2], second[N_PHOTOS // 2 :]])
        assert merged.tobytes() == expected.tobytes()


def test_maps_of_ncnn_are_pooled_without_it(
    extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    extract("ncnn", "maps.h5", "--pooling", "maps")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    run_command("extract", "--maps", "maps.h5", "--pooling", "max", "-o", "x.h5")
    assert_info("x.h5", engine="ncnn", mixed_engines=None)


def test_shards_of_other_versions_are_not_merged(files: None) -> None:
    with h5py.File("fast-2.h5", "r+") as file:
        versions = file.attrs["versions"]
        file.attrs["versions"] = re.sub("keras [^,]*", "keras 1.0", versions)
    error = error_line(run_command("merge", "plain-1.h5", "fast-2.h5", "-o", "x.h5", code=1))
    assert_names(error, "plain-1.h5", "fast-2.h5", "versions", "keras 1.0")


def test_shards_of_both_engines_are_trained_on(files: None) -> None:
    words = ["--features", "plain-1.h5", "--features", "fast-2.h5", "--pooling", "bilinear"]
    (result,) = json.loads(run_command("train", *words, "--json").stdout)["results"]
    assert result["n_train"] + result["n_test"] == N_PHOTOS
    extraction = json.loads(Path(result["run"], "metrics.json").read_text())["extraction"]
    assert extraction["mixed_engines"] == "ncnn"


@pytest.mark.parametrize(("old", "new"), [("tensorflow", "ncnn"), ("ncnn", "tensorflow")])
def test_rows_of_the_other_engine_are_reused_to_the_bit(
    old: str,
    new: str,
    files: None,
    extract: Extract,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reused = f"{FILES[old]}.h5"
    words = (new, "x.h5", "--precision", "float32", "--reuse", reused)
    extract(*words)
    (line,) = logged(caplog)
    assert_names(line, reused, old, new)
    assert not warnings(caplog)
    assert_info("x.h5", engine="ncnn" if new == "ncnn" else None, mixed_engines=old)
    for spec, x in rows("x.h5").items():
        assert x.tobytes() == rows(reused)[spec].tobytes()
    caplog.clear()
    extract(*words)  # which is complete
    extract("auto", "x.h5")
    assert not logged(caplog)


def test_a_run_that_reuses_rows_of_the_other_engine_is_resumed(
    files: None, extract: Extract, birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract("tensorflow", "few.h5", "--precision", "float32", "--limit", "4")
    append, appended, interruptions = FeatureWriter.append, [], [KeyboardInterrupt]

    def watched(self: FeatureWriter, *arrays: Any) -> None:
        if len(appended) == 5 and interruptions:
            raise interruptions.pop()
        appended.append(self.rows_done)
        append(self, *arrays)

    monkeypatch.setattr(FeatureWriter, "append", watched)
    words = ("--reuse", "few.h5")
    extract("ncnn", "x.h5", *words, code=130)
    extract("auto", "x.h5", *words)
    assert appended == [*range(N_PHOTOS)]
    assert_info("x.h5", engine="ncnn", mixed_engines="tensorflow")
    with FeatureFile(Path("few.h5")) as few, FeatureFile(Path("x.h5")) as file:
        reused = np.isin(file.paths, few.paths)
    assert reused.sum() == 4
    for spec, x in rows("x.h5").items():
        by_tensorflow, by_ncnn = rows("plain.h5")[spec], rows("fast.h5")[spec]
        assert x[reused].tobytes() == by_tensorflow[reused].tobytes()
        assert x[~reused].tobytes() == by_ncnn[~reused].tobytes()


@pytest.mark.parametrize("trained_by", FILES)
def test_both_engines_predict_alike_with_a_run(
    trained_by: str, train: Run, birds: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, answers = train(FILES[trained_by]), []
    for engine in FILES:
        caplog.clear()
        result = run_command("predict", run, birds, "--json", "--engine", engine)
        answers.append([json.loads(line)["names"] for line in result.stdout.splitlines()])
        lines = logged(caplog)
        assert len(lines) == (engine != trained_by)
        for line in lines:
            assert_names(line, run, "tensorflow", "ncnn")
    for first, second in zip(*answers, strict=True):
        assert [x["name"] for x in first] == [x["name"] for x in second]
        probabilities = [[x["probability"] for x in names] for names in (first, second)]
        np.testing.assert_allclose(*probabilities, atol=1e-3)


def test_predict_refuses_ncnn_before_the_network_is_loaded(
    train: Run, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", train("plain"), birds, "--engine", "ncnn"]
    monkeypatch.setattr(Network, "weights", None)
    mix = ["--precision", "bfloat16", "--allow-precision-mix"]
    error_line(run_command(*words, *mix, code=2), "--engine ncnn", "bfloat16")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    error_line(run_command(*words, code=1), "ncnn", "bilinear-cli[fast]")


def test_a_run_of_ncnn_predicts_and_explains_without_it(
    train: Run, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, photo = train("fast"), birds / "wren" / "0.png"
    run_command("explain", run, photo, "-o", "with.png")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert run_command("predict", run, photo).stdout.startswith(str(photo))
    run_command("explain", run, photo, "-o", "without.png")
    assert Path("with.png").exists()
    assert Path("without.png").exists()
