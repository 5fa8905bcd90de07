"""Timeouts: silent connections, slow heads, stalled bodies, readers that stop reading, and idle connections (--timeout-*).

Time is the subject here, so these tests take it: each timeout is one second, and what must not be timed out waits 2.5.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.integration.support import MIB, Client, Server, Truncated, fresh_key, request_bytes, serve

# Seconds of every timeout here, and how much later than that it may strike: one coarse timer sweeps all deadlines.
TIMEOUT = 1
LATE = 3.0

SHORT = (
    *("--timeout-request-head", str(TIMEOUT)),
    *("--timeout-request-body", str(TIMEOUT)),
    *("--timeout-send", str(TIMEOUT)),
    *("--timeout-keep-alive", str(TIMEOUT)),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("limits:app", *SHORT) as running:
        yield running


class Stopwatch:
    """Seconds since it was started."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def check(self) -> None:
        """The timeout struck now: not before its time, and not much after."""
        passed = time.monotonic() - self._start
        assert 0.9 * TIMEOUT <= passed <= TIMEOUT + LATE, f"timed out after {passed:.2f} s"


def dribble(client: Client, data: bytes, pause: float = 0.2) -> int:
    """Send a byte at a time, `pause` seconds apart, until the server answers or ends it. Bytes sent."""
    for sent in range(len(data)):
        if client.readable(pause):
            return sent
        client.feed([data[sent : sent + 1]])
    return len(data)


# -- the head


def test_a_silent_connection_is_closed_without_a_word(client: Client) -> None:
    """RFC 9110 section 15.5.9: 408 is for a request that is not complete. Here there is none: a browser's spare connection."""
    watch = Stopwatch()
    client.expect_end()
    watch.check()


def expect_408_of_each(server: Server, beginnings: list[bytes]) -> None:
    """Clients side by side, one for each beginning of a request; all of them are timed out."""
    watch = Stopwatch()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in beginnings]
        for client, beginning in zip(clients, beginnings, strict=True):
            client.send(beginning)
        for client, beginning in zip(clients, beginnings, strict=True):
            response = client.read_response()
            watch.check()
            assert (response.status, response.closes) == (408, True), beginning
            client.expect_end()


def test_a_head_that_does_not_end_is_408(server: Server) -> None:
    expect_408_of_each(
        server,
        [
            b"G",
            b"GET / HTTP/1.1",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nHost: a",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r",
            b"\r\n",
        ],
    )


def test_a_head_that_dribbles_is_408(client: Client) -> None:
    watch = Stopwatch()
    sent = dribble(client, request_bytes("/counted", headers=["X: " + "a" * 1000]))
    watch.check()
    assert sent < 30
    assert client.read_response().status == 408


def test_the_second_head_of_a_connection_is_timed_too(client: Client) -> None:
    assert client.request("/counted").status == 200
    watch = Stopwatch()
    client.send(b"GET /counted HT")
    response = client.read_response()
    watch.check()
    assert (response.status, response.closes) == (408, True)


def test_a_head_in_time_is_served_however_it_comes(client: Client) -> None:
    raw = request_bytes("/counted")
    client.send(raw[:10])
    assert not client.readable(0.5)
    client.send(raw[10:])
    assert client.read_response().status == 200


# -- idle connections


def test_an_idle_connection_is_closed_without_a_word(client: Client) -> None:
    assert client.request("/counted").status == 200
    watch = Stopwatch()
    client.expect_end()
    watch.check()


def test_an_idle_http10_connection_is_closed_without_a_word(client: Client) -> None:
    assert not client.request("/counted", version="1.0", headers=["Connection: keep-alive"]).closes
    watch = Stopwatch()
    client.expect_end()
    watch.check()


def test_each_request_gives_an_idle_connection_its_time_again(client: Client) -> None:
    for _ in range(4):
        assert client.request("/counted").status == 200
        assert not client.readable(0.6 * TIMEOUT)


# -- the body


def test_a_body_that_stalls_is_408(server: Server) -> None:
    by_length = request_bytes("/counted", method="POST", headers=["Content-Length: 10"])
    chunked = request_bytes("/counted", method="POST", headers=["Transfer-Encoding: chunked"])
    expect_408_of_each(
        server,
        [
            by_length,
            by_length + b"12345",
            chunked,
            chunked + b"a",
            chunked + b"a\r\n12345",
            chunked + b"5\r\n12345\r\n",
            chunked + b"5\r\n12345\r\n0\r\n",
            chunked + b"5\r\n12345\r\n0\r\nX: 1",
        ],
    )


