"""Signals to the installed command, and a short run of the driver of `make torture`."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torture
from support.commands import BILINEAR as BILINEAR_HERE
from support.commands import environment, error_line, run_command
from support.errors import assert_names
from support.photos import class_folders

from bilinear_cli.store import FeatureWriter

BILINEAR = Path(sys.executable).parent / "bilinear"
N_PHOTOS, N_DONE = 7, 3
# The process stops itself when so many rows are on the disk; the signal then comes in time.
STOP = f"""
import os, signal
from bilinear_cli.store import FeatureWriter

append = FeatureWriter.append

def append_and_stop(self, *rows):
    append(self, *rows)
    if self.rows_done == {N_DONE}:
        os.kill(os.getpid(), signal.SIGSTOP)

FeatureWriter.append = append_and_stop
"""


def command(photos: Path, output: Path) -> list[Any]:
    network = ["--weights", "random", "--layer", "block1_conv1", "--image-size", "32"]
    batches = ["--batch-size", "1", "--pooling", "max"]
    return ["extract", "--data", photos, "-o", output, *network, *batches]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    return class_folders(folder, {"wren": N_PHOTOS // 2, "robin": N_PHOTOS - N_PHOTOS // 2})


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the contents of the file of an uninterrupted run."""
    path = tmp_path_factory.mktemp("uninterrupted") / "x.h5"
    run_command(*command(photos, path))
    return torture.contents(path)


@pytest.mark.slow
def test_a_limit_of_file_sizes_is_an_error_of_one_line(tmp_path: Path) -> None:
    shards = Path(__file__).parent / "data_files" / "features-v1.h5"
    limited = ["sh", "-c", 'ulimit -f 5 && exec "$@"', "sh", *BILINEAR_HERE]
    process = subprocess.run(
        [*limited, "merge", shards, "-o", tmp_path / "x.h5"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert_names(process.stderr.removesuffix("\n"), tmp_path / "x.h5", "ulimit -f")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to ulimit -v")
def test_a_limit_of_memory_is_an_error_of_one_line(photos: Path, tmp_path: Path) -> None:
    """400 MB are enough for the program, but not for TensorFlow's library."""
    limited = ["sh", "-c", 'ulimit -v 400000 && exec "$@"', "sh", *BILINEAR_HERE]
    process = subprocess.run(
        [*limited, "-q", *command(photos, tmp_path / "x.h5")],
        env=environment() | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert_names(process.stderr.removesuffix("\n"), "memory", "ulimit -v")


@pytest.mark.slow
def test_the_installed_command_holds_its_output_and_resumes_after_a_signal(
    photos: Path,
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "features"
    words = command(photos, folder / "x.h5")
    (tmp_path / "sitecustomize.py").write_text(STOP)
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    process = subprocess.Popen(
        [BILINEAR, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=paths),
    )
    try:
        state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state
        assert state.si_code == os.CLD_STOPPED, process.communicate()

        # a second run on the same output
        assert_names(error_line(run_command(*words, code=1)), folder / "x.h5", process.pid)

        # SIGKILL would leave the files as they are now
        killed = shutil.copytree(folder, tmp_path / "killed")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate()
    finally:
        process.kill()
        process.communicate()
    ended: Any = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    assert ended.returncode == 143
    assert_names(error_line(ended), "SIGTERM")
    assert "absl" not in stderr  # TensorFlow's log
    assert not (folder / "x.h5").exists()

    append, appended = FeatureWriter.append, []

    def watched(self: FeatureWriter, *rows: Any) -> None:
        appended.append(self.rows_done)
        append(self, *rows)

    monkeypatch.setattr(FeatureWriter, "append", watched)
    caplog.set_level(logging.INFO)  # Dask raises the level of the handler of all tests
    for interrupted in (folder, killed):
        appended.clear()
        caplog.clear()
        run_command(*command(photos, interrupted / "x.h5"))
        assert appended == [*range(N_DONE, N_PHOTOS)]
        numbers = [re.findall(r"\d+", message) for message in caplog.messages]
        assert [str(N_DONE), str(N_PHOTOS)] in numbers
        assert torture.contents(interrupted / "x.h5") == uninterrupted
        assert [path.name for path in interrupted.iterdir()] == ["x.h5"]


@pytest.mark.slow
def test_torture_kills_runs_and_corrupts_files() -> None:
    n_files = {"mutations": len(torture.MUTATIONS), "bytes": 2}
    options = ["--kills=1", *(f"--{name}={n}" for name, n in n_files.items())]
    done = subprocess.run(
        [sys.executable, torture.__file__, *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+): (.*)$", done.stdout, re.M))
    assert "1 kills" in counts["kills"].split(", ")
    for name, n in n_files.items():
        assert sum(int(count.split()[0]) for count in counts[name].split(", ")) == n


def test_torture_notices_wrong_features(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    features = torture.write_valid_file(path)
    assert torture.judge(path, features, structural=True) == torture.READ_RIGHT
    wrong = features | {"max": b"\0" + features["max"][1:]}
    assert torture.judge(path, wrong, structural=True) == torture.READ_WRONG
    path.write_text("no HDF5")
    assert torture.judge(path, features, structural=True) == torture.REFUSED


@pytest.mark.parametrize("error", [ValueError("x"), torture.BilinearError("a\nb")])
def test_torture_notices_tracebacks(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise error

    features = torture.write_valid_file(tmp_path / "x.h5")
    monkeypatch.setattr(torture, "read_all", fail)
    assert torture.judge(tmp_path / "x.h5", features, structural=True) == torture.TRACEBACK


def test_torture_notices_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = torture.write_valid_file(tmp_path / "x.h5")
    size = torture.BASE_MEMORY + torture.MEMORY_PER_BYTE * (tmp_path / "x.h5").stat().st_size
    monkeypatch.setattr(torture, "read_all", lambda _: {"other": bytes(size + 1)})
    for structural, outcome in ((True, torture.TOO_MUCH_MEMORY), (False, torture.READ_RIGHT)):
        assert torture.judge(tmp_path / "x.h5", features, structural) == outcome
