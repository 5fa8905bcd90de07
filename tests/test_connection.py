"""One connection from accept to close: its deadlines, what it reads ahead, how it ends, and what it does not let happen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from typing import Any

import pytest

from ladybug.asgi.exchange import RECEIVES_PER_TURN
from ladybug.asgi.http import HttpExchange
from ladybug.connection import DISCARD_SIZE
from ladybug.poller import PEER_CLOSED, READABLE
from ladybug.protocol.limits import Limits
from ladybug.transport import (
    HIGH_WATER,
    IDLE,
    LINGER_SIZE,
    LINGERING,
    READ_SIZE,
    Timeouts,
    plain_host,
    server_address,
)
from tests.corpus.feeding import FEEDINGS, Feeding
from tests.pair import (
    BODY,
    FAREWELL,
    GET,
    HEAD,
    KEEP_ALIVE,
    LARGE,
    LINGER,
    SEND,
    Client,
    Message,
    Pair,
    Puppet,
    Stack,
    Truncated,
    echo,
    hello,
    on_every_stack,
    on_one_stack,
)

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size


async def large(scope: Message, receive: Any, send: Any) -> None:
    """Answers at once with more than the kernel takes."""
    headers = [(b"content-length", b"%d" % LARGE)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * LARGE})


async def refuses(scope: Message, receive: Any, send: Any) -> None:
    """Answers without reading, as a login check does."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def expires(pair: Pair, ticks: int) -> None:
    """Let a deadline of so many ticks come; it must not have come before. (One tick may have passed by itself.)"""
    await pair.elapse(ticks - 2)
    assert not pair.closed and pair.connection.state != LINGERING, "too early"
    assert await nothing_comes(pair)
    await pair.elapse(3)


async def nothing_comes(pair: Pair) -> bool:
    await pair.settle()
    try:
        pair.client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


# -- Deadlines ------------------------------------------------------------------------------------------------------------


