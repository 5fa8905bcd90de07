"""Which fork server is asked: made-up processes, a made-up clock, and what a reload does to them."""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from ladybug.fork_server import ForkServer
from ladybug.link import BadLink, Kind, Message
from ladybug.preload import NotLoaded, Preload
from ladybug.supervisor import ABORT, RESPAWN_DELAYS, YOUNG

BOOT = 100.0


class MadeUpLink:
    def __init__(self) -> None:
        self.fd = 7
        self.at_end = False
        self.messages: list[Message] = []
        self.is_bad = False

    def receive(self) -> list[Message]:
        if self.is_bad:
            raise BadLink("it has sent nonsense")
        messages, self.messages = self.messages, []
        return messages


class MadeUpStacks:
    text = ""

    def read(self) -> str:
        return self.text


class MadeUpServer:
    """Stands in for a ForkServer."""

    def __init__(self, pid: int, born: float) -> None:
        self.pid = pid
        self.name = f"The fork server (pid {pid})"
        self.link = MadeUpLink()
        self.stacks = MadeUpStacks()
        self.born = born
        self.is_alive = True
        self.is_forgotten = False
        self.killed: list[signal.Signals] = []

    def kill(self, number: signal.Signals) -> None:
        if self.is_alive:
            self.killed.append(number)

    def forget(self) -> None:
        assert not self.is_forgotten
        self.is_forgotten = True


