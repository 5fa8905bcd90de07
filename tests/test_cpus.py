"""How many CPUs may be used: control groups of both versions on made-up trees, and this machine's real answer."""

import os
from pathlib import Path, PurePosixPath

import pytest

from ladybug.cpus import (
    CgroupMount,
    affinity_cpus,
    cgroup_cpus,
    parse_cfs,
    parse_cpu_max,
    parse_groups,
    parse_mounts,
    usable_cpus,
)

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("200000\n", 2.0),
        ("", None),
        ("0 100000", None),
        ("100000 0", None),
        ("nonsense 1 2", None),
    ],
)
def test_cpu_max_is_quota_over_period(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("-1\n", "100000\n", None), ("250000\n", "100000\n", 2.5), ("", "100000", None), ("250000", "", None)],
)
def test_cfs_quota_is_quota_over_period(quota: str, period: str, cpus: float | None) -> None:
    assert parse_cfs(quota, period) == cpus


def test_groups_are_those_of_v2_and_of_the_v1_cpu_hierarchy() -> None:
    text = "12:cpuset:/set\n5:cpu,cpuacct:/docker/abc\n1:name=systemd:/init\n0::/user.slice/a:b\nnonsense\n"
    assert parse_groups(text) == {1: PurePosixPath("/docker/abc"), 2: PurePosixPath("/user.slice/a:b")}


def test_mounts_are_found_with_the_group_they_show() -> None:
    text = (
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        + V2
        + "36 30 0:32 /docker/abc /sys/fs/cgroup/my\\040cpu rw - cgroup cgroup rw,cpu\n"
        + "37 30 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        + "38 30 0:34 /../.. relative rw - cgroup2 cgroup2 rw\n"
        + "nonsense\n"
    )
    assert parse_mounts(text) == [
        CgroupMount(2, PurePosixPath("/"), PurePosixPath("/sys/fs/cgroup")),
        CgroupMount(1, PurePosixPath("/docker/abc"), PurePosixPath("/sys/fs/cgroup/my cpu")),
    ]


def test_v2_the_smallest_quota_up_to_the_root_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a.slice/b.service\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/a.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a.slice/b.service/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/other/cpu.max": "1000 100000\n",
        },
    )
    assert cgroup_cpus(root) == 1.5


def test_v2_in_a_cgroup_namespace_the_root_itself_has_the_quota(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "250000 100000\n"}
    assert cgroup_cpus(tree(tmp_path, files)) == 2.5


def test_v1_the_path_of_the_host_is_read_relative_to_what_the_mount_shows(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc/inner\n",
            "proc/self/mountinfo": V1.replace("0:31 /", "0:31 /docker/abc"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_cpus(root) == 3.0


def test_a_group_outside_of_what_the_mount_shows_asks_the_mounts_top(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../../elsewhere\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/cpu.max": "100000 100000\n",
    }
    assert cgroup_cpus(tree(tmp_path, files)) == 1.0


def test_both_versions_side_by_side_the_smaller_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/x\n0::/x\n",
            "proc/self/mountinfo": V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "),
            "sys/fs/cgroup/unified/x/cpu.max": "max 100000\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "120000\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_cpus(root) == 1.2


def test_without_proc_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_cpus(tmp_path) is None
    assert usable_cpus(tmp_path) == affinity_cpus()


def test_a_quota_is_rounded_up_and_never_below_one(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "10000 100000\n"}
    assert usable_cpus(tree(tmp_path, files)) == 1
    tree(tmp_path, {"sys/fs/cgroup/cpu.max": "110000 100000\n"})
    assert usable_cpus(tmp_path) == min(2, affinity_cpus())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity_is_heeded(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_this_machine_has_an_answer() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
