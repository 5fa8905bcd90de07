"""Scenarios for flow control: uploads nobody reads, streams nobody takes, floods; each says how far it got."""

from __future__ import annotations

import asyncio

from tests.integration.apps.kit import (
    Receive,
    Scenarios,
    Scope,
    Send,
    body,
    go_ahead,
    key_of,
    report,
    respond,
    respond_value,
    start,
)

app = Scenarios()

PIECE = b"0123456789abcdef" * 4096

_progress: dict[str, int] = {}


@app.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


@app.route
async def progress(scope: Scope, receive: Receive, send: Send) -> None:
    """How many bytes the stream of this key has sent."""
    await respond_value(send, _progress.get(key_of(scope), 0))


@app.route
async def count_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Leaves its body alone until the test says so, then counts it."""
    report(scope, "waiting")
    await go_ahead(scope)
    await count(scope, receive, send)


@app.route
async def count(scope: Scope, receive: Receive, send: Send) -> None:
    size = messages = 0
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        size += len(message["body"])
        messages += 1
        more = message["more_body"]
    await respond_value(send, {"size": size, "messages": messages})


@app.route
async def count_slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """Gives up the loop between messages, as an application that stores what it gets."""

    async def receive_slowly() -> dict[str, object]:
        await asyncio.sleep(0)
        return await receive()

    await count(scope, receive_slowly, send)


@app.route
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """`<key>&<bytes>`: that many bytes, in pieces of 64 KiB, with a content-length."""
    key, _, size = key_of(scope).partition("&")
    await start(send, headers=[(b"content-length", size.encode())])
    left = int(size)
    while left > 0:
        piece = PIECE[:left]
        left -= len(piece)
        await body(send, piece, more=left > 0)
        _progress[key] = int(size) - left


@app.route
async def one_message(scope: Scope, receive: Receive, send: Send) -> None:
    """That many bytes in a single message."""
    await respond(send, PIECE * (int(key_of(scope)) // len(PIECE)))


@app.route
async def echo_as_it_comes(scope: Scope, receive: Receive, send: Send) -> None:
    """Every message goes back at once."""
    await start(send)
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        more = message["more_body"]
        await body(send, message["body"], more=more)


@app.route
async def forever(scope: Scope, receive: Receive, send: Send) -> None:
    """Streams without ever pausing, until its client is gone."""
    await start(send)
    try:
        while True:
            await body(send, PIECE, more=True)
    except OSError:
        report(scope, "gone")


@app.route
async def forever_small(scope: Scope, receive: Receive, send: Send) -> None:
    """The same with small messages: it must not keep the loop to itself either."""
    await start(send)
    try:
        while True:
            await body(send, b"tick\n", more=True)
    except OSError:
        report(scope, "gone")


@app.route
async def held(scope: Scope, receive: Receive, send: Send) -> None:
    report(scope, "waiting")
    await go_ahead(scope)
    await respond(send, b"held")
