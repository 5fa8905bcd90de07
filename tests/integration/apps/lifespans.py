"""Applications by the way they take their lifespan: well, badly, or not at all. What they see they print, line by line."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tests.integration.apps.kit import (
    Receive,
    Scenarios,
    Scope,
    Send,
    body,
    read_body,
    report,
    respond,
    respond_value,
    start,
)

requests = Scenarios()


def say(what: object) -> None:
    """One line for the test, prefixed so that it cannot be mistaken for the server's."""
    # One write for the whole line: several workers share this pipe.
    os.write(1, f"APP {what}\n".encode())


@requests.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


@requests.route
async def state(scope: Scope, receive: Receive, send: Send) -> None:
    await respond_value(send, scope.get("state"))


@requests.route
async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream that ends only when it is cancelled; says how."""
    await start(send)
    await body(send, b"begun", more=True)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        say("stream cancelled")
        raise


@requests.route
async def until_told(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream that ends when the server says that its client has gone."""
    await start(send)
    await body(send, b"begun", more=True)
    await read_body(receive)
    message = await receive()
    say(f"stream told {message['type']}")


@requests.route
async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes its second, as real requests do, while the server stops."""
    report(scope, "begun")
    await asyncio.sleep(1)
    await respond(send, b"finished")


async def good(scope: Scope, receive: Receive, send: Send) -> None:
    """Prints the scope and every event."""
    if scope["type"] != "lifespan":
        await requests(scope, receive, send)
        return
    say(f"scope {scope!r}")
    assert await receive() == {"type": "lifespan.startup"}
    scope["state"]["pid"] = os.getpid()
    scope["state"]["shared"] = []
    say("startup")
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    say("shutdown")
    await send({"type": "lifespan.shutdown.complete"})
    say("left")


async def in_tasks(scope: Scope, receive: Receive, send: Send) -> None:
    """The lifespan handled through tasks made of receive and send, with a background task beside it."""
    if scope["type"] != "lifespan":
        await requests(scope, receive, send)
        return

    async def tick() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            say("background task ended")

    await asyncio.create_task(receive())
    background = asyncio.create_task(tick())
    await asyncio.wait_for(send({"type": "lifespan.startup.complete"}), 5)
    await asyncio.ensure_future(receive())
    background.cancel()
    await asyncio.wait([background])
    await asyncio.create_task(send({"type": "lifespan.shutdown.complete"}))
    say("shutdown")


async def none(scope: Scope, receive: Receive, send: Send) -> None:
    """Knows nothing of lifespans, and says so by raising."""
    assert scope["type"] == "http", "only http here"
    await requests(scope, receive, send)


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Leaves the lifespan without having answered it."""
    if scope["type"] == "http":
        await requests(scope, receive, send)


async def raises_on_startup(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the startup event and then raises."""
    if scope["type"] == "http":
        await requests(scope, receive, send)
        return
    await receive()
    raise RuntimeError("the database is not there")


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    """Says in the specification's way that it cannot start."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is not there"})


async def fails_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Starlette's way: startup.failed with a traceback as its message, and then the exception itself."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is not there"})
        raise RuntimeError("raised after failing")


async def fails_to_stop(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await requests(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "the database would not close"})


async def raises_on_shutdown(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await requests(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("shutdown")
    raise RuntimeError("raised on shutdown")


async def leaves_early(scope: Scope, receive: Receive, send: Send) -> None:
    """Returns once it has started; it has nothing to do at the end."""
    if scope["type"] == "http":
        await requests(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def wrong_order(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers the shutdown before it has been asked for."""
    if scope["type"] == "http":
        await requests(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def starts_when_told(scope: Scope, receive: Receive, send: Send) -> None:
    """Starts once the file in GATE is there."""
    if scope["type"] == "http":
        await requests(scope, receive, send)
        return
    await receive()
    say("starting")
    while not Path(os.environ["GATE"]).exists():  # noqa: ASYNC110, ASYNC240 - a file has no event
        await asyncio.sleep(0.01)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


class Stateless:
    """A lifespan whose state is replaced by nothing: the requests' copies must not fail."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await requests(scope, receive, send)
            return
        await receive()
        scope["state"].clear()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


stateless = Stateless()


def broken(*_: Any) -> None:
    """No application at all: not a coroutine, and it raises."""
    raise RuntimeError("not an application")
