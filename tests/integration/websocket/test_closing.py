"""The end of a WebSocket (RFC 6455 section 7): in order, late, by one side only, at any byte. Nothing is left of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from tests.integration.support import MIB, Server, eventually, fresh_key, serve
from tests.integration.test_backpressure import GROWTH, Memory, others_are_served
from tests.integration.websocket.peer import (
    APPS,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    Peer,
    close_payload,
    connect,
    frame,
    handshake_bytes,
)

APP = f"{APPS}.scenarios:app"
# Seconds in which a server must give up waiting for the answer to its close; uvicorn takes 10.
PATIENCE = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP, "--no-access-log") as running:
        with connect(running) as peer:
            peer.open("/echo").finish()
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


# -- the server closes first


def test_the_application_may_go_on_until_its_close_is_answered(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/close_and_stay?{key}")
    peer.expect_close(4000, "bye")
    assert server.read_note(key) == "closed"
    assert not peer.readable(0.3), "the connection ended without the answer"
    peer.send_close(4000, "bye")
    peer.expect_end()
    (message,) = server.read_note(f"{key}-end")
    assert (message["type"], message["code"]) == ("websocket.disconnect", 4000)


def test_what_the_peer_still_sends_is_read_away(server: Server, peer: Peer) -> None:
    """Its messages were on their way; a reset for them would take our close frame with it."""
    key = fresh_key()
    peer.open(f"/close_and_stay?{key}")
    assert server.read_note(key) == "closed"
    peer.send(frame(TEXT, b"late") * 100 + frame(PING, b"late"))
    peer.expect_close(4000, "bye")
    peer.send_close(4000)
    peer.expect_end()
    kinds = {message["type"] for message in server.read_note(f"{key}-end")}
    assert "websocket.disconnect" in kinds


def test_a_megabyte_behind_our_close_is_read_away(server: Server, peer: Peer) -> None:
    key = fresh_key()
    memory = Memory(server)
    peer.open(f"/close_and_stay?{key}")
    assert server.read_note(key) == "closed"
    peer.feed([frame(BINARY, b"x" * 65536)] * 16)
    peer.expect_close(4000, "bye")
    peer.feed([frame(CLOSE, close_payload(4000))])
    peer.expect_end()
    memory.check()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/close_and_stay", "/return_open", "/close_with"])
def test_a_peer_that_never_answers_is_given_up(server: Server, peer: Peer, path: str) -> None:
    begin = time.monotonic()
    key = fresh_key()
    peer.socket.settimeout(PATIENCE)
    peer.open(f"{path}?{key}")
    while peer.read_frame().opcode != CLOSE:
        pass
    peer.expect_end(reset_allowed=True)
    assert time.monotonic() - begin > 0.5, "given up at once"
    if path == "/close_and_stay":
        assert server.read_note(f"{key}-end")[-1]["code"] in (1006, 4000)


@pytest.mark.slow
def test_a_peer_that_never_stops_sending_is_given_up(server: Server, peer: Peer) -> None:
    memory = Memory(server)
    peer.open(f"/close_and_stay?{fresh_key()}")
    peer.expect_close(4000, "bye")
    end = time.monotonic() + PATIENCE
    gone = False
    while not gone and time.monotonic() < end:
        before = time.monotonic()
        peer.flood(frame(BINARY, b"x" * 65536), 8 * MIB, until_readable=True)
        gone = peer.readable(max(0.0, 0.2 - (time.monotonic() - before)))
    assert gone, f"still taking data {PATIENCE} s after its close"
    peer.expect_end(reset_allowed=True)
    memory.check()


def test_a_close_behind_a_full_queue_is_answered_at_once(server: Server, peer: Peer) -> None:
    """The application has closed and will not take what is queued: that must not keep its answer from being read."""
    key = fresh_key()
    peer.open(f"/close_deaf?{key}")
    peer.send(frame(TEXT, b"x") * 100)
    assert not peer.readable(0.2)
    server.post_note(f"{key}-go")
    peer.expect_close(1000)
    peer.send_close(1000)
    begin = time.monotonic()
    peer.expect_end()
    assert time.monotonic() - begin < 2, "the answer was not read"


def test_a_peer_that_closes_at_the_same_time(server: Server, peer: Peer) -> None:
    """Our close frames cross: each is the answer to the other."""
    key = fresh_key()
    peer.open(f"/close_and_stay?{key}")
    assert server.read_note(key) == "closed"
    peer.send_close(4001, "mine")
    peer.expect_close(4000, "bye")
    peer.expect_end()
    assert server.read_note(f"{key}-end")[-1]["code"] in (4000, 4001)


def test_a_peer_that_ends_the_connection_instead_of_answering(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/close_and_stay?{key}")
    peer.expect_close(4000, "bye")
    peer.half_close()
    peer.expect_end(reset_allowed=True)
    assert server.read_note(f"{key}-end")[-1]["type"] == "websocket.disconnect"


def test_what_was_sent_before_the_close_arrives_before_it(server: Server) -> None:
    """However slowly it is read."""
    size = 8 * MIB
    with connect(server, receive_buffer=65536) as peer:
        peer.open(f"/stream?{fresh_key()}&{size}")
        taken = 0
        for _ in range(size // 65536):
            message = peer.read_message()
            taken += len(message)
        assert taken == size
        peer.expect_closed_by_server(1000)


# -- the peer closes first


def test_the_server_ends_the_connection(peer: Peer) -> None:
    """RFC 6455 section 7.1.1: it is the server that closes the TCP connection, and it does so at once."""
    peer.open("/echo")
    begin = time.monotonic()
    peer.finish()
    assert time.monotonic() - begin < 2


def test_a_close_and_the_end_in_one_piece_is_still_answered(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/messages?{key}")
    peer.send_close(3333, "both")
    peer.half_close()
    peer.expect_close(3333, None)
    peer.expect_end()
    message = server.read_note(key)[-1]
    assert (message["code"], message.get("reason")) == (3333, "both")


def test_a_close_behind_unread_messages_waits_for_them(server: Server, peer: Peer) -> None:
    """The application first gets what was sent before."""
    key = fresh_key()
    peer.open(f"/deaf?{key}")
    assert server.read_note(key) == "deaf"
    peer.send(frame(TEXT, b"x") * 10 + frame(TEXT, b"") + frame(CLOSE, close_payload(1000)))
    server.post_note(f"{key}-go")
    got = peer.read_frame()
    if got.opcode == TEXT:  # it was quick enough to answer
        got = peer.read_frame()
    assert got == Frame(CLOSE, close_payload(1000))
    peer.expect_end()


# -- at any byte

TALK = (
    handshake_bytes("/echo")
    + frame(TEXT, b"one")
    + frame(PING, b"p")
    + frame(TEXT, b"tw", fin=False)
    + frame(CONTINUATION, b"o")
    + frame(BINARY, b"x" * 200)
    + frame(CLOSE, close_payload(1000, "done"))
)


def expect_settled(server: Server, before: dict[str, int]) -> dict[str, int]:
    """Nothing is left of what came since `before`: the answer for then."""
    after = server.resources(settle=before)
    assert after["fds"] <= before["fds"]
    assert after["tasks"] <= before["tasks"]
    return after


def leave(peer: Peer, how: str) -> None:
    if how == "half_close":
        peer.half_close()
        # Whatever it had to say to that, it comes to an end.
        peer.read_to_end()
    getattr(peer, "reset" if how == "reset" else "close")()


@pytest.mark.parametrize("how", ["reset", "close", "half_close"])
def test_a_peer_that_leaves_at_any_byte_leaves_nothing_behind(server: Server, how: str) -> None:
    before = server.resources()
    for size in range(len(TALK) + 1):
        with connect(server) as peer:
            peer.feed([TALK[:size]])
            if size % 3 == 0 and size > len(handshake_bytes("/echo")):
                peer.accepted()
            leave(peer, how)
    expect_settled(server, before)


@pytest.mark.parametrize("how", ["reset", "close", "half_close"])
@pytest.mark.parametrize("path", ["/not_yet", "/deaf", "/stream", "/close_and_stay", "/refuse", "/deny", "/messages"])
def test_a_peer_that_leaves_in_any_state_leaves_nothing_behind(server: Server, path: str, how: str) -> None:
    before = server.resources()
    keys = [fresh_key() for _ in range(10)]
    for key in keys:
        with connect(server) as peer:
            peer.send(handshake_bytes(f"{path}?{key}&{MIB}") + frame(TEXT, b"x" * 1000) * 50)
            if path in ("/deaf", "/close_and_stay"):
                server.read_note(key)
            if how == "half_close" and path in ("/not_yet", "/deaf"):
                peer.half_close()  # nothing to read to its end here: the application is not done
                continue
            leave(peer, how)
    for key in keys:
        server.post_note(f"{key}-go")
    expect_settled(server, before)


def test_thousands_that_come_and_go_leave_nothing_behind(server: Server) -> None:
    """Connections, tasks, descriptors, memory."""

    def generation(count: int) -> None:
        for number, how in zip(range(count), itertools.cycle(("finish", "reset", "close", "server")), strict=False):
            with connect(server) as peer:
                if how == "server":
                    peer.open(f"/close_with?{fresh_key()}")
                    peer.expect_closed_by_server(1000)
                    continue
                peer.open("/echo")
                peer.send_bytes(b"x" * (number % 5000))
                assert len(peer.read_message()) == number % 5000
                getattr(peer, how)()

    generation(500)  # what is allocated once, and notes of the application's own
    before = server.resources()
    generation(2500)
    assert expect_settled(server, before)["rss"] - before["rss"] <= GROWTH


def test_hundreds_at_once_leave_nothing_behind(server: Server) -> None:
    before = server.resources()
    peers = [connect(server).open("/echo") for _ in range(300)]
    others_are_served(server)
    assert server.resources()["fds"] >= before["fds"] + 300
    for number, peer in enumerate(peers):
        peer.reset() if number % 2 else peer.close()
    expect_settled(server, before)


def test_a_deaf_application_does_not_keep_a_dead_connection() -> None:
    """With its queue full the server reads no more, and must see the end all the same: by its pings, if not before."""
    with serve(APP, "--ws-ping-interval", "1", "--ws-ping-timeout", "1") as server:
        before = server.resources()
        key = fresh_key()
        with connect(server) as peer:
            peer.open(f"/deaf?{key}")
            assert server.read_note(key) == "deaf"
            message = frame(BINARY, b"x" * 65536)
            sent = peer.flood(message, 16 * MIB)
            # The first ping is answered by nobody who reads; what is sent later must be noticed, too.
            assert peer.read_frame().opcode == PING
            assert sent < 16 * MIB
            peer.reset()
        eventually(lambda: server.resources()["fds"] <= before["fds"], "the connection to be closed")
        server.post_note(f"{key}-go")
        expect_settled(server, before)
