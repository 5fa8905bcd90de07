"""Scenarios for what HTTP/1.1 says about requests and responses."""

from __future__ import annotations

from tests.integration.apps.kit import (
    Receive,
    Scenarios,
    Scope,
    Send,
    board,
    body,
    go_ahead,
    key_of,
    read_body,
    report,
    respond,
    respond_value,
    start,
)

app = Scenarios()


@app.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without looking at the request."""
    await respond(send, b"hello")


@app.route
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    content = await read_body(receive)
    if content is not None:
        await respond(send, content)


@app.route
async def headers(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await respond_value(send, [tuple(pair) for pair in scope["headers"]])


@app.route
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Five pieces of unannounced length."""
    await start(send)
    for number in range(5):
        await body(send, b"part %d;" % number, more=True)
    await body(send)


@app.route
async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    report(scope, "waiting")
    await go_ahead(scope)
    await respond(send, b"waited")


@app.route
async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    report(scope, "served")
    await respond(send)


@app.route
async def post_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Posts what `tell` would have posted first, had it been served."""
    board.post(key_of(scope), "later")
    await respond(send)


@app.route
async def report_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """Reports the first piece of the body as soon as it is there."""
    first = await receive()
    assert first["more_body"], first
    report(scope, first["body"])
    rest = await read_body(receive)
    await respond(send, first["body"] + (rest or b""))


@app.route
async def receive_later(scope: Scope, receive: Receive, send: Send) -> None:
    report(scope, "not yet")
    await go_ahead(scope)
    await echo(scope, receive, send)
