"""A fleet seen from outside: who its processes are, a board of notes between them and the test, and clients that count."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.integration.support import DEADLINE, Server, Truncated, eventually
from tests.integration.websocket.peer import CLOSE, PING, PONG, TEXT, Frame, Peer, close_payload

# What /stream answers, in pieces.
STREAMED = b"".join(b"%04d" % number for number in range(20))
# With these codes a server that leaves closes a WebSocket: going away (RFC 6455 section 7.4.1), service restart.
FAREWELLS = (1001, 1012)


class Control:
    """The test's side of the application's board of notes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def boot(self, how: str) -> None:
        (self.directory / "boot").write_text(how)

    def go(self) -> None:
        (self.directory / "go").touch()

    def pids(self, what: str) -> list[int]:
        """The processes that have left the note."""
        return [int(file.name.rpartition("-")[2]) for file in self.directory.glob(f"{what}-*")]

    def wait_for(self, what: str, count: int = 1) -> list[int]:
        eventually(lambda: len(self.pids(what)) >= count, f"{count} notes of {what!r}")
        return self.pids(what)


def title_of(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline()).rstrip()
    return ""


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def files_of(pid: int) -> dict[int, str]:
    """What it has open, by descriptor; but for another one of its log, which it opens for a moment to write a line."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found[int(fd.name)] = str(fd.readlink())
    log = {file for fd, file in found.items() if fd in (1, 2)}
    return {fd: file for fd, file in found.items() if fd <= 2 or file not in log}


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def workers_of(server: Server) -> dict[int, int]:
    """The workers that are not draining: pid by number."""
    found = {}
    for pid in children_of(server.pid):
        if match := re.fullmatch(r"ladybug: worker (\d+) \[.*\]", title_of(pid)):
            found[int(match[1])] = pid
    return found


def fork_servers_of(server: Server) -> list[int]:
    return [pid for pid in children_of(server.pid) if title_of(pid).startswith("ladybug: fork server [")]


def pss(pid: int) -> int:
    """Proportional set size in KiB: a page that n processes share counts 1/n."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise LookupError("Pss")


def await_successor(server: Server, number: int, old: int) -> int:
    """The pid of the worker that took the place of `old`, once it is ready."""
    server.output.wait_for(rf"Worker {number} \(pid {old}\) is ready[\s\S]*Worker {number} \(pid \d+\) is ready")
    return workers_of(server)[number]


class Failure(NamedTuple):
    """What went wrong for a client, when, and where it was connected from (None: it was not)."""

    error: Exception
    at: float
    address: Any


class Load:
    """Clients that send one thing after the other, and write down every one that was not answered.

    closing     a connection for each request
    keeping     requests on one connection until the server says it closes
    streaming   responses that come in pieces over a while
    uploading   requests that go out in pieces over a while
    echoing     messages on one WebSocket until the server closes it
    """

    def __init__(
        self,
        server: Server,
        *,
        closing: int = 0,
        keeping: int = 0,
        streaming: int = 0,
        uploading: int = 0,
        echoing: int = 0,
    ) -> None:
        self.server = server
        self.answers: list[int] = []
        self.failures: list[Failure] = []
        self.patience = DEADLINE  # seconds that a client waits for anything
        self.clients = closing + keeping + streaming + uploading + echoing
        self._stop = threading.Event()
        kinds = [(self._close, closing), (self._keep, keeping), (self._stream, streaming)]
        kinds += [(self._upload, uploading), (self._echo, echoing)]
        self._threads = [
            threading.Thread(target=self._run, args=(kind,)) for kind, count in kinds for _ in range(count)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count: int) -> None:
        enough = len(self.answers) + count
        eventually(lambda: len(self.answers) >= enough, f"{count} more answers")

    def _run(self, use: Callable[[Peer], None]) -> None:
        """One connection after the other."""
        while not self._stop.is_set():
            address = None
            try:
                with Peer(self.server.address, timeout=self.patience) as client:
                    address = client.socket.getsockname()
                    use(client)
            except (OSError, EOFError, Truncated, AssertionError) as error:
                self.failures.append(Failure(error, time.monotonic(), address))
                if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
                    return  # there is no server any more; FileNotFoundError: nor its Unix socket

    def _close(self, client: Peer) -> None:
        self.answers.append(client.request("/", headers=["Connection: close"]).value())

    def _keep(self, client: Peer) -> None:
        while not self._stop.is_set():
            response = client.request("/")
            self.answers.append(response.value())
            if response.closes:
                return

    def _stream(self, client: Peer) -> None:
        response = client.request("/stream")
        assert response.body == STREAMED, "a truncated stream"
        self.answers.append(int(response.get(b"x-worker") or b"0"))

    def _upload(self, client: Peer) -> None:
        client.send(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n")
        for _ in range(8):
            client.send(bytes(8192))
            self._stop.wait(0.02)
        pid, size = client.read_response("POST").value()
        assert size == 65536, "a truncated upload"
        self.answers.append(pid)

    def _echo(self, client: Peer) -> None:
        pid = int(client.open("/").handshake.get(b"x-worker") or b"0")
        number = 0
        while not self._stop.wait(0.01):
            number += 1
            message = b"message %d" % number
            client.send_frame(TEXT, message)
            while (got := client.read_frame()).opcode == PING:
                client.send_frame(PONG, got.payload)
            if got.opcode == CLOSE:
                # What was sent before the server's close frame came may be lost (RFC 6455 section 1.4).
                assert got.payload[:2] in map(close_payload, FAREWELLS), got
                client.send_frame(CLOSE, got.payload[:2])
                client.expect_end()
                return
            assert got == Frame(TEXT, message), (got, message)
            self.answers.append(pid)
        client.send_close(1000)
        while (got := client.read_frame()).opcode == PING:
            pass
        assert got.opcode == CLOSE and got.payload[:2] in map(close_payload, (1000, *FAREWELLS)), got
        client.expect_end()
