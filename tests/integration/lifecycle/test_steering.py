"""While one worker stands still the others serve its clients too: those that wait in its queue, and those that come.

That clients are answered while the worker still stands still is what these tests see; how fast, no test on a busy machine
can promise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.support import Client, Server, eventually, request_bytes, serve

APP = "tests.integration.apps.blocking:app"

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all workers have one queue")

# Clients that come while a worker stands still; half of them and more get into its queue before anybody can notice.
FIRST, LATER = 60, 140


@contextlib.contextmanager
def fleet(*options: str, workers: int = 2, **how: Any) -> Iterator[Server]:
    with serve(APP, "--timeout-worker-healthcheck", "0", *options, workers=workers, **how) as server:
        yield server


class Blocked(NamedTuple):
    """A worker whose event loop stands still."""

    pid: int
    client: Client  # who asked for it
    directory: Path

    def release(self) -> None:
        """Let it run again: whoever blocked it gets the answer."""
        (self.directory / "go").touch()
        assert self.client.read_response().value()["pid"] == self.pid


@contextlib.contextmanager
def blocked(server: Server, directory: Path) -> Iterator[Blocked]:
    """Block one worker; released at the end, if the test has not done so."""
    client = server.connect()
    before = set(directory.iterdir())
    client.send(request_bytes(f"/block?{directory}"))
    eventually(lambda: bool(set(directory.iterdir()) - before), "a worker that is blocked")
    (note,) = set(directory.iterdir()) - before
    worker = Blocked(int(note.name.rpartition("-")[2]), client, directory)
    try:
        yield worker
    finally:
        (directory / "go").touch()
        client.close()


def asking(server: Server, count: int) -> list[Client]:
    """Clients with a request each that nobody needs to have taken yet."""
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.send(request_bytes("/"))
    return clients


def answers(clients: list[Client]) -> list[dict[str, Any]]:
    """What the clients are answered; fails when one is not. They are closed."""
    found = []
    for client in clients:
        found.append(client.read_response().value())
        client.close()
    return found


def workers_that_answer(server: Server, count: int = 40) -> set[int]:
    return {answer["pid"] for answer in answers(asking(server, count))}


@linux
def test_everybody_is_answered_while_a_worker_is_blocked(tmp_path: Path) -> None:
    with fleet() as server, blocked(server, tmp_path) as worker:
        first = asking(server, FIRST)
        served = answers(first)
        # By now it is known who is blocked, and the kernel steers: nobody needs to be rescued any more.
        served += [answer for _ in range(LATER) for answer in answers(asking(server, 1))]
        assert len(served) == FIRST + LATER
        assert worker.pid not in {answer["pid"] for answer in served}
        worker.release()
        # It gets connections again as soon as it runs again.
        eventually(lambda: worker.pid in workers_that_answer(server), "a connection for the worker that was blocked")


@linux
def test_who_was_rescued_is_served_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Its address is its own, and so is the connection: it is kept, and used again."""
    with fleet() as server, blocked(server, tmp_path):
        clients = asking(server, 30)
        for client in clients:
            for again in (False, True):
                if again:
                    client.send(request_bytes("/"))
                answer = client.read_response().value()
                assert answer["client"] == client.socket.getsockname()
                assert answer["server"] == client.socket.getpeername()
            client.close()


@linux
def test_a_worker_that_the_kernel_has_stopped_is_no_different() -> None:
    with fleet() as server:
        stopped = next(iter(workers_that_answer(server)))
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert {answer["pid"] for answer in answers(asking(server, FIRST))}.isdisjoint({stopped})
        finally:
            os.kill(stopped, signal.SIGCONT)
        eventually(lambda: stopped in workers_that_answer(server), "a connection for the worker that was stopped")


@linux
def test_when_all_workers_are_blocked_their_clients_wait(tmp_path: Path) -> None:
    # Who asks for the second block is steered to the other worker, or brought there.
    with fleet() as server, blocked(server, tmp_path) as first, blocked(server, tmp_path) as second:
        assert first.pid != second.pid
        waiting = asking(server, 40)
        second.release()
        assert len(answers(waiting)) == 40
        first.release()


@linux
def test_a_worker_that_takes_rescued_clients_and_stops_serves_them_first(tmp_path: Path) -> None:
    """None is lost in a stop that comes in the middle."""
    with fleet() as server, blocked(server, tmp_path) as worker:
        answers(asking(server, FIRST))  # the rescue is under way from here on
        waiting = asking(server, FIRST)
        server.signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert len(answers(waiting)) == FIRST
        assert worker.client.read_response().value()["pid"] == worker.pid
        assert server.wait() == 0, server.output.text()


def test_from_a_shared_queue_whoever_is_free_takes(tmp_path: Path) -> None:
    """Without steering, and without a word about it: there is nothing to steer."""
    path, directory = str(tmp_path / "app.sock"), tmp_path / "notes"
    directory.mkdir()
    server = Server(APP, workers=2, bind=("--uds", path))
    try:
        server.output.wait_for("Press Ctrl")
        with Client(path) as blocker:
            blocker.send(request_bytes(f"/block?{directory}"))
            eventually(lambda: bool(list(directory.iterdir())), "a worker that is blocked")
            pids = set()
            for _ in range(40):
                with Client(path) as client:
                    pids.add(client.request("/").value()["pid"])
            assert len(pids) == 1
            (directory / "go").touch()
            assert blocker.read_response().value()["pid"] not in pids
        assert server.stop() == 0
        server.check_log()
    finally:
        if server.process.poll() is None:
            server.kill()
