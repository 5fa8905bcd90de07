"""Scenarios for the ASGI specification: the scope, receive, send, tasks made of both, and what applications do wrong."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from tests.integration.apps.kit import (
    Message,
    Receive,
    Scenarios,
    Scope,
    Send,
    board,
    body,
    describe,
    go_ahead,
    key_of,
    read_body,
    report,
    respond,
    respond_value,
    start,
)

app = Scenarios()

leaking: contextvars.ContextVar[str] = contextvars.ContextVar("leaking", default="clean")


@app.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


@app.route
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    content = await read_body(receive)
    if content is not None:
        await respond(send, content)


# -- the scope


async def scope_as_it_is(scope: Scope, receive: Receive, send: Send) -> None:
    """The whole scope, if everything in it is a literal: its repr is then its exact types."""
    await respond_value(send, dict(scope))


for path in ("/scope", "/a b", "/ä", "/api/scope"):
    app.routes[path] = scope_as_it_is


@app.route
async def scope_types(scope: Scope, receive: Receive, send: Send) -> None:
    """What a repr cannot tell apart from a subclass."""
    header = next(iter(scope["headers"]))
    await respond_value(
        send,
        {
            "scope": type(scope).__name__,
            "asgi": type(scope["asgi"]).__name__,
            "raw_path": type(scope["raw_path"]).__name__,
            "query_string": type(scope["query_string"]).__name__,
            "header name": type(header[0]).__name__,
            "header value": type(header[1]).__name__,
        },
    )


@app.route
async def change_state(scope: Scope, receive: Receive, send: Send) -> None:
    """What one request puts into its copy is its own; what the copies share is shared."""
    scope["state"]["mine"] = True
    scope["state"]["shared"].append(1)
    await respond_value(send, len(scope["state"]["shared"]))


@app.route
async def state(scope: Scope, receive: Receive, send: Send) -> None:
    await respond_value(send, sorted(scope["state"]))


@app.route
async def change_scope(scope: Scope, receive: Receive, send: Send) -> None:
    """As frameworks do: what they put into a scope must not be in the next one."""
    scope["path"] = "/elsewhere"
    scope["app"] = "mine"
    scope["headers"].append((b"x-added", b"1"))
    scope["asgi"]["version"] = "9.9"
    scope["extensions"].clear()
    await respond(send)


# -- receive


@app.route
async def messages(scope: Scope, receive: Receive, send: Send) -> None:
    """Every message up to the end of the body, as it came."""
    seen = []
    while True:
        message = await receive()
        seen.append(message)
        if message["type"] != "http.request" or not message["more_body"]:
            break
    await respond_value(send, seen)


@app.route
async def wait_for_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """receive() after the body waits; what it gives when the client has gone, three times."""
    await read_body(receive)
    board.post(f"{key_of(scope)}-read", "read")
    report(scope, [await receive(), await receive(), await receive()])


@app.route
async def receive_after_the_response(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await respond(send, b"hello")
    report(scope, [await receive(), await receive()])


@app.route
async def receive_twice_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """As Starlette's middleware and its streaming response do together."""
    await read_body(receive)
    both = [asyncio.create_task(receive()), asyncio.create_task(receive())]
    await asyncio.sleep(0)
    board.post(f"{key_of(scope)}-waiting", None)
    report(scope, [(await waiter)["type"] for waiter in both])


@app.route
async def upload_that_breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
    seen: list[Message] = []
    while not seen or seen[-1]["type"] == "http.request":
        message = await receive()
        seen.append(message)
        board.post(f"{key_of(scope)}-got", message)
    report(scope, seen)


@app.route
async def cancelled_receive(scope: Scope, receive: Receive, send: Send) -> None:
    """A receive() that is given up must not take the body with it."""
    for _ in range(3):
        waiter = asyncio.create_task(receive())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
    try:
        await asyncio.wait_for(receive(), 0.01)
    except TimeoutError:
        report(scope, "given up")
    await echo(scope, receive, send)


# -- tasks made of receive and send


async def _gathered(receive: Receive, send: Send) -> None:
    await asyncio.gather(start(send))
    await asyncio.gather(body(send, b"a", more=True), body(send, b"b", more=True))
    await asyncio.gather(send({"type": "http.response.body", "body": b"c", "more_body": True}))
    await asyncio.gather(send({"type": "http.response.body", "body": b"d"}))


