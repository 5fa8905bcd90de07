"""Client frames as bytes, and a player for the WebSocket core that writes down what it says, however they were cut."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ladybug.protocol.deflate import Agreement, Inflater
from ladybug.protocol.websocket import BINARY, CLOSE, ERROR, NEED_DATA, PING, PONG, TEXT, WebSocket

MASK = b"\x37\xfa\x21\x3d"  # the one of RFC 6455 section 5.7
MAX_SIZE = 1 << 16
# What may be kept beside a message: a data frame's head, or a control frame.
MOST_UNPARSED = 130


class Event(NamedTuple):
    """What the core said: the text, the content, or code and reason."""

    kind: int
    value: object


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    size: int | None = None,
    width: int | None = None,
) -> bytes:
    """One frame as a client sends it, or as it must not.

    Args:
        rsv: bits as they stand in the first octet (0x40 is RSV1).
        mask: None for none.
        size: the length to declare instead of the payload's.
        width: bytes of the extended length (0, 2, 8) instead of the smallest that will do.
    """
    size = len(payload) if size is None else size
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    first = (0x80 if fin else 0) | rsv | opcode
    second = (0x80 if mask is not None else 0) | {0: size, 2: 126, 8: 127}[width]
    head = bytes([first, second]) + {0: b"", 2: struct.pack("!H", size & 0xFFFF), 8: struct.pack("!Q", size)}[width]
    return head + (payload if mask is None else mask + masked(payload, mask))


def text(content: str, *, fin: bool = True) -> bytes:
    return frame(1, content.encode(), fin=fin)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(8, struct.pack("!H", code) + reason)


class Player:
    """A connection's use of the core, and its rules checked on the way."""

    def __init__(self, max_size: int = MAX_SIZE, agreement: Agreement | None = None) -> None:
        self.max_size = max_size
        self.core = WebSocket(max_size, None if agreement is None else Inflater(agreement))
        self.events: list[Event] = []

    def feed_all(self, pieces: Iterable[bytes]) -> list[Event]:
        for piece in pieces:
            self.feed(piece)
        return self.events

    def feed(self, piece: bytes) -> None:
        core = self.core
        over = self.events[-1].kind if self.events and self.events[-1].kind in (CLOSE, ERROR) else None
        core.receive_data(piece)
        if over is not None:
            assert core.next_event() == (NEED_DATA if over == CLOSE else ERROR), "the last word is final"
            assert (core.held, core.has_input()) == (0, False)
            return
        while True:
            event = core.next_event()
            if event == NEED_DATA:
                break
            self.events.append(Event(event, self._value(event)))
            if event in (CLOSE, ERROR):
                assert (core.held, core.has_input()) == (0, False)
                return
        assert (core.text, core.content) == ("", b""), "nothing is kept of what was handed on"
        assert not self.max_size or core.held <= self.max_size + MOST_UNPARSED

    def _value(self, event: int) -> object:
        core = self.core
        if event == TEXT:
            return core.text
        if event in (BINARY, PING, PONG):
            return core.content
        assert event in (CLOSE, ERROR)
        # What goes into our close frame must fit, whatever it says.
        assert len(core.reason.encode()) <= 123
        return (core.code, core.reason) if event == CLOSE else core.code


def play(pieces: Iterable[bytes], max_size: int = MAX_SIZE, agreement: Agreement | None = None) -> list[Event]:
    """What the core says to `pieces`, fed one after the other."""
    return Player(max_size, agreement).feed_all(pieces)


# RFC 3629 section 4, as ranges of octets
_SEQUENCES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0x00, 0x7F),),
    ((0xC2, 0xDF), (0x80, 0xBF)),
    ((0xE0, 0xE0), (0xA0, 0xBF), (0x80, 0xBF)),
    ((0xE1, 0xEC), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xED, 0xED), (0x80, 0x9F), (0x80, 0xBF)),
    ((0xEE, 0xEF), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xF0, 0xF0), (0x90, 0xBF), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xF1, 0xF3), (0x80, 0xBF), (0x80, 0xBF), (0x80, 0xBF)),
    ((0xF4, 0xF4), (0x80, 0x8F), (0x80, 0xBF), (0x80, 0xBF)),
)


def first_bad(data: bytes) -> int | None:
    """Where the first octet stands that no UTF-8 can have there; len(data) if only the end comes too early."""
    at = 0
    while at < len(data):
        for sequence in _SEQUENCES:
            if sequence[0][0] <= data[at] <= sequence[0][1]:
                break
        else:
            return at
        for low, high in sequence[1:]:
            at += 1
            if at == len(data):
                return at
            if not low <= data[at] <= high:
                return at
        at += 1
    return None


def some_frames(dice: random.Random) -> list[bytes]:
    """A few frames in some order, most of them good."""
    frames = []
    for _ in range(dice.randrange(1, 8)):
        opcode = dice.choice((0, 0, 1, 1, 2, 2, 8, 9, 10))
        payload = dice.choice(
            (b"", b"a", "häß€𝄞".encode(), dice.randbytes(dice.randrange(8)), b"x" * dice.choice((125, 126, 200)))
        )
        if opcode == 8:
            payload = struct.pack("!H", dice.choice((1000, 1001, 1005, 3000, 4999, 5000))) + payload[:20]
        fin = opcode >= 8 or dice.random() < 0.5
        frames.append(frame(opcode, payload, fin=fin, rsv=0x40 if dice.random() < 0.1 else 0, mask=dice.randbytes(4)))
    return frames
