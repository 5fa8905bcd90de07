"""python-socketio: its handshake begins as HTTP polling and is upgraded to a WebSocket, both on the same path."""

from __future__ import annotations

from typing import Any

import socketio

from tests.integration.apps.framework_notes import note

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
app = socketio.ASGIApp(server)


@server.event  # type: ignore[untyped-decorator]
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    note(f"connected {server.transport(sid)}")


@server.event  # type: ignore[untyped-decorator]
async def double(sid: str, data: Any) -> Any:
    """Acknowledged with its answer."""
    return data * 2


@server.event  # type: ignore[untyped-decorator]
async def shout(sid: str, data: Any) -> None:
    await server.emit("heard", data)


@server.event  # type: ignore[untyped-decorator]
async def disconnect(sid: str, reason: Any) -> None:
    note("disconnected")
