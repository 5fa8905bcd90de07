"""Rescue: connections that leave one slot's queue for another's, and what happens when they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from ladybug.rescue import MOST_PER_CALL, PAUSE, Channel, Receiver, Rescuer
from tests.pair import DEADLINE, Stack, captured_log, no_descriptors_left, on_every_stack


class Place:
    """A slot: listeners, a channel, and the clients that have connected to it."""

    def __init__(self, binds: int = 1) -> None:
        self.listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(binds)]
        for listener in self.listeners:
            listener.setblocking(False)
        self.channel = Channel()
        self.clients: list[socket.socket] = []

    def connect(self, bind: int = 0) -> str:
        """A new client that waits in the queue; its name, as the server sees it."""
        client = socket.create_connection(self.listeners[bind].getsockname(), DEADLINE)
        self.clients.append(client)
        # Over loopback the last step of the handshake may be a moment behind connect(2).
        assert select.select([self.listeners[bind]], [], [], DEADLINE)[0]
        return str(client.getsockname())

    def queued(self) -> int:
        """How many wait in the listeners' queues; they are taken."""
        count = 0
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    count += 1
        return count

    def received(self) -> list[tuple[int, str]]:
        """Bind and client of all that has come through the channel."""
        found = []
        while (received := self.channel.receive()) is not None:
            bind, fd = received
            with socket.socket(fileno=fd) as connection:
                found.append((bind, str(connection.getpeername())))
        return found

    def fill(self) -> int:
        """Let others take all the room in the channel; how many there are in it."""
        count = 0
        while self.channel.has_room():
            assert self.channel.send(0, self.listeners[0].fileno())
            count += 1
        return count

    def close(self) -> None:
        for sock in (*self.listeners, *self.clients):
            sock.close()
        self.channel.close()


@pytest.fixture
def place() -> Iterator[Callable[..., Place]]:
    with contextlib.ExitStack() as places:

        def make(binds: int = 1) -> Place:
            made = Place(binds)
            places.callback(made.close)
            return made

        yield make


MakePlace = Callable[..., Place]


# -- the channel


def test_a_connection_comes_out_as_it_went_in(place: MakePlace) -> None:
    slot = place()
    client = slot.connect()
    accepted, _ = slot.listeners[0].accept()
    assert slot.channel.send(3, accepted.fileno())
    accepted.close()
    received = slot.channel.receive()
    assert received is not None
    bind, fd = received
    with socket.socket(fileno=fd) as connection:
        assert (bind, str(connection.getpeername())) == (3, client)
        assert not connection.get_inheritable()
        connection.sendall(b"hello")
        assert slot.clients[0].recv(5) == b"hello"
    assert slot.channel.receive() is None


