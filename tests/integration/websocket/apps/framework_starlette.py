"""A Starlette application with WebSockets, as its documentation writes them: functions, an endpoint class, a denial."""

from __future__ import annotations

import json
from typing import Any

from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.integration.apps.framework_notes import note


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect as left:
        note(f"left {left.code} {left.reason}")


class Json(WebSocketEndpoint):
    encoding = "json"

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_json({"got": data})

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        note(f"left {close_code} ")


async def subprotocol(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=websocket.scope["subprotocols"][0], headers=[(b"x-app", b"1")])
    await websocket.close(4000, "bye")


async def describe(websocket: WebSocket) -> None:
    """What reached the application of the handshake."""
    await websocket.accept()
    found = {
        "path": websocket.url.path,
        "query": dict(websocket.query_params),
        "cookie": websocket.cookies.get("session"),
        "user": websocket.path_params.get("user"),
    }
    await websocket.send_text(json.dumps(found))
    await websocket.close()


async def refuse(websocket: WebSocket) -> None:
    await websocket.close()


async def deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"detail": "not you"}, status_code=401))


async def fail(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("failed on purpose")


async def stream(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        for number in range(int(text)):
            await websocket.send_text(str(number))


async def page(request: Request) -> Response:
    return JSONResponse({"hello": "world"})


app = Starlette(
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/json", Json),
        WebSocketRoute("/subprotocol", subprotocol),
        Mount("/sub", routes=[WebSocketRoute("/{user}/describe", describe)]),
        WebSocketRoute("/refuse", refuse),
        WebSocketRoute("/deny", deny),
        WebSocketRoute("/fail", fail),
        WebSocketRoute("/stream", stream),
        Route("/page", page),
    ]
)
