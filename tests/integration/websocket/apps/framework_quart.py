"""A Quart application with WebSockets: receive and send as tasks of its own, accept by hand, a response instead."""

from __future__ import annotations

import asyncio
from typing import Any

from quart import Quart, websocket

from tests.integration.apps.framework_notes import note

app = Quart(__name__)


@app.get("/page")
async def page() -> dict[str, str]:
    return {"hello": "world"}


@app.websocket("/echo")
async def echo() -> None:
    try:
        while True:
            await websocket.send(await websocket.receive())
    except asyncio.CancelledError:
        # So does Quart say that the client has left; the code it does not tell.
        note("left")
        raise


@app.websocket("/json")
async def json() -> None:
    try:
        while True:
            await websocket.send_json({"got": await websocket.receive_json()})
    except asyncio.CancelledError:
        note("left")
        raise


@app.websocket("/subprotocol")
async def subprotocol() -> None:
    await websocket.accept(headers={"x-app": "1"}, subprotocol=websocket.requested_subprotocols[0])
    await websocket.close(4000, "bye")


@app.websocket("/sub/<user>/describe")
async def describe(user: str) -> None:
    found = {
        "path": websocket.path,
        "query": websocket.args.to_dict(),
        "cookie": websocket.cookies.get("session"),
        "user": user,
    }
    await websocket.send_json(found)


@app.websocket("/refuse")
async def refuse() -> tuple[str, int]:
    return "not you", 403


@app.websocket("/deny")
async def deny() -> tuple[dict[str, Any], int]:
    return {"detail": "not you"}, 401


@app.websocket("/fail")
async def fail() -> None:
    await websocket.accept()
    raise RuntimeError("failed on purpose")


@app.websocket("/stream")
async def stream() -> None:
    while True:
        for number in range(int(await websocket.receive())):
            await websocket.send(str(number))
