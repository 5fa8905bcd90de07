"""Backpressure both ways: whoever does not keep up holds up the other side, never the server's memory or other clients.

LADYBUG_TEST_STREAM (MiB, default 256) is how much flows; the bound on the memory does not depend on it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.support import (
    MIB,
    Client,
    Server,
    chunk_bytes,
    eventually,
    fresh_key,
    request_bytes,
    serve,
)

SIZE = int(os.environ.get("LADYBUG_TEST_STREAM", "256")) * MIB
# How much the resident size may grow over the idle one, whatever flows.
GROWTH = 4 * MIB
# Seconds another client may have to wait for a small answer while somebody floods the server.
PATIENCE = 5.0

PIECE = b"0123456789abcdef" * 4096


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("backpressure:app", "--no-access-log") as running:
        # The first request of each kind imports and allocates what stays; the bounds are about what comes on top.
        running.request("/count", method="POST", body=b"x" * 300_000)
        running.request("/count", method="POST", chunks=[b"x" * 65536] * 5)
        running.request("/stream?warm&1000000")
        yield running


class Memory:
    """The highest resident size since it was made, against the size then."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.idle = server.request("/reset_peak").value()

    def check(self, growth: int = GROWTH) -> None:
        peak = self.server.resources()["peak"]
        grown = (peak - self.idle) / MIB
        assert peak - self.idle <= growth, f"grew by {grown:.1f} MiB, {growth / MIB:.1f} are allowed"


def others_are_served(server: Server) -> None:
    """A small request of somebody else, several times."""
    for _ in range(5):
        begin = time.monotonic()
        assert server.request("/hello").body == b"hello"
        assert time.monotonic() - begin < PATIENCE, "another client had to wait"


def settled_progress(server: Server, *keys: str) -> int:
    """How far these streams got together, once they get no further."""
    last = -1
    while (now := sum(int(server.request(f"/progress?{key}").value()) for key in keys)) != last:
        last = now
        threading.Event().wait(0.2)  # standing still is only seen by looking twice
    return now


