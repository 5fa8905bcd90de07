"""The life of a WebSocket's connection: each state with each thing that can happen in it, its deadlines, and their price."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ladybug import transport
from ladybug.asgi.service import WebSocketSettings
from ladybug.deadlines import NEVER
from ladybug.transport import Timeouts
from ladybug.websocket_connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    FAILED,
    OPEN,
    PINGED,
    REFUSED,
    WebSocketConnection,
)
from tests.pair import LARGE, LINGER, SEND, Call, Client, Message, Pair, Puppet, Stack, on_every_stack, on_one_stack

QUEUE = 4
# In ticks; as in pair.py all different, and far too long to come by themselves.
INTERVAL, TIMEOUT = 300, 500

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# Frames of a client, under the masking key 0
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(opcode: int, payload: bytes = b"") -> bytes:
    assert len(payload) < 126
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def unmasked(opcode: int, payload: bytes = b"") -> bytes:
    """A frame of the server's, or a broken one of a client's."""
    assert len(payload) < 126
    return bytes([0x80 | opcode, len(payload)]) + payload


def code_of(code: int) -> bytes:
    return struct.pack("!H", code)


class Talk:
    """A WebSocket between a client and a puppet."""

    def __init__(self, pair: Pair, call: Call, connection: WebSocketConnection) -> None:
        self.pair = pair
        self.call = call
        self.connection = connection

    async def told(self) -> Message:
        """What the application hears of the end; what came before is skipped."""
        while (message := await self.call.receive())["type"] != "websocket.disconnect":
            pass
        ended: Message = message
        return ended

    async def expect(self, frame: bytes) -> None:
        assert await self.pair.exactly(len(frame)) == frame

    async def accept(self) -> None:
        await self.call.send({"type": "websocket.accept"})
        assert (await self.pair.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await self.pair.settle()

    async def close(self) -> None:
        await self.call.send({"type": "websocket.close", "code": 4000, "reason": "bye"})
        await self.pair.settle()


async def connecting(pair: Pair, puppet: Puppet, *, settings: WebSocketSettings | None = None) -> Talk:
    pair.service.websocket = settings or WebSocketSettings(1 << 20, QUEUE, INTERVAL, TIMEOUT, True)
    await pair.send(HANDSHAKE)
    call = await puppet.call()
    assert await call.receive() == {"type": "websocket.connect"}
    connection = next(source for source in pair.poller.sources if isinstance(source, WebSocketConnection))
    return Talk(pair, call, connection)


async def opened(pair: Pair, puppet: Puppet, **how: Any) -> Talk:
    talk = await connecting(pair, puppet, **how)
    await talk.accept()
    return talk


async def pinged(pair: Pair, puppet: Puppet) -> Talk:
    talk = await opened(pair, puppet)
    await pair.elapse(INTERVAL + 1)
    await talk.expect(unmasked(PING, b"1"))
    return talk


async def closing(pair: Pair, puppet: Puppet) -> Talk:
    talk = await opened(pair, puppet)
    await talk.close()
    await talk.expect(unmasked(CLOSE, code_of(4000) + b"bye"))
    return talk


STATES: dict[int, Callable[[Pair, Puppet], Awaitable[Talk]]] = {
    CONNECTING: connecting,
    OPEN: opened,
    PINGED: pinged,
    CLOSING: closing,
}


async def refused(talk: Talk) -> None:
    await talk.call.send({"type": "websocket.close"})
    assert (await talk.pair.response()).status == 403


async def denied(talk: Talk) -> None:
    await talk.call.send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    await talk.call.send({"type": "websocket.http.response.body"})
    assert (await talk.pair.response()).status == 401


async def lost(talk: Talk) -> None:
    talk.pair.reset()


def sends(*frames: bytes) -> Callable[[Talk], Awaitable[None]]:
    async def happens(talk: Talk) -> None:
        await talk.pair.send(b"".join(frames))

    return happens


def passes(ticks: int) -> Callable[[Talk], Awaitable[None]]:
    async def happens(talk: Talk) -> None:
        before = talk.connection.phase
        await talk.pair.elapse(ticks - 2)
        assert talk.connection.phase == before, "too early"
        await talk.pair.elapse(3)

    return happens


MESSAGE = sends(frame(TEXT, b"hi"))
ASKED = sends(frame(PING, b"there?"))
PONGED = sends(frame(PONG, b"1"))
WRONG_PONG = sends(frame(PONG, b"0"))
CLOSED_BY_CLIENT = sends(frame(CLOSE, code_of(4321) + b"so"))
BROKEN = sends(unmasked(TEXT))
YEARS = 10 * (SEND + INTERVAL + TIMEOUT)

# In that state that happens: the next state, what the client reads, and the code the application hears (None: nothing yet).
LIFE: dict[tuple[int, str], tuple[Callable[[Talk], Awaitable[None]], int, bytes, int | None]] = {
    (CONNECTING, "accepted"): (Talk.accept, OPEN, b"", None),
    (CONNECTING, "refused"): (refused, REFUSED, b"", 1006),
    (CONNECTING, "denied"): (denied, REFUSED, b"", 1006),
    (CONNECTING, "message"): (MESSAGE, CONNECTING, b"", None),
    (CONNECTING, "time passes"): (passes(YEARS), CONNECTING, b"", None),
    (CONNECTING, "lost"): (lost, FAILED, b"", 1006),
    (OPEN, "message"): (MESSAGE, OPEN, b"", None),
    (OPEN, "asked"): (ASKED, OPEN, unmasked(PONG, b"there?"), None),
    (OPEN, "deadline"): (passes(INTERVAL), PINGED, unmasked(PING, b"1"), None),
    (OPEN, "pong nobody asked for"): (PONGED, OPEN, b"", None),
    (OPEN, "client closes"): (CLOSED_BY_CLIENT, CLOSED, unmasked(CLOSE, code_of(4321)), 4321),
    (OPEN, "application closes"): (Talk.close, CLOSING, unmasked(CLOSE, code_of(4000) + b"bye"), 4000),
    (OPEN, "broken frame"): (BROKEN, FAILED, unmasked(CLOSE, code_of(1002) + b"frame without mask"), 1002),
    (OPEN, "lost"): (lost, FAILED, b"", 1006),
    (PINGED, "message"): (MESSAGE, PINGED, b"", None),
    (PINGED, "asked"): (ASKED, PINGED, unmasked(PONG, b"there?"), None),
    (PINGED, "pong"): (PONGED, OPEN, b"", None),
    (PINGED, "another pong"): (WRONG_PONG, PINGED, b"", None),
    (PINGED, "deadline"): (passes(TIMEOUT), FAILED, unmasked(CLOSE, code_of(1011) + b"keepalive ping timeout"), 1006),
    (PINGED, "client closes"): (CLOSED_BY_CLIENT, CLOSED, unmasked(CLOSE, code_of(4321)), 4321),
    (PINGED, "application closes"): (Talk.close, CLOSING, unmasked(CLOSE, code_of(4000) + b"bye"), 4000),
    (PINGED, "broken frame"): (BROKEN, FAILED, unmasked(CLOSE, code_of(1002) + b"frame without mask"), 1002),
    (PINGED, "lost"): (lost, FAILED, b"", 1006),
    (CLOSING, "message"): (MESSAGE, CLOSING, b"", 4000),
    (CLOSING, "asked"): (ASKED, CLOSING, b"", 4000),
    (CLOSING, "pong"): (PONGED, CLOSING, b"", 4000),
    (CLOSING, "deadline"): (passes(LINGER), FAILED, b"", 4000),
    (CLOSING, "client closes"): (CLOSED_BY_CLIENT, CLOSED, b"", 4000),
    (CLOSING, "broken frame"): (BROKEN, FAILED, b"", 4000),
    (CLOSING, "lost"): (lost, FAILED, b"", 4000),
}


@pytest.mark.parametrize(("state", "event"), LIFE, ids=lambda value: str(value))
@on_every_stack
async def test_what_happens_in_each_state(stack: Stack, state: int, event: str) -> None:
    happens, after, answer, code = LIFE[state, event]
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        talk = await STATES[state](pair, puppet)
        connection = talk.connection
        assert connection.phase == state
        await happens(talk)
        await pair.settle()
        if event == "lost" and state == CONNECTING and not connection.poller.tells_end:
            # Such a poller does not watch what nobody reads: the answer finds nobody.
            await talk.call.send({"type": "websocket.accept"})
            await pair.settle()
        assert connection.phase == after
        if event != "lost":
            await talk.expect(answer)
            assert pair.received == b"", "nothing else"
        if code is not None:
            assert (await talk.told())["code"] == code
            with pytest.raises(OSError, match="closed"):
                await talk.call.send({"type": "websocket.send", "text": "too late"})
        if after == CONNECTING:
            await refused(talk)
        talk.call.returns()


@pytest.mark.parametrize("state", [CLOSED, FAILED, REFUSED])
@on_every_stack
async def test_what_is_over_ends_the_connection(stack: Stack, state: int) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        talk = await (connecting if state == REFUSED else opened)(pair, puppet)
        if state == REFUSED:
            await talk.call.send({"type": "websocket.close"})
        else:
            await pair.send(frame(CLOSE) if state == CLOSED else unmasked(TEXT))
        await pair.rest()
        assert talk.connection.phase == state
        # Who keeps to the protocol has said its last word; who does not may be in the midst of more, and must get to read why.
        assert talk.connection.state == (transport.LINGERING if state == FAILED else transport.CLOSED)
        await pair.elapse(LINGER + 1)
        assert talk.connection.state == transport.CLOSED
        talk.call.returns()


# -- Deadlines ------------------------------------------------------------------------------------------------------------


@on_every_stack
async def test_pings_go_on_while_they_are_answered(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        talk = await opened(pair, puppet)
        for number in range(1, 12):
            await passes(INTERVAL)(talk)
            payload = b"%d" % number
            await talk.expect(unmasked(PING, payload))
            await pair.send(frame(PONG, payload))
            await pair.settle()
            assert talk.connection.phase == OPEN
        talk.call.returns()


@on_every_stack
async def test_what_is_not_taken_has_the_only_deadline(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        talk = await opened(pair, puppet)
        sending = pair.loop.create_task(talk.call.send({"type": "websocket.send", "bytes": b"x" * LARGE}))
        await pair.settle()
        await passes(SEND)(talk)
        assert (talk.connection.phase, talk.connection.state) == (FAILED, transport.CLOSED)
        with pytest.raises(OSError, match="disconnected"):
            await sending
        assert (await talk.told())["code"] == 1006
        with pytest.raises(ConnectionResetError):
            await pair.rest()
        talk.call.returns()


@on_every_stack
async def test_with_a_full_queue_a_ping_is_repeated_not_judged(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        talk = await pinged(pair, puppet)
        await pair.send(frame(TEXT, b"hi") * QUEUE + frame(PONG, b"1"))
        await pair.settle()
        for _ in range(3):
            assert talk.connection.phase == PINGED
            await passes(TIMEOUT)(talk)
            await talk.expect(unmasked(PING, b"1"))
        assert (await talk.call.receive())["text"] == "hi"
        await pair.settle()
        assert talk.connection.phase == OPEN, "the pong was behind the messages"
        talk.call.returns()


@on_every_stack
async def test_the_time_for_a_pong_begins_when_it_can_be_read(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        talk = await pinged(pair, puppet)
        await pair.send(frame(TEXT, b"hi") * QUEUE)
        await pair.settle()
        await pair.elapse(TIMEOUT - 2)
        assert (await talk.call.receive())["text"] == "hi"
        await pair.settle()
        await passes(TIMEOUT)(talk)
        assert talk.connection.phase == FAILED
        talk.call.returns()


@pytest.mark.parametrize(("interval", "timeout"), [(0, TIMEOUT), (INTERVAL, 0)])
@on_one_stack
async def test_no_interval_is_no_ping_and_no_timeout_no_judgement(stack: Stack, interval: int, timeout: int) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        settings = WebSocketSettings(1 << 20, QUEUE, interval, timeout, True)
        talk = await opened(pair, puppet, settings=settings)
        for number in range(1, 4):
            await pair.elapse(INTERVAL + 1)
            if interval:
                await talk.expect(unmasked(PING, b"%d" % number))
            assert talk.connection.phase == OPEN
        await pair.elapse(TIMEOUT)
        talk.call.returns()


@on_every_stack
async def test_a_handshake_on_a_connection_of_a_server_that_leaves_is_taken_and_closed_with_1012(stack: Stack) -> None:
    """A 503 would be an error to the client; 1012 tells it to come back."""
    puppet = Puppet()
    async with stack.pair(puppet, timeouts=Timeouts(0, 0, 0, SEND, LINGER, 0)) as pair:
        pair.service.websocket = WebSocketSettings(1 << 20, QUEUE, NEVER, NEVER, True)
        pair.service.draining = True
        await pair.send(HANDSHAKE)
        call = await puppet.call()
        await call.send({"type": "websocket.accept"})
        assert (await pair.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        (exchange,) = pair.service.running
        assert exchange.may_leave(False)
        exchange.leave()
        await pair.settle()
        pair.service.end_turn()
        assert await pair.exactly(4) == unmasked(CLOSE, code_of(1012))
        call.returns()


@on_every_stack
async def test_a_pong_that_came_in_time_is_not_late_because_the_server_is(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, timeouts=Timeouts(0, 0, 0, SEND, LINGER, 0)) as pair:
        pair.service.websocket = WebSocketSettings(1 << 20, QUEUE, INTERVAL, TIMEOUT, True)
        await pair.send(HANDSHAKE)
        call = await puppet.call()
        await call.send({"type": "websocket.accept"})
        await pair.until(b"\r\n\r\n")
        await pair.elapse(INTERVAL)
        assert await pair.exactly(3) == unmasked(PING, b"1")
        # It has come, but the server looks at its deadlines first.
        pair.client.send(frame(PONG, b"1"))
        for _ in range(TIMEOUT + 2):
            pair.poller.deadlines.sweep()
            pair.poller.deadlines.stop()
        await pair.settle()
        await pair.send(frame(PING, b"still there?"))
        assert await pair.exactly(14) == unmasked(PONG, b"still there?")
        call.returns()


@on_every_stack
async def test_many_pings_do_not_keep_others_waiting(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, timeouts=Timeouts(0, 0, 0, SEND, LINGER, 0)) as pair:
        pair.service.websocket = WebSocketSettings(1 << 20, QUEUE, NEVER, NEVER, True)
        await pair.send(HANDSHAKE)
        call = await puppet.call()
        await call.send({"type": "websocket.accept"})
        await pair.until(b"\r\n\r\n")
        other = pair.other()
        await pair.settle()
        await pair.send(frame(PING, b"") * 5000)
        await other.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        served = await puppet.call()
        pongs = 0
        with contextlib.suppress(BlockingIOError):
            while data := pair.client.recv(65536):
                pongs += len(data) // 2
        assert pongs < 2000, "the other's request waited for all of them"
        assert await pair.exactly(2 * (5000 - pongs)) == unmasked(PONG, b"") * (5000 - pongs)
        await served.start(204)
        await served.body(b"")
        served.returns()
        call.returns()


@on_every_stack
async def test_pings_of_many_cost_the_one_sweep(stack: Stack) -> None:
    """No timer for each: what the loop is asked for does not depend on how many there are."""
    puppet = Puppet()
    calls: list[str] = []
    async with stack.pair(puppet, timeouts=Timeouts(0, 0, 0, SEND, LINGER, 0)) as pair:
        pair.service.websocket = WebSocketSettings(1 << 20, QUEUE, INTERVAL, TIMEOUT, True)
        clients: list[Client] = [pair, *(pair.other() for _ in range(99))]
        ends: list[Call] = []
        for client in clients:
            await client.send(HANDSHAKE)
            ends.append(await puppet.call())
            await ends[-1].send({"type": "websocket.accept"})
            await client.until(b"\r\n\r\n")
        loop: Any = pair.loop
        call_at = loop.call_at

        def counted(when: float, callback: Any, *rest: Any, **more: Any) -> Any:
            calls.append(callback.__name__)
            return call_at(when, callback, *rest, **more)

        loop.call_at = counted
        try:
            await pair.elapse(INTERVAL + 1)
            for client in clients:
                assert await client.exactly(3) == unmasked(PING, b"1")
                await client.send(frame(PONG, b"1"))
            await pair.settle()
            await pair.elapse(INTERVAL + 1)
            for client in clients:
                assert await client.exactly(3) == unmasked(PING, b"2")
        finally:
            del loop.call_at
        assert 2 * (INTERVAL + 1) <= calls.count("sweep") <= 2 * (INTERVAL + 1) + 20, (
            "a timer for each tick, and not for each WebSocket"
        )
        for call in ends:
            call.returns()
