"""Which load generator a workload takes, and what both have in common."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from . import wrk, ws
from .figures import Figures
from .servers import Bench
from .workloads import Workload


class Client(Protocol):
    """A load generator, ready to begin. `pid` is 0 when it runs only while it loads."""

    @property
    def pid(self) -> int: ...

    def load(self, seconds: float) -> tuple[Figures, float]:
        """Returns the figures and the CPU seconds of the generator. Raises LoadError."""


@dataclass(frozen=True)
class Wrk:
    workload: Workload
    port: int
    bench: Bench
    pid: int = 0

    def load(self, seconds: float) -> tuple[Figures, float]:
        return wrk.run(self.workload, self.port, seconds, self.bench.client_cpu, self.bench.scratch)


@contextlib.contextmanager
def client(workload: Workload, port: int, bench: Bench) -> Iterator[Client]:
    """The generator for a workload, on the client's CPU. Raises LoadError."""
    if not workload.websocket:
        yield Wrk(workload, port, bench)
        return
    with ws.opened(workload, port, bench.client_cpu, bench.scratch) as opened:
        yield opened