async def _in_tasks(receive: Receive, send: Send) -> None:
    message = await asyncio.create_task(receive())
    assert message["type"] == "http.request"
    await asyncio.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))
    for piece in (b"a", b"b", b"c"):
        await asyncio.create_task(send({"type": "http.response.body", "body": piece, "more_body": True}))
    await asyncio.create_task(send({"type": "http.response.body", "body": b"d"}))


async def _waited_for(receive: Receive, send: Send) -> None:
    await asyncio.wait_for(receive(), 5)
    await asyncio.wait_for(send({"type": "http.response.start", "status": 200, "headers": []}), 5)
    await asyncio.wait_for(send({"type": "http.response.body", "body": b"abcd"}), 5)


async def _futures(receive: Receive, send: Send) -> None:
    await asyncio.ensure_future(receive())
    await asyncio.ensure_future(send({"type": "http.response.start", "status": 200, "headers": []}))
    await asyncio.shield(send({"type": "http.response.body", "body": b"ab", "more_body": True}))
    await asyncio.ensure_future(send({"type": "http.response.body", "body": b"cd"}))


async def _task_group(receive: Receive, send: Send) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(receive())
    assert task.result()["type"] == "http.request"
    async with asyncio.TaskGroup() as group:
        group.create_task(respond(send, b"abcd"))


async def _loop_tasks(receive: Receive, send: Send) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_task(receive())
    await loop.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))
    done, _ = await asyncio.wait({loop.create_task(send({"type": "http.response.body", "body": b"abcd"}))})
    assert len(done) == 1


async def _with_timeout(receive: Receive, send: Send) -> None:
    async with asyncio.timeout(5):
        await receive()
        await respond(send, b"abcd")


