"""What a WebSocket counts for: --limit-concurrency, --limit-max-requests, --ws-max-size, --ws-max-queue, and the access log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.integration.support import MIB, Server, eventually, fresh_key, serve
from tests.integration.websocket.peer import APPS, BINARY, Peer, connect, frame, handshake_bytes

APP = f"{APPS}.scenarios:app"


# -- concurrency


def test_websockets_count_as_concurrency() -> None:
    with serve(APP, "--limit-concurrency", "4") as server:
        peers: list[Peer] = []
        refused = False
        while not refused:
            assert len(peers) < 8, "the limit does not hold"
            peer = connect(server)
            peer.send(handshake_bytes("/echo"))
            if peer.readable(5) and peer.read(12) == b"HTTP/1.1 503":
                refused = True
                peer.close()
            else:
                peers.append(peer)
        assert 1 <= len(peers) <= 4
        # Ordinary requests meet the same limit.
        assert server.request("/hello").status == 503
        for peer in peers:
            peer.close()
        eventually(lambda: server.request("/hello").status == 200, "room again")
        with connect(server) as peer:
            peer.open("/echo").finish()


def test_a_refused_handshake_never_reaches_the_application() -> None:
    with serve(APP, "--limit-concurrency", "2") as server:
        with connect(server) as first, connect(server) as second:
            first.open("/echo")
            second.open("/echo")
            for _ in range(5):
                with connect(server) as peer:
                    peer.send(handshake_bytes("/counted"))
                    response = peer.read_response()
                    assert (response.status, response.closes) == (503, True)
                    peer.expect_end()
        eventually(lambda: server.request("/hello").status == 200, "room again")
        assert server.request("/began").value() == 0


# -- a worker's life


def test_handshakes_count_as_requests() -> None:
    with serve(APP, "--limit-max-requests", "3", workers=0) as server:
        for _ in range(2):
            with connect(server) as peer:
                peer.open("/echo").finish()
        with connect(server) as peer:
            peer.open("/echo")
            peer.expect_closed_by_server(1012, None)
        assert server.wait() == 0


def test_messages_do_not_count_as_requests() -> None:
    with serve(APP, "--limit-max-requests", "3", workers=0) as server, connect(server) as peer:
        peer.open("/echo")
        for number in range(20):
            peer.send_text(str(number))
            assert peer.read_message() == str(number)
        peer.finish()
        assert server.request("/hello").status == 200


# -- messages


@pytest.mark.parametrize("limit", [1, 100, 70_000])
def test_the_size_of_a_message_is_limited_exactly(limit: int) -> None:
    with serve(APP, "--ws-max-size", str(limit)) as server:
        with connect(server) as peer:
            peer.open("/echo")
            peer.send_bytes(b"x" * limit)
            assert peer.read_message() == b"x" * limit
            peer.send_bytes(b"x" * (limit + 1))
            peer.expect_close(1009, None)
        with connect(server) as peer:
            # What the application sends is its own affair.
            peer.open(f"/sizes?{fresh_key()}&{2 * limit}")
            assert peer.read_message() == b"x" * (2 * limit)


def test_by_default_16_mib_are_the_limit() -> None:
    with serve(APP) as server, connect(server) as peer:
        peer.open("/count")
        peer.send(frame(BINARY, b"", length=16 * MIB + 1, width=64))
        peer.expect_close(1009, None)


def test_a_queue_of_one_is_enough() -> None:
    """What waits behind it is held up, not lost."""
    with serve(APP, "--ws-max-queue", "1") as server, connect(server) as peer:
        key = fresh_key()
        peer.open(f"/deaf?{key}")
        assert server.read_note(key) == "deaf"
        message = frame(BINARY, b"x" * 1000)
        sent = peer.flood(message * 100, 64 * MIB)
        assert sent < 64 * MIB
        server.post_note(f"{key}-go")
        if rest := sent % len(message):
            peer.send(message[rest:])
        peer.send(frame(BINARY, b""))
        count = -(-sent // len(message))
        assert peer.read_value() == {"size": count * 1000, "messages": count}
        peer.finish()


# -- what does not count


def test_timeouts_and_limits_of_requests_are_none_of_a_websocket() -> None:
    timeouts = ("--timeout-keep-alive", "1", "--timeout-request-head", "1", "--timeout-request-body", "1")
    with serve(APP, *timeouts, "--timeout-send", "1", "--limit-request-body", "10") as server:
        key = fresh_key()
        with connect(server) as idle, connect(server) as undecided, connect(server) as torn:
            undecided.send(handshake_bytes(f"/not_yet?{key}"))
            idle.open("/echo")
            torn.open("/echo").send(frame(BINARY, b"x" * 1000)[:500])
            assert not idle.readable(3)
            server.post_note(f"{key}-go")
            torn.send(frame(BINARY, b"x" * 1000)[500:])
            for peer in (undecided.accepted(), idle):
                peer.send_bytes(b"x" * 1000)
                assert peer.read_message() == b"x" * 1000
            assert torn.read_message() == b"x" * 1000


def test_a_websocket_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = Server(APP, bind=("--uds", str(path)))
    try:
        server.output.wait_for(str(path))
        with Peer(str(path)) as peer:
            scope = peer.open("/scope").read_value()
            assert (scope["client"], list(scope["server"])) == (None, [str(path), None])
            peer.expect_closed_by_server(1000)
        assert server.stop() == 0
        assert '"WebSocket /scope" [accepted]' in server.output.text()
    finally:
        server.kill()


# -- the access log


def test_the_access_log_tells_of_handshakes_as_uvicorn_does() -> None:
    with serve(APP) as server:
        ports = []
        answers = (
            ("/echo?a=b%20c", None),
            ("/refuse?k1", 403),
            ("/deny?k2", 401),
            ("/deny_and_forget?k3", 401),
            ("/return_early?k4", 500),
            ('/refuse?"k5"', 403),
        )
        for target, code in answers:
            with connect(server) as peer:
                ports.append(peer.socket.getsockname()[1])
                peer.send(handshake_bytes(target))
                if code is None:
                    peer.accepted().finish()
                else:
                    assert peer.read_head().status == code
        for port, (target, code) in zip(ports, answers, strict=True):
            shown = target.replace('"', "%22")
            line = f'127.0.0.1:{port} - "WebSocket {shown}" {code or "[accepted]"}\n'
            server.output.wait_for(re.escape(line))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert len(re.findall(" - ", server.output.text())) == len(answers), "one line each"


def test_no_access_log_is_none() -> None:
    with serve(APP, "--no-access-log") as server:
        with connect(server) as peer:
            peer.open("/echo").finish()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "/echo" not in server.output.text()
