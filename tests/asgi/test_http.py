"""The exchange: what receive() gives, what send() takes and in which order, and what of it the client gets to see."""

from __future__ import annotations

import asyncio
import contextlib
import http
from typing import Any

import pytest

from ladybug.asgi.awaitables import ClientDisconnected
from ladybug.transport import Timeouts
from tests.pair import (
    FAREWELL,
    GET,
    HEAD,
    LARGE,
    LINGER,
    SEND,
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

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
DISCONNECT = {"type": "http.disconnect"}


def content(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def waiting(pair: Pair, awaitable: Any) -> asyncio.Task[Any]:
    """A task of `awaitable`, which has to wait."""
    task: asyncio.Task[Any] = asyncio.ensure_future(awaitable)
    await pair.settle()
    assert not task.done()
    return task


# -- receive() ------------------------------------------------------------------------------------------------------------


@on_every_stack
async def test_a_request_without_content_is_one_empty_message(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        assert await call.receive() == content(b"")
        receiving = await waiting(pair, call.receive())
        await call.answer(b"x")
        assert await receiving == DISCONNECT
        assert await call.receive() == DISCONNECT, "and so for ever"
        assert (await pair.response()).content == b"x"


@on_every_stack
async def test_content_is_handed_on_as_it_comes(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST)
        call = await puppet.call()
        receiving = await waiting(pair, call.receive())
        await pair.send(b"0123")
        assert await receiving == content(b"0123", True)
        receiving = await waiting(pair, call.receive())
        await pair.send(b"456789")
        assert await receiving == content(b"456789")
        receiving = await waiting(pair, call.receive())
        await call.answer()
        assert await receiving == DISCONNECT


@on_every_stack
async def test_chunks_are_handed_on_and_their_end_is_told(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(CHUNKED + b"3\r\nabc\r\n")
        call = await puppet.call()
        assert await call.receive() == content(b"abc", True)
        receiving = await waiting(pair, call.receive())
        await pair.send(b"0\r\nX: y\r\n\r\n")
        assert await receiving == content(b"")
        await call.answer()


@on_every_stack
async def test_content_that_has_come_is_one_last_message(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST + b"0123456789")
        call = await puppet.call()
        assert await call.receive() == content(b"0123456789")
        await call.answer()


@on_every_stack
async def test_two_that_wait_are_both_told(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        assert await call.receive() == content(b"")
        both = [await waiting(pair, call.receive()) for _ in range(2)]
        pair.client.close()
        assert await asyncio.gather(*both) == [DISCONNECT, DISCONNECT]
        call.returns()


@on_every_stack
async def test_one_that_stops_waiting_leaves_the_other(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST)
        call = await puppet.call()
        given_up = await waiting(pair, call.receive())
        other = await waiting(pair, call.receive())
        given_up.cancel()
        await pair.settle()
        await pair.send(b"0123456789")
        assert await other == content(b"0123456789")
        await call.answer()


@on_every_stack
async def test_a_client_that_leaves_amid_its_content_never_completes_it(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST + b"01234")
        call = await puppet.call()
        assert await call.receive() == content(b"01234", True)
        receiving = await waiting(pair, call.receive())
        pair.client.close()
        assert await receiving == DISCONNECT
        with pytest.raises(ClientDisconnected):
            await call.start()
        call.returns()


@on_every_stack
async def test_content_from_before_the_end_is_still_given(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST + b"01234")
        call = await puppet.call()
        pair.client.close()
        await pair.settle()
        assert await call.receive() == content(b"01234", True)
        assert await call.receive() == DISCONNECT
        call.returns()


@on_every_stack
async def test_a_request_is_given_whole_although_the_client_sends_no_more(stack: Stack) -> None:
    """A client may close its half behind its request (RFC 9112 section 9.6): the request is as complete as any."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        pair.send_end()
        await pair.settle()
        assert await call.receive() == content(b"")
        assert await call.receive() == DISCONNECT
        call.returns()


@on_every_stack
async def test_a_client_that_closed_its_half_gets_its_answer(stack: Stack) -> None:
    async with stack.pair(echo) as pair:
        await pair.send(POST + b"0123456789")
        pair.send_end()
        assert (await pair.response()).content == b"0123456789"
        assert await pair.rest() == b""


@on_every_stack
async def test_a_slow_answer_reaches_a_client_that_closed_its_half(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        pair.send_end()
        call = await puppet.call()
        await pair.settle()
        await call.answer(b"late")
        assert (await pair.response()).content == b"late"
        assert await pair.rest() == b""


@on_every_stack
async def test_what_an_application_was_told_stays_true(stack: Stack) -> None:
    """After http.disconnect a send() fails, although a client that closed only its half could still hear it."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST + b"0123456789")
        call = await puppet.call()
        pair.send_end()
        await pair.settle()
        assert await call.receive() == content(b"0123456789")
        assert await call.receive() == DISCONNECT
        with pytest.raises(OSError, match="disconnected"):
            await call.start()
        call.returns()


# -- 100 (Continue) -------------------------------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@on_every_stack
async def test_100_is_sent_when_the_content_is_wanted_and_once(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(EXPECTING)
        call = await puppet.call()
        await pair.settle()
        receiving = await waiting(pair, call.receive())
        assert await pair.exactly(len(CONTINUE)) == CONTINUE
        await pair.send(b"01")
        assert await receiving == content(b"01", True)
        receiving = await waiting(pair, call.receive())
        await pair.send(b"234")
        assert await receiving == content(b"234")
        await call.answer(b"done")
        response = await pair.response()
        assert (response.status, response.content) == (200, b"done")
        assert response.values(b"connection") == []
        await pair.send(GET)
        await (await puppet.call()).answer()
        assert (await pair.response()).status == 200


@on_every_stack
async def test_100_is_not_sent_when_the_content_is_there(stack: Stack) -> None:
    async with stack.pair(echo) as pair:
        await pair.send(EXPECTING + b"01234")
        assert (await pair.until(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        await pair.until(b"01234")


@on_every_stack
async def test_content_that_does_not_wait_for_100(stack: Stack) -> None:
    """A client may send before it hears 100; whether it then still gets one does not matter, the content does."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(EXPECTING)
        call = await puppet.call()
        await pair.send(b"01234")
        await pair.settle()
        assert await call.receive() == content(b"01234")
        await call.answer(b"x")
        assert (await pair.response()).content == b"x"


@on_every_stack
async def test_a_refusal_instead_of_100_closes(stack: Stack) -> None:
    """Without a 100 nobody can tell whether the content will follow."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(EXPECTING)
        call = await puppet.call()
        await call.answer(b"no")
        response = await pair.response()
        assert response.values(b"connection") == [b"close"]
        assert await pair.rest() == b""


@on_every_stack
async def test_no_100_after_the_response_began(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(EXPECTING)
        call = await puppet.call()
        await call.start(headers=[(b"content-length", b"0")])
        receiving = await waiting(pair, call.receive())
        await call.body()
        assert await receiving == DISCONNECT
        call.returns()
        assert (await pair.rest()).startswith(b"HTTP/1.1 200 ")


# -- send(): order --------------------------------------------------------------------------------------------------------

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"x"}
MORE: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
TRAILERS: Message = {"type": "http.response.trailers", "headers": [(b"a", b"b")]}
HINT: Message = {"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]}
PATH: Message = {"type": "http.response.pathsend", "path": __file__}
TAKES_TRAILERS = b"GET / HTTP/1.1\r\nHost: a\r\nTE: deflate, Trailers\r\nConnection: TE\r\n\r\n"
START_TRAILERS: Message = {**START, "trailers": True}


@pytest.mark.parametrize(
    ("before", "message", "error"),
    [
        ([], BODY, "Expected the ASGI message http.response.start, but got 'http.response.body'"),
        ([], TRAILERS, "Expected the ASGI message http.response.start, but got 'http.response.trailers'"),
        ([], PATH, "Expected the ASGI message http.response.start, but got 'http.response.pathsend'"),
        ([], {"type": "websocket.accept"}, "http.response.start, but got 'websocket.accept'"),
        ([], {"type": "http.disconnect"}, "http.response.start, but got 'http.disconnect'"),
        ([], {}, "http.response.start, but got None"),
        ([], {"type": b"http.response.start"}, "http.response.start, but got b'http.response.start'"),
        ([HINT], BODY, "Expected the ASGI message http.response.start"),
        ([START], START, "Expected the ASGI message http.response.body, but got 'http.response.start'"),
        ([START_TRAILERS, BODY], HINT, "Expected the ASGI message http.response.trailers"),
        ([START], TRAILERS, "Expected the ASGI message http.response.body"),
        ([START, MORE], START, "Expected the ASGI message http.response.body"),
        ([START, MORE], TRAILERS, "Expected the ASGI message http.response.body"),
        ([START_TRAILERS, BODY], BODY, "Expected the ASGI message http.response.trailers"),
        ([START_TRAILERS, BODY], START, "Expected the ASGI message http.response.trailers"),
        ([START_TRAILERS, BODY], PATH, "Expected the ASGI message http.response.trailers"),
    ],
)
@on_one_stack
async def test_messages_out_of_order(stack: Stack, before: list[Message], message: Message, error: str) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        for earlier in before:
            await call.send(earlier)
        with pytest.raises(RuntimeError) as caught:
            await call.send(message)
        assert error in str(caught.value)
        # And nothing has happened: the right message still works.
        if START_TRAILERS in before:
            await call.send(TRAILERS)
        else:
            await call.send(START if START not in before else BODY)
            await call.send(BODY)
        call.returns()
        if HINT in before:
            assert (await pair.response()).status == 103
        assert (await pair.response()).content == (b"xx" if MORE in before else b"x")


@on_one_stack
async def test_messages_after_the_end_are_ignored(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(headers=[(b"content-length", b"1")])
        await call.body(b"x")
        for message in (START, BODY, MORE, TRAILERS, HINT, PATH, {"type": "nonsense"}, {}):
            await call.send(message)
        call.returns()
        assert (await pair.response()).content == b"x"
        await pair.send(GET)
        other = await puppet.call()
        await call.send(START)
        await call.send(BODY)
        await other.answer(b"mine")
        assert (await pair.response()).content == b"mine", "nobody writes into another's response"


@on_every_stack
async def test_sending_to_a_client_that_is_gone(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        pair.reset()
        await pair.until_true(lambda: pair.closed)
        for message in (START, BODY, TRAILERS, HINT, PATH):
            with pytest.raises(OSError) as caught:
                await call.send(message)
            assert isinstance(caught.value, ClientDisconnected)
        call.raises(ClientDisconnected("as it came"))


# -- send(): types --------------------------------------------------------------------------------------------------------

NOT_STARTS: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "must be a dict, not NoneType"),
    ([("type", "http.response.start")], TypeError, "must be a dict, not list"),
    ({"type": "http.response.start"}, TypeError, "integer status, not None"),
    ({"type": "http.response.start", "status": "200"}, TypeError, "integer status, not '200'"),
    ({"type": "http.response.start", "status": 200.0}, TypeError, "integer status, not 200.0"),
    ({"type": "http.response.start", "status": 100}, ValueError, "status 100"),
    ({"type": "http.response.start", "status": 199}, ValueError, "200 to 999"),
    ({"type": "http.response.start", "status": 1000}, ValueError, "200 to 999"),
    ({"type": "http.response.start", "status": -200}, ValueError, "200 to 999"),
    ({"type": "http.response.start", "status": True}, ValueError, "200 to 999"),
    ({"type": "http.response.start", "status": 10**30}, ValueError, "200 to 999"),
    ({"type": "http.response.early_hint", "links": ["</a>"]}, TypeError, "must be bytes, not str"),
    ({"type": "http.response.early_hint", "links": [b"</a>\r\nX: 1"]}, ValueError, "contains CR, LF or NUL"),
]

NOT_HEADERS: list[tuple[Any, type[Exception], str]] = [
    ([("name", b"value")], TypeError, "name must be bytes, not str: 'name'"),
    ([(b"name", "value")], TypeError, "value must be bytes, not str: 'value'"),
    ([(b"name", 1)], TypeError, "value must be bytes, not int"),
    ([(b"name", None)], TypeError, "value must be bytes, not NoneType"),
    ([b"name"], TypeError, "must be a pair of bytes [name, value], not b'name'"),
    ([b"ab"], TypeError, "must be bytes, not int"),
    ([(b"name",)], TypeError, "must be a pair"),
    ([(b"name", b"value", b"more")], TypeError, "must be a pair"),
    ([None], TypeError, "must be a pair"),
    ([(b"", b"v")], ValueError, "not a token"),
    ([(b"na me", b"v")], ValueError, "not a token"),
    ([(b"name:", b"v")], ValueError, "not a token"),
    ([(b"na\r\nme", b"v")], ValueError, "not a token"),
    ([(b"name\n", b"v")], ValueError, "not a token"),
    ([(b"n\xe4me", b"v")], ValueError, "not a token"),
    ([(b"name", b"v\r\nset-cookie: x")], ValueError, "name contains CR, LF or NUL"),
    ([(b"name", b"v\n")], ValueError, "contains CR, LF or NUL"),
    ([(b"name", b"\rv")], ValueError, "contains CR, LF or NUL"),
    ([(b"name", b"v" * 100 + b"\0")], ValueError, "contains CR, LF or NUL"),
    ([(b"content-length", b"1"), (b"content-length", b"1")], ValueError, "more than one content-length"),
    ([(b"content-length", b"one")], ValueError, "content-length is not a number"),
    ([(b"content-length", b"-1")], ValueError, "content-length is not a number"),
    ([(b"content-length", b"")], ValueError, "content-length is not a number"),
    ([(b"content-length", b"1" * 19)], ValueError, "content-length is not a number"),
    ([(b"transfer-encoding", b"gzip")], ValueError, "transfer coding b'gzip' is not supported"),
]


@pytest.mark.parametrize(
    ("message", "error", "text"),
    NOT_STARTS + [({**START, "headers": headers}, error, text) for headers, error, text in NOT_HEADERS],
)
@on_one_stack
async def test_a_message_that_is_malformed_leaves_no_trace(
    stack: Stack, message: Any, error: type[Exception], text: str
) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        with pytest.raises(error) as caught:
            await call.send(message)
        assert text in str(caught.value)
        await call.answer(b"fine")
        raw = await pair.until(b"fine")
        assert raw.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n")


@pytest.mark.parametrize("body", ["text", 1, [b"x"], None])
@on_one_stack
async def test_content_that_is_not_bytes(stack: Stack, body: Any) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start()
        with pytest.raises(TypeError, match=f"needs bytes, not {type(body).__name__}"):
            await call.send({"type": "http.response.body", "body": body})
        await call.body(b"x")
        call.returns()
        assert (await pair.response()).content == b"x"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"b"), (b"c", b"d")],
        [[b"a", b"b"], [b"c", b"d"]],
        ((b"a", b"b"), (b"c", b"d")),
        [(bytearray(b"a"), memoryview(b"b")), (b"c", b"d")],
        {b"a": b"b", b"c": b"d"}.items(),
        iter([(b"a", b"b"), (b"c", b"d")]),
    ],
    ids=["tuples", "lists", "a tuple", "other bytes", "items", "an iterator"],
)
@on_one_stack
async def test_headers_in_every_shape_applications_give(stack: Stack, headers: Any) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        await call.body(b"x")
        call.returns()
        response = await pair.response()
        assert response.headers[:2] == [(b"a", b"b"), (b"c", b"d")]


@pytest.mark.parametrize("status", [http.HTTPStatus.CREATED, 201])
@on_one_stack
async def test_a_status_may_be_any_integer_type(stack: Stack, status: int) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(status)
        await call.body(b"x")
        call.returns()
        assert (await pair.until(b"\r\n")) == b"HTTP/1.1 201 Created\r\n"
        await pair.until(b"0\r\n\r\n")
        assert pair.access_lines()[0].endswith(" 201")


@pytest.mark.parametrize("body", [b"xy", bytearray(b"xy"), memoryview(b"xy")])
@on_one_stack
async def test_content_as_any_kind_of_bytes(stack: Stack, body: Any) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(headers=[(b"content-length", b"2")])
        await call.send({"type": "http.response.body", "body": body})
        call.returns()
        assert (await pair.response()).content == b"xy"


@on_one_stack
async def test_a_buffer_may_be_used_again_at_once(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(headers=[(b"content-length", b"%d" % LARGE)])
        buffer = bytearray(b"x" * LARGE)
        await call.send({"type": "http.response.body", "body": buffer})
        buffer[:] = b"y" * LARGE
        call.returns()
        assert (await pair.response()).content == b"x" * LARGE


# -- Framing --------------------------------------------------------------------------------------------------------------

LENGTH_2 = [(b"content-length", b"2")]


@pytest.mark.parametrize("more", [False, True], ids=["one message", "several messages"])
@pytest.mark.parametrize(
    ("request_line", "status", "headers", "framing", "on_wire", "persists"),
    [
        ("GET 1.1", 200, LENGTH_2, b"content-length: 2\r\n", b"xy", True),
        ("GET 1.1", 200, [], b"transfer-encoding: chunked\r\n", b"chunks", True),
        ("GET 1.1", 200, [(b"transfer-encoding", b"chunked")], b"transfer-encoding: chunked\r\n", b"chunks", True),
        ("GET 1.1", 200, [(b"connection", b"close")], b"transfer-encoding: chunked\r\n", b"chunks", False),
        ("GET 1.1", 404, LENGTH_2, b"content-length: 2\r\n", b"xy", True),
        ("GET 1.1", 204, [], b"", b"", True),
        ("GET 1.1", 204, LENGTH_2, b"", b"", True),
        ("GET 1.1", 304, [], b"", b"", True),
        ("GET 1.1", 304, LENGTH_2, b"content-length: 2\r\n", b"", True),
        ("HEAD 1.1", 200, [], b"", b"", True),
        ("HEAD 1.1", 200, LENGTH_2, b"content-length: 2\r\n", b"", True),
        ("HEAD 1.1", 200, [(b"transfer-encoding", b"chunked")], b"", b"", True),
        ("GET 1.0", 200, LENGTH_2, b"content-length: 2\r\n", b"xy", False),
        ("GET 1.0", 200, [], b"", b"xy", False),
        ("GET 1.0", 200, [(b"transfer-encoding", b"chunked")], b"", b"xy", False),
        ("HEAD 1.0", 200, [], b"", b"", False),
        ("GET 1.0 keep-alive", 200, LENGTH_2, b"content-length: 2\r\n", b"xy", True),
        ("GET 1.0 keep-alive", 200, [], b"", b"xy", False),
        ("GET 1.0 keep-alive", 204, [], b"", b"", True),
        ("HEAD 1.0 keep-alive", 200, LENGTH_2, b"content-length: 2\r\n", b"", True),
        ("GET 1.1 close", 200, LENGTH_2, b"content-length: 2\r\n", b"xy", False),
        ("GET 1.1 close", 200, [], b"transfer-encoding: chunked\r\n", b"chunks", False),
        ("POST 1.1", 205, [], b"content-length: 0\r\n", b"", True),
    ],
)
@on_one_stack
async def test_framing(
    stack: Stack,
    request_line: str,
    status: int,
    headers: list[tuple[bytes, bytes]],
    framing: bytes,
    on_wire: bytes,
    persists: bool,
    more: bool,
) -> None:
    method, version, *connection = request_line.split()
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        head = (
            f"{method} / HTTP/{version}\r\nHost: a\r\n" + "".join(f"Connection: {c}\r\n" for c in connection) + "\r\n"
        )
        await pair.send(head.encode())
        call = await puppet.call()
        await call.start(status, headers)
        if more:
            await call.body(b"x", True)
            await call.body(b"", True)
            await call.body(b"y", True)
            await call.body()
        else:
            await call.body(b"xy")
        call.returns()

        raw = await pair.until(b"\r\n\r\n")
        names = [line.split(b":")[0] for line in raw.split(b"\r\n")[1:-2]]
        assert names.count(b"transfer-encoding") == framing.count(b"transfer-encoding")
        assert names.count(b"content-length") == framing.count(b"content-length")
        assert framing in raw
        assert names.count(b"date") == names.count(b"server") == 1
        keeps = b"connection: keep-alive\r\n" in raw
        closes = b"connection: close\r\n" in raw
        assert (keeps, closes) == (persists and version == "1.0", not persists)
        if on_wire == b"chunks":
            on_wire = b"1\r\nx\r\n1\r\ny\r\n0\r\n\r\n" if more else b"2\r\nxy\r\n0\r\n\r\n"
        if persists:
            await pair.send(GET)
            await (await puppet.call()).answer(b"next")
            assert await pair.exactly(len(on_wire)) == on_wire
            assert (await pair.response()).content == b"next"
        else:
            assert await pair.rest() == on_wire


@on_one_stack
async def test_the_applications_own_date_and_server(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        for headers in ([(b"Date", b"today")], [(b"SERVER", b"me")], [(b"date", b"today"), (b"server", b"me")]):
            await pair.send(GET)
            call = await puppet.call()
            await call.start(headers=[*headers, *LENGTH_2])
            await call.body(b"xy")
            call.returns()
            response = await pair.response()
            for name, value in headers:
                assert response.values(name.lower()) == [value]
            assert len(response.values(b"date")) == len(response.values(b"server")) == 1


@on_one_stack
async def test_keep_alive_off_closes_after_each_response(stack: Stack) -> None:
    async with stack.pair(hello, timeouts=Timeouts(HEAD, 0, 0, SEND, LINGER, FAREWELL)) as pair:
        await pair.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        response = await pair.response()
        assert (response.content, response.values(b"connection")) == (b"/a", [b"close"])
        assert await pair.rest() == b""


# -- Content that disagrees with its length -------------------------------------------------------------------------------


@on_every_stack
async def test_content_longer_than_its_length(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(headers=LENGTH_2)
        await call.body(b"x", True)
        with pytest.raises(RuntimeError, match="longer than its content-length, by 1 bytes or more"):
            await call.body(b"yz")
        call.raises(RuntimeError("as it came"))
        with pytest.raises(Truncated) as caught:
            await pair.response()
        assert caught.value.content == b"x"
        await pair.settle()
        assert pair.log.take() == ["Exception in ASGI application"]


@on_every_stack
async def test_content_shorter_than_its_length(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(headers=[(b"content-length", b"10")])
        with pytest.raises(RuntimeError, match="shorter than its content-length, by 7 bytes"):
            await call.body(b"xyz")
        # Nothing of it was sent; what is missing may still come.
        await call.body(b"xyz", True)
        await call.body(b"0123456")
        call.returns()
        assert (await pair.response()).content == b"xyz0123456"


@on_every_stack
async def test_an_application_that_insists_on_too_little_content(stack: Stack) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"xyz"})

    async with stack.pair(app) as pair:
        await pair.send(GET)
        with pytest.raises(Truncated):
            await pair.response()
        await pair.settle()
        assert pair.log.take() == ["Exception in ASGI application"]


# -- Applications that fail -----------------------------------------------------------------------------------------------


class Oops(Exception):
    pass


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@on_every_stack
async def test_an_application_that_raises_before_its_response(stack: Stack, method: str) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET.replace(b"GET", method.encode()))
        (await puppet.call()).raises(Oops())
        response = await pair.response(method)
        assert response.status == 500
        assert response.content == (b"Internal Server Error" if method == "GET" else b"")
        assert response.values(b"connection") == [b"close"]
        assert await pair.rest() == b""
        assert pair.log.take() == ["Exception in ASGI application"]
        assert pair.access_lines()[0].endswith(f'"{method} / HTTP/1.1" 500')


FAILURES = [
    ("GET 1.1", LENGTH_2, b"x", False),
    ("GET 1.1", LENGTH_2, b"xy", True),
    ("GET 1.1", LENGTH_2, b"", False),
    ("GET 1.1", [], b"x", False),
    ("GET 1.0", LENGTH_2, b"x", False),
    ("GET 1.0", [], b"x", True),
    ("HEAD 1.1", LENGTH_2, b"x", True),
    ("HEAD 1.1", [], b"", True),
]


@pytest.mark.parametrize(("request_line", "headers", "sent", "resets"), FAILURES)
@pytest.mark.parametrize("way", ["raises", "returns"])
@on_every_stack
async def test_an_application_that_fails_amid_its_response(
    stack: Stack, way: str, request_line: str, headers: list[tuple[bytes, bytes]], sent: bytes, resets: bool
) -> None:
    """What the client has must not look like a complete response; where it would, the connection is reset."""
    method, version = request_line.split()
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(f"{method} / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        call = await puppet.call()
        await call.start(headers=headers)
        if sent:
            await call.body(sent, True)
            await pair.settle()
        call.raises(Oops()) if way == "raises" else call.returns()
        if resets:
            with pytest.raises(ConnectionResetError):
                await pair.rest()
        else:
            with pytest.raises(Truncated) as caught:
                await pair.response(method)
            assert not caught.value.reset
        await pair.settle()
        expected = {
            "raises": "Exception in ASGI application",
            "returns": f"ASGI application returned without completing its response to {method} /",
        }
        assert pair.log.take() == [expected[way]]
        await call.send(MORE)  # after the end of an exchange whatever is sent is ignored


@on_every_stack
async def test_an_application_that_returns_without_a_response(stack: Stack) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        pass

    async with stack.pair(app) as pair:
        await pair.send(b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await pair.response()).status == 500
        await pair.settle()
        assert pair.log.take() == ["ASGI application returned without completing its response to GET /a?b"]


@on_every_stack
async def test_an_application_that_is_no_coroutine_function(stack: Stack) -> None:
    def app(scope: Message, receive: Any, send: Any) -> Any:
        return None

    async with stack.pair(app) as pair:
        await pair.send(GET)
        assert (await pair.response()).status == 500
        await pair.settle()
        assert pair.log.take() == ["Exception in ASGI application"]


@on_every_stack
async def test_an_application_that_raises_behind_its_response(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        for body in (b"1", b"2"):
            await pair.send(GET)
            call = await puppet.call()
            await call.start(headers=[(b"content-length", b"1")])
            await call.body(body)
            call.raises(Oops())
            assert (await pair.response()).content == body
            await pair.settle()
            assert pair.log.take() == ["Exception in ASGI application"]


@on_every_stack
async def test_an_application_that_is_cancelled(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        await puppet.call()
        assert pair.connection.exchange is not None
        pair.connection.exchange.cancel()
        response = await pair.response()
        assert (response.status, response.values(b"connection")) == (504, [b"close"])
        await pair.settle()
        assert pair.log.take() == ["Request GET / was cancelled before its application returned"]


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError()], ids=repr)
@on_every_stack
async def test_what_an_application_raises_ends_one_request_only(stack: Stack, error: BaseException) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        raise error

    async with stack.pair(app) as pair:
        await pair.send(GET)
        assert (await pair.response()).status == 500
        await pair.settle()
        assert len(pair.log.take()) == 1


@pytest.mark.parametrize("way", ["raises", "returns"])
@on_every_stack
async def test_the_tasks_an_application_leaves_behind_go_on(stack: Stack, way: str) -> None:
    """One waits in receive(), one in send(): nothing will come, and they must not wait for it for ever."""
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.receive()
        await call.start()
        receiving = await waiting(pair, call.receive())
        sending = await waiting(pair, call.body(b"x" * LARGE, True))
        call.raises(Oops()) if way == "raises" else call.returns()
        assert await receiving == DISCONNECT
        await sending
        assert len(pair.log.take()) == 1


@on_every_stack
async def test_that_the_client_went_away_is_no_error(stack: Stack) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        try:
            await send(START)
        except OSError as error:
            raise RuntimeError("wrapped") from error

    async with stack.pair(app) as pair:
        await pair.send(GET)
        await pair.until_true(lambda: pair.service.in_flight)
        pair.client.close()
        await pair.until_true(lambda: pair.service.in_flight == 0)
        assert pair.log.messages() == []


# -- Early hints and trailers ---------------------------------------------------------------------------------------------


@on_every_stack
async def test_early_hints_go_out_at_once(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload", b"</b>"]})
        hint = await pair.response()
        assert hint.status == 103
        assert hint.headers == [(b"link", b"</a>; rel=preload"), (b"link", b"</b>")]
        await call.send({"type": "http.response.early_hint", "links": []})
        assert (await pair.response()).status == 103
        await call.answer(b"x")
        assert (await pair.response()).content == b"x"


@on_one_stack
async def test_early_hints_once_the_response_has_begun_are_ignored(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start()
        await call.send(HINT)
        with pytest.raises(TypeError, match="must be bytes"):
            await call.send({"type": "http.response.early_hint", "links": ["</a>"]})
        await call.body(b"x", True)
        await call.send(HINT)
        await call.body(b"y")
        call.returns()
        assert (await pair.response()).content == b"xy"


@on_one_stack
async def test_no_early_hints_for_1_0(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(OLD)
        call = await puppet.call()
        await call.send(HINT)
        await call.answer(b"x")
        assert (await pair.response()).status == 200


@on_every_stack
async def test_trailers(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(TAKES_TRAILERS)
        call = await puppet.call()
        await call.start(headers=[(b"trailer", b"a")], trailers=True)
        await call.body(b"x", True)
        await call.body(b"y")
        await call.send({"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True})
        await call.send({"type": "http.response.trailers", "headers": [(b"b", b"2")]})
        call.returns()
        response = await pair.response()
        assert (response.content, response.trailers) == (b"xy", [(b"a", b"1"), (b"b", b"2")])
        await pair.send(GET)
        await (await puppet.call()).answer()
        assert (await pair.response()).status == 200


@on_every_stack
async def test_content_does_not_wait_for_its_trailers(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(TAKES_TRAILERS)
        call = await puppet.call()
        await call.start(trailers=True)
        await pair.settle()
        await call.body(b"x")
        await pair.until(b"1\r\nx\r\n")
        await call.send({**TRAILERS, "more_trailers": True})
        await pair.until(b"a: b\r\n")
        await call.send(TRAILERS)
        call.returns()
        assert (await pair.until(b"\r\n\r\n")).endswith(b"a: b\r\n\r\n")


@pytest.mark.parametrize("field", [b"", b"TE: gzip\r\n", b"TE: trailers2\r\n", b"Trailers: TE\r\n"])
@on_one_stack
async def test_trailers_that_the_client_does_not_want(stack: Stack, field: bytes) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
        call = await puppet.call()
        await call.start(trailers=True)
        await call.body(b"x")
        with pytest.raises(ValueError, match="not a token"):
            await call.send({"type": "http.response.trailers", "headers": [(b"a b", b"c")]})
        await call.send({**TRAILERS, "more_trailers": True})
        await call.send(TRAILERS)
        call.returns()
        response = await pair.response()
        assert (response.content, response.trailers) == (b"x", [])
        await pair.send(GET)
        await (await puppet.call()).answer()
        assert (await pair.response()).status == 200


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([(b"content-length", b"1")], "must not be sent in a trailer section"),
        ([(b"Transfer-Encoding", b"chunked")], "must not be sent in a trailer section"),
        ([(b"a", b"b\r\n\r\nHTTP/1.1 200 OK")], "contains CR, LF or NUL"),
        ([(b"a b", b"c")], "not a token"),
        ([("a", b"c")], "name must be bytes"),
        (None, "not iterable"),
    ],
)
@on_one_stack
async def test_malformed_trailers(stack: Stack, headers: Any, error: str) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(TAKES_TRAILERS)
        call = await puppet.call()
        await call.start(trailers=True)
        await call.body(b"x")
        with pytest.raises((TypeError, ValueError), match=error):
            await call.send(
                {"type": "http.response.trailers", "headers": [(b"good", b"1"), *headers] if headers else headers}
            )
        await call.send(TRAILERS)
        call.returns()
        assert (await pair.response()).trailers == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("request_line", "headers"), [("GET 1.1", LENGTH_2), ("HEAD 1.1", []), ("GET 1.0", []), ("GET 1.0", LENGTH_2)]
)
@on_one_stack
async def test_trailers_where_they_cannot_be_sent_are_dropped(
    stack: Stack, request_line: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """An application cannot know how its response is framed: its trailers get lost, its response does not."""
    method, version = request_line.split()
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(f"{method} / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        call = await puppet.call()
        await call.start(headers=headers, trailers=True)
        await call.body(b"xy")
        await call.send(TRAILERS)
        call.returns()
        raw = await pair.rest()
        assert raw.partition(b"\r\n\r\n")[2] == (b"" if method == "HEAD" else b"xy")


# -- Flow control ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 100_000])
@on_every_stack
async def test_a_slow_client_holds_its_application_up(stack: Stack, size: int) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start()
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            while sent < LARGE:
                await call.body(b"x" * size, True)
                sent += size
            await call.body()
            call.returns()

        sending = await waiting(pair, send_all())
        assert sent < 1 << 20
        held_up = sent
        await pair.settle()
        assert sent == held_up, "nothing more while the client does not read"
        response = await pair.response()
        await sending
        assert response.content == b"x" * sent


@on_every_stack
async def test_an_application_that_is_held_up_hears_of_the_end(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start()

        async def send_all() -> None:
            while True:
                await call.body(b"x" * 100_000, True)

        sending = await waiting(pair, send_all())
        pair.reset()
        with pytest.raises(ClientDisconnected):
            await sending
        call.returns()


@on_every_stack
async def test_a_stream_nobody_holds_up_lets_others_run(stack: Stack) -> None:
    turns = 0

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        before = turns
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b"%d" % (turns - before)})

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with stack.pair(app) as pair:
        counting = asyncio.ensure_future(other())
        await pair.send(GET)
        response = await pair.response()
        assert int(response.content.removeprefix(b"x" * 200)) > 5
        counting.cancel()


@on_every_stack
async def test_a_last_large_piece_to_a_client_that_is_gone(stack: Stack) -> None:
    """The server notices in the middle of the send() that ends the response."""
    puppet = Puppet()
    async with stack.pair(puppet, little_room=True) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.start(headers=[(b"content-length", b"%d" % LARGE)])
        pair.reset()
        with contextlib.suppress(ClientDisconnected):
            await call.body(b"x" * LARGE)
        call.returns()
        await pair.until_true(lambda: pair.closed)
        assert pair.log.messages() == []


# -- Concurrent requests --------------------------------------------------------------------------------------------------


@on_every_stack
async def test_send_may_be_wrapped_in_tasks(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await asyncio.create_task(call.send(START))
        await asyncio.wait_for(call.send(MORE), 5)
        await asyncio.gather(call.send(MORE), call.send(BODY))
        call.returns()
        assert (await pair.response()).content == b"xxx"


@on_every_stack
async def test_pipelined_requests_are_answered_in_order_by_slow_applications(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(5)))
        for number in range(5):
            call = await puppet.call()
            assert call.scope["path"] == f"/{number}"
            await pair.settle()
            assert puppet.calls.empty(), "one at a time"
            await call.answer(b"%d" % number)
        for number in range(5):
            assert (await pair.response()).content == b"%d" % number


@on_every_stack
async def test_pipelined_requests_of_all_kinds(stack: Stack) -> None:
    async with stack.pair(echo) as pair:
        for _ in range(3):
            await pair.send(POST + b"0123456789" + CHUNKED + b"2\r\nab\r\n0\r\n\r\n" + GET + POST + b"01234")
            assert (await pair.response()).content == b"0123456789"
            assert (await pair.response()).content == b"ab"
            assert (await pair.response()).content == b""
            await pair.send(b"56789")
            assert (await pair.response()).content == b"0123456789"
        assert pair.access_lines()[-1].endswith('"POST / HTTP/1.1" 200')


@on_every_stack
async def test_an_application_that_answers_and_goes_on(stack: Stack) -> None:
    """What runs behind its response does not hold up the next request."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        first = await puppet.call()
        await first.start(headers=[(b"content-length", b"1")])
        await first.body(b"1")
        assert (await pair.response()).content == b"1"
        await pair.send(GET)
        await (await puppet.call()).answer(b"2")
        assert (await pair.response()).content == b"2"
        await pair.settle()
        assert pair.service.in_flight == 1
        first.returns()
        await pair.settle()
        assert pair.service.in_flight == 0


# -- The graceful stop ----------------------------------------------------------------------------------------------------


@on_every_stack
async def test_an_application_that_is_to_leave_gets_its_request_first(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        assert pair.connection.exchange is not None
        pair.connection.exchange.leave()
        assert await call.receive() == content(b"")
        assert await call.receive() == DISCONNECT
        await call.answer(b"all the same")
        assert (await pair.response()).content == b"all the same"


@on_every_stack
async def test_an_upload_that_is_under_way_is_not_broken_off(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(POST + b"01234")
        call = await puppet.call()
        assert await call.receive() == content(b"01234", True)
        receiving = await waiting(pair, call.receive())
        assert pair.connection.exchange is not None
        pair.connection.exchange.leave()
        await pair.settle()
        assert not receiving.done()
        await pair.send(b"56789")
        assert await receiving == content(b"56789")
        assert await call.receive() == DISCONNECT
        await call.answer(b"x")
        assert (await pair.response()).content == b"x"


@pytest.mark.parametrize("begun", [False, True])
@on_every_stack
async def test_a_response_that_a_client_did_not_wait_for_is_logged_if_it_was_begun(stack: Stack, begun: bool) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.receive()
        if begun:
            await call.start(201)
            await call.body(b"x", True)
        receiving = await waiting(pair, call.receive())
        pair.send_end()
        assert await receiving == DISCONNECT
        call.returns()
        await pair.until_true(lambda: pair.closed)
        assert [line.rpartition(" ")[2] for line in pair.access_lines()] == ["201"] * begun
        with contextlib.suppress(ConnectionResetError):
            await pair.rest()


@on_every_stack
async def test_an_application_that_waits_for_the_end_is_told(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.receive()
        await call.start(headers=LENGTH_2)
        await call.body(b"x", True)
        receiving = await waiting(pair, call.receive())
        assert pair.connection.exchange is not None
        pair.connection.exchange.leave()
        assert await receiving == DISCONNECT
        await call.body(b"y")
        call.returns()
        assert (await pair.response()).content == b"xy"


@pytest.mark.parametrize("begun", [False, True])
@on_every_stack
async def test_an_application_that_leaves_when_told_makes_no_mistake(stack: Stack, begun: bool) -> None:
    """Nor is its response complete: the client must see that."""
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET)
        call = await puppet.call()
        await call.receive()
        if begun:
            await call.start()
            await call.body(b"x", True)
        assert pair.connection.exchange is not None
        pair.connection.exchange.leave()
        assert await call.receive() == DISCONNECT
        call.returns()
        if begun:
            with pytest.raises(Truncated):
                await pair.response()
        else:
            assert (await pair.response()).status == 500
        assert pair.log.messages() == []
