"""Target: the receiving core of WebSocket, its frames and its compressed messages.

Invariant: for any bytes in any pieces
- nothing raises, and after a close or an error there is nothing more;
- the events do not depend on the pieces, but for one thing: a compressed message that is both too big and bad may be
  called either, because zlib reads ahead of what it gives out;
- no message is larger than the limit, and what is kept is bounded by it;
- where a reading of RFC 6455 written here, the slow and obvious way, accepts all frames, the messages are the same, and
  where it does not, there is an error of the same code.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from ladybug.protocol.deflate import TAIL, Agreement, agree
from ladybug.protocol.frames import is_close_code
from ladybug.protocol.websocket import BINARY, CLOSE, ERROR, PING, PONG, TEXT
from tests.fuzz.fuzzing import cut_up, fuzz, mutate
from tests.protocol.frames import Event, first_bad, frame, masked, play, some_frames

DICTIONARY = (
    *(
        b"\x81\x80",
        b"\x01\x81",
        b"\x80\x80",
        b"\x00\xfe",
        b"\x82\xff",
        b"\x88\x82",
        b"\x89\x80",
        b"\x8a\xfd",
        b"\xc1\x87",
    ),
    *(
        b"\x00\x7e",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x00\x00\x01\x00\x00",
        b"\x80",
        b"\xff",
        b"\x7f",
        b"\x03\xe8",
        TAIL,
    ),
    *(b"\xf0\x9d\x84\x9e", b"\xed\xa0\x80", b"\xc3", b"\xe2\x82", bytes(9)),
)
FRESH = agree(b"permessage-deflate; client_no_context_takeover")
AGREEMENTS = (None, None, agree(b"permessage-deflate"), FRESH)


@dataclass
class Reading:
    """Frames read by the letter: a whole frame at a time, so it is late where the core is early, but never different."""

    limit: int
    agreement: Agreement | None
    events: list[Event] = field(default_factory=list)
    opcode: int = 0
    compressed: bool = False
    content: bytes = b""
    incomplete: bool = False  # the bytes ended inside a frame

    def read(self, data: bytes) -> list[Event]:
        while data and not self.incomplete and not (self.events and self.events[-1].kind in (CLOSE, ERROR)):
            data = data[self._frame(data) :]
        return self.events

    def _error(self, code: int) -> int:
        self.events.append(Event(ERROR, code))
        return 0

    def _frame(self, data: bytes) -> int:
        if len(data) < 2:
            self.incomplete = True
            return 0
        opcode, rsv, fin = data[0] & 15, data[0] & 0x70, data[0] >= 0x80
        compressing = rsv == 0x40 and self.agreement is not None and opcode in (1, 2)
        if data[1] < 0x80 or (rsv and not compressing) or opcode not in (0, 1, 2, 8, 9, 10):
            return self._error(1002)
        size, at = data[1] & 0x7F, 2
        if opcode >= 8:
            if not fin or size > 125:
                return self._error(1002)
        elif (opcode == 0) is (self.opcode == 0):
            return self._error(1002)
        width = {126: 2, 127: 8}.get(size, 0)
        if len(data) < at + width:
            self.incomplete = True
            return 0
        if width:
            size = int.from_bytes(data[at : at + width], "big")
            at += width
            if size < (126 if width == 2 else 65536) or size >> 63:
                return self._error(1002)
        compressed = compressing or (opcode == 0 and self.compressed)
        if opcode < 8 and not compressed and len(self.content) + size > self.limit:
            return self._error(1009)
        if len(data) < at + 4 + size:
            self.incomplete = True
            return 0
        payload = masked(data[at + 4 : at + 4 + size], data[at : at + 4])
        if opcode >= 8:
            self._control(opcode, payload)
        else:
            self._data(opcode, payload, fin, compressed)
        return at + 4 + size

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == 9:
            self.events.append(Event(PING, payload))
        elif opcode == 10:
            self.events.append(Event(PONG, payload))
        elif not payload:
            self.events.append(Event(CLOSE, (1005, "")))
        elif len(payload) == 1 or not is_close_code(int.from_bytes(payload[:2], "big")):
            self._error(1002)
        elif first_bad(payload[2:]) is not None:
            self._error(1007)
        else:
            self.events.append(Event(CLOSE, (int.from_bytes(payload[:2], "big"), payload[2:].decode())))

    def _data(self, opcode: int, payload: bytes, fin: bool, compressed: bool) -> None:
        self.opcode = opcode or self.opcode
        self.compressed = compressed
        self.content += payload
        if not compressed and self.opcode == 1:
            bad = first_bad(self.content)
            if bad is not None and (fin or bad < len(self.content)):
                self._error(1007)
                return
        if not fin:
            return
        content = self.content
        if compressed:
            try:
                # Without what earlier messages left: this reading is used only where nothing is taken over.
                content = zlib.decompressobj(-15).decompress(content + TAIL, self.limit + 1)
            except zlib.error:
                self._error(1007)
                return
            if len(content) > self.limit:
                self._error(1009)
                return
        if self.opcode == 2:
            self.events.append(Event(BINARY, content))
        elif first_bad(content) is None:
            self.events.append(Event(TEXT, content.decode()))
        else:
            self._error(1007)
        self.opcode, self.compressed, self.content = 0, False, b""


def squeezed(dice: random.Random) -> bytes:
    """A compressed message, in one frame or two."""
    content = dice.choice((b"", b"hello " * 9, dice.randbytes(20), b"\xc3\xa9" * 30, bytes(400)))
    compressor = zlib.compressobj(level=dice.choice((0, 6)), wbits=-12)
    payload = compressor.compress(content) + compressor.flush(dice.choice((zlib.Z_SYNC_FLUSH, zlib.Z_FINISH)))
    payload = (
        mutate(dice, payload.removesuffix(TAIL), DICTIONARY) if dice.random() < 0.3 else payload.removesuffix(TAIL)
    )
    at = dice.randrange(len(payload) + 1)
    opcode, mask = dice.choice((1, 2)), dice.randbytes(4)
    if dice.random() < 0.5:
        return frame(opcode, payload, rsv=0x40, mask=mask)
    return frame(opcode, payload[:at], rsv=0x40, fin=False, mask=mask) + frame(0, payload[at:], mask=mask)


def target(dice: random.Random) -> None:
    agreement = dice.choice(AGREEMENTS)
    frames = some_frames(dice)
    if agreement is not None:
        frames = [squeezed(dice) if dice.random() < 0.5 else raw for raw in frames]
    raw = mutate(dice, b"".join(frames), DICTIONARY) if dice.random() < 0.7 else b"".join(frames)
    limit = dice.choice((1, 60, 150, 1000, 1 << 20))
    events = play([raw], limit, agreement)
    assert either(play(cut_up(dice, raw), limit, agreement), agreement) == either(events, agreement), raw
    for event in events:
        if event.kind in (TEXT, BINARY):
            assert isinstance(event.value, str | bytes)
            assert len(event.value if isinstance(event.value, bytes) else event.value.encode()) <= limit
    if agreement is None:
        compare(raw, limit, events)
    elif agreement is FRESH:
        compare_loosely(raw, limit, events)


def either(events: list[Event], agreement: Agreement | None) -> list[Event]:
    """The events, with one code for the two errors of a compressed message."""
    if agreement is None:
        return events
    return [Event(ERROR, 1007) if event == Event(ERROR, 1009) else event for event in events]


def compare(raw: bytes, limit: int, events: list[Event]) -> None:
    reading = Reading(limit, None)
    expected = reading.read(raw)
    if reading.incomplete and len(events) == len(expected) + 1:
        # Text that was bad before its frame was complete
        assert events[-1] == Event(ERROR, 1007), raw
        events = events[:-1]
    assert events == expected, raw


def compare_loosely(raw: bytes, limit: int, events: list[Event]) -> None:
    """What is compressed is judged as it comes, so of several errors another may come first; and zlib ends where we go on."""
    expected = Reading(limit, FRESH).read(raw)
    for said, read in zip(events, expected, strict=False):
        if said != read:
            assert ERROR in (said.kind, read.kind) or (said.kind == read.kind and said.kind in (TEXT, BINARY)), raw
            return


def test_websocket() -> None:
    fuzz(target)
