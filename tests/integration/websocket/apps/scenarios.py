"""Scenarios for WebSocket: the scope, the events of the specification, and what applications do wrong with them.

As everywhere (kit.py): the path names the scenario, the query string is the key of its note. What comes behind the key, after
an ampersand, is the scenario's argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio

from tests.integration.apps.framework_notes import note
from tests.integration.apps.kit import (
    Message,
    Receive,
    Scenarios,
    Scope,
    Send,
    board,
    describe,
    respond,
    respond_value,
)

app = Scenarios()

CLIENT = Path(__file__).parent.parent / "client.mjs"

PIECE = b"0123456789abcdef" * 4096

current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="nobody")

_progress: dict[str, int] = {}
_began: dict[str, int] = {"websocket": 0}


def note_of(scope: Scope) -> tuple[str, str]:
    """The key of this scenario's note, and its argument."""
    key, _, argument = scope["query_string"].decode().partition("&")
    return key, unquote(argument)


def report(scope: Scope, value: object) -> None:
    board.post(note_of(scope)[0], value)


async def go_ahead(scope: Scope) -> None:
    await board.read(f"{note_of(scope)[0]}-go")


async def accept(receive: Receive, send: Send, **more: Any) -> None:
    """The opening every application begins with."""
    message = await receive()
    assert message["type"] == "websocket.connect", message
    await send({"type": "websocket.accept", **more})


async def send_value(send: Send, value: object) -> None:
    """Answer with a Python literal."""
    await send({"type": "websocket.send", "text": repr(value)})


async def close(send: Send, code: int = 1000, reason: str = "") -> None:
    await send({"type": "websocket.close", "code": code, "reason": reason})


async def until_disconnect(receive: Receive) -> list[Message]:
    """Every message up to websocket.disconnect, that one included."""
    seen = [await receive()]
    while seen[-1]["type"] != "websocket.disconnect":
        seen.append(await receive())
    return seen


async def attempt(send: Send, message: Any) -> dict[str, object] | None:
    """What sending this raises, as a literal."""
    try:
        await send(message)
    except Exception as error:
        return describe(error)
    return None


async def tick(send: Send) -> dict[str, object]:
    """Sends until send() raises; what it raised."""
    while True:
        failed = await attempt(send, {"type": "websocket.send", "text": "tick"})
        if failed is not None:
            return failed
        await asyncio.sleep(0.005)


@app.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An ordinary request."""
    await respond(send, b"hello")


@app.route
async def began(scope: Scope, receive: Receive, send: Send) -> None:
    """How many WebSockets this process has begun (in `counted`)."""
    await respond_value(send, _began["websocket"])


@app.route
async def counted(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that counts itself, or an ordinary request that says so."""
    if scope["type"] == "http":
        await respond(send, b"http")
        return
    _began["websocket"] += 1
    await accept(receive, send)
    await until_disconnect(receive)


@app.route
async def progress(scope: Scope, receive: Receive, send: Send) -> None:
    """How far the stream of this key has come."""
    await respond_value(send, _progress.get(note_of(scope)[0], 0))


# -- a browser


@app.route
async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """The conversation of client.mjs, in a page; the query string says which."""
    script = CLIENT.read_bytes()
    html = (
        b'<!doctype html><p id="result"></p><img id="hold" src="/hold"><script type="module">' + script + b"</script>"
    )
    await respond(send, html, headers=[(b"content-type", b"text/html; charset=utf-8")])


@app.route
async def hold(scope: Scope, receive: Receive, send: Send) -> None:
    """Never answers; ends when the client gives up."""
    while (await receive())["type"] != "http.disconnect":
        pass


@app.route
async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    report(scope, "told")
    await respond(send, b"")


# -- the scope