class World:
    """A master that has fork servers, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pids = itertools.count(1)
        self.started: list[MadeUpServer] = []
        self.is_full = False  # of processes
        self.preload = Preload(cast("Callable[[], ForkServer]", self.start), BOOT)

    def start(self) -> MadeUpServer:
        if self.is_full:
            raise BlockingIOError("no more processes")
        self.started.append(MadeUpServer(next(self.pids), self.now))
        return self.started[-1]

    @property
    def last(self) -> MadeUpServer:
        return self.started[-1]

    def asks(self) -> object:
        """As somebody does who wants a worker."""
        return self.preload.source(self.now)

    def says(self, server: MadeUpServer, kind: Kind, text: str = "") -> None:
        server.link.messages.append(Message(kind, text))
        self.preload.hear(self.now)

    def ready(self) -> MadeUpServer:
        """Somebody wants a worker, and the fork server for it gets ready."""
        assert self.asks() is None
        self.says(self.last, Kind.READY)
        assert self.asks() is self.last
        return self.last

    def ends(self, server: MadeUpServer, returncode: int = -9) -> None:
        self.preload.exited(server.pid, returncode, self.now)
        assert server.is_forgotten

    def sleeps(self) -> float:
        """Until there is something to do; how long."""
        at = self.preload.next_deadline()
        assert at is not None
        slept, self.now = at - self.now, max(at, self.now)
        self.preload.tick(self.now)
        return slept

    def failure(self) -> tuple[str, str]:
        with pytest.raises(NotLoaded) as raised:
            self.asks()
        return raised.value.what, raised.value.why


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, logger="ladybug.error"):
        yield


def test_nobody_is_started_before_somebody_asks(world: World) -> None:
    world.preload.tick(world.now)
    assert world.started == [] and world.preload.next_deadline() is None
    first = world.ready()
    assert world.asks() is first and len(world.started) == 1
    assert world.preload.pids() == [first.pid]
    assert list(world.preload.interests()) == []
    assert world.preload.next_deadline() is None


def test_who_waits_is_told_once_what_has_failed_and_the_next_begins_again(world: World) -> None:
    assert world.asks() is None
    assert list(world.preload.interests()) == [world.last.link.fd]
    world.says(world.last, Kind.FAILED, "no database")
    assert world.failure() == ("The fork server (pid 1) could not start", "no database")
    world.ends(world.last, 3)
    assert world.asks() is None
    assert len(world.started) == 2


def test_one_that_cannot_be_forked_is_an_error_of_who_asks(world: World) -> None:
    world.is_full = True
    with pytest.raises(BlockingIOError):
        world.asks()


@pytest.mark.parametrize(
    ("returncode", "stacks", "why"), [(-11, "main thread", "it was here\nmain thread"), (5, "", "")]
)
def test_one_that_dies_while_it_boots_has_failed(world: World, returncode: int, stacks: str, why: str) -> None:
    assert world.asks() is None
    world.last.stacks.text = stacks
    world.ends(world.last, returncode)
    what = "was killed by signal 11 (SIGSEGV)" if stacks else "exited with code 5"
    assert world.failure() == (f"The fork server (pid 1) {what} while it was booting", why)


def test_the_last_words_of_one_that_is_gone_are_heard(world: World) -> None:
    assert world.asks() is None
    world.last.link.messages.append(Message(Kind.FAILED, "no database"))
    world.ends(world.last, 3)
    assert world.failure() == ("The fork server (pid 1) could not start", "no database")
    assert world.last.killed == [] and world.preload.pids() == []


def test_one_that_sends_nonsense_is_killed(world: World) -> None:
    assert world.asks() is None
    world.last.link.is_bad = True
    world.preload.hear(world.now)
    assert world.failure() == ("The fork server (pid 1) is killed", "it has sent nonsense")
    assert world.last.killed == [signal.SIGKILL] and world.preload.pids() == [1]
    world.ends(world.last)
    assert world.preload.pids() == []


def test_one_that_takes_too_long_is_aborted_then_killed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.asks() is None
    assert world.sleeps() == BOOT
    slow = world.last
    assert slow.killed == [signal.SIGABRT]
    what, why = world.failure()
    assert (what, why) == (
        "The fork server (pid 1) is given up",
        "it has not started within 100 s (--timeout-worker-boot)",
    )
    assert world.sleeps() == ABORT
    assert slow.killed == [signal.SIGABRT, signal.SIGKILL]
    slow.stacks.text = "main thread"
    world.ends(slow, -signal.SIGABRT)
    assert "is aborted: it was here\nmain thread" in caplog.text


def test_a_boot_may_last_for_ever(world: World) -> None:
    world.preload = Preload(cast("Callable[[], ForkServer]", world.start), 0.0)
    assert world.asks() is None
    assert world.preload.next_deadline() is None


def test_one_that_is_killed_is_replaced_less_and_less_often(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.ready()
    for delay in RESPAWN_DELAYS:
        world.ends(world.last)
        assert world.sleeps() == delay
        world.says(world.last, Kind.READY)
    world.now += YOUNG
    world.ends(world.last)
    assert world.sleeps() == 0.0
    assert "was killed by signal 9 (SIGKILL); starting another in 30 s" in caplog.text


def test_whoever_needs_a_worker_does_not_wait_for_that(world: World) -> None:
    world.ready()
    for _ in RESPAWN_DELAYS:
        world.ends(world.last)
        before = len(world.started)
        assert world.asks() is None
        assert len(world.started) == before + 1
        world.says(world.last, Kind.READY)


def test_a_replacement_that_fails_while_nobody_waits_is_logged_and_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.ready()
    world.ends(world.last)
    world.sleeps()
    world.says(world.last, Kind.FAILED, "no database")
    assert "could not start; starting another in 1 s: no database" in caplog.text
    world.ends(world.last, 3)
    world.is_full = True
    assert world.sleeps() == 1.0
    assert "The fork server cannot be started; starting another in 2 s: no more processes" in caplog.text
    world.is_full = False
    assert world.sleeps() == 2.0
    world.says(world.last, Kind.READY)
    assert world.asks() is world.last


def test_one_that_does_not_answer_is_killed_and_the_next_asked_for(world: World) -> None:
    lost = world.ready()
    world.preload.lost(cast(ForkServer, lost))
    assert lost.killed == [signal.SIGKILL]
    assert world.ready() is not lost
    world.ends(lost)
    assert world.preload.pids() == [world.last.pid]


def reload_begins(world: World) -> tuple[MadeUpServer, MadeUpServer]:
    old = world.ready()
    world.preload.renew(world.now)
    assert world.asks() is None, "old code is no longer wanted"
    return old, world.last


def test_after_a_reload_the_old_one_leaves(world: World) -> None:
    old, new = reload_begins(world)
    world.says(new, Kind.READY)
    assert world.asks() is new
    assert old.killed == []
    world.preload.reloaded(is_complete=True)
    assert old.killed == [signal.SIGKILL] and new.killed == []
    world.ends(old)
    assert world.asks() is new


def test_after_a_reload_that_was_abandoned_the_old_one_is_back(world: World) -> None:
    old, new = reload_begins(world)
    world.says(new, Kind.READY)
    assert world.asks() is new
    world.preload.reloaded(is_complete=False)
    assert new.killed == [signal.SIGKILL] and old.killed == []
    assert world.asks() is old


def test_new_code_that_cannot_be_imported_is_told_to_whoever_asks_first_and_then_forgotten(world: World) -> None:
    old = world.ready()
    world.preload.renew(world.now)
    world.says(world.last, Kind.FAILED, "no database")
    assert world.failure()[1] == "no database"
    world.preload.reloaded(is_complete=False)
    assert world.asks() is old


def test_a_reload_for_which_there_is_no_process_fails_as_well(world: World) -> None:
    old = world.ready()
    world.is_full = True
    world.preload.renew(world.now)
    assert world.failure() == ("The fork server cannot be started", "no more processes")
    world.preload.reloaded(is_complete=False)
    assert world.asks() is old


def test_a_reload_that_begins_again_goes_back_to_the_first(world: World) -> None:
    old, second = reload_begins(world)
    world.preload.renew(world.now)
    assert second.killed == [signal.SIGKILL], "it boots what is not wanted any more"
    third = world.last
    world.says(third, Kind.READY)
    assert world.asks() is third
    world.preload.renew(world.now)
    fourth = world.last
    world.says(fourth, Kind.READY)
    assert third.killed == [signal.SIGKILL] and old.killed == []
    world.preload.reloaded(is_complete=False)
    assert world.asks() is old
    assert sorted(world.preload.pids()) == [server.pid for server in world.started]


@pytest.mark.parametrize("is_complete", [True, False])
def test_deaths_during_a_reload(world: World, is_complete: bool) -> None:
    old, new = reload_begins(world)
    world.says(new, Kind.READY)
    world.ends(old)
    world.ends(new)
    world.preload.reloaded(is_complete=is_complete)
    assert world.ready() not in (old, new)


def test_a_stop_is_the_end_of_all_of_them(world: World) -> None:
    _, new = reload_begins(world)
    world.says(new, Kind.READY)
    world.preload.renew(world.now)
    world.preload.stop()
    assert [server.killed for server in world.started] == [[signal.SIGKILL] * 2] * 3
    world.preload.stop()
    assert world.preload.next_deadline() is None
    for server in world.started:
        world.ends(server)
    assert world.preload.pids() == []


def test_all_of_them_open_their_logs_anew(world: World) -> None:
    old, new = reload_begins(world)
    world.preload.reopen_logs()
    assert old.killed == new.killed == [signal.SIGUSR1]


def test_another_child_of_the_master_holds_nothing_of_them(world: World) -> None:
    reload_begins(world)
    world.preload.forget()
    assert all(server.is_forgotten for server in world.started)
