"""What this process may use of the machine: memory, processors and installed packages.

Linux limits both by control groups: those of a container, or of a job of a cluster such as Slurm.
The limits of the group of the process and of all groups above it hold. A machine has version 1 or
version 2 of control groups.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")  # where Linux states the limits of the groups
OWN_CGROUPS = Path("/proc/self/cgroup")  # the groups of this process
# A limit, the bytes in use, and the name of the cached bytes, which Linux can free
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def package_versions(names: Iterable[str]) -> str:
    """Return the installed versions of packages, as `name version, ...`."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra, or the program runs from its source
        return "missing"


def free_memory() -> int:
    """Return the free bytes of the machine, or of the process's groups if a limit leaves less."""
    return min([psutil.virtual_memory().available, *_free_in_groups()])


def n_cpus() -> int:
    """Return the number of processors: by the process's affinity and the quotas of its groups."""
    import joblib  # slow to import

    return min([joblib.cpu_count(), *_quotas()])


def _free_in_groups() -> Iterator[int]:
    """Yield what the limits of groups leave of memory, in bytes."""
    for group in _groups("memory"):
        for limit_file, used_file, cached_name in MEMORY_FILES:
            try:
                limit, used = (int((group / x).read_text()) for x in (limit_file, used_file))
                statistics = (group / "memory.stat").read_text().split()
                cached = int(statistics[statistics.index(cached_name) + 1])
            except (OSError, ValueError):  # a file is missing, or the limit is `max`
                continue
            yield max(0, limit - used + cached)


def _quotas() -> Iterator[int]:
    """Yield the processors that the quotas of groups allow, rounded up."""
    for group in _groups("cpu"):
        for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
            try:
                quota, period = map(int, " ".join((group / x).read_text() for x in names).split())
            except (OSError, ValueError):  # a file is missing, or the quota is `max`
                continue
            if quota > 0 and period > 0:  # version 1 writes -1 for no quota
                yield ceil(quota / period)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups of this process that may limit it, from the top.

    A line of `/proc/self/cgroup` has a number, the controllers, and the path of the group: of
    version 1 `4:memory:/slurm/job`, of version 2 `0::/slurm/job`. In a container the path may be
    that on the host. Its folder does not exist then, and the top is the group of the container.
    """
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        group = CGROUPS / controller if controllers else CGROUPS
        yield group
        for name in Path(path).parts[1:]:
            group /= name
            yield group
