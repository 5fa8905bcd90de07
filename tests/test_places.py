"""Places: whoever is left alone is rescued, and what is empty can be closed."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladybug.config import Config
from ladybug.listeners import open_listeners
from ladybug.places import Places

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all slots have one queue")

SLOTS = 3


@contextlib.contextmanager
def places(config: Config) -> Iterator[tuple[Places, list[list[socket.socket]]]]:
    listeners = open_listeners(config, SLOTS)
    made = Places(config, listeners)
    try:
        yield made, listeners
    finally:
        made.close()


def received(made: Places, slot: int) -> int:
    place = made.get(slot)
    assert place is not None
    count = 0
    while (item := place.channel.receive()) is not None:
        socket.socket(fileno=item[1]).close()
        count += 1
    return count


def open_descriptors() -> set[str]:
    return {fd.name for fd in Path("/proc/self/fd").iterdir()}


def waiting(listener: socket.socket) -> int:
    """How many wait in a listener's queue; they are taken."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def connected(address: tuple[str, int], count: int) -> list[socket.socket]:
    return [socket.create_connection(address) for _ in range(count)]


@linux
def test_what_waits_elsewhere_goes_to_who_receives() -> None:
    with places(Config("m:a", port=0)) as (made, listeners), contextlib.ExitStack() as stack:
        address = listeners[0][0].getsockname()
        for client in connected(address, 60):
            stack.enter_context(client)
        assert list(made.interests(0.0)) == [], "nobody could take anything"
        assert made.rescue(0.0) == []
        made.route(frozenset({1}))
        assert len(list(made.interests(0.0))) == 2 * (SLOTS - 1), "a channel and a listener each"
        assert made.rescue(0.0) == []
        own = waiting(listeners[1][0])
        rescued = received(made, 1)
        assert rescued > 0
        assert own + rescued == 60
        # And what comes from now on is steered there by the kernel.
        for client in connected(address, 20):
            stack.enter_context(client)
        made.rescue(0.0)
        assert received(made, 1) == 0


@linux
def test_a_slot_is_closed_when_it_is_empty_and_not_before() -> None:
    with places(Config("m:a", port=0)) as (made, listeners), contextlib.ExitStack() as stack:
        for client in connected(listeners[0][0].getsockname(), 300):
            stack.enter_context(client)
        made.route(frozenset({1}))
        made.close_when_empty(2)
        closed: list[int] = []
        now, rescued = 0.0, 0
        while not closed:
            closed = made.rescue(now)
            rescued += received(made, 1)
            now += 1.0
        assert closed == [2]
        assert made.get(2) is None
        assert rescued > 64, "more than one call can move"
        made.open(5)
        place = made.get(5)
        assert place is not None
        assert place.listeners[0].getsockname() == listeners[0][0].getsockname()
        assert [member[0] for member in made.in_order()] == [listeners[0][0], listeners[1][0], place.listeners[0]]


@linux
def test_when_all_are_turned_away_what_nobody_takes_is_rescued_at_once() -> None:
    with places(Config("m:a", port=0)) as (made, listeners), contextlib.ExitStack() as stack:
        made.route(frozenset({0}))
        for client in connected(listeners[0][0].getsockname(), 100):
            stack.enter_context(client)
        made.route(frozenset({1, 2}))
        made.turn_away()
        rescued = [received(made, slot) for slot in range(SLOTS)]
        assert sum(rescued) == 100, "more than one call can move"
        assert waiting(listeners[0][0]) == 0


@linux
def test_a_slot_that_is_closed_is_out_of_the_group_whoever_still_holds_its_listener() -> None:
    with places(Config("m:a", port=0)) as (made, listeners), contextlib.ExitStack() as stack:
        # What a worker has until it lets go of what is not its own.
        stack.enter_context(listeners[0][0].dup())
        made.route(frozenset({1, 2}))
        made.close_when_empty(0)
        assert made.rescue(0.0) == [0]
        # The last of the group has taken the index of the first; here the kernel is told so.
        made.route(frozenset({2}))
        for client in connected(listeners[1][0].getsockname(), 40):
            stack.enter_context(client)
        assert waiting(listeners[1][0]) == 0
        assert waiting(listeners[2][0]) == 40


