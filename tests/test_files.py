"""The cache, names and paths, free memory, and how many processors a process may use."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import joblib
import platformdirs
import psutil
import pytest
from support.commands import run_python
from support.errors import assert_names, raises

from bilinear_cli import machine, messages
from bilinear_cli.errors import BilinearError
from bilinear_cli.files import portable_name, relative_path
from bilinear_cli.home import cache_folder
from bilinear_cli.machine import free_memory, n_cpus
from bilinear_cli.photos.photo_set import load_photo_set

MACHINE = 4_000_000


@pytest.mark.parametrize("value", [None, "", "elsewhere"])
def test_the_cache_is_the_users_or_that_of_the_environment(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILINEAR_CACHE")
    if value is not None:
        monkeypatch.setenv("BILINEAR_CACHE", value)
    assert cache_folder() == Path(value or platformdirs.user_cache_dir("bilinear"))


def test_a_tilde_in_the_environment_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("BILINEAR_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "cache"


# Caches that cannot be used ----------------------------------------------------------------------

# Only root can become a user without an entry in the list of users; else that is simulated.
AS_A_USER_WITHOUT_HOME = """
import os, pwd, sys
from bilinear_cli.errors import BilinearError
from bilinear_cli.home import cache_folder
os.environ.pop("HOME", None)
if os.getuid():
    pwd.getpwuid = {}.__getitem__
else:
    os.setuid(54321)
for cache in ["", *sys.argv[1:]]:
    os.environ["BILINEAR_CACHE"] = cache
    try:
        print(cache_folder())
    except BilinearError as error:
        print("error", error)
"""


def test_a_cache_that_cannot_be_read_names_the_variable_of_the_cache(tmp_path: Path) -> None:
    forbidden, file = tmp_path / "forbidden", tmp_path / "file"
    forbidden.mkdir(mode=0)
    file.touch()
    lines = run_python(AS_A_USER_WITHOUT_HOME, "~/x", forbidden, file, "/free").splitlines()
    for line, facts in zip(lines, [["home"], ["home"], [forbidden], [file]], strict=False):
        assert line.startswith("error")
        assert_names(line, "BILINEAR_CACHE", *facts)
    assert lines[4:] == ["/free"]


def test_a_cache_that_cannot_be_written_names_the_variable_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILINEAR_CACHE", str(tmp_path))
    (tmp_path / "sample").touch()
    with raises(BilinearError, tmp_path / "sample", "BILINEAR_CACHE"):
        load_photo_set("sample")


# Names and paths ---------------------------------------------------------------------------------


def test_names_of_files_are_valid_on_windows() -> None:
    assert portable_name('a/b:0 \\ <c> "d" | e? * ü+1.h5') == "a-b-0 - -c- -d- - e- - ü+1.h5"


@pytest.mark.parametrize(("system", "line"), [("posix", r"a 'b c' 'd\e'"), ("nt", r'a "b c" d\e')])
def test_a_command_is_quoted_for_the_shell_of_the_system(
    system: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "os", SimpleNamespace(name=system))
    assert messages.command_line(["a", "b c", r"d\e"]) == line


def test_a_path_on_another_drive_stays_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: `os.path.relpath` raises as it does on Windows."""
    assert relative_path(tmp_path / "a" / "b.jpg", tmp_path / "c") == "../a/b.jpg"
    monkeypatch.setattr("os.path.relpath", Mock(side_effect=ValueError("path is on mount 'D:'")))
    assert relative_path(tmp_path / "b.jpg", tmp_path) == str(tmp_path / "b.jpg")


# Memory and processors ---------------------------------------------------------------------------

UNLIMITED = {1: "9223372036854771712", 2: "max"}
FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of control groups, on a machine with `MACHINE` bytes free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path / "cgroup"


def belong(cgroups: Path, *lines: str) -> None:
    """Write the groups of this process."""
    (cgroups.parent / "own").write_text("".join(f"{line}\n" for line in lines))


def limit_memory(group: Path, version: int, limit: int | str, used: int, cached: int = 0) -> None:
    """Write the files of a group's memory, as Linux does."""
    group.mkdir(parents=True, exist_ok=True)
    limit_file, used_file, cached_name = FILES[version]
    (group / limit_file).write_text(f"{limit}\n")
    (group / used_file).write_text(f"{used}\n")
    other = f"inactive_file 5\n{cached_name}" if version == 1 else cached_name
    (group / "memory.stat").write_text(f"anon 7\nfile 900000\n{other} {cached}\n")


@pytest.mark.parametrize(
    ("version", "line", "top"),
    [(2, "0::/slurm/job_7/step", "."), (1, "4:hugetlb,memory:/slurm/job_7/step", "memory")],
)
def test_the_tightest_memory_limit_of_the_groups_counts_and_cached_files_do_not(
    cgroups: Path, version: int, line: str, top: str
) -> None:
    belong(cgroups, "9:name=systemd:/elsewhere", line)
    job = cgroups / top / "slurm" / "job_7"
    limit_memory(job / "step", version, UNLIMITED[version], 2_500_000)
    assert free_memory() == MACHINE
    limit_memory(job, version, 3_000_000, 2_500_000, cached=600_000)
    assert free_memory() == 1_100_000
    limit_memory(cgroups / top, version, 3_000_000, 2_900_000)  # a container
    assert free_memory() == 100_000
    limit_memory(cgroups / top, version, 1_000_000, 9_000_000)
    assert free_memory() == 0


def test_a_container_that_sees_its_path_on_the_host_has_the_limit_at_the_top(cgroups: Path) -> None:
    belong(cgroups, "4:memory:/docker/0123", "0::/../other")
    limit_memory(cgroups / "memory", 1, 3_000_000, 1_000_000)
    assert free_memory() == 2_000_000


def test_without_control_groups_the_machine_counts(cgroups: Path) -> None:
    assert (free_memory(), n_cpus()) == (MACHINE, 64)
    belong(cgroups, "0::/")
    assert (free_memory(), n_cpus()) == (MACHINE, 64)


def test_the_smallest_quota_of_the_groups_counts(cgroups: Path) -> None:
    belong(cgroups, "0::/job/step", "2:cpu,cpuacct:/job")
    files = {"job/cpu.max": "max 100000", "job/step/cpu.max": "550000 100000"}
    files |= {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}
    for name, content in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(f"{content}\n")
    assert n_cpus() == 6
    (cgroups / "cpu/job/cpu.cfs_quota_us").write_text("50000\n")
    assert n_cpus() == 1


# The caller's limit of threads, which joblib would obey, is removed
COUNT = """
import os
os.environ.pop("LOKY_MAX_CPU_COUNT", None)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from bilinear_cli.machine import n_cpus
print(n_cpus())
"""


def test_only_the_processors_of_the_process_count() -> None:
    assert run_python(COUNT) == "1\n"
