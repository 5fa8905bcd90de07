"""What is asked of the servers: one entry per row of the comparison.

A workload is the request that wrk repeats, or the message of the WebSocket client, over how many connections, and
the one answer that is right.
Rule: nothing here knows a server, except that anchors (which are not ASGI servers) name what they can play.
"""

from dataclasses import dataclass

HELLO = b"Hello, World!"
HELLO_JSON = b'{"message":"Hello, World!"}'
SEED = b"ladybug-benchmark" * 361 + b"-- done --end"
CHUNK = b"x" * 65536
KIB = 1024
MIB = 1024 * KIB

# What a current Chrome sends to a site it knows, Host aside: 14 fields, of which the cookie is 1 KiB.
BROWSER_FIELDS = (
    ("Connection", "keep-alive"),
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", '"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Referer", "http://localhost/account/orders?page=2"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Cookie", "session=" + "0123456789abcdef" * 63 + "; theme=1"),
)


@dataclass(frozen=True)
class Workload:
    """`app` is module:attribute below apps/; `expected` the body of the one right answer, whose status is 200.

    `websocket` is what the WebSocket client does (clients/websocket.c): echo, broadcast or handshake; then `body` is the
    message, and `expected` what comes back. Without it the workload is HTTP.
    """

    name: str
    title: str
    app: str
    expected: bytes
    connections: int = 64
    path: str = "/"
    method: str = "GET"
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    pipelined: int = 1
    seconds: float = 2.0
    logged: bool = False  # also measure the servers with their access logs on
    anchors: frozenset[str] = frozenset()
    websocket: str = ""
    text: bool = False  # the message is text, not bytes

    @property
    def status(self) -> int:
        """Of the one right answer."""
        return 101 if self.websocket else 200

    @property
    def counted(self) -> str:
        """What there are so and so many of in a second."""
        return {"": "requests", "handshake": "handshakes"}.get(self.websocket, "messages")


BOTH_ANCHORS = frozenset({"nginx", "c-epoll"})
WEBSOCKET_ANCHORS = frozenset({"picows", "c-epoll"})


def websocket(
    name: str, title: str, size: int, connections: int, *, does: str = "echo", text: bool = False, seconds: float = 3.0
) -> Workload:
    message = b"x" * size
    app = "raw:websocket_broadcast" if does == "broadcast" else "raw:websocket_echo"
    return Workload(
        name,
        title,
        app,
        message,
        connections,
        body=message,
        seconds=seconds,
        anchors=WEBSOCKET_ANCHORS,
        websocket=does,
        text=text,
    )


WORKLOADS = (
    Workload("plaintext", "13 bytes, 64 connections", "raw:plaintext", HELLO, logged=True, anchors=BOTH_ANCHORS),
    Workload(
        "browser",
        "13 bytes, 15 browser fields with a 1 KB cookie, 64 connections",
        "raw:plaintext",
        HELLO,
        fields=BROWSER_FIELDS,
        anchors=BOTH_ANCHORS,
    ),
    Workload(
        "seed",
        "6,150 bytes, 1,000 connections",
        "raw:seed",
        SEED,
        connections=1000,
        seconds=3.0,
        anchors=BOTH_ANCHORS,
    ),
    Workload(
        "pipeline16",
        "13 bytes, 16 requests pipelined, 64 connections",
        "raw:plaintext",
        HELLO,
        pipelined=16,
        anchors=BOTH_ANCHORS,
    ),
    Workload(
        "c1",
        "13 bytes, one connection, one request at a time",
        "raw:plaintext",
        HELLO,
        connections=1,
        anchors=BOTH_ANCHORS,
    ),
    Workload(
        "churn",
        "13 bytes, a connection per request, 64 at a time",
        "raw:plaintext",
        HELLO,
        fields=(("Connection", "close"),),
        anchors=BOTH_ANCHORS,
    ),
    Workload(
        "fastapi",
        "FastAPI `async def` JSON, 64 connections",
        "fastapi_app:app",
        HELLO_JSON,
        path="/json",
        logged=True,
    ),
    Workload(
        "fastapi-sync", "FastAPI `def` (thread pool) JSON, 64 connections", "fastapi_app:app", HELLO_JSON, path="/sync"
    ),
    Workload("starlette", "Starlette JSON, 64 connections", "starlette_app:app", HELLO_JSON, path="/json"),
    Workload("to-thread", "`asyncio.to_thread`, 256 connections", "raw:to_thread", HELLO, connections=256),
    Workload("sleep", "`asyncio.sleep(0.005)`, 256 connections", "raw:sleep", HELLO, connections=256),
    Workload(
        "post64k",
        "POST echo of 64 KiB, 32 connections",
        "raw:echo",
        b"x" * (64 * KIB),
        connections=32,
        method="POST",
        body=b"x" * (64 * KIB),
    ),
    Workload(
        "post1m",
        "POST echo of 1 MiB, 8 connections",
        "raw:echo",
        b"x" * MIB,
        connections=8,
        method="POST",
        body=b"x" * MIB,
    ),
    Workload("stream", "100 chunks of 64 KiB, 8 connections", "raw:stream", CHUNK * 100, connections=8),
    Workload(
        "file",
        "1 MiB file, Starlette FileResponse, 16 connections",
        "starlette_app:app",
        b"f" * MIB,
        connections=16,
        path="/file",
        anchors=frozenset({"nginx"}),
    ),
    websocket("ws-64", "WebSocket echo of 64 bytes, 1,000 connections", 64, 1000),
    websocket("ws-64-c64", "WebSocket echo of 64 bytes, 64 connections", 64, 64, seconds=2.0),
    websocket("ws-text", "WebSocket echo of 64 bytes of text, 64 connections", 64, 64, text=True, seconds=2.0),
    websocket("ws-64k", "WebSocket echo of 64 KiB, 1,000 connections", 64 * KIB, 1000),
    websocket("ws-broadcast", "WebSocket broadcast of 64 bytes to 1,000 connections", 64, 1000, does="broadcast"),
    websocket(
        "ws-handshake", "WebSocket connections opened and closed, 64 at a time", 64, 64, does="handshake", seconds=2.0
    ),
)

BY_NAME = {workload.name: workload for workload in WORKLOADS}
