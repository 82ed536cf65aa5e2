"""The commands without what only POSIX has. Simulated: these tests run on Linux."""

from pathlib import Path

import pytest
from support.commands import run_python
from support.photos import class_folders

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
