"""Where the cache is, how much memory is free, and how many processors a process may use."""

from pathlib import Path
from types import SimpleNamespace

import joblib
import platformdirs
import psutil
import pytest
from support.commands import run_python
from support.errors import raises

from bilinear_cli.errors import UsageError
from bilinear_cli.files import cache_folder
from bilinear_cli.machine import free_memory, n_cpus

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
    monkeypatch.setenv("BILINEAR_CACHE", "~nobody-here/cache")
    with raises(UsageError, "BILINEAR_CACHE", "~nobody-here"):
        cache_folder()


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the files of a container's limit, on a machine with `MACHINE` bytes free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 7\nfile 900000\ninactive_file 600000\n")
    return tmp_path


def test_a_containers_limit_counts_and_its_cached_files_do_not(cgroup: Path) -> None:
    assert free_memory(cgroup) == 3_000_000 - 2_500_000 + 600_000
    (cgroup / "memory.current").write_text("9000000\n")
    assert free_memory(cgroup) == 0
    (cgroup / "memory.max").write_text("90000000\n")
    assert free_memory(cgroup) == MACHINE


@pytest.mark.parametrize("folder", [".", "missing"])
def test_without_a_limit_the_machines_memory_counts(cgroup: Path, folder: str) -> None:
    (cgroup / "memory.max").write_text("max\n")
    assert free_memory(cgroup / folder) == MACHINE


# The caller's limit of threads, which joblib would obey, is removed
COUNT = """
import os
os.environ.pop("LOKY_MAX_CPU_COUNT", None)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from bilinear_cli.machine import n_cpus
print(n_cpus())
"""


def test_only_the_processors_of_the_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_python(COUNT) == "1\n"
    monkeypatch.setattr(joblib, "cpu_count", lambda: 5)  # which also knows the container's quota
    assert n_cpus() == 5