def test_what_one_worker_left_the_next_finds(place: MakePlace) -> None:
    slot = place()
    clients = [slot.connect() for _ in range(3)]
    Rescuer().rescue(slot.listeners, place().channel, [slot.channel])
    pid = os.fork()
    if pid == 0:
        os._exit(0 if slot.channel.receive() is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert slot.received() == [(0, client) for client in clients[1:]]


def test_a_full_channel_refuses(place: MakePlace) -> None:
    slot = place()
    assert slot.fill() >= MOST_PER_CALL
    for _ in range(10_000):  # what remains after has_room() has said no
        if not slot.channel.send(0, slot.listeners[0].fileno()):
            break
    else:
        pytest.fail("a channel without a bound")


def test_without_a_descriptor_nothing_is_received_and_nothing_lost(place: MakePlace) -> None:
    slot = place()
    client = slot.connect()
    Rescuer().rescue(slot.listeners, place().channel, [slot.channel])
    with no_descriptors_left(), pytest.raises(OSError, match="Too many open files"):
        slot.channel.receive()
    assert slot.received() == [(0, client)]


# -- the master's side


def test_connections_go_to_the_others_in_turn(place: MakePlace) -> None:
    stuck, others = place(), [place() for _ in range(3)]
    clients = {stuck.connect() for _ in range(9)}
    assert Rescuer().rescue(stuck.listeners, stuck.channel, [other.channel for other in others]) == 9
    received = [other.received() for other in others]
    assert [len(some) for some in received] == [3, 3, 3]
    assert {client for some in received for _, client in some} == clients
    assert stuck.queued() == 0


def test_every_listener_of_a_slot_is_emptied(place: MakePlace) -> None:
    stuck, other = place(binds=2), place(binds=2)
    clients = [(1, stuck.connect(1)), (0, stuck.connect(0))]
    assert Rescuer().rescue(stuck.listeners, stuck.channel, [other.channel]) == 2
    assert sorted(other.received()) == sorted(clients)


def test_what_was_rescued_to_a_slot_that_is_stuck_now_is_rescued_again(place: MakePlace) -> None:
    first, second, third = place(), place(), place()
    client = first.connect()
    rescuer = Rescuer()
    assert rescuer.rescue(first.listeners, first.channel, [second.channel]) == 1
    assert rescuer.rescue(second.listeners, second.channel, [third.channel]) == 1
    assert third.received() == [(0, client)]


def test_one_call_is_bounded(place: MakePlace) -> None:
    stuck, others = place(), [place(), place()]
    for _ in range(MOST_PER_CALL + 5):
        stuck.connect()
    rescuer = Rescuer()
    to = [other.channel for other in others]
    assert rescuer.rescue(stuck.listeners, stuck.channel, to) == MOST_PER_CALL
    assert rescuer.rescue(stuck.listeners, stuck.channel, to) == 5
    assert rescuer.rescue(stuck.listeners, stuck.channel, to) == 0


def test_without_room_for_them_they_stay_in_the_queue(place: MakePlace) -> None:
    stuck, full, other = place(), place(), place()
    full.fill()
    stuck.connect()
    stuck.connect()
    rescuer = Rescuer()
    assert rescuer.rescue(stuck.listeners, stuck.channel, [full.channel]) == 0
    assert rescuer.rescue(stuck.listeners, stuck.channel, []) == 0
    assert rescuer.rescue(stuck.listeners, stuck.channel, [full.channel, other.channel]) == 2
    assert len(other.received()) == 2


def test_without_a_descriptor_for_them_they_stay_in_the_queue(place: MakePlace) -> None:
    stuck, other = place(), place()
    stuck.connect()
    with no_descriptors_left():
        assert Rescuer().rescue(stuck.listeners, stuck.channel, [other.channel]) == 0
    assert stuck.queued() == 1


class Fickle(Channel):
    """Says that it has room, and has none once: what a limit on descriptors under way looks like."""

    refusals = 1

    def send(self, bind: int, connection: int) -> bool:
        self.refusals -= 1
        return self.refusals < 0 and super().send(bind, connection)


def test_a_connection_that_is_refused_goes_first_the_next_time(place: MakePlace) -> None:
    stuck, other = place(), place()
    clients = [stuck.connect(), stuck.connect()]
    rescuer, fickle = Rescuer(), Fickle()
    assert rescuer.rescue(stuck.listeners, stuck.channel, [fickle]) == 0
    assert rescuer.rescue(stuck.listeners, stuck.channel, [other.channel]) == 2
    assert other.received() == [(0, client) for client in clients]
    fickle.close()


def test_a_connection_in_hand_is_delivered_when_nobody_is_stuck_any_more(place: MakePlace) -> None:
    stuck, full = place(), place()
    client = stuck.connect()
    rescuer, fickle = Rescuer(), Fickle()
    assert rescuer.deliver([fickle]), "there is nothing in hand"
    rescuer.rescue(stuck.listeners, stuck.channel, [fickle])
    full.fill()
    assert not rescuer.deliver([full.channel])
    assert not rescuer.deliver([])
    assert rescuer.deliver([stuck.channel])
    assert stuck.received() == [(0, client)]
    fickle.close()


def test_a_connection_in_hand_is_closed_at_the_end(place: MakePlace) -> None:
    stuck = place()
    stuck.connect()
    rescuer, fickle = Rescuer(), Fickle()
    rescuer.rescue(stuck.listeners, stuck.channel, [fickle])
    rescuer.close()
    assert stuck.clients[0].recv(1) == b""
    rescuer.close()
    fickle.close()


# -- the worker's side


class Taker:
    """What stands in for a server: it keeps what it is given."""

    def __init__(self, slot: Place) -> None:
        self.slot = slot
        self.taken: list[str] = []
        self.changed = asyncio.Event()
        self.receiver = Receiver(slot.channel, asyncio.get_running_loop(), self.take)

    def take(self, bind: int, fd: int) -> None:
        with socket.socket(fileno=fd) as connection:
            self.taken.append(str(connection.getpeername()))
        self.changed.set()

    async def until(self, count: int) -> None:
        while len(self.taken) < count:
            self.changed.clear()
            await self.changed.wait()


@contextlib.contextmanager
def taker() -> Iterator[Taker]:
    slot = Place()
    taker = Taker(slot)
    try:
        yield taker
    finally:
        taker.receiver.stop()
        slot.close()


def deliver(slot: Place, count: int = 1) -> list[str]:
    """Let clients come through the slot's channel."""
    stuck = Place()
    clients = [stuck.connect() for _ in range(count)]
    slot.clients += stuck.clients
    stuck.clients = []
    rescuer = Rescuer()
    while rescuer.rescue(stuck.listeners, stuck.channel, [slot.channel]):
        pass
    stuck.close()
    return clients


@on_every_stack
async def test_what_is_there_is_taken_and_then_what_comes(stack: Stack) -> None:
    with taker() as worker:
        clients = deliver(worker.slot)
        worker.receiver.begin()
        await worker.until(1)
        clients += deliver(worker.slot, MOST_PER_CALL + 1)
        await worker.until(len(clients))
        assert worker.taken == clients


@on_every_stack
async def test_a_stop_takes_what_is_there_and_no_more(stack: Stack) -> None:
    with taker() as worker:
        worker.receiver.begin()
        clients = deliver(worker.slot, MOST_PER_CALL + 1)
        worker.receiver.stop()
        assert worker.taken == clients
        deliver(worker.slot)
        await asyncio.sleep(0.01)
        assert worker.taken == clients


@on_every_stack
async def test_a_worker_that_never_served_takes_nothing(stack: Stack) -> None:
    with taker() as worker:
        deliver(worker.slot)
        worker.receiver.stop()
        assert worker.taken == []


@on_every_stack
async def test_out_of_descriptors_is_a_pause(stack: Stack) -> None:
    with taker() as worker, captured_log() as log:
        worker.receiver.begin()
        clients = deliver(worker.slot)
        with no_descriptors_left() as spare:
            while not log.records:  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0)
            assert log.take() == ["Cannot take rescued connections for now (Too many open files); they wait"]
            os.close(spare.pop())
            os.close(spare.pop())
            async with asyncio.timeout(10 * PAUSE):
                await worker.until(1)
        assert worker.taken == clients
