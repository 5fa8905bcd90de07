"""What requests per second do not show: system calls, memory per idle connection, idle CPU, size, time to start.

Each probe starts its own server with the plaintext application and returns readings; a server that a probe cannot
read gives a reading with an error.
"""

import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from . import proc, wrk, ws
from .figures import LoadError
from .servers import Bench, Running, Server, ServerProblem, serve
from .workloads import BY_NAME as WORKLOADS
from .workloads import Workload

PLAINTEXT = WORKLOADS["plaintext"]
WEBSOCKET = WORKLOADS["ws-64-c64"]
IDLE_CONNECTIONS = 10_000
BATCH = 64  # connections opened at a time: below the smallest backlog among the servers
IDLE_SECONDS = 10.0
STARTS = 5
FILES_NEEDED = IDLE_CONNECTIONS + 500
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True)
class Reading:
    """One figure of one server; names and units are those of UNITS."""

    server: str
    name: str
    value: float = 0.0
    error: str = ""


UNITS = {
    "system calls": "per plaintext request, 64 connections (strace -c)",
    "idle connection": "KiB of process memory per idle keep-alive connection, 10,000 open",
    "opening": "us of CPU to accept a connection and answer its first request",
    "idle WebSocket": "KiB of process memory per idle WebSocket connection, 10,000 open, after a message on each",
    "opening WebSocket": "us of CPU to accept a WebSocket connection and echo its first message",
    "idle CPU": "% of a CPU over 10 s with 16 idle connections",
    "wake-ups": "per second, then",
    "PSS": "MiB, one worker, trivial application, after its first answer",
    "PSS worker": "MiB",
    "PSS master": "MiB, its share of a process that has no connections",
    "start": "ms from exec to the first answer, median of 5",
    "start CPU": "ms, until then",
}


def raise_file_limit() -> None:
    """Servers inherit it. Raises nothing: a limit too low shows as an error of the probe."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def parse_strace(text: str) -> dict[str, int]:
    """The table of strace -c: calls by name. Its last line, the total, is left out."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        row = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)", line)
        if row and row[2] != "total":
            counts[row[2]] = counts.get(row[2], 0) + int(row[1])
    return counts


