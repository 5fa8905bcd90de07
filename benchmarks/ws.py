"""The WebSocket load generator, clients/websocket.c: compiled, started, told when to begin.

Unlike wrk it opens its connections before the load and keeps them from one load to the next: opening a thousand is
worth a third of a second of a server's CPU, and has a workload of its own.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import environments
from .figures import Figures, LoadError
from .workloads import Workload

SOURCE = Path(__file__).parent / "clients" / "websocket.c"
READY = "ready"
MARK = "figures "
STOP_TIMEOUT = 10.0  # seconds to close ten thousand connections


def parse(line: str) -> tuple[Figures, float]:
    """The figures, and the CPU seconds the generator itself used for them. Raises LoadError."""
    if not line.startswith(MARK):
        raise LoadError(f"the WebSocket client said {line!r}")
    found: dict[str, Any] = json.loads(line.removeprefix(MARK))
    cpu_us = found.pop("cpu_us")
    return Figures(**found), cpu_us / 1e6


@dataclass
class Client:
    """A running generator, whose connections are open."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """What it says next. It waits for no answer longer than 10 s, so this ends. Raises LoadError with its words."""
        assert self.process.stdout and self.process.stderr
        said = self.process.stdout.readline().strip()
        if not said:
            raise LoadError(self.process.stderr.read().strip() or "the WebSocket client ended")
        return said

    def load(self, seconds: float) -> tuple[Figures, float]:
        """Load the server. Returns the figures and the CPU seconds of the client. Raises LoadError."""
        assert self.process.stdin
        try:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended while it held its connections; the line says why
        return parse(self.line())


def command(workload: Workload, port: int, connections: int) -> list[str]:
    kind = "text" if workload.text else "binary"
    return [workload.websocket, str(port), workload.path, str(connections), str(len(workload.body)), kind]


@contextlib.contextmanager
def opened(workload: Workload, port: int, cpu: int, scratch: Path, connections: int = 0) -> Iterator[Client]:
    """A generator on `cpu` that has opened its connections (by default the workload's), and exchanged a message on each.

    Raises LoadError, EnvironmentProblem.
    """
    program = environments.compiled(SOURCE, scratch)
    arguments = command(workload, port, connections or workload.connections)
    process = subprocess.Popen(
        ["taskset", "-c", str(cpu), str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            client = Client(process)
            if (said := client.line()) != READY:
                raise LoadError(f"the WebSocket client said {said!r}")
            yield client
            assert process.stdin
            process.stdin.close()
            process.wait(STOP_TIMEOUT)
        finally:
            process.kill()
