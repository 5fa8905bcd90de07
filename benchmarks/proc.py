"""What the kernel knows of processes and CPUs: /proc, read and parsed. Linux only, as the comparison is.

A server is all processes of one session: the harness starts it as the leader of a new one, and none of the
compared servers leaves it. parse_* are pure; the others read.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
KTHREADD = 2  # parent of all kernel threads


@dataclass(frozen=True)
class Stat:
    """One /proc/PID/stat. CPU in seconds; `reaped` is that of children that ended and were waited for."""

    pid: int
    command: str
    state: str
    parent: int
    session: int
    user: float
    system: float
    reaped: float
    processor: int


@dataclass(frozen=True)
class Cpu:
    """CPU time of a set of processes, seconds."""

    user: float
    system: float

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.user - other.user, self.system - other.system)

    @property
    def total(self) -> float:
        return self.user + self.system


def parse_stat(text: str) -> Stat:
    """proc_pid_stat(5). The command stands in parentheses and may itself hold blanks and parentheses."""
    pid, _, rest = text.partition(" (")
    command, _, rest = rest.rpartition(") ")
    fields = rest.split()  # fields[0] is the state, number 3 of the manual page
    user, system, reaped_user, reaped_system = (int(ticks) / TICKS for ticks in fields[11:15])
    return Stat(
        pid=int(pid),
        command=command,
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
        user=user,
        system=system,
        reaped=reaped_user + reaped_system,
        processor=int(fields[36]),
    )


def parse_rollup(text: str) -> dict[str, int]:
    """/proc/PID/smaps_rollup: name -> KiB."""
    sizes = {}
    for line in text.splitlines()[1:]:
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0])
    return sizes


def parse_steal(text: str, cpus: Iterable[int]) -> float:
    """Seconds the hypervisor gave to others while these CPUs wanted to run, from /proc/stat."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    lines = (line.split() for line in text.splitlines())
    return sum(int(line[8]) / TICKS for line in lines if line[0] in wanted)


def stats() -> Iterator[Stat]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                yield parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue


def session(leader: int) -> list[Stat]:
    """The processes of a server, leader first, zombies left out."""
    found = [stat for stat in stats() if stat.session == leader and stat.state != "Z"]
    return sorted(found, key=lambda stat: (stat.pid != leader, stat.pid))


def cpu(leader: int) -> Cpu:
    processes = session(leader)
    return Cpu(sum(p.user for p in processes), sum(p.system for p in processes))


def memory(pid: int) -> dict[str, int]:
    """Sizes of one process in KiB, among them Pss: its own pages and its share of shared ones."""
    return parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())


def pss_kib(leader: int) -> int:
    return sum(memory(process.pid)["Pss"] for process in session(leader))


def run_time_ns(leader: int) -> int:
    """Time on a CPU of all threads, in nanoseconds: finer than the ticks of stat, without user and system apart."""
    return sum(int(text.split()[0]) for text in read_tasks(leader, "schedstat"))


def wake_ups(leader: int) -> int:
    """How often threads of the server went to sleep by themselves."""
    lines = (line for text in read_tasks(leader, "status") for line in text.splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def read_tasks(leader: int, name: str) -> Iterator[str]:
    for process in session(leader):
        for task in (PROC / str(process.pid) / "task").iterdir():
            try:
                yield (task / name).read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue


def sockets(leader: int) -> int:
    """Open sockets of a server."""
    count = 0
    for process in session(leader):
        for entry in (PROC / str(process.pid) / "fd").iterdir():
            try:
                count += str(entry.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue
    return count


class Foreign:
    """How much of the measuring CPUs other processes took: all but the server, ourselves and the load generator.

    wrk needs no naming: it begins and is reaped while we look. Kernel threads are left out (they also work for the
    server); time stolen by the hypervisor is counted.
    """

    def __init__(self, leader: int, cpus: tuple[int, int], client: int = 0) -> None:
        self.leader = leader
        self.client = client
        self.cpus = cpus
        self.before = self.snapshot()
        self.steal = self.stolen()

    def stolen(self) -> float:
        return parse_steal((PROC / "stat").read_text(), self.cpus)

    def snapshot(self) -> dict[int, Stat]:
        ours = {os.getpid(), KTHREADD, self.client}
        return {
            stat.pid: stat
            for stat in stats()
            if stat.session != self.leader and stat.pid not in ours and stat.parent != KTHREADD
        }

    def seconds(self) -> tuple[float, str]:
        """CPU seconds others took since the start, and the command of the greediest."""
        taken: dict[str, float] = {"hypervisor": self.stolen() - self.steal}
        now = self.snapshot()
        for pid in now.keys() | self.before.keys():
            # A process that ended takes its past away here, and adds it to its parent's `reaped` there.
            for stat, sign in ((now.get(pid), 1), (self.before.get(pid), -1)):
                if stat is not None and stat.processor in self.cpus:
                    used = sign * (stat.user + stat.system + stat.reaped)
                    taken[stat.command] = taken.get(stat.command, 0.0) + used
        return max(0.0, sum(taken.values())), max(taken, key=lambda command: taken[command])
