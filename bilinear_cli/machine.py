"""What this process may use of the machine: memory and processors."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")  # where Linux states the limits of process groups (version 2)


def free_memory(cgroup: Path = CGROUP) -> int:
    """Return the free bytes of the machine, or of the container's limit if that leaves less."""
    free = psutil.virtual_memory().available
    try:
        limit = int((cgroup / "memory.max").read_text())  # ValueError for `max`, which is no limit
        used = int((cgroup / "memory.current").read_text())
        statistics = (cgroup / "memory.stat").read_text().split()
        cached = int(statistics[statistics.index("inactive_file") + 1])  # Linux can free these
    except (OSError, ValueError):
        return free
    return min(free, max(0, limit - used + cached))


def n_cpus() -> int:
    """Return the number of processors: by the process's affinity and the container's quota."""
    import joblib  # slow to import

    return joblib.cpu_count()
