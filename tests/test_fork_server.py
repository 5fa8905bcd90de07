"""A fork server by itself: this process is its master, and nobody serves."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from ladybug import fork_server
from ladybug.children import ended_unnamed
from ladybug.config import Config
from ladybug.exceptions import ConfigError
from ladybug.fork_server import ForkServer
from ladybug.launch import serve
from ladybug.link import Kind, MasterLink, Message
from ladybug.listeners import open_listeners
from ladybug.places import Places
from ladybug.preload import Unanswered
from ladybug.scoreboard import Scoreboard, State
from ladybug.stacks import Stacks
from tests.pair import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

APPLICATION = """
import os
print("imported", flush=True)
{top}
async def app(scope, receive, send):
    raise NotImplementedError
"""


class Master:
    """As much of one as a fork server needs."""

    def __init__(self, directory: Path, top: str = "") -> None:
        (directory / "origin.py").write_text(APPLICATION.format(top=top))
        self.config = Config("origin:app", app_dir=directory, port=0, lifespan="off", log_config=None)
        self.places = Places(self.config, open_listeners(self.config, 1))
        self.scoreboard = Scoreboard()
        self.server = ForkServer(self.config, self.scoreboard, self.places.close)

    def hears(self, link: MasterLink) -> Message:
        assert select.select([link.fd], [], [], DEADLINE)[0]
        (message,) = link.receive()
        return message

    @contextlib.contextmanager
    def worker(self, known: Collection[int] = ()) -> Iterator[tuple[int, MasterLink, int]]:
        """A worker that was ordered: process id, link, and number of its record."""
        place = self.places.get(0)
        assert place is not None
        record, stacks = self.scoreboard.claim(0, 1, time.monotonic()), Stacks()
        link, link_of_worker = os.pipe()
        lifeline_of_worker, lifeline = os.pipe()
        try:
            pid = self.server.fork(0, record.number, place, link_of_worker, lifeline_of_worker, stacks, known)
            os.close(link_of_worker)
            os.close(lifeline_of_worker)
            yield pid, MasterLink(link), record.number
        finally:
            stacks.close()
            os.close(lifeline)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            self.server.kill(signal.SIGKILL)
            os.waitpid(self.server.pid, 0)
        self.places.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    master = Master(tmp_path)
    yield master
    master.end()


def test_a_worker_is_our_child_and_serves_and_ends_with_its_lifeline(master: Master) -> None:
    assert master.hears(master.server.link) == (Kind.READY, "")
    with master.worker() as (pid, link, record):
        assert master.hears(link) == (Kind.READY, "")
        assert psutil.Process(pid).ppid() == os.getpid()
        row = master.scoreboard.record(record).read()
        assert (row.pid, row.state, row.slot) == (pid, State.SERVING, 0)
        assert {child.pid for child in psutil.Process().children()} >= {pid, master.server.pid}
    assert os.waitpid(pid, 0)[1] == 0
    # And another.
    with master.worker() as (other, link, _):
        assert other != pid
        assert master.hears(link).kind is Kind.READY
        os.kill(other, signal.SIGKILL)
        assert os.waitpid(other, 0)[1] == signal.SIGKILL


def tell_parents(write_fd: int) -> None:
    """Of this process, until nobody listens."""
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(write_fd, b"%d " % os.getppid())
            time.sleep(0.01)


def test_orphans_are_adopted_for_no_longer_than_it_takes(master: Master) -> None:
    assert master.hears(master.server.link).kind is Kind.READY
    with master.worker() as (pid, link, _):
        assert master.hears(link).kind is Kind.READY
        read_fd, write_fd = os.pipe()
        between = os.fork()
        if between == 0:
            try:
                os.close(read_fd)
                if os.fork() == 0:
                    tell_parents(write_fd)
            finally:
                os._exit(0)
        os.waitpid(between, 0)
        os.close(write_fd)
        parents: set[int] = set()
        while not parents - {between}:
            parents |= {int(number) for number in os.read(read_fd, 4096).split()}
        os.close(read_fd)  # which ends it
        assert os.getpid() not in parents
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("top", "why"),
    [("raise RuntimeError('no database')", "no database"), ("import missing", "missing"), ("1 +", "invalid syntax")],
)
def test_an_import_that_fails_is_told(tmp_path: Path, top: str, why: str) -> None:
    master = Master(tmp_path, top)
    message = master.hears(master.server.link)
    assert message.kind is Kind.FAILED
    assert message.text.startswith('Cannot import the application "origin:app": importing it failed:')
    assert why in message.text
    assert os.waitstatus_to_exitcode(os.waitpid(master.server.pid, 0)[1]) == 3
    master.places.close()


def test_an_import_may_have_children_collected_by_the_kernel(tmp_path: Path) -> None:
    master = Master(tmp_path, "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    try:
        assert master.hears(master.server.link).kind is Kind.READY
        with master.worker() as (pid, link, _):
            assert master.hears(link).kind is Kind.READY
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        master.end()


def test_one_that_is_gone_is_no_help(master: Master) -> None:
    assert master.hears(master.server.link).kind is Kind.READY
    os.kill(master.server.pid, signal.SIGKILL)
    os.waitpid(master.server.pid, 0)
    with pytest.raises(Unanswered, match="does not answer"), master.worker():
        pass


def test_who_is_no_child_of_ours_is_no_worker(master: Master) -> None:
    assert master.hears(master.server.link).kind is Kind.READY
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders, master.server._orders = master.server._orders, orders
    with orders, theirs:
        for pid in (-1, -os.getpgrp(), 1, os.getpid(), os.getppid(), 2**31 - 1):
            theirs.send(struct.pack("=ii", pid, 0))
            expected = rf"tells of process {pid}, which is no new child of ours$"
            with pytest.raises(Unanswered, match=expected), master.worker():
                pass
        theirs.send(struct.pack("=ii", master.server.pid, 0))
        with pytest.raises(Unanswered, match="no new child"), master.worker(known=[master.server.pid]):
            pass


def test_a_worker_that_has_ended_already_is_not_lost(master: Master) -> None:
    assert master.hears(master.server.link).kind is Kind.READY
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders, master.server._orders = master.server._orders, orders
    ended = os.fork()
    if ended == 0:
        os._exit(7)
    os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
    with orders, theirs:
        theirs.send(struct.pack("=ii", ended, 0))
        with master.worker() as (pid, _, _):
            assert pid == ended
    assert os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1]) == 7


def test_one_that_was_stopped_is_not_waited_for_for_ever(master: Master) -> None:
    assert master.hears(master.server.link).kind is Kind.READY
    os.kill(master.server.pid, signal.SIGSTOP)
    expected = rf"^the fork server \(pid {master.server.pid}\) does not answer$"
    begin = time.monotonic()
    with pytest.raises(Unanswered, match=expected), master.worker():
        pass
    # The master hears nobody meanwhile.
    assert time.monotonic() - begin < 6.0


def test_a_worker_whose_fork_server_dies_before_it_has_named_it_is_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork_and_die(become: Callable[[], NoReturn]) -> NoReturn:
        fork_twice(become)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    fork_twice = fork_server._fork_twice
    monkeypatch.setattr(fork_server, "_fork_twice", fork_and_die)
    master = Master(tmp_path)
    assert master.hears(master.server.link).kind is Kind.READY
    with pytest.raises(Unanswered), master.worker():
        pass
    (child,) = [child for child in psutil.Process().children() if child.pid != master.server.pid]
    record = master.scoreboard.record(0)
    # Its lifeline has ended: it ends, and is a zombie until somebody asks.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert record.read().pid == child.pid
    assert list(ended_unnamed([record], [master.server.pid])) == [record]
    assert not child.is_running()
    master.end()


def test_it_goes_with_its_master(tmp_path: Path) -> None:
    for top in ("", "import time\ntime.sleep(600)"):
        master = Master(tmp_path, top)
        if not top:
            assert master.hears(master.server.link).kind is Kind.READY
        master.server.close()
        status = os.waitpid(master.server.pid, 0)[1]
        assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGIO
        master.server.stacks.close()
        master.places.close()


def test_it_needs_an_import_string() -> None:
    with pytest.raises(ConfigError, match=r"^preload: an application object is loaded already"):
        serve(Config(lambda scope: None, preload=True))


def test_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladybug.launch.sys.platform", "darwin")
    with pytest.raises(ConfigError, match=r"^preload: this needs Linux"):
        serve(Config("origin:app", preload=True))
