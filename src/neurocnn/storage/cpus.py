"""Number of CPUs that this process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, at least 1.

    A batch system limits a job to some CPUs of a node (the affinity of the process); a container is limited to a share
    of the CPUs' time (the quota of its cgroup).

    Examples
    --------
    >>> 1 <= usable_cpus() <= os.cpu_count()
    True
    """
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(n, cpu_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))))


def cpu_quota(membership: Path, root: Path) -> int:
    """Return the number of CPUs that the cgroup of this process may use; a very large number if there is no limit.

    Parameters
    ----------
    membership
        File that lists the cgroups of this process.
    root
        Folder in which cgroups are mounted.
    """
    limits = [2**31]
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            group = root / ("cpu" if controllers else "") / path.lstrip("/")
            # The limits of all parent groups apply too.
            for folder in (group, *group.parents):
                if not folder.is_relative_to(root):
                    break
                limits += _cgroup_limits(folder)
    return min(limits)


def _cgroup_limits(group: Path) -> list[int]:
    """Return the limit of a cgroup (version 2 or 1) as a list of one number; an empty list if it has no limit."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return [math.ceil(int(quota) / int(period))]
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [math.ceil(int(quota) / int(period))] if int(quota) > 0 else []
    return []
