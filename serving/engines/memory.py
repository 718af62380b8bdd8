"""How much memory a process has taken, and how much there is left."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def peak_bytes() -> int:
    """The most memory that this process has held.

    (VmHWM on Linux: unlike ru_maxrss it forgets what forked us.)
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def available_bytes() -> int:
    """Memory that is free for new processes: of the machine,
    or of the control group (container) where that has less left.
    """
    left = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if machine.exists():
        for line in machine.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                left = int(line.split()[1]) << 10
    if (group / "memory.max").exists() and (most := (group / "memory.max").read_text().strip()) != "max":
        left = min(left, int(most) - int((group / "memory.current").read_text()))
    return max(left, 0)
