"""The whole way in 8 bits, with VGG16's real weights on small photos; and mixing with others."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bilinear_cli.cli import cli, runs
from bilinear_cli.errors import FeatureFileError
from bilinear_cli.features import precision
from bilinear_cli.features.precision import difference, int8_sha256, mixed_with
from bilinear_cli.features.weights import load_weights
from bilinear_cli.store import FeatureFile, partial_path

BILINEAR = [sys.executable, "-c", "from bilinear_cli.cli import main; main()"]
EXTRACT = ["extract", "--data", "birds", "--image-size", "64", "--batch-size", "1"]
EXTRACT += ["--pooling", "max", "--pooling", "bilinear", "--precision"]
N_PHOTOS = 48
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of the tests' own that has the real weights."""
    return tmp_path_factory.mktemp("int8")


@pytest.fixture
def run(
    cache: Path,
    real_cache: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    class_folders: Callable[..., Path],
) -> Run:
    """Return run(command...), in a folder with photos, `birds`."""
    if not (cache / "vgg16.npz").exists():
        weights = load_weights().path
        assert weights
        (cache / "vgg16.npz").symlink_to(weights.resolve())
    monkeypatch.setenv("BILINEAR_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "birds", {"wren": N_PHOTOS // 2, "robin": N_PHOTOS // 2})

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    return invoke


def rows(path: str) -> list[bytes]:
    with FeatureFile(Path(path)) as file:
        return [file.read_raw(spec, np.arange(N_PHOTOS)).tobytes() for spec in file.shapes]


def line(result: Result) -> str:
    """Return the last line on stderr, which is that of the error."""
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def test_kill_resume_shards_workers_and_predict_are_as_in_other_precisions(run: Run) -> None:
    run(*EXTRACT, "int8", "-o", "whole.h5")
    whole = rows("whole.h5")
    info = run("info", "whole.h5").stdout
    assert re.search(rf"^int8_sha256 +{int8_sha256()}$", info, re.M)
    assert "ai-edge-litert " in info

    broken_off = Path("killed.h5")
    with subprocess.Popen(
        [*BILINEAR, *EXTRACT, "int8", "-o", broken_off], stderr=subprocess.DEVNULL
    ) as process:
        while not (partial_path(broken_off).exists() and done(broken_off) >= 2):
            assert process.poll() is None, "it ended too early"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    again = run(*EXTRACT, "auto", "-o", str(broken_off))  # keeps to what was begun
    going_on = re.search(rf"going on after (\d+) of {N_PHOTOS} photos", again.stderr)
    assert going_on
    assert 2 <= int(going_on[1]) < N_PHOTOS
    assert "other versions" not in again.stderr
    assert rows("killed.h5") == whole

    for shard in ("1/2", "2/2"):
        run(*EXTRACT, "int8", "--shard", shard, "-o", f"{shard[0]}.h5")
    run("merge", "2.h5", "1.h5", "-o", "merged.h5")
    assert rows("merged.h5") == whole

    run(*EXTRACT, "int8", "--scheduler", "local:2", "-o", "workers.h5")
    assert rows("workers.h5") == whole

    run("train", "--features", "whole.h5", "--pooling", "bilinear")
    named = run("predict", "runs/whole-bilinear-softmax", "birds/wren").stdout
    assert len(named.splitlines()) == N_PHOTOS // 2
    run("explain", "runs/whole-bilinear-softmax", "birds/wren/0.png")


def done(output: Path) -> int:
    """Return how many rows a file has that another process is writing."""
    copy = shutil.copyfile(partial_path(output), "copy.h5")
    try:
        with FeatureFile(Path(copy), allow_partial=True) as file:
            return file.rows_done
    except FeatureFileError:  # a copy in the middle of a write
        return 0


# Mixing -----------------------------------------------------------------------------------


def test_precisions_are_not_mixed_unless_that_is_allowed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = "--allow-precision-mix"
    measured = f"int8 {precision.MEASURED['int8']}"
    run(*EXTRACT, "float32", "-o", "float32.h5")
    run(*EXTRACT, "int8", "-o", "int8.h5")
    exact, rounded = rows("float32.h5"), rows("int8.h5")
    assert exact != rounded
    assert "ai-edge-litert" not in run("info", "float32.h5").stdout

    # the same file
    fault = line(run(*EXTRACT, "int8", "-o", "float32.h5", code=1))
    assert "was made with precision float32, and int8 is asked for" in fault

    # reuse
    reuse = [*EXTRACT, "float32", "--reuse", "int8.h5", "-o", "mixed.h5"]
    fault = line(run(*reuse, code=1))
    assert fault == (
        "int8.h5 was made with precision int8, and float32 is asked for: its rows cannot be reused "
        "without --allow-precision-mix"
    )
    said = run(*reuse, allowed).stderr
    assert f"rows of int8.h5 are in int8; {measured}" in said
    assert "other versions" not in said
    assert rows("mixed.h5") == rounded
    assert re.search("^mixed_with +int8$", run("info", "mixed.h5").stdout, re.M)
    assert "is complete" in run(*reuse, allowed).stderr
    auto = [*EXTRACT, "auto", "--reuse", "int8.h5", "-o", "mixed.h5"]
    assert "is complete" in run(*auto, allowed).stderr  # it keeps to what was begun
    fault = line(run(*EXTRACT, "float32", "--reuse", "mixed.h5", "-o", "y.h5", code=1))
    assert "was made with mixed-with int8, and none is asked for" in fault
    run(*EXTRACT, "auto", "--reuse", "int8.h5", "-o", "auto.h5", allowed)  # keeps to int8
    assert "mixed_with" not in run("info", "auto.h5").stdout

    # merge
    for name, shard in (("float32", "1/2"), ("int8", "2/2")):
        run(*EXTRACT, name, "--shard", shard, "-o", f"{shard[0]}.h5")
    fault = line(run("merge", "1.h5", "2.h5", "-o", "merged.h5", code=1))
    assert "precision is float32 in the first and int8 in the second; merge takes" in fault
    fault = line(run("merge", "2.h5", "1.h5", "-o", "merged.h5", code=1))
    assert "precision is int8 in the first and float32 in the second; merge takes" in fault
    assert "do not belong together" in line(
        run("train", "--features", "1.h5", "--features", "2.h5", code=1)
    )
    said = run("merge", "1.h5", "2.h5", "-o", "merged.h5", allowed).stderr
    assert f"1.h5 is in float32 and 2.h5 in int8: {measured}" in said
    assert re.search("^mixed_with +int8$", run("info", "merged.h5").stdout, re.M)
    halves = [(a[: len(a) // 2], b[len(b) // 2 :]) for a, b in zip(exact, rounded, strict=True)]
    assert rows("merged.h5") == [a + b for a, b in halves]

    # predict
    run("train", "--features", "float32.h5", "--pooling", "bilinear")
    predict = ["predict", "runs/float32-bilinear-softmax", "birds/wren", "--precision"]
    fault = line(run(*predict, "int8", code=1))
    assert "was trained on features in float32, not in this int8: only with --allow-" in fault
    said = run(*predict, "int8", allowed).stderr
    assert f"not in this int8: {measured}" in said
    assert "CPU in int8" in said
    assert measured not in run(*predict, "float32").stderr

    # another network in 8 bits, of a release that has other ranges
    run("train", "--features", "int8.h5", "--pooling", "bilinear")
    monkeypatch.setattr(precision, "BUILDER", 0)
    predict = ["predict", "runs/int8-bilinear-softmax", "birds/wren"]
    assert "in int8, not in this int8: only" in line(run(*predict, code=1))
    assert measured in run(*predict, allowed).stderr
    fault = line(run(*EXTRACT, "int8", "-o", "int8.h5", code=1))
    assert "int8.h5 was made with int8-sha256 " in fault


FLOAT32 = {"precision": "float32"}
INT8 = {"precision": "int8", "int8_sha256": "a"}


@pytest.mark.parametrize(
    ("others", "mixed"),
    [
        ([], ""),
        ([INT8], ""),
        ([INT8 | {"int8_sha256": "b"}], "int8"),
        ([INT8 | {"mixed_with": "float32"}], "float32"),
        ([INT8, FLOAT32 | {"mixed_with": "bfloat16 int8"}], "bfloat16 float32 int8"),
    ],
)
def test_it_is_kept_what_rows_are_mixed_with(others: list[dict[str, str]], mixed: str) -> None:
    assert mixed_with(INT8, others) == mixed


def test_only_what_was_measured_is_said_to_be() -> None:
    measured = f"bfloat16 {precision.MEASURED['bfloat16']}"
    assert difference("float32", "float16", "bfloat16") == f"{measured}; float16 was not measured"


@pytest.mark.parametrize("other", ["float32", "int8"])
def test_shards_of_other_versions_are_not_merged_even_if_mixing_is_allowed(
    other: str, run: Run
) -> None:
    run(*EXTRACT, "float32", "--shard", "1/2", "-o", "1.h5")
    run(*EXTRACT, other, "--shard", "2/2", "-o", "2.h5")
    with h5py.File("2.h5", "r+") as file:
        versions = file.attrs["versions"]
        file.attrs["versions"] = re.sub("tensorflow [^,]*", "tensorflow 1.0", versions)
    fault = line(run("merge", "1.h5", "2.h5", "-o", "x.h5", "--allow-precision-mix", code=1))
    assert "versions is " in fault


# Who gets it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backbone", "resnet50", "--weights", "random"], "is for vgg16 alone, not for resnet50"),
        (["--weights", "random"], "is for VGG16's published weights"),
    ],
)
def test_other_networks_and_weights_are_refused_before_anything_is_written(
    run: Run, options: list[str], said: str
) -> None:
    fault = line(run(*EXTRACT, "int8", "-o", "x.h5", *options, code=2))
    assert fault.startswith(f"--precision int8 {said}")
    assert [*Path().iterdir()] == [Path("birds")]


def test_without_the_extra_it_is_one_line_and_nothing_is_fetched(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    monkeypatch.setattr(runs, "load_weights", None)
    fault = line(run(*EXTRACT, "int8", "-o", "x.h5", code=1))
    assert fault.endswith("ai-edge-litert, which is not installed: pip install '.[int8]'")
    assert [*Path().iterdir()] == [Path("birds")]
