"""One sample of one server on one workload, and the interleaved rounds that samples are taken in."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from . import load, proc
from .figures import LoadError
from .servers import Bench, Running, Server, ServerProblem, serve
from .workloads import Workload

MOST_FOREIGN = 0.12  # of one CPU, taken by other processes while we measured
MOST_CLIENT = 0.95  # of one CPU, used by the load generator
MOST_TAKES = 4  # a sample disturbed more often than that is kept and marked
PATIENCE = 15.0  # seconds to wait for half a quiet second before taking it again


@dataclass(frozen=True)
class Sample:
    """CPU in microseconds per request, of all processes of the server; pss in KiB, after the load.

    `error` is why there are no figures; `foreign` the share of a CPU that others took, `client` the load generator.
    A request is whatever the workload counts.
    """

    workload: str
    server: str
    round: int
    per_second: float = 0.0
    user_us: float = 0.0
    system_us: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    pss_kib: int = 0
    foreign: float = 0.0
    takes: int = 1
    error: str = ""
    client: float = 0.0

    @property
    def cpu_us(self) -> float:
        return self.user_us + self.system_us

    @property
    def disturbed(self) -> bool:
        return self.foreign > MOST_FOREIGN

    @property
    def client_limited(self) -> bool:
        """The load generator had no time left: a faster server would have got the same figure. Its CPU tells more."""
        return self.client > MOST_CLIENT


@dataclass(frozen=True)
class Pace:
    """Seconds of load before and while measuring; 0 seconds means the workload's own."""

    warm_up: float = 1.0
    seconds: float = 0.0


def measure_once(
    running: Running, client: load.Client, workload: Workload, bench: Bench, seconds: float, number: int
) -> Sample:
    foreign = proc.Foreign(running.pid, (bench.server_cpu, bench.client_cpu), client.pid)
    cpu_before, begun = proc.cpu(running.pid), time.monotonic()
    figures, client_cpu = client.load(seconds)
    cpu, elapsed = proc.cpu(running.pid) - cpu_before, time.monotonic() - begun
    taken, _ = foreign.seconds()
    wrong = figures.complaint()
    if wrong:
        return Sample(workload.name, running.server.name, number, error=wrong)
    return Sample(
        workload=workload.name,
        server=running.server.name,
        round=number,
        per_second=figures.per_second,
        user_us=cpu.user / figures.requests * 1e6,
        system_us=cpu.system / figures.requests * 1e6,
        p50_us=figures.p50_us,
        p99_us=figures.p99_us,
        pss_kib=proc.pss_kib(running.pid),
        foreign=taken / elapsed,
        client=client_cpu / figures.duration_us * 1e6,
    )


def wait_for_quiet(running: Running, client: load.Client, bench: Bench) -> None:
    """Until the others leave the CPUs alone, or patience ends."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        foreign = proc.Foreign(running.pid, (bench.server_cpu, bench.client_cpu), client.pid)
        time.sleep(0.5)
        taken, _ = foreign.seconds()
        if taken / 0.5 <= MOST_FOREIGN:
            return


def measure(
    running: Running, client: load.Client, workload: Workload, bench: Bench, seconds: float, number: int
) -> Sample:
    """A sample of a running server, taken again while others disturb."""
    best = measure_once(running, client, workload, bench, seconds, number)
    takes = 1
    while best.disturbed and takes < MOST_TAKES:
        wait_for_quiet(running, client, bench)
        again = measure_once(running, client, workload, bench, seconds, number)
        takes += 1
        if again.error or again.foreign < best.foreign:
            best = again
    return replace(best, takes=takes)


def sample(server: Server, workload: Workload, bench: Bench, pace: Pace, number: int) -> Sample:
    """Start, check, warm up, measure, and measure again while others disturb. Problems become the sample's error."""
    try:
        with serve(server, workload, bench) as running, load.client(workload, running.port, bench) as client:
            client.load(pace.warm_up)
            return measure(running, client, workload, bench, pace.seconds or workload.seconds, number)
    except (ServerProblem, LoadError) as problem:
        return Sample(workload.name, server.name, number, error=str(problem))


def rounds(
    servers: Sequence[Server],
    workloads: Sequence[Workload],
    bench: Bench,
    pace: Pace,
    count: int,
    report: Callable[[Sample], None],
) -> Iterator[Sample]:
    """Every server on every workload, `count` times over: what is compared is measured seconds apart.

    Each round starts with another server, so that none always follows the same neighbour.
    """
    for number in range(count):
        for workload in workloads:
            playing = [server for server in servers if server.plays(workload)]
            turn = number % len(playing) if playing else 0
            for server in playing[turn:] + playing[:turn]:
                taken = sample(server, workload, bench, pace, number)
                report(taken)
                yield taken


def progress(taken: Sample) -> None:
    """One line on stderr per sample."""
    if taken.error:
        figures = f"fails: {taken.error}"
    else:
        figures = f"{taken.per_second:>10,.0f}/s {taken.cpu_us:>9.1f} us CPU  p50 {taken.p50_us:>8.0f} us"
        if taken.disturbed:
            figures += f"  (others took {taken.foreign:.0%} of a CPU)"
        elif taken.takes > 1:
            figures += f"  (take {taken.takes})"
        if taken.client_limited:
            figures += "  (client limited)"
    print(f"round {taken.round + 1} {taken.workload:<13} {taken.server:<12} {figures}", file=sys.stderr, flush=True)