async def scope_as_it_is(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await respond_value(send, dict(scope))
        return
    await accept(receive, send)
    await send_value(send, dict(scope))
    await close(send)


for path in ("/scope", "/a b", "/ä", "/api/scope"):
    app.routes[path] = scope_as_it_is


@app.route
async def scope_types(scope: Scope, receive: Receive, send: Send) -> None:
    """What a repr cannot tell apart from a subclass."""
    await accept(receive, send)
    header = next(iter(scope["headers"]))
    found = {
        "scope": scope,
        "subprotocols": scope["subprotocols"],
        "subprotocol": scope["subprotocols"][0],
        "raw_path": scope["raw_path"],
        "query_string": scope["query_string"],
        "header name": header[0],
        "header value": header[1],
        "extensions": scope["extensions"],
    }
    await send_value(send, {name: type(value).__name__ for name, value in found.items()})


@app.route
async def change_scope(scope: Scope, receive: Receive, send: Send) -> None:
    """As frameworks do: what they put into a scope must not be in the next one."""
    scope["path"] = "/elsewhere"
    scope["headers"].append((b"x-added", b"1"))
    scope["asgi"]["version"] = "9.9"
    scope["extensions"].clear()
    scope["subprotocols"].append("mine")
    scope["state"]["mine"] = True
    await accept(receive, send)


# -- events


@app.route
async def messages(scope: Scope, receive: Receive, send: Send) -> None:
    """Reports every message as it came, and what receive() gives twice more behind the end."""
    seen = [await receive()]
    await send({"type": "websocket.accept"})
    seen += await until_disconnect(receive)
    report(scope, seen)
    board.post(f"{note_of(scope)[0]}-behind", [await receive(), await receive()])


@app.route
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
    report(scope, message)


@app.route
async def not_yet(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts when the test says so, then echoes."""
    report(scope, "called")
    await go_ahead(scope)
    await echo(scope, receive, send)


@app.route
async def accept_unasked(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts without having received websocket.connect, which still comes first."""
    await send({"type": "websocket.accept"})
    await send_value(send, (await receive())["type"])
    await send_value(send, await receive())


@app.route
async def pick(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts with the last subprotocol that was offered."""
    await accept(receive, send, subprotocol=scope["subprotocols"][-1])
    await close(send)


@app.route
async def accept_with_headers(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"X-One", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await accept(receive, send, headers=iter(headers) if note_of(scope)[1] == "iterator" else headers)
    await close(send)


@app.route
async def accept_with_nones(scope: Scope, receive: Receive, send: Send) -> None:
    """As frameworks fill in what they have not."""
    await accept(receive, send, subprotocol=None, headers=[])
    await send({"type": "websocket.send", "text": "text", "bytes": None})
    await send({"type": "websocket.send", "text": None, "bytes": b"bytes"})
    await send({"type": "websocket.close", "code": 1000, "reason": None})


@app.route
async def empty_messages(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": ""})
    await send({"type": "websocket.send", "bytes": b""})
    await until_disconnect(receive)


@app.route
async def sizes(scope: Scope, receive: Receive, send: Send) -> None:
    """A binary message of each size named by the argument."""
    await accept(receive, send)
    for size in note_of(scope)[1].split(","):
        await send({"type": "websocket.send", "bytes": b"x" * int(size)})
    await until_disconnect(receive)


@app.route
async def timeouts(scope: Scope, receive: Receive, send: Send) -> None:
    """Gives receive() up again and again, and must lose nothing by it."""
    await accept(receive, send)
    while True:
        try:
            message = await asyncio.wait_for(receive(), 0.001)
        except TimeoutError:
            continue
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


@app.route
async def scopes(scope: Scope, receive: Receive, send: Send) -> None:
    """The same with anyio, which tells its own cancellations from others by their message."""
    await accept(receive, send)
    while True:
        message = None
        with anyio.move_on_after(0.001):
            message = await receive()
        if message is None:
            continue
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


@app.route
async def group(scope: Scope, receive: Receive, send: Send) -> None:
    """A task group of anyio that ends when one of its tasks does: the other is cancelled inside receive()."""
    await accept(receive, send)
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            while True:
                await receive()

        tasks.start_soon(listen)
        await asyncio.sleep(0.05)
        tasks.cancel_scope.cancel()
    await send_value(send, (await receive())["text"])
    await close(send)


@app.route
async def context(scope: Scope, receive: Receive, send: Send) -> None:
    """Each message is handled in the context, and the task, that the application began in."""
    await accept(receive, send)
    mine = note_of(scope)[0]
    assert current.get() == "nobody"
    current.set(mine)
    task = asyncio.current_task()
    while (message := await receive())["type"] == "websocket.receive":
        await send_value(send, [current.get(), asyncio.current_task() is task, message["text"]])


@app.route
async def two_tasks(scope: Scope, receive: Receive, send: Send) -> None:
    """One task reads, another writes, as chat rooms do."""
    await accept(receive, send)
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def write() -> None:
        while (text := await queue.get()) is not None:
            await send({"type": "websocket.send", "text": text})

    async def read() -> None:
        while (message := await receive())["type"] == "websocket.receive":
            queue.put_nowait(message["text"])
        queue.put_nowait(None)

    await asyncio.gather(asyncio.create_task(read()), asyncio.create_task(write()))


@app.route
async def many_writers(scope: Scope, receive: Receive, send: Send) -> None:
    """Twenty tasks send fifty messages each; no frame may stand in another."""
    await accept(receive, send)

    async def write(number: int) -> None:
        for count in range(50):
            await send({"type": "websocket.send", "text": f"{number}:{count}:" + "x" * (number * 500)})

    await asyncio.gather(*(write(number) for number in range(20)))
    await close(send)


# -- the end


@app.route
async def close_with(scope: Scope, receive: Receive, send: Send) -> None:
    """`<key>&<code>[ <reason>]`: closes so, and reports what receive() gives then."""
    code, _, reason = note_of(scope)[1].partition(" ")
    await accept(receive, send)
    message: Message = {"type": "websocket.close"}
    if code:
        message["code"] = int(code)
    if reason:
        message["reason"] = reason
    await send(message)
    report(scope, await receive())


@app.route
async def close_and_stay(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes, tells the test, and is still there when the peer answers."""
    await accept(receive, send)
    await close(send, 4000, "bye")
    report(scope, "closed")
    board.post(f"{note_of(scope)[0]}-end", await until_disconnect(receive))


@app.route
async def close_deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes, when the test says so, without ever having received a message."""
    await accept(receive, send)
    await go_ahead(scope)
    await close(send)


@app.route
async def send_when_gone(scope: Scope, receive: Receive, send: Send) -> None:
    """What send() raises once the application was told that the other side is gone, for a message and for a close."""
    await accept(receive, send)
    seen = await until_disconnect(receive)
    failed = await attempt(send, {"type": "websocket.send", "text": "too late"})
    report(scope, [seen[-1], failed, await attempt(send, {"type": "websocket.close"})])


@app.route
async def send_until_gone(scope: Scope, receive: Receive, send: Send) -> None:
    """Never asks, and must learn it from send()."""
    await accept(receive, send)
    report(scope, await tick(send))


@app.route
async def ignore_gone(scope: Scope, receive: Receive, send: Send) -> None:
    """Lets the OSError of send() out: no fault of the application's."""
    await accept(receive, send)
    await until_disconnect(receive)
    report(scope, "leaving")
    await send({"type": "websocket.send", "text": "too late"})


@app.route
async def send_after_close(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await close(send)
    report(scope, await attempt(send, {"type": "websocket.send", "text": "too late"}))


@app.route
async def return_open(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": "last words"})


@app.route
async def leave_a_task(scope: Scope, receive: Receive, send: Send) -> None:
    """Returns while another task of its own still sends."""
    await accept(receive, send)

    async def go_on() -> None:
        report(scope, await tick(send))

    scope["state"]["shared"].append(asyncio.create_task(go_on()))


@app.route
async def return_early(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


@app.route
async def raise_early(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise RuntimeError("failed before accepting")


@app.route
async def raise_open(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": "last words"})
    raise RuntimeError("failed after accepting")


@app.route
async def exit_open(scope: Scope, receive: Receive, send: Send) -> None:
    """Not even this may end the server; it comes while a message is being handed over."""
    await accept(receive, send)
    await receive()
    sys.exit("failed by leaving")


@app.route
async def raise_closed(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await close(send, 4001, "mine")
    raise RuntimeError("failed after closing")


# -- refusals


@app.route
async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Closes instead of accepting, and reports what receive() gives then."""
    _began["websocket"] += 1
    await receive()
    await close(send, 4321, "not you")
    report(scope, [await receive(), await attempt(send, {"type": "websocket.accept"})])


async def deny_start(send: Send, status: int = 401, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers or []})


async def deny_body(send: Send, data: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "websocket.http.response.body", "body": data, "more_body": more})


@app.route
async def deny(scope: Scope, receive: Receive, send: Send) -> None:
    """A response of its own, in pieces; reports what receive() gives then."""
    await receive()
    await deny_start(send, 401, [(b"www-authenticate", b"Basic"), (b"X-Two", b"2")])
    await deny_body(send, b"not ", more=True)
    await deny_body(send, b"you")
    report(scope, await receive())


@app.route
async def deny_with_length(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await deny_start(send, 200, [(b"content-length", b"3"), (b"content-type", b"text/plain")])
    await deny_body(send, b"200")


@app.route
async def deny_without_content(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await deny_start(send, int(note_of(scope)[1]))
    await deny_body(send)


@app.route
async def deny_at_length(scope: Scope, receive: Receive, send: Send) -> None:
    """32 MiB of refusal."""
    await receive()
    await deny_start(send)
    for _ in range(512):
        await deny_body(send, PIECE, more=True)
    await deny_body(send)


@app.route
async def deny_and_forget(scope: Scope, receive: Receive, send: Send) -> None:
    """Never ends what it has begun."""
    await receive()
    await deny_start(send)
    await deny_body(send, b"begun", more=True)


# -- mistakes: what is sent first, what is wrong then

ACCEPT: Message = {"type": "websocket.accept"}
START: Message = {"type": "websocket.http.response.start", "status": 403, "headers": []}

WRONG: dict[str, tuple[list[Message], Any]] = {
    "no type": ([ACCEPT], {"text": "a"}),
    "unknown type": ([ACCEPT], {"type": "websocket.shout", "text": "a"}),
    "http message": ([], {"type": "http.response.start", "status": 200, "headers": []}),
    "http message when open": ([ACCEPT], {"type": "http.response.start", "status": 200, "headers": []}),
    "not a dict": ([ACCEPT], "websocket.send"),
    "None": ([ACCEPT], None),
    "send first": ([], {"type": "websocket.send", "text": "a"}),
    "accept twice": ([ACCEPT], ACCEPT),
    "deny when open": ([ACCEPT], START),
    "deny body first": ([], {"type": "websocket.http.response.body", "body": b"a"}),
    "neither text nor bytes": ([ACCEPT], {"type": "websocket.send"}),
    "both None": ([ACCEPT], {"type": "websocket.send", "text": None, "bytes": None}),
    "text and bytes": ([ACCEPT], {"type": "websocket.send", "text": "a", "bytes": b"a"}),
    "text is bytes": ([ACCEPT], {"type": "websocket.send", "text": b"a"}),
    "bytes is text": ([ACCEPT], {"type": "websocket.send", "bytes": "a"}),
    "text is a number": ([ACCEPT], {"type": "websocket.send", "text": 1}),
    "lone surrogate": ([ACCEPT], {"type": "websocket.send", "text": "\ud800"}),
    "code is text": ([ACCEPT], {"type": "websocket.close", "code": "1000"}),
    "code 999": ([ACCEPT], {"type": "websocket.close", "code": 999}),
    "code 1004": ([ACCEPT], {"type": "websocket.close", "code": 1004}),
    "code 1005": ([ACCEPT], {"type": "websocket.close", "code": 1005}),
    "code 1006": ([ACCEPT], {"type": "websocket.close", "code": 1006}),
    "code 1015": ([ACCEPT], {"type": "websocket.close", "code": 1015}),
    "code 5000": ([ACCEPT], {"type": "websocket.close", "code": 5000}),
    "code 65536": ([ACCEPT], {"type": "websocket.close", "code": 65536}),
    "reason is bytes": ([ACCEPT], {"type": "websocket.close", "code": 1000, "reason": b"a"}),
    "status is text": ([], {"type": "websocket.http.response.start", "status": "403", "headers": []}),
    "status 101": ([], {"type": "websocket.http.response.start", "status": 101, "headers": []}),
    "subprotocol with CRLF": ([], {**ACCEPT, "subprotocol": "a\r\nx: 1"}),
    "subprotocol with NUL": ([], {**ACCEPT, "subprotocol": "a\0"}),
    "subprotocol with space": ([], {**ACCEPT, "subprotocol": "a b"}),
    "subprotocol is bytes": ([], {**ACCEPT, "subprotocol": b"a"}),
    "header value with CRLF": ([], {**ACCEPT, "headers": [(b"x", b"1\r\ny: 2")]}),
    "header value with LF": ([], {**ACCEPT, "headers": [(b"x", b"1\ny: 2")]}),
    "header value with NUL": ([], {**ACCEPT, "headers": [(b"x", b"1\0")]}),
    "header name with CRLF": ([], {**ACCEPT, "headers": [(b"x: 1\r\ny", b"2")]}),
    "header name with space": ([], {**ACCEPT, "headers": [(b"x y", b"2")]}),
    "header name empty": ([], {**ACCEPT, "headers": [(b"", b"2")]}),
    "header is text": ([], {**ACCEPT, "headers": [("x", "1")]}),
    "denial header with CRLF": ([], {**START, "headers": [(b"x", b"1\r\ny: 2")]}),
    "denial body is text": ([START], {"type": "websocket.http.response.body", "body": "a"}),
    "accept when denied": ([START], ACCEPT),
    "send when denied": ([START], {"type": "websocket.send", "text": "a"}),
    "denied twice": ([START], START),
}


@app.route
async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
    """Makes the named mistake, reports what it gets for it, and then goes on as it should have."""
    before, mistake = WRONG[note_of(scope)[1]]
    await receive()
    for message in before:
        await send(message)
    report(scope, await attempt(send, mistake))
    if START in before:
        await deny_body(send, b"denied")
        return
    if not before:
        await send(ACCEPT)
    await send({"type": "websocket.send", "text": "still here"})
    await close(send)


# -- flow


@app.route
async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not receive until the test says so; then counts."""
    await accept(receive, send)
    report(scope, "deaf")
    await go_ahead(scope)
    await _count(receive, send)


@app.route
async def sip(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes a message and holds the loop up, twenty times."""
    await accept(receive, send)
    for _ in range(20):
        await receive()
        # Longer than a tick of the deadlines: the next comes before anything is read.
        time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0)


@app.route
async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Counts messages and what is in them up to an empty one, and tells."""
    await accept(receive, send)
    await _count(receive, send)


@app.route
async def count_slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes its time over each message, as an application that stores what it gets."""

    async def receive_slowly() -> Message:
        await asyncio.sleep(0)
        return await receive()

    await accept(receive, send)
    await _count(receive_slowly, send)


async def _count(receive: Receive, send: Send) -> None:
    size = number = 0
    while (message := await receive())["type"] == "websocket.receive":
        data = message["bytes"] if message.get("bytes") is not None else message["text"].encode()
        if not data:
            with contextlib.suppress(OSError):
                await send_value(send, {"size": size, "messages": number})
            continue
        size += len(data)
        number += 1


@app.route
async def deaf_and_busy(scope: Scope, receive: Receive, send: Send) -> None:
    """Never receives, but sends for as long as it can."""
    await accept(receive, send)
    report(scope, await tick(send))


@app.route
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """`<key>&<bytes>`: so much, in messages of 64 KiB, then closes."""
    key, size = note_of(scope)
    await accept(receive, send)
    try:
        for sent in range(0, int(size), len(PIECE)):
            await send({"type": "websocket.send", "bytes": PIECE})
            _progress[key] = sent + len(PIECE)
        await close(send)
    except OSError as error:
        report(scope, describe(error))
    else:
        report(scope, "sent")


@app.route
async def stream_small(scope: Scope, receive: Receive, send: Send) -> None:
    """Little ticks without ever pausing: it must not keep the loop to itself."""
    key = note_of(scope)[0]
    await accept(receive, send)
    try:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            _progress[key] = _progress.get(key, 0) + 4
    except OSError as error:
        report(scope, describe(error))


_crowd: list[Send] = []


@app.route
async def crowd(scope: Scope, receive: Receive, send: Send) -> None:
    """Hears what is said at /shout."""
    await accept(receive, send)
    _crowd.append(send)
    await until_disconnect(receive)
    _crowd.remove(send)


@app.route
async def shout(scope: Scope, receive: Receive, send: Send) -> None:
    """Speaks to the crowd without ever pausing, to each in turn, until it is gone: it must not keep the loop to itself."""
    await accept(receive, send)
    while _crowd:
        for hearer in tuple(_crowd):
            try:
                await hearer({"type": "websocket.send", "text": "tick"})
            except OSError:
                await asyncio.sleep(0)  # its own application is to hear of it
    report(scope, "alone")


@app.route
async def one_message(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "bytes": PIECE * (int(note_of(scope)[1]) // len(PIECE))})
    await until_disconnect(receive)


# -- a stop


@app.route
async def watch(scope: Scope, receive: Receive, send: Send) -> None:
    """Prints what ends it: when the server stops there is nobody left to ask."""
    await accept(receive, send)
    await send({"type": "websocket.send", "text": "watching"})
    message = await receive()
    while message["type"] == "websocket.receive":
        message = await receive()
    failed = await attempt(send, {"type": "websocket.send", "text": "too late"})
    note(f"{note_of(scope)[0]} {message!r} {failed!r}")


@app.route
async def stay(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not leave when told; only being cancelled ends it."""
    await accept(receive, send)
    await send({"type": "websocket.send", "text": "watching"})
    try:
        await until_disconnect(receive)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note(f"{note_of(scope)[0]} cancelled")
        raise


@app.route
async def stream_until_told(scope: Scope, receive: Receive, send: Send) -> None:
    """Only sends, and hears of a stop from send()."""
    await accept(receive, send)
    await send({"type": "websocket.send", "text": "watching"})
    note(f"{note_of(scope)[0]} {await tick(send)!r}")


@app.route
async def accept_late(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes its time before it accepts: a stop falls into it."""
    note(f"{note_of(scope)[0]} called")
    await asyncio.sleep(1)
    await accept(receive, send)
    await until_disconnect(receive)
