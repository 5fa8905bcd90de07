"""The other end of a WebSocket (RFC 6455), by hand: it says what it is told to, and checks every byte it reads.

Rules of this room:
- Nothing here is lenient. A frame that is masked, longer than it need be, or a control frame in pieces, fails whichever
  test meets it (RFC 6455 sections 5.1, 5.2, 5.5).
- Nothing is answered by itself: a test that wants a pong or the echo of a close says so.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import socket
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.integration.support import Client, Response, Server, request_bytes

APPS: Final = "tests.integration.websocket.apps"

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

RSV1: Final = 0b100

SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; the socket module does not name it

# RFC 6455 section 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
MASK: Final = b"\x37\xfa\x21\x3d"


def accept_of(key: str) -> bytes:
    """What Sec-WebSocket-Accept must say to a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest())


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """`payload` XOR the repeated key (RFC 6455 section 5.3)."""
    size = len(payload)
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
    length: int | None = None,
) -> bytes:
    """One frame as a client sends it.

    `width` forces the length into 7, 16 or 64 bits (None: the fewest), `length` lies about it, `mask` None leaves it out.
    """
    size = len(payload) if length is None else length
    bits = width or (7 if size < 126 else 16 if size < 1 << 16 else 64)
    first = fin << 7 | rsv << 4 | opcode
    second = (mask is not None) << 7
    if bits == 7:
        head = struct.pack("!BB", first, second | size)
    elif bits == 16:
        head = struct.pack("!BBH", first, second | 126, size)
    else:
        head = struct.pack("!BBQ", first, second | 127, size)
    return head + (payload if mask is None else mask + masked(payload, mask))


def close_payload(code: int | None, reason: str = "") -> bytes:
    """The body of a close frame; without a code it is empty."""
    return b"" if code is None else struct.pack("!H", code) + reason.encode()


def handshake_bytes(
    target: str,
    *,
    method: str = "GET",
    version: str = "1.1",
    upgrade: str | None = "websocket",
    connection: str | None = "Upgrade",
    key: str | None = KEY,
    ws_version: str | None = "13",
    headers: Iterable[str] = (),
    host: str | None = "localhost",
    body: bytes | None = None,
) -> bytes:
    """An opening handshake (RFC 6455 section 4.1); None leaves a field out."""
    given = (
        ("Upgrade", upgrade),
        ("Connection", connection),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", ws_version),
    )
    lines = [f"{name}: {value}" for name, value in given if value is not None]
    return request_bytes(target, method=method, version=version, headers=[*lines, *headers], host=host, body=body)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as the server sent it."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


class Peer(Client):
    """A client that has, or has not yet, become one end of a WebSocket."""

    handshake: Response

    # -- the opening handshake

    def open(self, target: str, **how: Any) -> Self:
        """Open the WebSocket (`how` as for handshake_bytes); the server must accept."""
        self.send(handshake_bytes(target, **how))
        return self.accepted()

    def accepted(self, key: str = KEY) -> Self:
        """The server's half of the opening handshake is the next thing it says, and is right."""
        response = self.read_head()
        assert response.status == 101, (response, self.read_available())
        assert (response.version, response.reason) == ("1.1", "Switching Protocols")
        assert [value.lower() for value in response.all(b"upgrade")] == [b"websocket"]
        assert response.options == {b"upgrade"}
        assert response.all(b"sec-websocket-accept") == [accept_of(key)]
        self.handshake = response
        return self

    def read_available(self) -> bytes:
        """What is there now, for a message about a failure."""
        if self.readable(0.1) and not self._buffer:
            with contextlib.suppress(EOFError):
                self._fill()
        return bytes(self._buffer[:500])

    # -- sending

    def send_frame(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        self.send(frame(opcode, payload, **how))

    def send_text(self, text: str) -> None:
        self.send_frame(TEXT, text.encode())

    def send_bytes(self, data: bytes) -> None:
        self.send_frame(BINARY, data)

    def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        self.send_frame(CLOSE, close_payload(code, reason))

    # -- receiving

    def read_frame(self) -> Frame:
        """The next frame. Raises EOFError if the connection ends first."""
        first, second = self.read(2)
        fin, rsv, opcode = bool(first & 0x80), first >> 4 & 7, first & 0x0F
        assert opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), f"opcode {opcode:#x}"
        assert not second & 0x80, "RFC 6455 5.1: a server MUST NOT mask any frames that it sends"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
            assert size > 125, "RFC 6455 5.2: the minimal number of bytes MUST be used to encode the length"
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
            assert 1 << 16 <= size < 1 << 63, f"length {size}"
        if opcode >= CLOSE:
            assert fin and size <= 125, "RFC 6455 5.5: control frames are whole and short"
        return Frame(opcode, self.read(size), fin, rsv)

    def read_message(self) -> str | bytes:
        """The next message, in however many frames; no control frame may come in between."""
        first = self.read_frame()
        assert first.opcode in (TEXT, BINARY), first
        parts, last = [first.payload], first
        while not last.fin:
            last = self.read_frame()
            assert last.opcode == CONTINUATION, last
            parts.append(last.payload)
        data = b"".join(parts)
        return data.decode() if first.opcode == TEXT else data

    def read_value(self) -> Any:
        """The Python literal in the next text message: how the scenarios answer."""
        text = self.read_message()
        assert isinstance(text, str)
        return ast.literal_eval(text)

    # -- leaving without a word

    def vanish(self) -> None:
        """Be as behind a network that went away: whatever the server sends from now on is lost, and not acknowledged."""
        instruction = array("B", struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret #0: every segment is dropped
        sock_fprog = struct.pack("@HP", 1, instruction.buffer_info()[0])
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, sock_fprog)

    # -- the closing handshake

    def expect_close(self, code: int | None, reason: str | None = "") -> None:
        """The next frame closes, with this code (None: without one) and reason (None: any)."""
        got = self.read_frame()
        assert got.opcode == CLOSE, got
        if code is None:
            assert got.payload == b"", got
            return
        assert len(got.payload) >= 2, got
        found = struct.unpack("!H", got.payload[:2])[0], got.payload[2:].decode()
        assert found == (code, found[1] if reason is None else reason), found

    def finish(self, code: int | None = 1000, reason: str = "") -> None:
        """Close in order: our close frame, its echo, and the end of the connection."""
        self.send_close(code, reason)
        self.expect_close(code)
        self.expect_end()

    def expect_closed_by_server(self, code: int, reason: str | None = "") -> None:
        """The server closes: its close frame, our echo, and the end of the connection."""
        self.expect_close(code, reason)
        self.send_close(code)
        self.expect_end()


def connect(server: Server, *, receive_buffer: int | None = None) -> Peer:
    """A new connection, still without a handshake."""
    return Peer(server.address, receive_buffer=receive_buffer)
