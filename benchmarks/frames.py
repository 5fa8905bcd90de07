"""One exchange with a WebSocket server, to check it before it is measured: handshake, message, answer, Close.

RFC 6455 as far as that needs it; the load itself comes from clients/websocket.c.
"""

import base64
import hashlib
import os
import socket
from dataclasses import dataclass

from .workloads import Workload

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE = 1, 2, 8
FIN, MASKED = 0x80, 0x80
NORMAL = (1000).to_bytes(2, "big")


class ProtocolError(Exception):
    """The server breaks RFC 6455, or uses what was not offered."""


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes


def accept_of(key: bytes) -> bytes:
    """Sec-WebSocket-Accept, section 4.2.2."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def masked(payload: bytes, key: bytes) -> bytes:
    """Section 5.3; the same again unmasks."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def encode(frame: Frame, key: bytes) -> bytes:
    """As a client sends it: whole, masked. Section 5.2."""
    size = len(frame.payload)
    if size < 126:
        length = bytes([MASKED | size])
    elif size < 65536:
        length = bytes([MASKED | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([MASKED | 127]) + size.to_bytes(8, "big")
    return bytes([FIN | frame.opcode]) + length + key + masked(frame.payload, key)


def decode(received: bytes) -> tuple[Frame, bytes] | None:
    """The first frame of what a server sent, and the rest; None while it is incomplete. Raises ProtocolError."""
    if len(received) < 2:
        return None
    opcode, length, start = received[0] & 15, received[1], 2
    if received[0] != FIN | opcode or length & MASKED:
        raise ProtocolError(f"frame begins with {received[:2].hex()}: fragmented, masked, or reserved bits set")
    if length >= 126:
        start = 4 if length == 126 else 10
        if len(received) < start:
            return None
        length = int.from_bytes(received[2:start], "big")
    end = start + length
    return (Frame(opcode, received[start:end]), received[end:]) if len(received) >= end else None


def request(path: str, host: str, key: bytes) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, "", ""]).encode()


def check_response(head: bytes, key: bytes) -> int:
    """The status of a handshake's response. Raises ProtocolError for a 101 that is not one; section 4.1."""
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split(" ")[1])
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if status == 101:
        if fields.get("sec-websocket-accept", "").encode() != accept_of(key):
            raise ProtocolError("wrong Sec-WebSocket-Accept")
        if "sec-websocket-extensions" in fields:
            raise ProtocolError("an extension that was not offered")
    return status


def receive(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 18)
    if not piece:
        raise ConnectionResetError("closed by the server")
    return piece


def receive_frame(connection: socket.socket, received: bytes) -> tuple[Frame, bytes]:
    while (found := decode(received)) is None:
        received += receive(connection)
    return found


def ask(port: int, workload: Workload, timeout: float) -> tuple[int, bytes]:
    """One message of the workload, on a connection of its own. Returns the handshake's status and the answer.

    Raises OSError as sockets do (TimeoutError among them), and ProtocolError.
    """
    message = Frame(TEXT if workload.text else BINARY, workload.body)
    key = base64.b64encode(os.urandom(16))
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(request(workload.path, f"127.0.0.1:{port}", key))
        received = receive(connection)
        while b"\r\n\r\n" not in received:
            received += receive(connection)
        head, _, received = received.partition(b"\r\n\r\n")
        status = check_response(head, key)
        if status != 101:
            return status, received
        connection.sendall(encode(message, os.urandom(4)))
        answer, received = receive_frame(connection, received)
        if answer.opcode != message.opcode:
            raise ProtocolError(f"opcode {answer.opcode}, not {message.opcode}")
        connection.sendall(encode(Frame(CLOSE, NORMAL), os.urandom(4)))
        closed, received = receive_frame(connection, received)
        if closed != Frame(CLOSE, NORMAL) or received or connection.recv(1):  # section 7.1.1: the server closes first
            raise ProtocolError(f"no closing handshake: {closed}, {received!r}")
        return status, answer.payload
