"""A chat room in the browser, over WebSocket: raw ASGI, nothing to install.

    ladybug --app-dir examples websocket_chat:app
    # then open http://localhost:8000 in two windows

What it shows: a WebSocket from accept to disconnect; a task for each member that sends, so that a slow one makes nobody
wait, and a bound on what waits for it; a page that comes back after 1012, the server's restart; a refusal by HTTP when the
handshake comes from another site's page, which browsers do not prevent. The members are in this process, so it is one room
with one worker; with more, each would have its own, and something they share (Redis, a database) would have to carry
what is said from one to the others.
"""

import asyncio
import contextlib
from typing import Any
from urllib.parse import parse_qs

# Messages that may wait for one member.
MOST_WAITING = 100

PAGE = b"""<!doctype html>
<meta charset="utf-8"><title>Chat</title>
<form><input id="text" autocomplete="off" placeholder="Say something" autofocus> <output id="state"></output></form>
<pre id="said"></pre>
<script>
  const [text, state, said] = ["text", "state", "said"].map((id) => document.getElementById(id));
  const name = prompt("Your name?") || "somebody";
  let socket;
  function join() {
    socket = new WebSocket(`${location.origin.replace("http", "ws")}/room?name=${encodeURIComponent(name)}`);
    socket.onopen = () => (state.value = "connected");
    socket.onmessage = ({ data }) => (said.textContent = `${data}\\n${said.textContent}`);
    socket.onclose = ({ code }) => {
      state.value = `closed with ${code}`;
      // Not all at once: a server that has just started would have everybody at its door.
      setTimeout(join, 500 + Math.random() * 2000);
    };
  }
  document.forms[0].onsubmit = () => (socket.send(text.value), (text.value = ""), false);
  join();
</script>
"""

# What each member has yet to be told; None: too much, it is sent away.
members: set[asyncio.Queue[str | None]] = set()


def say(text: str) -> None:
    """To everybody. Nobody is waited for."""
    for member in list(members):
        if member.full():
            members.discard(member)
            while not member.empty():
                member.get_nowait()
            member.put_nowait(None)
        else:
            member.put_nowait(text)


async def tell(member: asyncio.Queue[str | None], send: Any) -> None:
    """Send one member what is said, as fast as it takes it."""
    # An OSError says that it has gone; receive() says so, too.
    with contextlib.suppress(OSError):
        while (text := await member.get()) is not None:
            await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close", "code": 1013, "reason": "too slow"})


async def room(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()  # websocket.connect
    if not comes_from_our_page(scope):
        await send({"type": "websocket.close"})  # instead of accept: the handshake is answered with 403
        return
    name = parse_qs(scope["query_string"].decode()).get("name", ["somebody"])[0][:30]
    await send({"type": "websocket.accept"})
    member: asyncio.Queue[str | None] = asyncio.Queue(MOST_WAITING)
    members.add(member)
    telling = asyncio.create_task(tell(member, send))
    say(f"{name} has come in")
    try:
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text"):
                say(f"{name}: {message['text'][:1000]}")
    finally:
        members.discard(member)
        telling.cancel()
        say(f"{name} has left")


def comes_from_our_page(scope: dict[str, Any]) -> bool:
    """Browsers let every page of every site open WebSockets to us, but they say whose page it was (RFC 6455 section 10.2)."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The page, and the room."""
    if scope["type"] == "websocket":
        await room(scope, receive, send)
    elif scope["type"] == "http":
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(PAGE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE})
