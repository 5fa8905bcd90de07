"""Scenarios for limits and timeouts: requests that wait, count themselves, stream without end, or watch their client go."""

from __future__ import annotations

import asyncio

from tests.integration.apps.kit import (
    Receive,
    Scenarios,
    Scope,
    Send,
    body,
    describe,
    go_ahead,
    read_body,
    report,
    respond,
    respond_value,
    start,
)

app = Scenarios()

_began = 0


@app.route
async def began(scope: Scope, receive: Receive, send: Send) -> None:
    """How many requests reached `counted` and `held`."""
    await respond_value(send, _began)


@app.route
async def counted(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads its body and answers its size."""
    global _began
    _began += 1
    content = await read_body(receive)
    if content is not None:
        await respond(send, b"%d" % len(content))


@app.route
async def read_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads its body when the test says so."""
    await go_ahead(scope)
    await counted(scope, receive, send)


@app.route
async def held(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when the test says so."""
    global _began
    _began += 1
    await go_ahead(scope)
    await respond(send, b"held")


@app.route
async def held_while_connected(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when the test says so; gives up when its client does."""
    global _began
    _began += 1
    gone = asyncio.ensure_future(read_until_gone(receive))
    told = asyncio.ensure_future(go_ahead(scope))
    done, pending = await asyncio.wait({gone, told}, return_when=asyncio.FIRST_COMPLETED)
    for waiter in pending:
        waiter.cancel()
    if told in done:
        await respond(send, b"held")


async def read_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@app.route
async def watched(scope: Scope, receive: Receive, send: Send) -> None:
    """Reports the types of all messages until the client is gone."""
    seen = []
    while True:
        message = await receive()
        seen.append((message["type"], message.get("body"), message.get("more_body")))
        if message["type"] == "http.disconnect":
            break
    report(scope, seen)


@app.route
async def answered_first(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers before the body is there, then reports how it went on."""
    await start(send)
    await body(send, b"early", more=True)
    content = await read_body(receive)
    report(scope, content)
    if content is not None:
        await body(send)


@app.route
async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Streams until sending fails, then reports how."""
    await start(send)
    try:
        while True:
            await body(send, b"x" * 65536, more=True)
    except Exception as error:
        report(scope, describe(error))


@app.route
async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Thinks for longer than any timeout of the test."""
    await asyncio.sleep(2.5)
    await respond(send, b"thought")


@app.route
async def slow_stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Pauses between pieces for longer than any timeout of the test."""
    await start(send)
    await body(send, b"one", more=True)
    await asyncio.sleep(2.5)
    await body(send, b"two")