@linux
def test_who_finds_no_room_looks_again_a_moment_later() -> None:
    with places(Config("m:a", port=0)) as (made, listeners), contextlib.ExitStack() as stack:
        made.route(frozenset({1}))
        full = made.get(1)
        assert full is not None
        with socket.create_server(("127.0.0.1", 0)) as something:
            while full.channel.has_room() and full.channel.send(0, something.fileno()):
                pass
        made.route(frozenset())
        for client in connected(listeners[0][0].getsockname(), 40):
            stack.enter_context(client)
        made.route(frozenset({1}))
        assert made.rescue(10.0) == []
        deadline = made.next_deadline(10.0)
        assert deadline is not None and deadline > 10.0
        assert list(made.interests(10.0)) == [], "a queue that stays readable would wake the master for nothing"
        assert list(made.interests(deadline)) != []


@linux
def test_a_slot_that_cannot_be_opened_has_made_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with places(Config("m:a", port=0)) as (made, listeners):
        with monkeypatch.context() as patch:
            joined: list[object] = []
            patch.setattr("ladybug.places.Channel", refuse)
            patch.setattr("ladybug.places.join_listeners", lambda *args: joined.append(args))
            with pytest.raises(OSError, match="Too many open files"):
                made.open(3)
            assert joined == [], "nobody may have come to a listener that is closed again"
        with monkeypatch.context() as patch:
            patch.setattr("ladybug.places.join_listeners", refuse)
            before = open_descriptors()
            with pytest.raises(OSError, match="Too many open files"):
                made.open(3)
            assert open_descriptors() == before
        assert made.get(3) is None
        assert made.in_order() == listeners


@linux
def test_a_connection_that_no_channel_took_is_not_forgotten_when_all_are_well_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everybody = frozenset(range(SLOTS))
    with places(Config("m:a", port=0)) as (made, listeners):
        made.route(frozenset({0}))
        with socket.create_connection(listeners[0][0].getsockname()):
            made.route(frozenset({1}))
            with monkeypatch.context() as patch:
                patch.setattr("ladybug.rescue.Channel.send", lambda *_: False)  # ETOOMANYREFS
                made.rescue(10.0)
                assert waiting(listeners[0][0]) == 0
                made.route(everybody)
                made.rescue(10.0)
            deadline = made.next_deadline(10.0)
            assert deadline is not None
            made.rescue(deadline)
            assert sum(received(made, slot) for slot in everybody) == 1
            assert made.next_deadline(deadline) is None


def test_a_unix_socket_is_nobodys_own(tmp_path: Path) -> None:
    with places(Config("m:a", uds=tmp_path / "s")) as (made, listeners):
        made.route(frozenset({1}))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            made.rescue(0.0)
            assert received(made, 1) == 0, "the others take it themselves"
            made.close_when_empty(2)
            assert made.rescue(0.0) == [2]
            listeners[0][0].accept()[0].close()


def test_a_worker_keeps_its_own(tmp_path: Path) -> None:
    listeners = open_listeners(Config("m:a", port=0), 2)
    made = Places(Config("m:a", port=0), listeners)
    mine = made.keep_only(1)
    assert mine.listeners[0].fileno() >= 0
    if listeners[0][0] is not listeners[1][0]:
        assert listeners[0][0].fileno() == -1
    mine.close()
    mine.listeners[0].close()


@linux
def test_a_kernel_that_does_not_steer_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    monkeypatch.setattr("ladybug.steering._attach", refuse)
    with caplog.at_level(logging.INFO, "ladybug.error"), places(Config("m:a", port=0)) as (made, _):
        for slots in ({1}, {0, 1}, {2}):
            made.route(frozenset(slots))
    assert caplog.messages == [
        "New connections are not steered around workers that are busy or gone: the kernel refuses it: Protocol not available"
    ]


def test_where_all_slots_have_one_queue_nobody_need_worry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ladybug.error"), places(Config("m:a", uds=str(tmp_path / "s"))) as (made, _):
        made.route(frozenset({1}))
        made.route(frozenset({0, 1}))
    (record,) = caplog.records
    assert (record.levelno, "one queue for all workers" in record.getMessage()) == (logging.INFO, True)
