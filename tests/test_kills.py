"""Signals to the real command, and the driver of `make torture`, a little of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bilinear_cli.errors import FeatureFileError
from bilinear_cli.store import FeatureFile, partial_path

BILINEAR = Path(sys.executable).parent / "bilinear"
TORTURE = Path(__file__).parent / "torture.py"
N_PHOTOS = 48
COMMAND = ("--weights", "random", "--image-size", "64", "--batch-size", "1", "--pooling", "max")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos, and with the file of an uninterrupted run of them."""
    folder = tmp_path_factory.mktemp("kills")
    for i in range(N_PHOTOS):
        path = folder / "birds" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (5 * i, 255 - 5 * i, 90)).save(path)
    subprocess.run(command(folder, "whole.h5"), check=True, capture_output=True)
    return folder


def command(folder: Path, output: str) -> list[str | Path]:
    # what runs in a shell's background has children that ignore ctrl-C
    heed = ["env", "--default-signal=INT"]
    return [*heed, BILINEAR, "extract", "--data", folder / "birds", "-o", folder / output, *COMMAND]


def rows(path: Path) -> dict[str, bytes]:
    with FeatureFile(path) as file:
        names = ("photo", "labels", "paths", "sha256")
        found = {name: getattr(file, name).tobytes() for name in names}
        return found | {"max": file.read("max", range_of(file)).tobytes()}


def range_of(file: FeatureFile) -> object:
    return np.arange(file.rows_done)


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (signal.SIGTERM, 143, "Error: ended by SIGTERM; the same command goes on from there"),
        (signal.SIGINT, 130, "Error: interrupted; the same command goes on from there"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_the_real_command_goes_on_after_a_signal(
    sent: signal.Signals, code: int, said: str, whole: Path
) -> None:
    output = whole / f"{sent.name}.h5"
    process = subprocess.Popen(command(whole, output.name), stderr=subprocess.PIPE, text=True)
    while not (partial_path(output).exists() and seen_done(output) >= 2):
        assert process.poll() is None, "it ended too early"
        time.sleep(0.02)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.rstrip().endswith(said)
    assert "Traceback" not in stderr
    assert not output.exists()
    again = subprocess.run(command(whole, output.name), check=True, capture_output=True, text=True)
    going_on = re.search(rf"going on after (\d+) of {N_PHOTOS} photos", again.stderr)
    assert going_on
    assert 2 <= int(going_on[1]) < N_PHOTOS
    assert rows(output) == rows(whole / "whole.h5")
    assert {path.name for path in whole.glob(f"{output.name}*")} == {output.name}


def seen_done(output: Path) -> int:
    """Return how many rows a file has that another process is writing."""
    copy = output.with_suffix(".copy")
    shutil.copyfile(partial_path(output), copy)
    try:
        with FeatureFile(copy, allow_partial=True) as file:
            return file.rows_done
    except FeatureFileError:  # a copy in the middle of a write
        return 0
    finally:
        copy.unlink()


def test_two_runs_on_one_output(whole: Path) -> None:
    output = whole / "two.h5"
    with subprocess.Popen(command(whole, output.name), stderr=subprocess.PIPE) as first:
        while not partial_path(output).exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = subprocess.run(command(whole, output.name), capture_output=True, text=True)
        assert second.returncode == 1
        assert f"{output} is in use by process {first.pid} on " in second.stderr
        assert first.wait(60) == 0
    assert rows(output) == rows(whole / "whole.h5")


@pytest.mark.parametrize(
    ("options", "done"),
    [
        (["--kills", "30"], "30 kills"),
        (["--mutations", "500"], "refused with one line"),
        (["--bytes", "200"], "refused with one line"),
    ],
)
def test_a_little_torture(
    options: list[str], done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = subprocess.run(
        [sys.executable, TORTURE, *options], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr
    assert done in found.stdout
    with capsys.disabled():
        print(f"\n{found.stdout.strip()}")


def test_torture_sees_what_is_wrong(tmp_path: Path) -> None:
    sys.path.insert(0, str(TORTURE.parent))
    import torture

    features = torture.sound(tmp_path / "x.h5")
    assert torture.judge(tmp_path / "x.h5", features, structural=True) == 2
    wrong = {**features, "max": b"\0" + features["max"][1:]}
    assert torture.judge(tmp_path / "x.h5", wrong, structural=True) == 4
    (tmp_path / "x.h5").write_text("no HDF5")
    assert torture.judge(tmp_path / "x.h5", features, structural=True) == 0
