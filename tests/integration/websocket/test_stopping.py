"""The graceful stop: every WebSocket is closed with 1012 (service restart), its application told, within the deadline."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

import ladybug
from tests.integration.support import Server, Truncated, fresh_key, serve
from tests.integration.websocket.peer import APPS, CLOSE, TEXT, Peer, connect, frame, handshake_bytes

APP = f"{APPS}.scenarios:app"
# Seconds of --timeout-graceful-shutdown where a test means to see less, and where it means to wait for it.
LONG = 20
SHORT = 1


def serving(timeout: int = LONG, **how: Any) -> Any:
    return serve(APP, "--timeout-graceful-shutdown", str(timeout), **how)


def opened(server: Server, path: str, key: str) -> Peer:
    """A WebSocket whose application runs and waits."""
    peer = connect(server).open(f"{path}?{key}")
    assert peer.read_message() == "watching"
    return peer


def skip_ticks(peer: Peer) -> None:
    """Read what an application goes on sending, up to the close frame, and check that."""
    while (got := peer.read_frame()).opcode == TEXT:
        assert got.payload == b"tick"
    assert (got.opcode, got.payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))


class Stopwatch:
    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def passed(self) -> float:
        return time.monotonic() - self._start


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_closes_with_1012_and_tells_the_application(workers: int, number: signal.Signals) -> None:
    with serving(workers=workers) as server:
        keys = [fresh_key() for _ in range(8)]
        peers = [opened(server, "/watch", key) for key in keys]
        watch = Stopwatch()
        server.signal(number)
        for peer in peers:
            peer.expect_closed_by_server(1012, None)
        assert server.wait() == 0
        assert watch.passed < LONG / 2, "it waited for its deadline although everybody had gone"
        output = server.output.text("stdout")
        for key in keys:
            (line,) = re.findall(rf"APP {key} (.*)", output)
            assert "'websocket.disconnect'" in line
            assert "'code': 1012" in line
            assert "'oserror': True" in line
        for peer in peers:
            peer.close()


def test_a_peer_that_does_not_answer_holds_nothing_up_beyond_the_deadline() -> None:
    with serving(SHORT) as server:
        key = fresh_key()
        with opened(server, "/watch", key) as peer:
            server.signal(signal.SIGTERM)
            peer.expect_close(1012, None)
            assert server.wait(10) == 0
        assert f"APP {key} " in server.output.text("stdout")


def test_an_application_that_stays_is_cancelled_at_the_deadline() -> None:
    with serving(SHORT) as server:
        key = fresh_key()
        with opened(server, "/stay", key) as peer:
            server.signal(signal.SIGTERM)
            peer.expect_closed_by_server(1012, None)
            assert server.wait(10) == 0
        assert f"APP {key} cancelled" in server.output.text("stdout")


def test_an_application_that_only_sends_hears_of_it_from_send() -> None:
    with serving() as server:
        key = fresh_key()
        with opened(server, "/stream_until_told", key) as peer:
            watch = Stopwatch()
            server.signal(signal.SIGTERM)
            skip_ticks(peer)
            peer.send_close(1012)
            peer.expect_end()
            assert server.wait() == 0
            assert watch.passed < LONG / 2
        (line,) = re.findall(rf"APP {key} (.*)", server.output.text("stdout"))
        assert "'oserror': True" in line


def test_a_second_stop_cuts_it_short() -> None:
    with serving() as server:
        key = fresh_key()
        with opened(server, "/stay", key) as peer:
            server.signal(signal.SIGTERM)
            peer.expect_close(1012, None)
            watch = Stopwatch()
            server.signal(signal.SIGTERM)
            assert server.wait(10) == 0
            assert watch.passed < LONG / 2


def test_a_peer_that_reads_nothing_holds_nothing_up_beyond_the_deadline() -> None:
    """Its close frame cannot even be sent."""
    with serving(SHORT) as server, connect(server, receive_buffer=4096) as peer:
        peer.open(f"/stream?{fresh_key()}&{1 << 28}")
        assert peer.read(2)[0] == 0x82
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_an_application_that_has_closed_already_keeps_its_own_code() -> None:
    with serving() as server:
        with connect(server) as peer:
            key = fresh_key()
            peer.open(f"/close_and_stay?{key}")
            assert server.read_note(key) == "closed"
            server.signal(signal.SIGTERM)
            peer.expect_closed_by_server(4000, "bye")
        assert server.wait() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_an_application_that_notices_the_stop_closes_with_its_own_code_first(workers: int) -> None:
    with serve(APP, "--shutdown-delay", "600", workers=workers) as server, connect(server) as peer:
        peer.open(f"/close_deaf?{(key := fresh_key())}")
        other = opened(server, "/watch", fresh_key())
        server.signal(signal.SIGTERM)
        server.output.wait_for("Stopping in 600 s")
        server.post_note(f"{key}-go")
        peer.expect_closed_by_server(1000, None)
        server.signal(signal.SIGTERM)
        other.expect_closed_by_server(1012, None)
        other.close()
        assert server.wait(10) == 0


def test_what_was_sent_before_the_stop_arrives_before_the_close() -> None:
    size = 4 << 20
    with serving() as server, connect(server, receive_buffer=65536) as peer:
        peer.open(f"/one_message?{fresh_key()}&{size}")
        assert peer.read(10)[:2] == b"\x82\x7f"
        server.signal(signal.SIGTERM)
        peer.discard(size)
        peer.expect_closed_by_server(1012, None)
        assert server.wait() == 0


def test_a_handshake_in_flight_is_finished_or_refused() -> None:
    with serving() as server, connect(server) as peer:
        key = fresh_key()
        peer.send(handshake_bytes(f"/accept_late?{key}"))
        server.output.wait_for(f"APP {key} called")
        watch = Stopwatch()
        server.signal(signal.SIGTERM)
        response = peer.read_head()
        if response.status == 101:
            peer.expect_closed_by_server(1012, None)
        else:
            assert response.status in (500, 503)
        assert server.wait() == 0
        assert watch.passed < LONG / 2


@pytest.mark.parametrize("sent", [1, 60, -1])
def test_half_a_handshake_holds_nothing_up(sent: int) -> None:
    with serving(SHORT) as server, connect(server) as peer:
        peer.send(handshake_bytes("/echo")[:sent])
        # Known to the server: somebody who came later has been answered.
        assert server.request("/hello").status == 200
        server.signal(signal.SIGTERM)
        assert server.wait(10) == 0
        rest = peer.read_to_end()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 ")


def test_no_websocket_is_lost_without_a_close() -> None:
    """Under load: whoever was accepted is closed in order, whoever was not is refused or finds nobody."""
    with serving(workers=2) as server:
        peers = []
        stopped = False
        refused = 0
        while refused < 3:
            try:
                peer = connect(server)
            except ConnectionRefusedError:
                break
            peer.send(handshake_bytes("/echo") + frame(TEXT, b"hi"))
            try:
                response = peer.read_head()
            except (Truncated, EOFError):
                refused += 1
                continue
            if response.status != 101:
                assert response.status == 503
                refused += 1
                continue
            peers.append(peer)
            if len(peers) == 30 and not stopped:
                server.signal(signal.SIGTERM)
                stopped = True
        for peer in peers:
            got = peer.read_frame()
            if got.opcode == TEXT:
                got = peer.read_frame()
            assert (got.opcode, got.payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))
            peer.send_close(1012)
            peer.expect_end()
        assert server.wait() == 0


@pytest.fixture
def watching() -> Iterator[tuple[Server, Peer]]:
    with serve(APP, "--limit-max-requests", "5", workers=1) as server, opened(server, "/watch", fresh_key()) as peer:
        yield server, peer


def test_a_worker_that_is_replaced_closes_its_websockets(watching: tuple[Server, Peer]) -> None:
    server, peer = watching
    for _ in range(5):
        assert server.request("/hello").status == 200
    peer.expect_closed_by_server(1012, None)
    with connect(server) as other:
        other.open("/echo").finish()


def test_what_arrives_at_the_very_moment_of_the_stop_is_answered() -> None:
    """A stop begins in a task. A message that lies in the socket by then is the application's, whose task goes on with it."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        heard.append(message["code"])

    async def main() -> bytes:
        server = ladybug.Server(ladybug.Config(echo, port=0, lifespan="off", access_log=False))
        serving = asyncio.create_task(server.serve())
        assert await server.started
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(handshake_bytes("/"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b"x"))  # sent at once
        server.shutdown()
        async with asyncio.timeout(10):
            received = await reader.readexactly(len(b"\x81\x01x\x88\x02\x03\xf4"))
            writer.write(frame(CLOSE, received[-2:]))
            assert await reader.read() == b""
            await serving
        writer.close()
        return received

    heard: list[int] = []
    # Not the server's own loop, which serves before any task runs.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == b"\x81\x01x\x88\x02" + (1012).to_bytes(2, "big")
    assert heard == [1012]
