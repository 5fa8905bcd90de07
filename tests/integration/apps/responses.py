"""Scenarios for responses: every framing, statuses without content, fields that need a second look, and header injection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.integration.apps.kit import (
    Receive,
    Scenarios,
    Scope,
    Send,
    body,
    describe,
    go_ahead,
    key_of,
    report,
    respond,
    respond_value,
    start,
)

app = Scenarios()

LENGTH_5 = [(b"content-length", b"5")]
PIECE = b"0123456789abcdef" * 4096


@app.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


# -- framing


@app.route
async def by_length(scope: Scope, receive: Receive, send: Send) -> None:
    """A content-length, and the content in two pieces and an empty one."""
    await start(send, headers=LENGTH_5)
    await body(send, b"hel", more=True)
    await body(send, b"lo", more=True)
    await body(send)


@app.route
async def of_one_piece(scope: Scope, receive: Receive, send: Send) -> None:
    """No content-length, but all content in one message."""
    await start(send)
    await body(send, b"hello")


@app.route
async def of_many_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """No content-length; the empty pieces must not end the response."""
    await start(send)
    for piece in (b"", b"he", b"", b"", b"llo", b""):
        await body(send, piece, more=True)
    await body(send)


@app.route
async def of_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send)


@app.route
async def of_many_empty_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    for _ in range(10):
        await body(send, more=True)
    await body(send)


@app.route
async def big(scope: Scope, receive: Receive, send: Send) -> None:
    """As many bytes as the query says, without a content-length."""
    left = int(key_of(scope))
    await start(send)
    while left > 0:
        piece = PIECE[:left]
        left -= len(piece)
        await body(send, piece, more=True)
    await body(send)


@app.route
async def big_of_one_piece(scope: Scope, receive: Receive, send: Send) -> None:
    size = int(key_of(scope))
    await respond(send, (PIECE * (size // len(PIECE) + 1))[:size])


@app.route
async def many_messages(scope: Scope, receive: Receive, send: Send) -> None:
    """A thousand small pieces, as an event stream sends them."""
    await start(send)
    for number in range(1000):
        await body(send, b"%d;" % number, more=True)
    await body(send)


@app.route
async def piece_by_piece(scope: Scope, receive: Receive, send: Send) -> None:
    """Each piece must be on its way before the next is asked for."""
    await start(send)
    for step in ("first", "second"):
        await body(send, step.encode(), more=True)
        await go_ahead(scope, step)
    await body(send)


@app.route
async def head_then_wait(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[(b"x-early", b"1")])
    await go_ahead(scope)
    await body(send, b"done")


@app.route
async def own_transfer_encoding(scope: Scope, receive: Receive, send: Send) -> None:
    """www 2.5: the server ignores a Transfer-Encoding the application sends."""
    await start(send, headers=[(b"transfer-encoding", b"chunked")])
    await body(send, b"hel", more=True)
    await body(send, b"lo")


@app.route
async def own_transfer_encoding_and_length(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[(b"Transfer-Encoding", b"chunked"), *LENGTH_5])
    await body(send, b"hello")


@app.route
async def buffers(scope: Scope, receive: Receive, send: Send) -> None:
    """Content in the other shapes frameworks send it in (Starlette: memoryview)."""
    await start(send)
    await send({"type": "http.response.body", "body": bytearray(b"he"), "more_body": True})
    await send({"type": "http.response.body", "body": memoryview(b"xllox")[1:4], "more_body": True})
    await send({"type": "http.response.body", "body": memoryview(bytearray(b" you")), "more_body": False})


@app.route
async def a_buffer_that_changes_later(scope: Scope, receive: Receive, send: Send) -> None:
    """What was sent was sent: changing the buffer afterwards must not change the response."""
    buffer = bytearray(b"a" * 1_000_000)
    await start(send)
    await send({"type": "http.response.body", "body": buffer, "more_body": True})
    try:
        buffer[:] = b"b" * 1_000_000
    except BufferError:
        report(scope, "locked")
    await body(send)


# -- statuses without content


@app.route
async def status(scope: Scope, receive: Receive, send: Send) -> None:
    """The status in the query, with content nobody may see, framed by its length."""
    await start(send, int(key_of(scope)), [(b"content-length", b"6"), (b"x-kept", b"1")])
    await body(send, b"hidden")


@app.route
async def status_streamed(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, int(key_of(scope)))
    await body(send, b"hid", more=True)
    await body(send, b"den", more=True)
    await body(send)


# -- fields


@app.route
async def minimal(scope: Scope, receive: Receive, send: Send) -> None:
    """Nothing but what the specification requires: headers, body and more_body have defaults."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})


@app.route
async def headers_as_a_generator(scope: Scope, receive: Receive, send: Send) -> None:
    def pairs() -> Iterator[list[bytes]]:
        yield [b"x-one", b"1"]
        yield [b"x-two", b"2"]

    await send({"type": "http.response.start", "status": 200, "headers": pairs()})
    await body(send, b"hello")


