"""Raw ASGI applications, one callable per workload, so that no router stands between the server and the measurement.

Rule: written as an application author would write them, for no server in particular.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HELLO = b"Hello, World!"
SEED = b"ladybug-benchmark" * 361 + b"-- done --end"  # 6,150 bytes
CHUNK = b"x" * 65536


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def plaintext(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
        }
    )
    await send({"type": "http.response.body", "body": HELLO})
    return None


async def seed(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    return await answer(send, SEED)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    pieces = []
    more_body = True
    while more_body:
        message = await receive()
        pieces.append(message.get("body", b""))
        more_body = message.get("more_body", False)
    return await answer(send, b"".join(pieces))


async def stream(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for _ in range(100):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body"})
    return None


async def to_thread(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    return await answer(send, await asyncio.to_thread(bytes, HELLO))


async def sleep(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await asyncio.sleep(0.005)
    return await answer(send, HELLO)


def same(message: Message) -> Message:
    """A WebSocket message back. Either key may be missing, or None."""
    text = message.get("text")
    if text is not None:
        return {"type": "websocket.send", "text": text}
    return {"type": "websocket.send", "bytes": message["bytes"]}


async def websocket_echo(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send(same(message))
    return None


room: set[Send] = set()


async def websocket_broadcast(scope: Message, receive: Receive, send: Send) -> None:
    """Everybody hears what anybody says."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    room.add(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            answer = same(message)
            for send_to in tuple(room):
                await send_to(answer)
    finally:
        room.discard(send)
    return None
