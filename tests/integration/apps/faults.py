"""Applications that fail in every way there is, and a few that only wait; each failure is recognised by its function's name."""

from __future__ import annotations

import asyncio
import sys

from tests.integration.apps.kit import (
    Receive,
    Scenarios,
    Scope,
    Send,
    body,
    key_of,
    read_body,
    report,
    respond,
    start,
)

app = Scenarios()

LENGTH_5 = [(b"content-length", b"5")]
LENGTH_10 = [(b"content-length", b"10")]
SECRET = "the password is swordfish"


@app.route
async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


@app.route
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    content = await read_body(receive)
    if content is not None:
        await respond(send, content)


@app.route
async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """A few pieces with a turn of the loop between them; a client that leaves is no error."""
    await start(send)
    try:
        for number in range(20):
            await body(send, b"%d;" % number * 50, more=True)
            await asyncio.sleep(0)
        await body(send)
    except OSError:
        pass


@app.route
async def wait_for_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# -- raising


@app.route
async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError(SECRET)


@app.route
async def raises_after_receive(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await asyncio.sleep(0)
    raise RuntimeError(SECRET)


@app.route
async def raises_a_group(scope: Scope, receive: Receive, send: Send) -> None:
    async def fail() -> None:
        raise RuntimeError(SECRET)

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@app.route
async def raises_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError(SECRET)


@app.route
async def cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@app.route
async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    """A request that ends the process would be a way for anybody to end the server."""
    sys.exit(SECRET)


@app.route
async def raises_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    raise RuntimeError(SECRET)


@app.route
async def raises_after_start_and_a_pause(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_10)
    await asyncio.sleep(0.05)
    raise RuntimeError(SECRET)


@app.route
async def raises_after_part(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"part", more=True)
    raise RuntimeError(SECRET)


@app.route
async def raises_after_part_and_a_pause(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"part", more=True)
    await asyncio.sleep(0.05)
    raise RuntimeError(SECRET)


@app.route
async def raises_after_part_of_length(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_10)
    await body(send, b"part", more=True)
    raise RuntimeError(SECRET)


@app.route
async def raises_after_a_megabyte(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"x" * 1_000_000, more=True)
    raise RuntimeError(SECRET)


@app.route
async def raises_before_the_last_piece(scope: Scope, receive: Receive, send: Send) -> None:
    """All the content is there, only its end is not: a close-delimited response must still show it."""
    await start(send)
    await body(send, b"all", more=True)
    await body(send, b" of it", more=True)
    raise RuntimeError(SECRET)


@app.route
async def raises_after_completion(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"hello")
    raise RuntimeError(SECRET)


# -- returning early


@app.route
async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


@app.route
async def returns_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)


@app.route
async def returns_after_part(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await body(send, b"part", more=True)


@app.route
async def returns_after_part_of_length(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_10)
    await body(send, b"part", more=True)


# -- lengths that disagree


@app.route
async def sends_too_little(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_10)
    await body(send, b"hello")


@app.route
async def sends_too_little_in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_10)
    await body(send, b"hel", more=True)
    await body(send, b"lo", more=True)
    await body(send)


@app.route
async def sends_nothing_of_its_length(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_10)
    await body(send)


@app.route
async def sends_too_much(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_5)
    await body(send, b"hello, world")


@app.route
async def sends_too_much_in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=LENGTH_5)
    await body(send, b"hel", more=True)
    await body(send, b"lo, world", more=True)
    await body(send)


@app.route
async def sends_more_than_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[(b"content-length", b"0")])
    await body(send, b"hello")


@app.route
async def has_a_bad_length(scope: Scope, receive: Receive, send: Send) -> None:
    """The query is the content-length."""
    await start(send, headers=[(b"content-length", key_of(scope).encode())])
    await body(send, b"hello")


@app.route
async def has_two_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[*LENGTH_5, (b"Content-Length", key_of(scope).encode())])
    await body(send, b"hello")


@app.route
async def has_the_length_of_another_method(scope: Scope, receive: Receive, send: Send) -> None:
    """What a framework answers to HEAD: the length of GET's content, and none of it."""
    await start(send, headers=LENGTH_10)
    await body(send)


@app.route
async def not_modified(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 304, LENGTH_10)
    await body(send)


@app.route
async def tell_pid(scope: Scope, receive: Receive, send: Send) -> None:
    report(scope, "here")
    await respond(send)
