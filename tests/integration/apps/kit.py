"""What every scenario application is made of: ASGI's types, a board for notes, routes by name, a view of the process.

A scenario is a coroutine function; its path is its name, and the query string is the key of its note on the board. Notes go
both ways: `report` tells the test what the application saw, `go_ahead` waits until the test posts. Values travel as Python
literals, so their types arrive exactly.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

Message = dict[str, Any]
Scope = dict[str, Any]
# The specification promises awaitables; frameworks hand them to create_task and wait_for, which want coroutines.
Receive = Callable[[], Coroutine[Any, Any, Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]
Scenario = Callable[[Scope, Receive, Send], Awaitable[None]]
Fields = Iterable[tuple[bytes, bytes]]

# Seconds `resources` gives what is being torn down to be gone.
SETTLING: Final = 8.0


class Board:
    """Notes by key: whoever reads one waits until it is posted."""

    def __init__(self) -> None:
        self._notes: dict[str, asyncio.Future[object]] = {}

    def _note(self, key: str) -> asyncio.Future[object]:
        if key not in self._notes:
            self._notes[key] = asyncio.get_running_loop().create_future()
        return self._notes[key]

    def post(self, key: str, value: object) -> None:
        """The first value posted under a key stays."""
        note = self._note(key)
        if not note.done():
            note.set_result(value)

    async def read(self, key: str) -> object:
        return await asyncio.shield(self._note(key))


board = Board()


def key_of(scope: Scope) -> str:
    """The key of this request's note."""
    return str(scope["query_string"].decode())


def report(scope: Scope, value: object) -> None:
    """Let the test know what this request saw."""
    board.post(key_of(scope), value)


async def go_ahead(scope: Scope, step: str = "go") -> None:
    """Wait until the test posts `<key>-<step>`."""
    await board.read(f"{key_of(scope)}-{step}")


async def start(send: Send, status: int = 200, headers: Fields = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send: Send, data: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def respond(send: Send, data: bytes = b"", status: int = 200, headers: Fields = ()) -> None:
    """A whole response with its content-length."""
    await start(send, status, [*headers, (b"content-length", b"%d" % len(data))])
    await body(send, data)


async def respond_value(send: Send, value: object) -> None:
    """Answer with a Python literal."""
    await respond(send, repr(value).encode())


async def read_body(receive: Receive) -> bytes | None:
    """The whole content of the request; None if the client went away before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def describe(error: BaseException) -> dict[str, object]:
    """An exception as a literal: its name, whether it is an OSError, its text."""
    return {"name": type(error).__name__, "oserror": isinstance(error, OSError), "text": str(error)}


def memory(field: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


async def _board(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["method"] == "POST":
        report(scope, None)
        await respond(send)
    else:
        await respond_value(send, await board.read(key_of(scope)))


async def _resources(scope: Scope, receive: Receive, send: Send) -> None:
    limits = dict(pair.split("=") for pair in key_of(scope).split("&") if "=" in pair)
    end = time.monotonic() + SETTLING

    def settled() -> bool:
        return open_files() <= int(limits.get("fds", 1 << 30)) and len(asyncio.all_tasks()) <= int(
            limits.get("tasks", 1 << 30)
        )

    while not settled() and time.monotonic() < end:  # noqa: ASYNC110 - descriptors have no event
        await asyncio.sleep(0.01)
    gc.collect()
    found = {
        "pid": os.getpid(),
        "fds": open_files(),
        "tasks": len(asyncio.all_tasks()),
        "rss": memory("VmRSS"),
        "peak": memory("VmHWM"),
    }
    await respond_value(send, found)


def reset_peak() -> None:
    """From here on VmHWM is the highest resident size since now (proc(5), clear_refs)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


async def _reset_peak(scope: Scope, receive: Receive, send: Send) -> None:
    reset_peak()
    await respond_value(send, memory("VmRSS"))


class Scenarios:
    """An ASGI 3 application whose paths are the names of its scenarios."""

    def __init__(self) -> None:
        self.routes: dict[str, Scenario] = {"/board": _board, "/resources": _resources, "/reset_peak": _reset_peak}

    def route(self, scenario: Scenario) -> Scenario:
        """Register a scenario under its own name."""
        self.routes[f"/{getattr(scenario, '__name__')}"] = scenario  # noqa: B009 - a callable type has no __name__
        return scenario

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(scope, receive, send)
        elif scenario := self.routes.get(scope["path"]):
            await scenario(scope, receive, send)
        else:
            await respond(send, b"no such scenario", 404)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """The plain lifespan: both events answered, a state for the requests."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            scope["state"].update(shared=[], label="from lifespan")
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