@on_every_stack
async def test_a_silent_connection_is_closed_without_an_answer(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await expires(pair, HEAD)
        assert await pair.rest() == b"", "there is no request that a 408 could answer"


@on_every_stack
async def test_the_clock_of_a_head_starts_with_its_first_byte_and_is_not_set_back(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.elapse(HEAD - 5)
        await pair.send(b"G")
        await pair.settle()
        await pair.elapse(HEAD // 2)
        await pair.send(b"ET / HTTP/1.1\r\n")
        await pair.settle()
        await expires(pair, HEAD - HEAD // 2)
        assert (await pair.response()).status == 408
        assert await pair.rest() == b""


async def late_for_its_sweeps(pair: Pair, data: bytes, ticks: int) -> None:
    """The client sends; but the server looks at its deadlines first, of which one of so many ticks has come."""
    pair.client.send(data)
    for _ in range(ticks + 2):
        pair.poller.deadlines.sweep()
        pair.poller.deadlines.stop()


@on_every_stack
async def test_who_has_sent_in_time_is_not_late_because_the_server_is(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await late_for_its_sweeps(pair, GET[:10], HEAD)
        await pair.settle()
        await late_for_its_sweeps(pair, GET[10:], 1)
        assert (await pair.response()).status == 200
        await late_for_its_sweeps(pair, GET, KEEP_ALIVE)
        assert (await pair.response()).status == 200
        await expires(pair, KEEP_ALIVE)
        assert await pair.rest() == b""


@pytest.mark.parametrize("between", [[], [b"\r\n"], [b"\r", b"\n"], [b"\r", b"\n\r", b"\n"]], ids=repr)
@on_every_stack
async def test_the_clock_of_the_next_head(stack: Stack, between: list[bytes]) -> None:
    """Empty lines before it are no part of it."""
    async with stack.pair(hello) as pair:
        await pair.send(GET)
        assert (await pair.response()).status == 200
        for piece in between:
            await pair.send(piece)
            await pair.settle()
        await pair.send(b"GET / H")
        await pair.settle()
        await expires(pair, HEAD)
        assert (await pair.response()).status == 408


@pytest.mark.parametrize("pieces", [[b"\r\n"] * 3, [b"\r", b"\n"] * 3], ids=["lines", "bytes"])
@on_every_stack
async def test_empty_lines_do_not_keep_a_connection_open(stack: Stack, pieces: list[bytes]) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(GET)
        await pair.response()
        for _ in range(3):
            for piece in pieces:
                with contextlib.suppress(OSError):
                    await pair.send(piece)
                await pair.elapse(KEEP_ALIVE // 4)
        assert pair.closed or pair.connection.state == LINGERING
        await pair.rest()


@on_every_stack
async def test_an_idle_connection_is_closed_without_a_word(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        for _ in range(2):
            await pair.elapse(HEAD // 2)
            await pair.send(GET)
            await pair.response()
        await expires(pair, KEEP_ALIVE)
        assert await pair.rest() == b""


@pytest.mark.parametrize("request_head", [post(10) + b"01", CHUNKED + b"5\r\nab"])
@on_every_stack
async def test_a_stalled_body_is_answered_408(stack: Stack, request_head: bytes) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(request_head)
        call = await puppet.call()
        await call.receive()
        receiving = asyncio.ensure_future(call.receive())
        await pair.settle()
        await expires(pair, BODY)
        assert await receiving == {"type": "http.disconnect"}
        call.returns()
        response = await pair.response()
        assert (response.status, response.values(b"connection")) == (408, [b"close"])


@on_every_stack
async def test_a_body_that_stalls_amid_the_response_resets(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(post(10) + b"01")
        call = await puppet.call()
        await call.receive()
        await call.start()
        await call.body(b"x", True)
        receiving = asyncio.ensure_future(call.receive())
        await pair.until(b"x\r\n")
        await expires(pair, BODY)
        await receiving
        call.returns()
        with pytest.raises(ConnectionResetError):
            await pair.rest()


@on_every_stack
async def test_each_piece_of_a_body_sets_its_clock_back(stack: Stack) -> None:
    async with stack.pair(echo) as pair:
        await pair.send(post(3))
        for _ in range(3):
            await pair.settle()
            await pair.elapse(BODY - 5)
            await pair.send(b"x")
        assert (await pair.response()).content == b"xxx"


@on_every_stack
async def test_a_body_has_no_clock_before_it_was_asked_for(stack: Stack) -> None:
    """The client waits for our 100: it is not late (RFC 9110 section 10.1.1)."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        call = await puppet.call()
        await pair.elapse(BODY * 3)
        receiving = asyncio.ensure_future(call.receive())
        await pair.until(b"100 Continue\r\n\r\n")
        await pair.send(b"01234")
        await receiving
        await call.answer()
        assert (await pair.response()).status == 200


@on_every_stack
async def test_an_application_may_take_its_time_over_a_body(stack: Stack) -> None:
    """While there is body that it has not taken, the client is not late, however long it takes."""
    puppet = Puppet()
    size = 20 * READ_SIZE
    async with stack.pair(puppet) as pair:
        sending = asyncio.ensure_future(pair.send(post(size) + b"x" * size))
        call = await puppet.call()
        await pair.settle()
        got = 0
        while got < size:
            await pair.elapse(BODY * 2)
            got += len((await call.receive())["body"])
        await sending
        await call.answer()
        assert (await pair.response()).status == 200


@on_every_stack
async def test_an_application_may_take_its_time_over_a_response(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await pair.elapse(2000)
        await call.start()
        await call.body(b"x", True)
        await pair.elapse(2000)
        await call.body()
        call.returns()
        assert (await pair.response()).content == b"x"


@on_every_stack
async def test_a_client_that_takes_nothing_is_cut_off(stack: Stack) -> None:
    async with stack.pair(large, little_room=True) as pair:
        await pair.send(GET)
        await pair.until_true(lambda: pair.connection.blocked)
        await pair.elapse(SEND - 2)
        assert not pair.closed
        await pair.elapse(3)
        with pytest.raises(Truncated):
            await pair.response()
        assert pair.closed


@on_every_stack
async def test_a_client_that_takes_little_is_waited_for(stack: Stack) -> None:
    async with stack.pair(large, little_room=True) as pair:
        await pair.send(GET)
        await pair.until_true(lambda: pair.connection.blocked)
        for _ in range(5):
            await pair.elapse(SEND - 5)
            unsent = pair.connection.unsent
            while pair.connection.unsent == unsent:
                await pair.fill()
                await pair.settle()
        assert len((await pair.response()).content) == LARGE


IMPATIENT = Timeouts(HEAD, BODY, 10, SEND, LINGER, FAREWELL)


@on_every_stack
async def test_a_response_under_way_does_not_idle(stack: Stack) -> None:
    """The application is done, the client still reads: the keep-alive timeout begins when it has everything."""
    async with stack.pair(large, little_room=True, timeouts=IMPATIENT) as pair:
        await pair.send(GET)
        await pair.until_true(lambda: pair.connection.blocked and pair.connection.exchange is None)
        await pair.elapse(100)
        assert len((await pair.response()).content) == LARGE
        await pair.settle()
        await expires(pair, 10)
        assert await pair.rest() == b""


@on_every_stack
async def test_a_response_in_two_pieces_under_way_does_not_idle(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True, timeouts=IMPATIENT) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start()
        sending = asyncio.ensure_future(call.body(b"x" * LARGE, True))
        await pair.until_true(lambda: pair.connection.blocked)
        last = asyncio.ensure_future(call.body(b"y"))
        await pair.settle()
        await pair.elapse(100)
        response = await pair.response()
        assert response.content == b"x" * LARGE + b"y"
        await asyncio.gather(sending, last)
        call.returns()


@on_every_stack
async def test_the_next_request_does_not_stop_the_clock_of_the_response_before(stack: Stack) -> None:
    """A client that asks twice and reads nothing is cut off like one that asks once."""
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(GET + GET)
        call = await puppet.call()
        room = 0
        await call.start()
        while not pair.connection.blocked:
            sending = asyncio.ensure_future(call.body(b"x" * 4096, True))
            await pair.settle()
            room += 4096
            assert sending.done()
        await call.body()
        call.returns()
        assert pair.connection.unsent <= HIGH_WATER
        second = await puppet.call()
        await pair.elapse(SEND + 2)
        assert pair.closed
        second.returns()


@on_every_stack
async def test_the_end_of_a_body_does_not_stop_the_clock_of_the_response(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(post(4) + b"01")
        call = await puppet.call()
        await call.receive()
        await call.start()
        sending = asyncio.ensure_future(call.body(b"x" * LARGE, True))
        await pair.until_true(lambda: pair.connection.blocked)
        await pair.send(b"23")
        await call.receive()
        await pair.elapse(SEND + 2)
        assert pair.closed
        with pytest.raises(OSError, match="disconnected"):
            await sending
        call.returns()


# -- Reading: no more than is wanted --------------------------------------------------------------------------------------


@on_every_stack
async def test_a_body_nobody_reads_stays_in_the_kernel(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        sending = asyncio.ensure_future(pair.send(post(LARGE) + b"x" * LARGE))
        call = await puppet.call()
        await pair.settle()
        assert not sending.done()
        assert pair.connection.buffered <= HIGH_WATER + READ_SIZE
        got = 0
        while got < LARGE:
            message = await call.receive()
            got += len(message["body"])
            assert pair.connection.buffered <= HIGH_WATER + READ_SIZE
        assert message["more_body"] is False
        await sending
        await call.answer()
        assert (await pair.response()).status == 200


@on_every_stack
async def test_a_tiny_chunk_each_is_a_body_too(stack: Stack) -> None:
    async with stack.pair(echo) as pair:
        content = bytes(range(256)) * 40
        sending = asyncio.ensure_future(
            pair.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n" + GET)
        )
        assert (await pair.response()).content == content
        assert (await pair.response()).content == b""
        await sending


@on_every_stack
async def test_requests_nobody_takes_the_answers_of_wait(stack: Stack) -> None:
    """Pipelining must not be a way to fill the server's memory with responses."""
    count = 8
    async with stack.pair(large, little_room=True) as pair:
        await pair.send(GET * count)
        await pair.until_true(lambda: pair.connection.blocked)
        await pair.settle()
        assert pair.service.requests <= 2
        for number in range(count):
            assert len((await pair.response()).content) == LARGE
            assert pair.service.requests <= number + 4
        assert pair.service.requests == count


@on_every_stack
async def test_a_flood_behind_a_slow_request_is_answered_in_full(stack: Stack) -> None:
    """Reading stops while the first is pending, and again and again; whoever stops it must set it going again."""
    count = 8000
    puppet = Puppet()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await (puppet if scope["path"] == "/slow" else hello)(scope, receive, send)

    async with stack.pair(app) as pair:
        flood = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + GET * count
        sending = asyncio.ensure_future(pair.send(flood + GET[:10]))
        call = await puppet.call()
        await pair.settle()
        await call.answer()
        for _ in range(count + 1):
            assert (await pair.response()).status == 200
        await sending
        await pair.settle()
        await pair.send(GET[10:])
        assert (await pair.response()).status == 200


@on_every_stack
async def test_many_pieces_arrive_in_order(stack: Stack) -> None:
    """Small pieces, large ones, files of neither: what goes through cork, kernel and outbox keeps its order."""
    dice = random.Random(7)
    pieces = [dice.randbytes(dice.choice((1, 10, 500, 5000, 20000, 200_000))) for _ in range(150)]

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async with stack.pair(app, little_room=True) as pair:
        await pair.send(GET)
        response = await pair.response()
        assert response.content == b"".join(pieces)
        assert response.chunks == len(pieces)


# -- A response before the end of the request -----------------------------------------------------------------------------


@pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)
@on_every_stack
async def test_what_nobody_reads_of_a_body_is_dropped(stack: Stack, feeding: Feeding) -> None:
    bodies = [post(300) + b"x" * 300, CHUNKED + b"3\r\nabc\r\n" * 20 + b"0\r\n\r\n"]
    async with stack.pair(refuses) as pair:
        for body in bodies * 2:
            for piece in feeding(body):
                await pair.send(piece)
                await asyncio.sleep(0)
            response = await pair.response()
            assert (response.status, response.values(b"connection")) == (401, [])
        assert pair.service.requests == 4


@pytest.mark.parametrize("size", [DISCARD_SIZE, DISCARD_SIZE + 1])
@on_every_stack
async def test_a_long_body_nobody_reads_closes_the_connection(stack: Stack, size: int) -> None:
    async with stack.pair(refuses) as pair:
        await pair.send(post(size))
        assert (await pair.response()).status == 401
        if size > DISCARD_SIZE:
            await pair.send(b"x" * 100)
            assert await pair.rest() == b""
        else:
            await pair.send(b"x" * size + GET)
            assert (await pair.response()).status == 401


@on_every_stack
async def test_a_body_without_end_that_nobody_reads_closes_the_connection(stack: Stack) -> None:
    async with stack.pair(refuses) as pair:
        await pair.send(CHUNKED)
        assert (await pair.response()).status == 401
        for _ in range(2 * DISCARD_SIZE // 65536):
            await pair.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert await pair.rest() == b"", "our half is closed; the client may still notice"
        await pair.elapse(LINGER + 2)
        assert pair.closed


@pytest.mark.parametrize(
    "request_head", [post(10) + b"01", CHUNKED, CHUNKED + b"5", CHUNKED + b"5\r\nab", CHUNKED + b"0\r\nx: "], ids=repr
)
@on_every_stack
async def test_a_body_that_stalls_after_its_response_gets_no_second_one(stack: Stack, request_head: bytes) -> None:
    async with stack.pair(refuses) as pair:
        await pair.send(request_head)
        assert (await pair.response()).status == 401
        await pair.elapse(max(HEAD, BODY, KEEP_ALIVE) + 2)
        assert await pair.rest() == b""


@pytest.mark.parametrize("rest", [b"zz\r\n", b"1\r\nab", b"0\r\nbad\r\n"], ids=repr)
@on_every_stack
async def test_a_body_that_breaks_after_its_response_gets_no_second_one(stack: Stack, rest: bytes) -> None:
    """A client would take it for the answer to its next request."""
    async with stack.pair(refuses) as pair:
        await pair.send(CHUNKED)
        assert (await pair.response()).status == 401
        await pair.send(rest)
        assert await pair.rest() == b""


@on_every_stack
async def test_the_head_behind_a_dropped_body_has_its_own_clock(stack: Stack) -> None:
    async with stack.pair(refuses) as pair:
        await pair.send(CHUNKED + b"5")
        assert (await pair.response()).status == 401
        await pair.settle()
        await pair.send(b"\r\nhello\r\n0\r\n\r\n")
        await pair.settle()
        await pair.elapse(50)
        await pair.send(b"GET")
        await pair.settle()
        await expires(pair, HEAD)
        assert (await pair.response()).status == 408


@on_every_stack
async def test_a_connection_behind_a_dropped_body_idles_as_long_as_any(stack: Stack) -> None:
    async with stack.pair(refuses) as pair:
        await pair.send(post(10))
        assert (await pair.response()).status == 401
        await pair.settle()
        await pair.elapse(300)
        await pair.send(b"0123456789")
        await pair.settle()
        await expires(pair, KEEP_ALIVE)
        assert await pair.rest() == b""


# -- Refusals, and the end ------------------------------------------------------------------------------------------------


@on_every_stack
async def test_a_refused_client_gets_to_read_why(stack: Stack) -> None:
    """It is still sending: closing at once would reset the connection, and the answer with it."""
    async with stack.pair(hello, limits=Limits(body=10)) as pair:
        await pair.send(post(1 << 20) + b"x" * 200_000)
        await pair.settle()
        await pair.send(b"x" * 100_000)
        response = await pair.response()
        assert (response.status, response.values(b"connection")) == (413, [b"close"])
        assert await pair.rest() == b""
        assert len(pair.log.take(logging.WARNING)) == 1


@on_every_stack
async def test_a_refused_client_that_goes_on_is_cut_off_by_time(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(b"\x00")
        assert (await pair.response()).status == 400
        for _ in range(4):
            assert not pair.closed
            await pair.send(b"x")
            await pair.elapse(LINGER // 4)
        await pair.elapse(2)
        assert pair.closed
        pair.log.take()


@on_one_stack
async def test_a_refused_client_that_goes_on_is_cut_off_by_size(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(b"\x00")
        assert (await pair.response()).status == 400
        sent = 0
        with contextlib.suppress(OSError):
            while True:
                await pair.send(b"x" * 1048576)
                sent += 1048576
        assert pair.closed
        assert sent >= LINGER_SIZE
        pair.log.take()


@on_every_stack
async def test_what_came_before_a_bad_request_is_answered(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(GET * 3 + b"bad\r\n\r\n" + GET)
        for _ in range(3):
            assert (await pair.response()).status == 200
        assert (await pair.response()).status == 400
        assert await pair.rest() == b""
        (message,) = pair.log.take()
        assert message.startswith("Invalid HTTP request received from 127.0.0.1:")
        assert pair.service.requests == 3


@on_every_stack
async def test_what_breaks_at_once_is_never_begun(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(CHUNKED + b"1\r\na\r\nzz\r\n")
        assert (await pair.response()).status == 400
        assert puppet.calls.empty()
        pair.log.take()


@on_every_stack
async def test_a_body_that_breaks_is_never_complete(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(CHUNKED + b"1\r\na\r\n")
        call = await puppet.call()
        await pair.send(b"zz\r\n")
        await pair.settle()
        message = await call.receive()
        assert message == {"type": "http.request", "body": b"a", "more_body": True}
        assert await call.receive() == {"type": "http.disconnect"}
        with pytest.raises(OSError, match="disconnected"):
            await call.start()
        call.returns()
        assert (await pair.response()).status == 400
        pair.log.take()


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET", b"GET / HTTP/1.1\r\nHost", GET + b"GET", post(5), post(5) + b"abc", CHUNKED + b"5\r\na"],
)
@on_every_stack
async def test_a_client_that_ends_amid_its_request(stack: Stack, sent: bytes) -> None:
    async with stack.pair(echo) as pair:
        await pair.send(sent)
        pair.send_end()
        if sent.startswith(GET):
            assert (await pair.response()).status == 200
        assert await pair.rest() == b""
        assert pair.log.messages() == []


@pytest.mark.parametrize("whole", [GET, post(10) + b"0123456789", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
@on_every_stack
async def test_a_client_that_resets_at_any_byte_leaves_nothing(stack: Stack, whole: bytes) -> None:
    for size in range(0, len(whole) + 1, 3):
        async with stack.pair(echo) as pair:
            await pair.send(whole[:size])
            await asyncio.sleep(0)
            pair.reset()


@on_every_stack
async def test_a_client_that_resets_while_another_request_waits(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await pair.send(GET)
        await pair.settle()
        pair.reset()
        with contextlib.suppress(OSError):
            await call.answer(b"x")
        call.returns()


@on_every_stack
async def test_a_reset_that_is_noticed_by_sending(stack: Stack) -> None:
    """The application sends before the poller has told: the connection is lost in the middle of its send()."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await pair.send(GET)
        await pair.settle()
        pair.reset()
        await call.start(headers=[(b"content-length", b"1")])
        await call.body(b"x")
        call.returns()
        await pair.settle()
        assert pair.closed
        assert pair.log.messages() == []


@on_every_stack
async def test_an_end_behind_a_full_buffer_does_not_keep_the_worker_busy(stack: Stack) -> None:
    """A level-triggered loop tells of the end again and again, as long as somebody asks."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(post(LARGE) + b"x" * (HIGH_WATER + 1000))
        call = await puppet.call()
        await pair.settle()
        pair.send_end()
        await pair.settle()
        before = time.process_time()
        await asyncio.sleep(0.3)  # nothing may happen: there is no event to wait for
        assert time.process_time() - before < 0.1
        while (await call.receive())["type"] == "http.request":
            pass
        call.returns()


# -- Limits of the service ------------------------------------------------------------------------------------------------


@on_one_stack
async def test_a_head_request_that_stalls_gets_no_content(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n")
        await pair.settle()
        await expires(pair, HEAD)
        assert (await pair.response("HEAD")).status == 408
        assert await pair.rest() == b""


@on_one_stack
async def test_a_head_request_whose_body_stalls_gets_no_content(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        call = await puppet.call()
        receiving = asyncio.ensure_future(call.receive())
        await pair.settle()
        await expires(pair, BODY)
        assert await receiving == {"type": "http.disconnect"}
        call.returns()
        assert (await pair.response("HEAD")).status == 408
        assert await pair.rest() == b""


@on_one_stack
async def test_a_head_request_too_many_gets_no_content(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        pair.service.limit_concurrency = 1
        pair.service.in_flight += 1  # elsewhere
        await pair.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await pair.response("HEAD")).status == 503
        assert await pair.rest() == b""
        pair.service.in_flight -= 1


@on_every_stack
async def test_too_many_requests_at_a_time_are_refused(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        pair.service.limit_concurrency = 2
        pair.service.in_flight += 2  # elsewhere
        await pair.send(GET)
        response = await pair.response()
        assert (response.status, response.values(b"connection")) == (503, [b"close"])
        assert await pair.rest() == b""
        pair.service.in_flight -= 2


@on_every_stack
async def test_the_request_limit_is_told_once(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        told = []
        pair.service.limit_requests = 3
        pair.service.on_request_limit = lambda: told.append(pair.service.requests)
        await pair.send(GET * 5)
        for _ in range(5):
            assert (await pair.response()).status == 200
        assert told == [3]


@on_every_stack
async def test_the_request_limit_counts_what_is_refused(stack: Stack) -> None:
    """The request that reaches the limit may be one too many at a time as well."""
    async with stack.pair(hello) as pair:
        told = []
        pair.service.limit_requests = 1
        pair.service.on_request_limit = lambda: told.append(True)
        pair.service.limit_concurrency = 1
        pair.service.in_flight += 1
        await pair.send(GET)
        assert (await pair.response()).status == 503
        pair.service.in_flight -= 1
        assert told == [True]


# -- The graceful stop ----------------------------------------------------------------------------------------------------


def stop(pair: Pair) -> None:
    pair.service.draining = True
    pair.connection.drain()


@on_every_stack
async def test_a_stop_closes_a_connection_that_idled_long(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(GET)
        await pair.response()
        await pair.elapse(KEEP_ALIVE // 2)
        stop(pair)
        assert await pair.rest() == b""


@pytest.mark.parametrize("requests", [0, 1], ids=["new", "idle"])
@on_every_stack
async def test_a_stop_waits_a_moment_for_a_request_on_its_way(stack: Stack, requests: int) -> None:
    async with stack.pair(hello) as pair:
        for _ in range(requests):
            await pair.send(GET)
            await pair.response()
        stop(pair)
        await pair.settle()
        assert not pair.closed
        await pair.send(GET)
        response = await pair.response()
        assert (response.status, response.values(b"connection")) == (200, [b"close"])
        assert await pair.rest() == b""


@pytest.mark.parametrize("requests", [0, 1], ids=["new", "idle"])
@on_every_stack
async def test_a_stop_does_not_wait_long(stack: Stack, requests: int) -> None:
    async with stack.pair(hello) as pair:
        for _ in range(requests):
            await pair.send(GET)
            await pair.response()
        stop(pair)
        await pair.elapse(FAREWELL + 1)
        assert await pair.rest() == b"", "not even a 408"


@on_every_stack
async def test_a_stop_lets_what_runs_finish(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        stop(pair)
        await call.answer(b"x")
        response = await pair.response()
        assert (response.content, response.values(b"connection")) == (b"x", [b"close"])
        assert await pair.rest() == b""


@on_every_stack
async def test_a_stop_lets_a_client_take_its_response(stack: Stack) -> None:
    """The response said nothing of a close; when the client has it all, the connection is closed at once."""
    async with stack.pair(large, little_room=True) as pair:
        await pair.send(GET)
        await pair.until_true(lambda: pair.connection.blocked)
        stop(pair)
        await pair.elapse(FAREWELL + 2)
        assert len((await pair.response()).content) == LARGE
        await pair.elapse(FAREWELL + 2)
        assert pair.closed
        assert await pair.rest() == b""


@on_every_stack
async def test_a_stop_lets_a_head_arrive(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(GET[:10])
        await pair.settle()
        stop(pair)
        await pair.elapse(FAREWELL + 2)
        await pair.send(GET[10:])
        assert (await pair.response()).values(b"connection") == [b"close"]
        assert await pair.rest() == b""


# -- Odds and ends --------------------------------------------------------------------------------------------------------


class Uncopyable(dict[str, Any]):
    """Nothing raises inside the server of itself; this does."""

    def copy(self) -> dict[str, Any]:
        raise RuntimeError("no copy")


@on_every_stack
async def test_a_mistake_of_ours_costs_one_connection(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        pair.service.state = Uncopyable()
        await pair.send(GET)
        with pytest.raises(ConnectionResetError):
            await pair.rest()
        assert pair.log.take() == ["Internal error; the connection is closed"]


@on_every_stack
async def test_nothing_is_kept_of_a_request_that_is_answered(stack: Stack) -> None:
    async with stack.pair(echo) as pair:
        await pair.send(post(50_000) + b"x" * 50_000)
        await pair.response()
        await pair.settle()
        connection = pair.connection
        assert connection.state == IDLE
        assert (connection.exchange, connection.outbox) == (None, None)
        assert connection.parser is None or (connection.parser.buffer, connection.parser.content) == (b"", b"")


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::1", "::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:0:1", "::ffff:0:1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_addresses_of_dual_stack_listeners(host: str, plain: str) -> None:
    assert plain_host(host) == plain


def test_the_servers_address() -> None:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        assert server_address(tcp) == ("127.0.0.1", tcp.getsockname()[1])
    one, other = socket.socketpair()
    with one, other:
        assert server_address(one) == ("", None)


@on_every_stack
async def test_connections_share_the_cork_and_nothing_else(stack: Stack) -> None:
    """Whoever takes the writer over sends its owner's bytes first; nobody's bytes go to another client."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        clients = [pair.other() for _ in range(5)]
        calls = []
        for number, client in enumerate(clients):
            await client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            calls.append(await puppet.call())
        # All in one turn of the loop, so that everything is corked when the next one comes.
        for call in calls:
            call.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        for part in (b"ab", b"cd"):
            for number, call in enumerate(calls):
                more = part == b"ab"
                call.send({"type": "http.response.body", "body": part.replace(b"a", b"%d" % number), "more_body": more})
        for number, (call, client) in enumerate(zip(calls, clients, strict=True)):
            call.returns()
            assert (await client.response()).content == b"%dbcd" % number


@on_every_stack
async def test_a_connection_lost_with_the_cork_in_its_hand(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        other = pair.other()
        await other.send(GET)
        lost = await puppet.call()
        await pair.send(GET)
        call = await puppet.call()
        await lost.start(headers=[(b"secret", b"of another")])
        other.reset()
        await pair.settle()
        await call.answer(b"x")
        assert (await pair.response()).values(b"secret") == []
        lost.returns()


@on_every_stack
async def test_the_end_of_input_does_not_overtake_requests_that_wait_for_their_turn(stack: Stack) -> None:
    """An answer given outside the poller's turn leaves the next request to a later one; the client's end may come first."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET * 3)
        await (await puppet.call()).answer(b"1")
        pair.send_end()
        pair.connection.on_ready(READABLE | PEER_CLOSED)
        pair.poller.end_turn()
        for content in (b"2", b"3"):
            await (await puppet.call()).answer(content)
        for content in (b"1", b"2", b"3"):
            assert (await pair.response()).content == content
        assert await pair.rest() == b""


# -- Fairness -------------------------------------------------------------------------------------------------------------


class Calls:
    """An application that notes whose requests it is called for."""

    def __init__(self, work: float = 0.0) -> None:
        self.clients: list[tuple[str, int]] = []
        self.work = work

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        self.clients.append(scope["client"])
        time.sleep(self.work)  # noqa: ASYNC251 - what is to be bounded
        await hello(scope, receive, send)

    async def before(self, mine: Client, other: Client) -> int:
        """How many of the first client's requests were served before the other's, which came at the same time."""
        assert (await other.response()).status == 200
        return self.clients.index(other.client.getsockname())


@pytest.mark.parametrize(("work", "most"), [(0.0, 200), (0.002, 10)], ids=["quick", "slow"])
@on_every_stack
async def test_whoever_pipelines_does_not_keep_others_waiting(stack: Stack, work: float, most: int) -> None:
    calls = Calls(work)
    async with stack.pair(calls) as pair:
        other = pair.other()
        await pair.settle()
        await pair.send(GET * 500)
        await other.send(GET)
        assert await calls.before(pair, other) < most
        for _ in range(500):
            assert (await pair.response()).status == 200
        assert len(calls.clients) == 501


@on_every_stack
async def test_who_receives_and_never_has_to_wait_lets_others_have_the_loop(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(post(1000))
        call = await puppet.call()
        (exchange,) = pair.service.running
        assert isinstance(exchange, HttpExchange)
        others: list[int] = []
        for _ in range(RECEIVES_PER_TURN + 1):
            exchange.feed(b"x")
        asyncio.get_running_loop().call_soon(others.append, 1)
        for _ in range(RECEIVES_PER_TURN - 1):
            await exchange.receive()
        assert others == []
        await exchange.receive()
        assert others == [1]
        call.returns()
        assert (await pair.response()).status == 500
        pair.log.take()


@on_every_stack
async def test_turns_do_not_add_up(stack: Stack) -> None:
    """A connection waits for its turn once, however often there is something new for it."""
    async with stack.pair(hello) as pair:
        await pair.send(GET * 2000)
        for _ in range(20):
            await asyncio.sleep(0)
            pair.connection.on_ready(READABLE)
            pair.connection.go_on_later()
            assert pair.poller.leftovers.count(pair.connection) <= 1
        for _ in range(2000):
            assert (await pair.response()).status == 200
