"""Flow control: whoever does not keep up holds up the other side, never the server's memory or other clients.

LADYBUG_TEST_STREAM (MiB, default 256) is how much flows; the bound on the memory does not depend on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.support import MIB, Server, fresh_key, serve
from tests.integration.test_backpressure import (
    GROWTH,
    SIZE,
    Memory,
    others_are_served,
    send_all,
    settled_progress,
)
from tests.integration.websocket.peer import (
    APPS,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    connect,
    frame,
)

APP = f"{APPS}.scenarios:app"
PIECE = b"0123456789abcdef" * 4096


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # No pings of the server's own: who does not read would be a dead peer, which is another subject.
    with serve(APP, "--no-access-log", "--ws-ping-interval", "0") as running:
        # The first of each kind imports and allocates what stays; the bounds are about what comes on top.
        with connect(running) as peer:
            peer.open("/echo")
            peer.send_bytes(b"x" * 300_000)
            peer.read_message()
            peer.finish()
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


def expect_count(peer: Peer, size: int, messages: int) -> None:
    """Ask the application what it has received."""
    peer.send_text("")
    assert peer.read_value() == {"size": size, "messages": messages}


def others_get_through(server: Server) -> None:
    """As others_are_served, however long it takes: a read full of the smallest frames is ten thousand of them, and the
    uncompiled server needs a tenth of a second for each."""
    for _ in range(5):
        assert server.request("/hello").body == b"hello"


# -- clients that do not read


def test_a_stream_nobody_takes_stops_the_application(server: Server) -> None:
    key = fresh_key()
    memory = Memory(server)
    with connect(server, receive_buffer=65536) as peer:
        peer.open(f"/stream?{key}&{SIZE}")
        assert settled_progress(server, key) < SIZE // 2, "the server took what nobody read"
        others_are_served(server)
        memory.check()
        # It was only held up: the rest still arrives, to the last message.
        for _ in range(SIZE // len(PIECE)):
            assert peer.read_message() == PIECE
        peer.expect_closed_by_server(1000)
    assert server.read_note(key) == "sent"
    memory.check()


def test_many_streams_nobody_takes_cost_little_each(server: Server) -> None:
    count = 30
    keys = [fresh_key() for _ in range(count)]
    memory = Memory(server)
    peers = [connect(server, receive_buffer=4096) for _ in range(count)]
    for peer, key in zip(peers, keys, strict=True):
        peer.open(f"/stream?{key}&{64 * MIB}")
    assert settled_progress(server, *keys) < count * 32 * MIB
    others_are_served(server)
    memory.check(GROWTH + count * 256 * 1024)
    for peer in peers:
        peer.reset()
    for key in keys:
        assert server.read_note(key)["oserror"]


def test_a_stream_that_is_taken_passes_through(server: Server, peer: Peer) -> None:
    memory = Memory(server)
    peer.open(f"/stream?{fresh_key()}&{SIZE}")
    taken = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        message = peer.read_message()
        assert isinstance(message, bytes)
        taken.update(message)
    expected = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        expected.update(PIECE)
    assert taken.digest() == expected.digest()
    peer.expect_closed_by_server(1000)
    memory.check()


def test_a_stream_that_never_pauses_leaves_room_for_others(server: Server) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/stream_small?{key}")
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                peer.discard(65536)

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        try:
            others_are_served(server)
        finally:
            stop.set()
            taker.join()
        peer.reset()
    assert server.read_note(key)["oserror"]


def test_a_broadcast_that_never_pauses_leaves_room_for_others(server: Server) -> None:
    """No single WebSocket gets many messages in a row; the application sends many all the same."""
    key = fresh_key()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connect(server)).open("/crowd") for _ in range(100)]
        shouter = stack.enter_context(connect(server)).open(f"/shout?{key}")
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                for peer in peers:
                    if peer.readable(0):
                        peer.socket.recv(65536)

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        try:
            others_are_served(server)
        finally:
            stop.set()
            taker.join()
        for peer in peers:
            peer.reset()
        assert server.read_note(key) == "alone"
        shouter.expect_closed_by_server(1000)


def test_a_stream_of_small_messages_nobody_takes_stops_the_application(server: Server) -> None:
    key = fresh_key()
    memory = Memory(server)
    with connect(server, receive_buffer=4096) as peer:
        peer.open(f"/stream_small?{key}")
        settled_progress(server, key)
        others_are_served(server)
        memory.check()
        peer.reset()
    assert server.read_note(key)["oserror"]


def test_a_big_message_is_not_copied(server: Server) -> None:
    size = 64 * MIB
    memory = Memory(server)
    with connect(server, receive_buffer=65536) as peer:
        peer.open(f"/one_message?{fresh_key()}&{size}")
        first = peer.read(10)
        assert first == b"\x82\x7f" + size.to_bytes(8, "big")
        others_are_served(server)
        peer.discard(size)
        peer.finish()
    # The application holds it once; the server may keep what it needs to send the rest, not another one.
    memory.check(size + 2 * GROWTH)


# -- applications that do not receive


@pytest.mark.parametrize("size", [65536, MIB], ids=["64k", "1m"])
def test_messages_nobody_receives_stop_the_client(server: Server, peer: Peer, size: int) -> None:
    key = fresh_key()
    message = frame(BINARY, PIECE * (size // len(PIECE)))
    memory = Memory(server)
    peer.open(f"/deaf?{key}")
    assert server.read_note(key) == "deaf"
    sent = peer.flood(message, len(message) * (SIZE // size))
    assert sent < SIZE // 2, "the server took what nobody received"
    others_are_served(server)
    # However many messages the queue may hold: it is bytes that must be bounded.
    memory.check(GROWTH + 2 * size)
    # It was only held up: everything still arrives.
    server.post_note(f"{key}-go")
    if rest := sent % len(message):
        peer.send(message[rest:])
    count = -(-sent // len(message))
    expect_count(peer, count * size, count)
    peer.finish()
    memory.check(GROWTH + 2 * size)


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 100], ids=["0", "1", "100"])
def test_tiny_messages_nobody_receives_stop_the_client(server: Server, peer: Peer, payload: bytes) -> None:
    key = fresh_key()
    message = frame(TEXT, payload)
    memory = Memory(server)
    peer.open(f"/deaf?{key}")
    assert server.read_note(key) == "deaf"
    limit = 64 * MIB // len(message) * len(message)
    assert peer.flood(message * 1000, limit) < limit, "the server took what nobody received"
    others_get_through(server)
    memory.check()


@pytest.mark.parametrize("size", [1, 1000])
def test_messages_received_slowly_hold_the_client_up(server: Server, peer: Peer, size: int) -> None:
    """The queue is now full, now not, while the client never stops: what is read must not run ahead of what is taken."""
    memory = Memory(server)
    message = frame(TEXT, b"x" * size)
    peer.open("/count_slowly")
    stop = threading.Event()

    def give() -> None:
        with contextlib.suppress(OSError):
            # With little pauses: new data must come just when the queue has room again.
            while not stop.wait(0.0002):
                peer.socket.sendall(message * 100)

    giver = threading.Thread(target=give, daemon=True)
    giver.start()
    for _ in range(4):
        stop.wait(0.5)
        others_get_through(server)
    memory.check()
    peer.socket.shutdown(socket.SHUT_RDWR)
    stop.set()
    giver.join()


def test_many_deaf_applications_cost_little_each(server: Server) -> None:
    count = 30
    memory = Memory(server)
    peers = [connect(server) for _ in range(count)]
    for peer in peers:
        key = fresh_key()
        peer.open(f"/deaf?{key}")
        peer.flood(frame(BINARY, b"x" * 1000) * 100, 8 * MIB, quiet=0.02)
    others_are_served(server)
    memory.check(GROWTH + count * 256 * 1024)
    for peer in peers:
        peer.reset()


def test_messages_that_are_received_pass_through(server: Server, peer: Peer) -> None:
    memory = Memory(server)
    peer.open("/count")
    count = SIZE // len(PIECE)
    sender = send_all(peer, frame(BINARY, PIECE), count)
    others_are_served(server)
    sender.join()
    expect_count(peer, SIZE, count)
    peer.finish()
    memory.check()


def test_tiny_messages_that_are_received_pass_through(server: Server, peer: Peer) -> None:
    count = 200_000
    memory = Memory(server)
    peer.open("/count")
    sender = send_all(peer, frame(TEXT, b"x") * 1000, count // 1000)
    others_get_through(server)
    sender.join()
    expect_count(peer, count, count)
    peer.finish()
    memory.check()


def test_an_echo_nobody_takes_stops_the_client(server: Server) -> None:
    memory = Memory(server)
    with connect(server, receive_buffer=65536) as peer:
        peer.open("/echo")
        message = frame(BINARY, PIECE)
        assert peer.flood(message, len(message) * (SIZE // len(PIECE))) < SIZE // 2
        others_are_served(server)
        memory.check()
        peer.reset()


def test_an_application_that_never_receives_hears_of_the_end(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/deaf_and_busy?{key}")
    peer.send_text("nobody receives this")
    peer.send_close(1000)
    while peer.read_frame().opcode != CLOSE:
        pass
    assert server.read_note(key)["oserror"]


# -- frames that are cheap to send


@pytest.mark.parametrize("payload", [b"", b"x" * 125], ids=["0", "125"])
def test_unread_pongs_do_not_pile_up(server: Server, payload: bytes) -> None:
    memory = Memory(server)
    with connect(server, receive_buffer=4096) as peer:
        peer.open("/echo")
        peer.flood(frame(PING, payload) * 1000, 32 * MIB, until_readable=False)
        others_get_through(server)
        memory.check()
        peer.reset()


def test_a_flood_of_pings_that_is_answered_leaves_room_for_others(server: Server, peer: Peer) -> None:
    count = 20_000
    memory = Memory(server)
    peer.open("/echo")
    sender = send_all(peer, frame(PING, b"x" * 100) * 100, count // 100)
    pongs = 0

    def take() -> None:
        nonlocal pongs
        while (got := peer.read_frame()).opcode == PONG:
            pongs += 1
        assert got.opcode == TEXT

    taker = threading.Thread(target=take, daemon=True)
    taker.start()
    others_are_served(server)
    sender.join()
    peer.send_text("enough")
    taker.join(30)
    # RFC 6455 section 5.5.3: only the most recent ping has to be answered.
    assert not taker.is_alive() and 1 <= pongs <= count
    memory.check()


def test_a_flood_of_pongs_leaves_room_for_others(server: Server, peer: Peer) -> None:
    memory = Memory(server)
    peer.open("/echo")
    sender = send_all(peer, frame(PONG, b"x" * 100) * 100, 3000)
    others_are_served(server)
    sender.join()
    peer.send_text("enough")
    assert peer.read_message() == "enough"
    memory.check()
    peer.finish()


def test_a_message_of_endless_empty_frames_costs_nothing(server: Server, peer: Peer) -> None:
    memory = Memory(server)
    peer.open("/echo")
    peer.send(frame(TEXT, b"begun", fin=False))
    sender = send_all(peer, frame(CONTINUATION, b"", fin=False) * 1000, 500)
    others_get_through(server)
    sender.join()
    peer.feed([frame(CONTINUATION, b".")])
    got = peer.read_frame()
    # Either it is a message like any other, or there is a limit to it, and that is said.
    assert (got.opcode, got.payload) == (TEXT, b"begun.") or got.opcode == CLOSE
    memory.check()


def test_a_message_of_one_byte_frames_costs_what_it_holds(server: Server, peer: Peer) -> None:
    """A byte object for each would make it a hundredfold."""
    size = MIB // 2
    memory = Memory(server)
    peer.open("/echo")
    peer.send(frame(TEXT, b"", fin=False))
    sender = send_all(peer, frame(CONTINUATION, b"x", fin=False) * 1024, size // 1024)
    others_get_through(server)
    sender.join()
    memory.check(GROWTH + 2 * size)
    peer.feed([frame(CONTINUATION)])
    got = peer.read_frame()
    assert (got.opcode, got.payload) == (TEXT, b"x" * size) or got.opcode == CLOSE


def test_a_message_that_is_never_finished_costs_what_it_holds(server: Server) -> None:
    memory = Memory(server)
    peers = [connect(server) for _ in range(20)]
    for peer in peers:
        peer.open("/echo")
        peer.send(frame(BINARY, b"", length=8 * MIB, width=64) + PIECE)
    others_are_served(server)
    # The length is only announced: nothing may be reserved for it.
    memory.check(GROWTH + 20 * 2 * len(PIECE))
    for peer in peers:
        peer.reset()


def test_a_message_of_the_default_limit_is_not_held_many_times(server: Server, peer: Peer) -> None:
    size = 16 * MIB
    memory = Memory(server)
    peer.open("/count")
    peer.feed([frame(BINARY, b"", length=size, width=64)] + [PIECE] * (size // len(PIECE)))
    expect_count(peer, size, 1)
    peer.finish()
    memory.check(3 * size)


def test_memory_comes_back_when_it_is_over(server: Server) -> None:
    def send_much() -> None:
        with connect(server) as peer:
            peer.open("/echo")
            peer.feed([frame(BINARY, b"", length=16 * MIB, width=64)] + [PIECE] * 256)
            assert len(peer.read_message()) == 16 * MIB
            peer.finish()

    send_much()
    before = server.resources()
    for _ in range(10):
        send_much()
    # The allocator may keep blocks of this size for the next (glibc: up to 32 MiB), but not one of each.
    assert server.resources(settle=before)["rss"] - before["rss"] <= GROWTH + 32 * MIB