def send_all(client: Client, data: bytes, times: int) -> threading.Thread:
    """Send on a thread of its own, so that the test can read at the same time."""

    def run() -> None:
        client.feed([data] * times)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# -- uploads


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_upload_nobody_reads_stops_the_client(server: Server, client: Client, framing: str) -> None:
    key = fresh_key()
    header = f"Content-Length: {SIZE}" if framing == "length" else "Transfer-Encoding: chunked"
    piece = PIECE if framing == "length" else chunk_bytes(PIECE)
    memory = Memory(server)
    client.send(request_bytes(f"/count_later?{key}", method="POST", headers=[header]))
    assert server.read_note(key) == "waiting"
    sent = client.flood(piece, len(piece) * (SIZE // len(PIECE)))
    assert sent < SIZE // 2, "the server took what nobody read"
    others_are_served(server)
    memory.check()
    # It was only held up: what follows still arrives, to the last byte.
    server.post_note(f"{key}-go")
    left = len(piece) * (SIZE // len(PIECE)) - sent
    client.feed([piece[sent % len(piece) :]])
    left -= len(piece) - sent % len(piece)
    client.feed([piece] * (left // len(piece)) + ([b"0\r\n\r\n"] if framing == "chunks" else []))
    assert client.read_response().value()["size"] == SIZE
    memory.check()


def test_many_uploads_nobody_reads_cost_little_each(server: Server) -> None:
    count = 50
    key = fresh_key()
    memory = Memory(server)
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.send(request_bytes(f"/count_later?{key}", method="POST", headers=[f"Content-Length: {MIB}"]))
        client.flood(PIECE, MIB, quiet=0.02)
    others_are_served(server)
    memory.check(GROWTH + count * 256 * 1024)
    server.post_note(f"{key}-go")
    for client in clients:
        client.close()
    server.permit_error("in count")


@pytest.mark.parametrize("path", ["/count", "/count_slowly"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_upload_that_is_read_passes_through(server: Server, client: Client, path: str, framing: str) -> None:
    header = f"Content-Length: {SIZE}" if framing == "length" else "Transfer-Encoding: chunked"
    piece = PIECE if framing == "length" else chunk_bytes(PIECE)
    memory = Memory(server)
    client.send(request_bytes(path, method="POST", headers=[header]))
    sender = send_all(client, piece, SIZE // len(PIECE))
    others_are_served(server)
    sender.join()
    if framing == "chunks":
        client.send(b"0\r\n\r\n")
    assert client.read_response().value()["size"] == SIZE
    memory.check()


def test_an_upload_of_tiny_chunks_passes_through(server: Server, client: Client) -> None:
    count = 500_000
    memory = Memory(server)
    client.send(request_bytes("/count", method="POST", headers=["Transfer-Encoding: chunked"]))
    sender = send_all(client, b"1\r\nx\r\n" * 1000, count // 1000)
    others_are_served(server)
    sender.join()
    client.send(b"0\r\n\r\n")
    assert client.read_response().value()["size"] == count
    memory.check()


def test_an_upload_answered_without_being_read_does_not_pile_up(server: Server, client: Client) -> None:
    memory = Memory(server)
    client.send(request_bytes("/hello", method="POST", headers=[f"Content-Length: {SIZE}"]))
    client.flood(PIECE, SIZE, until_readable=True)
    assert client.read_response().body == b"hello"
    client.feed([PIECE] * 64)
    others_are_served(server)
    memory.check()


# -- streams


def test_a_stream_nobody_takes_stops_the_application(server: Server) -> None:
    key = fresh_key()
    memory = Memory(server)
    with server.connect(receive_buffer=65536) as client:
        client.send(request_bytes(f"/stream?{key}&{SIZE}"))
        assert client.read_head().status == 200
        assert settled_progress(server, key) < SIZE // 2, "the server took what nobody read"
        others_are_served(server)
        memory.check()
        # It was only held up: the rest still arrives, to the last byte.
        client.discard(SIZE)
        assert client.request("/hello").body == b"hello"
    memory.check()


def test_many_streams_nobody_takes_cost_little_each(server: Server) -> None:
    count = 30
    keys = [fresh_key() for _ in range(count)]
    memory = Memory(server)
    clients = [server.connect(receive_buffer=4096) for _ in range(count)]
    for client, key in zip(clients, keys, strict=True):
        client.send(request_bytes(f"/stream?{key}&{64 * MIB}"))
    assert settled_progress(server, *keys) < count * 32 * MIB
    others_are_served(server)
    memory.check(GROWTH + count * 256 * 1024)
    for client in clients:
        client.reset()
    server.permit_error("in stream")


def test_a_stream_that_is_taken_passes_through(server: Server, client: Client) -> None:
    memory = Memory(server)
    client.send(request_bytes(f"/stream?{fresh_key()}&{SIZE}"))
    assert client.read_head().status == 200
    taken = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        taken.update(client.read(len(PIECE)))
    expected = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        expected.update(PIECE)
    assert taken.digest() == expected.digest()
    memory.check()


def test_a_big_message_is_not_copied(server: Server) -> None:
    size = 64 * MIB
    memory = Memory(server)
    with server.connect(receive_buffer=65536) as client:
        client.send(request_bytes(f"/one_message?{size}"))
        assert client.read_head().status == 200
        others_are_served(server)
        client.discard(size)
    # The application holds it once; the server may keep what it needs to send the rest, not another one.
    memory.check(size + 2 * GROWTH)


def test_an_echo_of_a_long_upload_flows_both_ways(server: Server, client: Client) -> None:
    size = SIZE // 4
    memory = Memory(server)
    client.send(request_bytes("/echo_as_it_comes", method="POST", headers=[f"Content-Length: {size}"]))
    sender = send_all(client, PIECE, size // len(PIECE))
    response = client.read_response()
    sender.join()
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(PIECE * (size // len(PIECE))).digest()
    memory.check()


def test_an_echo_nobody_takes_stops_the_client(server: Server) -> None:
    memory = Memory(server)
    with server.connect(receive_buffer=65536) as client:
        client.send(request_bytes("/echo_as_it_comes", method="POST", headers=[f"Content-Length: {SIZE}"]))
        assert client.flood(PIECE, SIZE) < SIZE // 2
        others_are_served(server)
        memory.check()
        client.reset()
    server.permit_error("in echo_as_it_comes")


@pytest.mark.parametrize("path", ["/forever", "/forever_small"])
def test_a_stream_that_never_pauses_leaves_room_for_others(server: Server, path: str) -> None:
    key = fresh_key()
    with server.connect() as client:
        client.send(request_bytes(f"{path}?{key}"))
        assert client.read_head().status == 200
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                client.discard(65536)

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        try:
            others_are_served(server)
        finally:
            stop.set()
            taker.join()
        client.reset()
    assert server.read_note(key) == "gone"


def test_an_upload_that_never_pauses_leaves_room_for_others(server: Server, client: Client) -> None:
    client.send(request_bytes("/count", method="POST", headers=["Transfer-Encoding: chunked"]))
    stop = threading.Event()

    def give() -> None:
        while not stop.is_set():
            client.send(chunk_bytes(PIECE) * 16)

    giver = threading.Thread(target=give, daemon=True)
    giver.start()
    try:
        others_are_served(server)
    finally:
        stop.set()
        giver.join()
    client.send(b"0\r\n\r\n")
    assert client.read_response().value()["size"] > 0


# -- pipelines


def test_a_flood_of_requests_whose_answers_nobody_takes_stops_the_client(server: Server) -> None:
    memory = Memory(server)
    with server.connect(receive_buffer=4096) as client:
        sent = client.flood(request_bytes("/hello") * 1000, 32 * MIB)
        others_are_served(server)
        memory.check()
        assert sent < 32 * MIB
        client.reset()


def test_a_flood_of_requests_behind_a_slow_one_stops_the_client(server: Server, client: Client) -> None:
    key = fresh_key()
    memory = Memory(server)
    client.send(request_bytes(f"/held?{key}"))
    assert server.read_note(key) == "waiting"
    request = request_bytes("/hello")
    sent = client.flood(request * 1000, 64 * MIB)
    assert sent < 64 * MIB
    others_are_served(server)
    memory.check()
    server.post_note(f"{key}-go")
    assert client.read_response().body == b"held"
    for _ in range(sent // len(request)):
        assert client.read_response().body == b"hello"


def test_a_flood_of_requests_that_is_answered_leaves_room_for_others(server: Server, client: Client) -> None:
    """It goes on until they have been served: whoever had to wait for its end would wait for ever."""
    request, over = request_bytes("/hello"), threading.Event()
    sent, taken = 0, 0

    def flood() -> None:
        nonlocal sent
        while not over.is_set():
            client.feed([request * 100])
            sent += 100
        client.send(request_bytes("/hello", headers=["Connection: close"]))
        sent += 1

    def take() -> None:
        nonlocal taken
        is_last = False
        while not is_last:
            response = client.read_response()
            assert response.body == b"hello"
            taken, is_last = taken + 1, response.closes

    threads = [threading.Thread(target=part, daemon=True) for part in (flood, take)]
    for thread in threads:
        thread.start()
    try:
        others_are_served(server)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert taken == sent > 0


def test_memory_comes_back_when_it_is_over(server: Server) -> None:
    before = server.resources()
    with server.connect(receive_buffer=65536) as client:
        client.send(request_bytes(f"/one_message?{64 * MIB}"))
        client.read_head()
        client.discard(64 * MIB)
    eventually(lambda: server.resources()["rss"] - before["rss"] <= GROWTH, "the memory to be given back")