@app.route
async def headers_as_tuples(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": ((b"x-one", b"1"), (b"x-two", b"2"))})
    await body(send, b"hello")


@app.route
async def cookies(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, headers=[(b"set-cookie", b"a=1"), (b"x", b"y"), (b"set-cookie", b"b=2")])


@app.route
async def unusual_values(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(
        send, headers=[(b"x-empty", b""), (b"x-text", b"\xc3\xa4\xff"), (b"x-tab", b"a\tb"), (b"X-Case", b"Kept")]
    )


@app.route
async def own_date_and_server(scope: Scope, receive: Receive, send: Send) -> None:
    date = (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")
    server = (b"server", b"mine")
    mixed = [(b"Date", date[1]), (b"Server", server[1])]
    await respond(send, headers=mixed if key_of(scope) == "mixed" else [date, server])


@app.route
async def closing(scope: Scope, receive: Receive, send: Send) -> None:
    """The application asks for the connection to be closed."""
    await respond(send, b"bye", headers=[(b"connection", key_of(scope).encode() or b"close")])


@app.route
async def many_headers(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello", headers=[(b"x-%d" % number, b"v" * 100) for number in range(500)])


# -- injection

SPLIT = b"\r\nx-injected: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
INJECTIONS = {
    "crlf in a value": (b"x", b"a" + SPLIT),
    "cr in a value": (b"x", b"a\rx-injected: 1"),
    "lf in a value": (b"x", b"a\nx-injected: 1"),
    "nul in a value": (b"x", b"a\x00b"),
    "lf at the end of a value": (b"x", b"a\n"),
    "lf at the start of a value": (b"x", b"\na"),
    "crlf in a name": (b"x: a\r\nx-injected", b"1"),
    "lf in a name": (b"x\nx-injected", b"1"),
    "cr in a name": (b"x\rx-injected", b"1"),
    "nul in a name": (b"x\x00", b"1"),
    "crlf in the location": (b"location", b"/a" + SPLIT),
    "crlf in the date": (b"date", b"now" + SPLIT),
    "crlf in the server": (b"server", b"me" + SPLIT),
    "crlf in the content-type": (b"content-type", b"text/plain" + SPLIT),
    "crlf in the connection": (b"connection", b"close" + SPLIT),
    "crlf in the content-length": (b"content-length", b"5" + SPLIT),
    "an empty name": (b"", b"1"),
    "a colon in a name": (b"x: y", b"1"),
    "a space in a name": (b"x y", b"1"),
}
WRONG_TYPES = {
    "a str name": ("x", b"1"),
    "a str value": (b"x", "1"),
    "an int value": (b"x", 1),
    "a None value": (b"x", None),
    "a triple": (b"x", b"1", b"2"),
    "a single": (b"x",),
    "no pair": b"xy",
}


def _named(scope: Scope) -> str:
    return key_of(scope).split("&")[0].replace("-", " ")


@app.route
async def inject(scope: Scope, receive: Receive, send: Send) -> None:
    """A field that would add others, or a second response."""
    await start(send, headers=[(b"x-before", b"1"), INJECTIONS[_named(scope)]])
    await body(send, b"hello")


@app.route
async def inject_by_type(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [WRONG_TYPES[_named(scope)]]})
    await body(send, b"hello")


# -- extensions

LINKS = [b"</style.css>; rel=preload; as=style", b"</script.js>; rel=preload; as=script"]


@app.route
async def extensions(scope: Scope, receive: Receive, send: Send) -> None:
    await respond_value(send, scope.get("extensions"))


@app.route
async def early_hint(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.early_hint", "links": LINKS})
    await respond(send, b"hello")


@app.route
async def early_hint_then_wait(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.early_hint", "links": LINKS[:1]})
    await go_ahead(scope)
    await send({"type": "http.response.early_hint", "links": LINKS[1:]})
    await respond(send, b"hello")


@app.route
async def early_hint_too_late(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.early_hint", "links": LINKS})
    await send({"type": "http.response.body", "body": b"hello"})


@app.route
async def early_hint_injected(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.early_hint", "links": [b"</a>" + SPLIT]})
    await respond(send, b"hello")


@app.route
async def trailers(scope: Scope, receive: Receive, send: Send) -> None:
    """Trailer fields in two messages, behind content of unannounced length."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": True})
    await body(send, b"hel", more=True)
    await body(send, b"lo")
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"5")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"x-last", b"1")]})


@app.route
async def trailers_with_a_length(scope: Scope, receive: Receive, send: Send) -> None:
    """Content framed by its length has no room for trailers."""
    await send({"type": "http.response.start", "status": 200, "headers": LENGTH_5, "trailers": True})
    await body(send, b"hello")
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"5")], "more_trailers": False})


@app.route
async def trailers_injected(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    await body(send, b"hello")
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"5" + SPLIT)]})


@app.route
async def trailers_promised_and_forgotten(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    await body(send, b"hello")


@app.route
async def pathsend(scope: Scope, receive: Receive, send: Send) -> None:
    """The file in the query, without a content-length."""
    await start(send)
    await send({"type": "http.response.pathsend", "path": key_of(scope)})


@app.route
async def pathsend_with_length(scope: Scope, receive: Receive, send: Send) -> None:
    """`<length>:<path>` in the query."""
    length, _, path = key_of(scope).partition(":")
    await start(send, headers=[(b"content-length", length.encode())])
    await send({"type": "http.response.pathsend", "path": path})


@app.route
async def pathsend_then_report(scope: Scope, receive: Receive, send: Send) -> None:
    """`<key>:<path>`: says how the message ended."""
    key, _, path = key_of(scope).partition(":")
    await start(send)
    try:
        await send({"type": "http.response.pathsend", "path": path})
    except BaseException as error:
        app_note = describe(error)
        raise
    else:
        app_note = {"name": None}
    finally:
        scope["query_string"] = key.encode()
        report(scope, app_note)


@app.route
async def pathsend_after_waiting(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await asyncio.sleep(0)
    await send({"type": "http.response.pathsend", "path": key_of(scope)})
