"""How many CPUs this process may really use: what `--workers auto` means.

A container's share is not its machine's: `os.cpu_count()` on a 64-core host inside a 2-CPU container says 64. The answer
here is the smallest of the CPU affinity and the quotas of the process's control group and all groups above it, for
cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`), rounded up, and never less than 1.

Rule: whatever cannot be read or understood sets no limit; a strange /proc must not keep a server from starting.
The `root` parameters exist so that all of it can be tried on a made-up tree.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class CgroupMount(NamedTuple):
    """One line of /proc/self/mountinfo that shows a hierarchy with CPU quotas."""

    version: int
    group: PurePosixPath  # the group that the mount shows at its top
    mounted_at: PurePosixPath


def usable_cpus(root: Path = Path("/")) -> int:
    """The number of CPUs this process may keep busy, at least 1."""
    quota = cgroup_cpus(root)
    affinity = affinity_cpus()
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def affinity_cpus() -> int:
    """The CPUs the scheduler may use for this process (sched_getaffinity(2)), or those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cpus(root: Path = Path("/")) -> float | None:
    """The smallest CPU quota along the process's control groups, in CPUs; None when there is none."""
    groups = parse_groups(_read(root / "proc/self/cgroup"))
    quotas = []
    for mount in parse_mounts(_read(root / "proc/self/mountinfo")):
        if mount.version in groups:
            top = root / mount.mounted_at.relative_to("/")
            for directory in _from_group_to_top(top, groups[mount.version], mount.group):
                quota = _quota(directory, mount.version)
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def parse_groups(text: str) -> dict[int, PurePosixPath]:
    """/proc/self/cgroup (cgroups(7)): the group of this process in the v2 and in the v1 cpu hierarchy."""
    groups = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if line.startswith("0::"):
            groups[2] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            groups[1] = PurePosixPath(path)
    return groups


def parse_mounts(text: str) -> list[CgroupMount]:
    """/proc/self/mountinfo (proc(5)): where the cgroup v2 and the v1 cpu hierarchies are mounted."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, filesystem = before.split(), after.split()
        if not separator or len(fields) < 5 or len(filesystem) < 3:
            continue
        group, mounted_at = PurePosixPath(_unescaped(fields[3])), PurePosixPath(_unescaped(fields[4]))
        if not group.is_absolute() or not mounted_at.is_absolute():
            continue
        if filesystem[0] == "cgroup2":
            mounts.append(CgroupMount(2, group, mounted_at))
        elif filesystem[0] == "cgroup" and "cpu" in filesystem[-1].split(","):
            mounts.append(CgroupMount(1, group, mounted_at))
    return mounts


def parse_cpu_max(text: str) -> float | None:
    """cpu.max of cgroup v2, "quota period" in microseconds, as a number of CPUs; None for "max"."""
    quota, _, period = text.strip().partition(" ")
    return _ratio(quota, period or "100000")


def parse_cfs(quota: str, period: str) -> float | None:
    """cpu.cfs_quota_us and cpu.cfs_period_us of cgroup v1 as a number of CPUs; None for -1, no quota."""
    return _ratio(quota, period)


def _ratio(quota: str, period: str) -> float | None:
    try:
        share, whole = int(quota), int(period)
    except ValueError:
        return None
    return share / whole if share > 0 and whole > 0 else None


def _quota(directory: Path, version: int) -> float | None:
    if version == 2:
        return parse_cpu_max(_read(directory / "cpu.max"))
    return parse_cfs(_read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us"))


def _from_group_to_top(top: Path, group: PurePosixPath, shown: PurePosixPath) -> Iterator[Path]:
    """The directories of `group` and of the groups above it, as far as the mount at `top` shows them.

    Inside a container without a cgroup namespace /proc/self/cgroup speaks of the host's tree, while the mount shows
    only the container's part of it: what the mount shows (`shown`) comes off the front. Where the two do not fit
    ("/../.." across namespaces), the top of the mount is all there is to ask.
    """
    inside = group.relative_to(shown) if group.is_relative_to(shown) and ".." not in group.parts else PurePosixPath()
    yield top / inside
    for parent in inside.parents:
        yield top / parent


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _unescaped(field: str) -> str:
    """Undo mountinfo's octal escapes for the only character that matters in a cgroup path, the space."""
    return field.replace("\\040", " ")
