"""How much memory there is for this process."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_memory(cgroup: Path = CGROUP) -> int:
    """Return how many bytes can be had: of the machine's, and of a container's limit if less.

    Args:
        cgroup: where Linux keeps the limits of this process's group (version 2).
    """
    free = psutil.virtual_memory().available
    try:
        limit = int((cgroup / "memory.max").read_text())  # a ValueError where it says max
        used = int((cgroup / "memory.current").read_text())
        words = (cgroup / "memory.stat").read_text().split()
        cached = int(words[words.index("inactive_file") + 1])  # files, which give way
    except (OSError, ValueError):
        return free
    return min(free, max(0, limit - used + cached))