def test_a_body_that_stalls_is_a_disconnect_for_the_application(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/watched?{key}", method="POST", headers=["Content-Length: 10"]) + b"12345")
    assert client.read_response().status == 408
    seen = server.read_note(key)
    assert seen[-1][0] == "http.disconnect"
    assert [entry for entry in seen if entry[0] == "http.request"] == [("http.request", b"12345", True)]


def test_a_body_that_stalls_behind_a_started_response_cuts_it(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/answered_first?{key}", method="POST", headers=["Content-Length: 10"]) + b"12345")
    with pytest.raises(Truncated) as cut:
        client.read_response()
    assert cut.value.response is not None
    assert cut.value.response.body == b"early"
    assert server.read_note(key) is None


def test_a_body_that_makes_progress_is_not_stalled(client: Client) -> None:
    client.send(request_bytes("/counted", method="POST", headers=["Content-Length: 6"]))
    assert dribble(client, b"123456", 0.5 * TIMEOUT) == 6
    assert client.read_response().body == b"6"


def test_a_body_the_application_does_not_want_yet_is_not_stalled(server: Server, client: Client) -> None:
    # The client waits for its 100: the application, not the client, is what takes its time.
    key = fresh_key()
    client.send(request_bytes(f"/held?{key}", method="POST", headers=["Expect: 100-continue", "Content-Length: 5"]))
    assert not client.readable(2.5 * TIMEOUT)
    server.post_note(f"{key}-go")
    assert client.read_response().body == b"held"


def test_a_body_the_application_leaves_in_the_socket_is_not_stalled(server: Server, client: Client) -> None:
    # The client sends as fast as it may; what stands still is the application.
    key = fresh_key()
    size = 64 * MIB
    client.send(request_bytes(f"/read_later?{key}", method="POST", headers=[f"Content-Length: {size}"]))
    sent = client.flood(b"a" * 65536, size, quiet=2.5 * TIMEOUT)
    assert sent < size
    server.post_note(f"{key}-go")
    client.feed([b"a" * 65536] * ((size - sent) // 65536) + [b"a" * ((size - sent) % 65536)])
    assert client.read_response().body == b"%d" % size


# -- the response


def test_a_client_that_stops_reading_is_dropped(server: Server) -> None:
    key = fresh_key()
    with server.connect(receive_buffer=4096) as client:
        client.send(request_bytes(f"/endless?{key}"))
        watch = Stopwatch()
        error = server.read_note(key)
        watch.check()
        assert error["oserror"], error
        client.read_to_end()
        assert client.ended == "reset", "a truncated stream must not look like a complete one"


def test_a_client_that_reads_slowly_is_served(server: Server) -> None:
    key = fresh_key()
    with server.connect(receive_buffer=4096) as client:
        client.send(request_bytes(f"/endless?{key}"))
        client.read_head()
        # Far slower than the server could send, for longer than the timeout; each piece taken is progress.
        end = time.monotonic() + 2.5 * TIMEOUT
        while time.monotonic() < end:
            client.discard(65536)
        client.reset()
    assert server.read_note(key)["oserror"]


def test_an_application_may_think_for_as_long_as_it_likes(server: Server, client: Client) -> None:
    with server.connect() as other:
        client.send(request_bytes("/slow"))
        other.send(request_bytes("/slow_stream"))
        assert client.read_response().body == b"thought"
        assert other.read_response().body == b"onetwo"


# -- off


def test_zero_turns_a_timeout_off() -> None:
    options = ("--timeout-request-head", "0", "--timeout-request-body", "0", "--timeout-send", "0")
    with serve("limits:app", *options) as server, server.connect() as silent, server.connect() as slow:
        slow.send(request_bytes("/counted", method="POST", headers=["Content-Length: 2"]) + b"a")
        assert not slow.readable(2.5)
        assert not silent.readable()
        slow.send(b"b")
        assert slow.read_response().body == b"2"
        assert silent.request("/counted").body == b"0"
