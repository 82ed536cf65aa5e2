"""Tests of how much memory there is."""

from pathlib import Path

import psutil
import pytest

from bilinear_cli.memory import free_memory


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 7\nfile 900000\ninactive_file 600000\n")
    return tmp_path


def test_a_containers_limit_counts_and_its_cached_files_do_not(cgroup: Path) -> None:
    assert free_memory(cgroup) == 3_000_000 - 2_500_000 + 600_000
    (cgroup / "memory.current").write_text("9000000\n")
    assert free_memory(cgroup) == 0


def test_without_a_limit_it_is_the_machines(cgroup: Path, tmp_path: Path) -> None:
    machine = psutil.virtual_memory().available
    (cgroup / "memory.max").write_text("max\n")
    for place in (cgroup, tmp_path / "none"):
        assert free_memory(place) == pytest.approx(machine, rel=0.2)
