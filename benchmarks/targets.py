"""What Ladybug owes: each figure with what it must be, what it aims at, and how it is read from a run. Pure.

A target is at least (>=) or at most (<=); `aim` may be absent. A figure that cannot be read (a server not run, or
failing) is reported as not measured, never as met.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import ratios
from .measure import Sample
from .probes import Reading
from .servers import BASELINE

US = "ladybug"
PEERS = ("uvicorn", "granian-st", "granian", "gunicorn", "hypercorn", "fastpysgi")


@dataclass(frozen=True)
class Run:
    """All that was measured on one Python."""

    samples: Sequence[Sample]
    readings: Sequence[Reading]

    def reading(self, name: str, server: str = US) -> float | None:
        found = [r.value for r in self.readings if (r.server, r.name) == (server, name) and not r.error]
        return found[-1] if found else None


Read = Callable[[Run], float | None]


@dataclass(frozen=True)
class Target:
    workload: str
    what: str
    read: Read
    must: float
    aim: float | None = None
    at_most: bool = False
    among: Sequence[str] = ()  # "the best peer" is the best of these in the run

    def rival(self, run: Run) -> str:
        """Whom a figure against the best peer is against."""
        return (ratios.best_of(run.samples, self.workload, self.among) or "") if self.among else ""

    def met(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        if not self.met(value, self.must):
            return "**not met**"
        return "aim met" if self.aim is not None and self.met(value, self.aim) else "met"


def against(workload: str, other: str = BASELINE, us: str = US, value: ratios.Value = ratios.per_second) -> Read:
    return lambda run: ratios.ratio(run.samples, workload, us, other, value)


def against_best(workload: str, peers: Sequence[str] = PEERS) -> Read:
    def read(run: Run) -> float | None:
        best = ratios.best_of(run.samples, workload, peers)
        return None if best is None else ratios.ratio(run.samples, workload, US, best, ratios.per_second)

    return read


def probe(name: str) -> Read:
    return lambda run: run.reading(name)


def probe_against(name: str, other: str) -> Read:
    def read(run: Run) -> float | None:
        ours, theirs = run.reading(name), run.reading(name, other)
        return None if ours is None or not theirs else ours / theirs

    return read


VS = "requests/s, x uvicorn"
MESSAGES = "messages/s, x uvicorn"
SOCKETIFY = "messages/s, x socketify"
PICOWS = "messages/s, x picows without ASGI"
BEST = "requests/s, x the best peer"
NGINX = "requests/s, x nginx"
GRANIAN = ("granian", "granian-st")

TARGETS = (
    Target("plaintext", VS, against("plaintext"), 2.4, 2.8),
    Target("plaintext", BEST, against_best("plaintext"), 1.6, among=PEERS),
    Target(
        "plaintext", "CPU, x the C epoll server", against("plaintext", "c-epoll", value=ratios.cpu), 1.8, None, True
    ),
    Target("browser", VS, against("browser"), 2.4, 2.8),
    Target("browser", BEST, against_best("browser"), 1.45, among=PEERS),
    Target("seed", VS, against("seed"), 3.0, 3.6),
    Target("seed", BEST, against_best("seed"), 1.6, among=PEERS),
    Target("seed", NGINX, against("seed", "nginx"), 0.9, 1.0),
    Target("pipeline16", VS, against("pipeline16"), 6.0, 11.0),
    Target("pipeline16", NGINX, against("pipeline16", "nginx"), 1.0),
    Target("fastapi", VS, against("fastapi"), 1.22, 1.32),
    Target("fastapi", BEST, against_best("fastapi"), 1.12, among=PEERS),
    Target(
        "fastapi",
        "requests/s, x uvicorn as installed, both with access log",
        against("fastapi", "uvicorn-log", "ladybug-log"),
        1.75,
        1.9,
    ),
    Target("starlette", VS, against("starlette"), 1.45, 1.6),
    Target("starlette", "requests/s, x granian", against_best("starlette", GRANIAN), 1.0, among=GRANIAN),
    Target("fastapi-sync", VS, against("fastapi-sync"), 1.10, 1.2),
    Target("to-thread", VS, against("to-thread"), 1.3, 1.4),
    Target("sleep", VS, against("sleep"), 1.2, 1.3),
    Target("c1", "CPU, x uvicorn", against("c1", value=ratios.cpu), 0.6, None, True),
    Target("c1", "p50, x uvicorn", against("c1", value=ratios.p50), 0.78, 0.71, True),
    Target("churn", VS, against("churn"), 1.6, 2.1),
    Target("post64k", VS, against("post64k"), 1.15, 1.25),
    Target("post1m", VS, against("post1m"), 1.4, 1.75),
    Target("stream", VS, against("stream"), 1.1, 1.25),
    Target("file", VS, against("file"), 3.8, 4.8),
    Target("file", "requests/s, x granian", against_best("file", GRANIAN), 1.0, among=GRANIAN),
    Target("ws-64", MESSAGES, against("ws-64"), 1.9, 2.4),
    Target("ws-64", SOCKETIFY, against("ws-64", "socketify"), 1.0),
    Target("ws-64-c64", MESSAGES, against("ws-64-c64"), 1.6, 1.9),
    Target("ws-64-c64", SOCKETIFY, against("ws-64-c64", "socketify"), 1.0),
    Target("ws-64k", MESSAGES, against("ws-64k"), 1.3, 1.6),
    Target("ws-64k", SOCKETIFY, against("ws-64k", "socketify"), 1.0),
    Target("ws-64k", PICOWS, against("ws-64k", "picows"), 1.0),
    Target("ws-broadcast", MESSAGES, against("ws-broadcast"), 1.8, 2.4),
    Target("ws-handshake", "handshakes/s, x uvicorn", against("ws-handshake"), 2.0, 3.0),
    Target("idle WebSocket", "KiB of process memory each", probe("idle WebSocket"), 7.0, 5.0, True),
    Target("access log", "plaintext with it / without", against("plaintext", US, "ladybug-log"), 0.9),
    Target("system calls", "per plaintext request", probe("system calls"), 2.1, None, True),
    Target("idle connection", "KiB of process memory each", probe("idle connection"), 2.0, 1.0, True),
    Target("idle", "% of a CPU (0.1 % is one tick in 10 s)", probe("idle CPU"), 0.1, None, True),
    Target("worker", "PSS, MiB", probe("PSS worker"), 20.0, None, True),
    Target("master", "PSS, MiB", probe("PSS master"), 10.0, None, True),
    Target("worker and master", "PSS, MiB", probe("PSS"), 30.0, 15.0, True),
    Target("start", "time to first answer, x uvicorn", probe_against("start", BASELINE), 1.0, None, True),
)