def system_calls(running: Running, bench: Bench) -> Iterator[Reading]:
    """strace counts from before the first connection to after the last: no window to be matched with wrk's."""
    if shutil.which("strace") is None:
        yield Reading(running.server.name, "system calls", error="no strace")
        return
    wrk.run(PLAINTEXT, running.port, 1, bench.client_cpu, bench.scratch)
    output = bench.scratch / "strace.txt"
    pids = [argument for process in proc.session(running.pid) for argument in ("-p", str(process.pid))]
    tracer = subprocess.Popen(
        ["taskset", "-c", str(bench.server_cpu), "strace", "-c", "-f", "-o", str(output), *pids],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_traced(running.pid)
        figures, _ = wrk.run(PLAINTEXT, running.port, 3, bench.client_cpu, bench.scratch)
    finally:
        tracer.terminate()
        tracer.wait()
    calls = sum(parse_strace(output.read_text()).values())
    yield Reading(running.server.name, "system calls", calls / figures.requests)


def wait_until_traced(leader: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        tasks = list(proc.read_tasks(leader, "status"))
        if all("TracerPid:\t0\n" not in task for task in tasks):
            return
        time.sleep(0.01)
    raise ServerProblem("strace could not attach (kernel.yama.ptrace_scope, or no permission)")


def open_connections(port: int, count: int) -> list[socket.socket]:
    """`count` connections, each of which has had one request answered."""
    opened: list[socket.socket] = []
    while len(opened) < count:
        batch = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(min(BATCH, count - len(opened)))]
        for connection in batch:
            connection.sendall(REQUEST)
        for connection in batch:
            receive_answer(connection)
        opened += batch
    return opened


def receive_answer(connection: socket.socket) -> None:
    """Until head and 13 bytes are in; raises ServerProblem when the server ends the connection."""
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < len(PLAINTEXT.expected):
        piece = connection.recv(4096)
        if not piece:
            raise ServerProblem("closed a connection it should keep")
        received += piece


def idle_memory(running: Running, bench: Bench) -> Iterator[Reading]:
    name = running.server.name
    wrk.run(PLAINTEXT, running.port, 1, bench.client_cpu, bench.scratch)
    size, cpu = proc.pss_kib(running.pid), proc.cpu(running.pid)
    opened = open_connections(running.port, IDLE_CONNECTIONS)
    try:
        used = proc.cpu(running.pid) - cpu
        time.sleep(1.0)
        grown = proc.pss_kib(running.pid) - size
        if proc.sockets(running.pid) < IDLE_CONNECTIONS:
            raise ServerProblem("closed idle connections")
        yield Reading(name, "idle connection", grown / IDLE_CONNECTIONS)
        yield Reading(name, "opening", used.total / IDLE_CONNECTIONS * 1e6)
    finally:
        for connection in opened:
            connection.close()


def idle_websocket(running: Running, bench: Bench) -> Iterator[Reading]:
    name, port = running.server.name, running.port
    with ws.opened(WEBSOCKET, port, bench.client_cpu, bench.scratch) as client:
        client.load(1)
        size, cpu = proc.pss_kib(running.pid), proc.cpu(running.pid)
        with ws.opened(WEBSOCKET, port, bench.client_cpu, bench.scratch, IDLE_CONNECTIONS):
            used = proc.cpu(running.pid) - cpu
            time.sleep(1.0)
            grown = proc.pss_kib(running.pid) - size
            if proc.sockets(running.pid) < IDLE_CONNECTIONS:
                raise ServerProblem("closed idle connections")
            yield Reading(name, "idle WebSocket", grown / IDLE_CONNECTIONS)
            yield Reading(name, "opening WebSocket", used.total / IDLE_CONNECTIONS * 1e6)


def idle_cpu(running: Running, bench: Bench) -> Iterator[Reading]:
    name = running.server.name
    opened = open_connections(running.port, 16)
    try:
        time.sleep(1.0)
        ran, woken, begun = proc.run_time_ns(running.pid), proc.wake_ups(running.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        elapsed = time.monotonic() - begun
        yield Reading(name, "idle CPU", (proc.run_time_ns(running.pid) - ran) / 1e9 / elapsed * 100)
        yield Reading(name, "wake-ups", (proc.wake_ups(running.pid) - woken) / elapsed)
    finally:
        for connection in opened:
            connection.close()


def size(running: Running, bench: Bench) -> Iterator[Reading]:
    """The leader is the master when there are several processes; the largest of the others is the worker."""
    name = running.server.name
    time.sleep(0.5)  # what a worker frees or builds just after its first answer
    sizes = [proc.memory(process.pid)["Pss"] / 1024 for process in proc.session(running.pid)]
    yield Reading(name, "PSS", sum(sizes))
    if len(sizes) > 1:
        yield Reading(name, "PSS master", sizes[0])
    yield Reading(name, "PSS worker", max(sizes[1:], default=sizes[0]))


Probe = Callable[[Running, Bench], Iterator[Reading]]
PROBES: dict[str, tuple[Probe, Workload]] = {
    "PSS": (size, PLAINTEXT),
    "system calls": (system_calls, PLAINTEXT),
    "idle connection": (idle_memory, PLAINTEXT),
    "idle WebSocket": (idle_websocket, WEBSOCKET),
    "idle CPU": (idle_cpu, PLAINTEXT),
}
STARTING = "start"
NAMES = (*PROBES, STARTING)


def starts(servers: Sequence[Server], bench: Bench) -> Iterator[Reading]:
    """Interleaved: each server once, then each again."""
    ready: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    for _ in range(STARTS):
        for server in servers:
            try:
                with serve(server, PLAINTEXT, bench) as running:
                    ready.setdefault(server.name, []).append(running.ready)
                    used.setdefault(server.name, []).append(proc.run_time_ns(running.pid) / 1e6)
            except ServerProblem as problem:
                print(f"start {server.name}: {problem}", file=sys.stderr)
    for name, times in ready.items():
        yield Reading(name, "start", median(times) * 1000)
        yield Reading(name, "start CPU", median(used[name]))


def probe(
    servers: Sequence[Server], bench: Bench, names: Sequence[str], report: Callable[[Reading], None]
) -> list[Reading]:
    """These probes, of NAMES, on all servers that play their workload, access logs left out."""
    raise_file_limit()
    readings: list[Reading] = []

    def note(reading: Reading) -> None:
        readings.append(reading)
        report(reading)

    silent = [server for server in servers if server.kind not in ("log", "ladybug-log")]
    for server in silent:
        for name in (name for name in names if name in PROBES):
            ask, workload = PROBES[name]
            if not server.plays(workload):
                continue
            try:
                with serve(server, workload, bench, patient=True) as running:
                    for reading in ask(running, bench):
                        note(reading)
            except (ServerProblem, LoadError, OSError) as problem:
                note(Reading(server.name, name, error=str(problem)))
    if STARTING in names:
        for reading in starts([server for server in silent if server.plays(PLAINTEXT)], bench):
            note(reading)
    return readings


def progress(reading: Reading) -> None:
    text = f"fails: {reading.error.splitlines()[0]}" if reading.error else f"{reading.value:.2f}"
    print(f"probe {reading.server:<12} {reading.name:<16} {text}", file=sys.stderr, flush=True)
