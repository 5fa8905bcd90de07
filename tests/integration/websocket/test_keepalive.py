"""Pings of the server's own, and peers that do not answer them (--ws-ping-interval, --ws-ping-timeout).

Time is the subject here, so these tests take it. One coarse timer sweeps all deadlines, so they strike up to LATE late.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.integration.support import Server, eventually, fresh_key, serve
from tests.integration.websocket.peer import (
    APPS,
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    close_payload,
    connect,
    frame,
    handshake_bytes,
)

APP = f"{APPS}.scenarios:app"
INTERVAL = 1.0
TIMEOUT = 1.0
LATE = 3.0

OPTIONS = ("--no-access-log", "--ws-ping-interval", "1", "--ws-ping-timeout", "1", "--timeout-send", "2")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP, *OPTIONS) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


@pytest.mark.slow
def test_a_peer_that_answers_stays(peer: Peer) -> None:
    peer.open("/echo")
    begin = time.monotonic()
    payloads = []
    while time.monotonic() - begin < 3 * (INTERVAL + TIMEOUT):
        ping = peer.read_frame()
        assert ping.opcode == PING
        payloads.append(ping.payload)
        peer.send_frame(PONG, ping.payload)
    assert len(payloads) >= 3
    peer.send_text("still here")
    assert peer.read_message() == "still here"
    peer.finish()


def test_the_first_ping_comes_after_the_interval(peer: Peer) -> None:
    peer.open("/echo")
    begin = time.monotonic()
    assert peer.read_frame().opcode == PING
    assert 0.7 * INTERVAL <= time.monotonic() - begin <= INTERVAL + LATE


def test_a_peer_that_does_not_answer_is_closed(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/messages?{key}")
    begin = time.monotonic()
    assert peer.read_frame().opcode == PING
    peer.expect_close(1011, None)
    assert 0.7 * (INTERVAL + TIMEOUT) <= time.monotonic() - begin <= INTERVAL + TIMEOUT + 2 * LATE
    message = server.read_note(key)[-1]
    assert message["type"] == "websocket.disconnect"
    assert message["code"] in (1006, 1011)


def test_a_peer_that_only_talks_is_no_answer_but_stays_or_is_closed_in_order(server: Server, peer: Peer) -> None:
    """Whether messages count as life is the server's choice; it must not tear one in two."""
    peer.open("/echo")
    end = time.monotonic() + INTERVAL + TIMEOUT + LATE
    while time.monotonic() < end:
        peer.feed([frame(TEXT, b"x" * 1000)])
        got = peer.read_frame()
        assert got.opcode in (TEXT, PING, CLOSE)
        if got.opcode == CLOSE:
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_peer_that_is_silent_and_gone_is_closed_and_leaves_nothing(server: Server) -> None:
    """As behind a network that went away: the connection is open, and nobody answers."""
    before = server.resources()
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/messages?{key}")
        assert server.read_note(key)[-1]["code"] in (1006, 1011)
        after = server.resources(settle=before)
        assert after["tasks"] == before["tasks"]


def test_a_dead_peer_ends_an_application_that_only_sends(server: Server) -> None:
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/send_until_gone?{key}")
        assert server.read_note(key)["oserror"]


def test_a_dead_peer_with_a_full_socket_is_closed(server: Server) -> None:
    """The ping itself cannot be sent; for who takes nothing at all there is --timeout-send."""
    key = fresh_key()
    with connect(server, receive_buffer=4096) as peer:
        peer.open(f"/stream?{key}&{1 << 28}")
        assert server.read_note(key)["oserror"]


@pytest.mark.slow
def test_a_busy_application_is_no_dead_peer(server: Server, peer: Peer) -> None:
    """Its queue is full, so the server does not read, and the pong lies unread in the socket. That is not the peer's fault."""
    key = fresh_key()
    peer.open(f"/deaf?{key}")
    assert server.read_note(key) == "deaf"
    message = frame(BINARY, b"x" * 65536)
    sent = peer.flood(message, 1 << 26)
    assert sent < 1 << 26
    begin = time.monotonic()
    while time.monotonic() - begin < 3 * (INTERVAL + TIMEOUT):
        if peer.readable(0.2):
            got = peer.read_frame()
            assert got.opcode == PING, f"closed, although it was the server that did not read: {got}"
    server.post_note(f"{key}-go")
    rest = message[sent % len(message) :] if sent % len(message) else b""
    # Pongs for all pings may follow only now: there was no room for them before.
    peer.feed([rest + frame(PONG, b"") + frame(TEXT, b"")])
    while (got := peer.read_frame()).opcode != TEXT:
        assert got.opcode == PING
        peer.send_frame(PONG, got.payload)
    count = -(-sent // len(message))
    assert got.payload == repr({"size": count * 65536, "messages": count}).encode()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system says when a silent peer is given up")
def test_a_dead_peer_behind_a_full_queue_is_given_up(server: Server) -> None:
    """Nothing is read, so a pong that does not come says nothing: what tells is that its system takes no more pings."""
    before = server.resources()
    key = fresh_key()
    with connect(server) as peer:
        peer.open(f"/deaf?{key}")
        assert server.read_note(key) == "deaf"
        assert peer.flood(frame(BINARY, b"x" * 65536), 1 << 26) < 1 << 26
        peer.vanish()
        assert server.resources()["fds"] > before["fds"]
        eventually(lambda: server.resources()["fds"] <= before["fds"], "the connection to be closed")
        server.post_note(f"{key}-go")
        server.resources(settle=before)


@pytest.mark.slow
def test_the_time_for_a_pong_does_not_run_while_the_server_does_not_read(peer: Peer) -> None:
    """An application that takes a message now and then has a full queue nearly always; the pong stands behind all of it."""
    peer.open("/sip")
    peer.feed([frame(TEXT, b"x") * 100])
    pings = 0
    while (got := peer.read_frame()).opcode == PING:
        peer.send_frame(PONG, got.payload)
        pings += 1
    assert (got.opcode, got.payload) == (CLOSE, close_payload(1000)), (
        "closed, although it was the server that did not read"
    )
    assert pings


@pytest.mark.slow
@pytest.mark.parametrize("option", ["interval", "timeout"])
def test_zero_is_off(option: str) -> None:
    other = "timeout" if option == "interval" else "interval"
    options = (f"--ws-ping-{option}", "0", f"--ws-ping-{other}", "1")
    with serve(APP, "--no-access-log", *options) as server, connect(server) as peer:
        peer.open("/echo")
        end = time.monotonic() + INTERVAL + TIMEOUT + 1
        pings = 0
        while (left := end - time.monotonic()) > 0:
            if peer.readable(left):
                assert peer.read_frame().opcode == PING
                pings += 1
        assert (pings == 0) is (option == "interval")
        peer.send_text("still here")
        while (got := peer.read_frame()).opcode == PING:
            pass
        assert got.payload == b"still here"
        peer.finish()


def test_a_handshake_that_is_not_answered_yet_is_not_pinged(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.send(handshake_bytes(f"/not_yet?{key}"))
    assert server.read_note(key) == "called"
    assert not peer.readable(INTERVAL + TIMEOUT)
    server.post_note(f"{key}-go")
    peer.accepted()
    peer.send_text("hi")
    assert peer.read_message() == "hi"


def test_a_closed_websocket_is_not_pinged(server: Server, peer: Peer) -> None:
    key = fresh_key()
    peer.open(f"/close_and_stay?{key}")
    peer.expect_close(4000, "bye")
    assert not peer.readable(INTERVAL + 0.5) or peer.read_to_end() == b""