async def _from_a_thread(receive: Receive, send: Send) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        def do(what: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(what, loop).result(5)

        assert do(receive())["type"] == "http.request"
        do(send({"type": "http.response.start", "status": 200, "headers": []}))
        do(send({"type": "http.response.body", "body": b"ab", "more_body": True}))
        do(send({"type": "http.response.body", "body": b"cd"}))

    await asyncio.to_thread(work)


async def _as_completed(receive: Receive, send: Send) -> None:
    for first in asyncio.as_completed([receive()]):
        assert (await first)["type"] == "http.request"
    await respond(send, b"abcd")


async def _awaited_later(receive: Receive, send: Send) -> None:
    """Called now, awaited later, one after the other."""
    first, second = receive(), None
    await first
    second = send({"type": "http.response.start", "status": 200, "headers": []})
    await second
    await send({"type": "http.response.body", "body": b"abcd"})


async def _sent_in_the_background(receive: Receive, send: Send) -> None:
    """Three senders at once; each piece must arrive whole, in the order of the calls."""
    await start(send)
    tasks = [asyncio.create_task(body(send, piece, more=True)) for piece in (b"a", b"b", b"c")]
    await asyncio.wait(tasks)
    await body(send, b"d")


WAYS: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {
    way.__name__.strip("_"): way
    for way in (
        _gathered,
        _in_tasks,
        _waited_for,
        _futures,
        _task_group,
        _loop_tasks,
        _with_timeout,
        _from_a_thread,
        _as_completed,
        _awaited_later,
        _sent_in_the_background,
    )
}


@app.route
async def way(scope: Scope, receive: Receive, send: Send) -> None:
    """One of the ways above to call receive and send."""
    await WAYS[key_of(scope)](receive, send)


@app.route
async def task(scope: Scope, receive: Receive, send: Send) -> None:
    """Whether the application runs as a task that timeouts and cancel scopes can hold on to."""
    current = asyncio.current_task()
    answer = {"task": isinstance(current, asyncio.Task), "all": current in asyncio.all_tasks()}
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        answer["timeout"] = True
    await respond_value(send, answer)


@app.route
async def leak_context(scope: Scope, receive: Receive, send: Send) -> None:
    """What the previous request left in the context, and something for the next."""
    found = leaking.get()
    leaking.set("leaked")
    if key_of(scope) == "later":
        # The answer, and with it the start of the next request, comes out of this task's own step.
        await asyncio.sleep(0)
    await respond(send, found.encode())
    if key_of(scope) == "longer":
        await asyncio.sleep(0)


# -- after the response


@app.route
async def background(scope: Scope, receive: Receive, send: Send) -> None:
    """Works on after its response until the test lets it go."""
    await respond(send, b"answered")
    await go_ahead(scope)
    report(scope, "done")


@app.route
async def send_after_completion(scope: Scope, receive: Receive, send: Send) -> None:
    """www 2.5: messages after the response is complete are ignored."""
    await respond(send, b"hello")
    try:
        await body(send, b"late", more=True)
        await body(send, b"later")
        await start(send, 500)
        await body(send)
    except BaseException as error:
        report(scope, describe(error))
        raise
    report(scope, None)


# -- after the client has gone


@app.route
async def send_until_it_fails(scope: Scope, receive: Receive, send: Send) -> None:
    """Streams to a client that leaves; how sending ends, and ends again."""
    errors = []
    await start(send)
    for _ in range(2):
        try:
            while True:
                await body(send, b"x" * 65536, more=True)
        except Exception as error:
            errors.append(describe(error))
    report(scope, errors)


@app.route
async def send_after_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits until the client has gone and only then begins to answer."""
    await read_body(receive)
    board.post(f"{key_of(scope)}-read", None)
    assert (await receive())["type"] == "http.disconnect"
    errors = []
    for message in (
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"x"},
    ):
        try:
            await send(message)
        except Exception as error:
            errors.append(describe(error))
    report(scope, errors)


@app.route
async def raise_after_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """The OSError of send() is not caught: nobody can be told, and it is not worth a traceback."""
    await start(send)
    try:
        while True:
            await body(send, b"x" * 65536, more=True)
    finally:
        report(scope, "left")


@app.route
async def blocked_send(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits in send() for a client that does not read, until it goes."""
    await start(send)
    sent = 0
    try:
        while True:
            waiter = asyncio.ensure_future(body(send, b"x" * 65536, more=True))
            done, _ = await asyncio.wait({waiter}, timeout=0.3)
            if not done:
                board.post(f"{key_of(scope)}-blocked", sent)
            await waiter
            sent += 65536
    except Exception as error:
        report(scope, describe(error))


# -- wrong messages

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"x"}
WRONG: dict[str, list[Any]] = {
    "body before start": [BODY],
    "start twice": [START, START],
    "start after body": [START, {**BODY, "more_body": True}, START],
    "unknown type": [{"type": "http.response.nonsense"}],
    "unknown type after start": [START, {"type": "http.response.nonsense"}],
    "websocket message": [{"type": "websocket.accept"}],
    "lifespan message": [{"type": "lifespan.startup.complete"}],
    "no type": [{"status": 200}],
    "type None": [{"type": None}],
    "no status": [{"type": "http.response.start", "headers": []}],
    "status str": [{**START, "status": "200"}],
    "status None": [{**START, "status": None}],
    "status float": [{**START, "status": 200.5}],
    "status too small": [{**START, "status": 99}],
    "status too large": [{**START, "status": 1000}],
    "status negative": [{**START, "status": -200}],
    "headers int": [{**START, "headers": 1}],
    "body str": [START, {**BODY, "body": "text"}],
    "body int": [START, {**BODY, "body": 5}],
    "body None": [START, {**BODY, "body": None}],
    "body list": [START, {**BODY, "body": [b"x"]}],
    "trailers not promised": [START, {"type": "http.response.trailers", "headers": []}],
    "body after trailers": [
        {**START, "trailers": True},
        BODY,
        {"type": "http.response.trailers", "headers": [], "more_trailers": True},
        BODY,
    ],
    "pathsend before start": [{"type": "http.response.pathsend", "path": "/etc/hostname"}],
    "not a dict": [None],
    "a str": ["http.response.start"],
}


@app.route
async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
    """`<key>&<case>`: the last message must raise, the ones before it must not."""
    key, _, case = key_of(scope).partition("&")
    *good, bad = WRONG[case.replace("-", " ")]
    for message in good:
        await send(dict(message))
    try:
        await send(dict(bad) if isinstance(bad, dict) else bad)
    except Exception as error:
        board.post(key, describe(error))
        raise
    board.post(key, None)


# -- other shapes of applications


class Asgi2:
    """The double callable of ASGI 2."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        await app(self.scope, receive, send)


def asgi2_function(scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
    async def instance(receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return instance


async def function(scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def make() -> Scenarios:
    """A factory."""
    return app
