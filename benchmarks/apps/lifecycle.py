"""The application of the lifecycle figures, the same for every server: says who answers, blocks, takes its time.

In the directory $BOARD it leaves notes, empty files "<what>-<pid>". It is imported for $SLOW_START seconds.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.apps.raw import Receive, Send, answer

BOARD = Path(os.environ["BOARD"])

time.sleep(float(os.environ.get("SLOW_START", "0")))


def note(what: str) -> None:
    (BOARD / f"{what}-{os.getpid()}").touch()


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def events(send: Send) -> None:
    """A stream without an end (server-sent events)."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    while True:
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await asyncio.sleep(0.1)


async def websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["type"] == "websocket":
        await websocket(receive, send)
        return
    path, seconds = scope["path"], float(scope["query_string"] or b"0")
    if path == "/events":
        await events(send)
        return
    if path == "/block":
        note("blocked")
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    elif path == "/wait":
        await asyncio.sleep(seconds)
    await answer(send, b"%d" % os.getpid())
