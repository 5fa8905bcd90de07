"""A FastAPI application with WebSockets: dependencies, a cookie or token, rooms that broadcast, WebSocketException."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, Query, WebSocket, WebSocketDisconnect, WebSocketException, status

from tests.integration.apps.framework_notes import note

app = FastAPI()


class Room:
    def __init__(self) -> None:
        self.members: list[WebSocket] = []

    async def broadcast(self, text: str) -> None:
        for member in list(self.members):
            await member.send_text(text)


room = Room()


@app.get("/page")
async def page() -> dict[str, str]:
    return {"hello": "world"}


@app.websocket("/echo")
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


@app.websocket("/json")
async def json(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_json({"got": await websocket.receive_json()})
    except WebSocketDisconnect as left:
        note(f"left {left.code} ")


@app.websocket("/subprotocol")
async def subprotocol(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=websocket.scope["subprotocols"][0], headers=[(b"x-app", b"1")])
    await websocket.close(4000, "bye")


@app.websocket("/sub/{user}/describe")
async def describe(websocket: WebSocket, user: str, q: str, session: Annotated[str | None, Cookie()] = None) -> None:
    await websocket.accept()
    found = {"path": websocket.url.path, "query": {"q": q}, "cookie": session, "user": user}
    await websocket.send_json(found)
    await websocket.close()


async def token(websocket: WebSocket, token: Annotated[str | None, Query()] = None) -> str:
    if token is None:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION, reason="no token")
    return token


@app.websocket("/refuse")
async def refuse(websocket: WebSocket, token: Annotated[str, Depends(token)]) -> None:
    await websocket.accept()


@app.websocket("/fail")
async def fail(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("failed on purpose")


@app.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        for number in range(int(text)):
            await websocket.send_text(str(number))


@app.websocket("/room")
async def join(websocket: WebSocket) -> Any:
    await websocket.accept()
    room.members.append(websocket)
    await websocket.send_text("joined")
    try:
        while True:
            await room.broadcast(await websocket.receive_text())
    except WebSocketDisconnect:
        room.members.remove(websocket)
        await room.broadcast("left")
