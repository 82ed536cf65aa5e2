"""The commands without what only POSIX has. Simulated: these tests run on Linux."""

import codecs
import errno
import io
import os
from pathlib import Path

import pytest
from support.commands import run_python
from support.photos import class_folders

from bilinear_cli.cli import streams
from bilinear_cli.files import atomic_write
from bilinear_cli.home import expand_home
from bilinear_cli.messages import reason_of
from bilinear_cli.photos.lists.paths import read_paths

COMMANDS = """
from support.windows import act_like_windows

act_like_windows()

import os
from pathlib import Path

import pytest
from support.commands import run_command, set_quick_options
from support.network import use_small_network

from bilinear_cli import machine

patch = pytest.MonkeyPatch()
set_quick_options(patch, batch_size=4)
use_small_network(patch)
patch.setattr(machine, "OWN_CGROUPS", Path("missing"))

extract = ["extract", "--data", "birds", "--pooling"]
shards = []
for shard in ("1/2", "2/2"):
    words = [*extract, "max", "--shard", shard, "--skip-bad"]
    shards.append(run_command(*words).stdout.strip())
    run_command(*words, "--overwrite")
run_command("merge", *shards, "-o", "x.h5")
run_command("merge", *shards, "-o", "x.h5", "--overwrite")
run_command(*extract, "bilinear:4", "-o", "y.h5", code=1)  # stops at the photo that is unreadable
os.remove("birds/wren/bad.png")
run_command("check", "--data", "birds", "--groups", "groups.csv")
run_command(*extract, "bilinear:4", "-o", "y.h5")  # resumes with the other photos
for _ in range(2):
    run_command("train", "--features", "y.h5")
run_command("train", "--features", "x.h5")
run = Path("runs/y-bilinear-4-softmax")
run_command("info", "y.h5")
run_command("info", run)
run_command("report", "runs/x-max-softmax", run, "-o", "report.html")
print(run_command("predict", run, "birds/wren").stdout)
"""


@pytest.mark.slow
def test_commands_run_without_what_only_posix_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are renamed, removed and synced by Windows' rules, too."""
    monkeypatch.chdir(tmp_path)
    class_folders(Path("birds"), {"wren": 6, "robin": 6, "jay": 6})
    Path("birds/wren/bad.png").touch()
    lines = run_python(COMMANDS).split("\n\n")[0].splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"birds/wren/{i}.png" for i in range(6)]
    written = {path for path in Path().rglob("*") if path.parts[0] != "birds"}
    assert not [path for path in written if set('<>:"|?*\\') & {*str(path)}]
    assert not [path for path in written if path.suffix in (".lock", ".new", ".partial")]
    assert Path("groups.csv") in written


def test_a_file_is_written_in_a_folder_with_ordinary_permissions(tmp_path: Path) -> None:
    """On Windows, a file that was moved out of a private folder stays private."""
    (tmp_path / "ordinary").mkdir()
    with atomic_write(tmp_path / "x") as new:
        assert new.parent.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
        new.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"ordinary", "x"}


def test_a_name_with_a_tilde_is_no_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: Windows takes the folder beside the user's for the home of any user."""
    (tmp_path / "ann").mkdir()
    monkeypatch.setattr(Path, "expanduser", lambda path: tmp_path / str(path).removeprefix("~"))
    for text, path in {
        "~$1.jpg": Path("~$1.jpg"),
        "~ann/1.jpg": tmp_path / "ann" / "1.jpg",
        "~/new/1.jpg": tmp_path / "new" / "1.jpg",
    }.items():
        assert expand_home(text) == path


def test_an_error_of_windows_keeps_its_reason() -> None:
    """Simulated: errno has only `Permission denied` for a file that another program uses."""
    error = PermissionError(errno.EACCES, "The file is used by another process")
    error.winerror = 32  # type: ignore[attr-defined]
    assert reason_of(error) == "The file is used by another process"


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs Linux")
def test_a_reader_that_goes_away_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: on Windows, writing to a pipe without a reader is an invalid argument."""
    monkeypatch.setattr(streams, "READER_HAS_GONE", {errno.EPIPE, errno.EINVAL})
    with os.fdopen(os.eventfd(0), "rb") as refuses:
        file = streams._StandardFile(refuses.fileno(), streams.OUTPUT)
        with pytest.raises(BrokenPipeError):
            file.write(b"x")


def test_a_list_in_the_code_page_of_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: only Windows has the codec `oem`, and refuses bytes that are not UTF-8."""

    def oem(name: str) -> codecs.CodecInfo | None:
        return codecs.lookup("cp850") if name == "oem" else None

    codecs.register(oem)
    monkeypatch.setattr(os, "fsdecode", bytes.decode)
    names = ["ä.jpg".encode("cp850"), "ö.jpg".encode()]
    try:
        paths = read_paths(io.BufferedReader(io.BytesIO(b"\r\n".join(names))))
        assert [*paths] == [Path("ä.jpg"), Path("ö.jpg")]
    finally:
        codecs.unregister(oem)
