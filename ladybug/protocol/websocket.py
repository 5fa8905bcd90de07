"""WebSocket, the server's side of receiving: bytes in, events out (RFC 6455 sections 5 to 8, RFC 7692 section 6).

Three verbs, as in http1.py: the connection calls receive_data() with what it read, then next_event() until it answers
NEED_DATA; has_input() says whether that is worth while. Messages come whole, control frames between their fragments.

    HEAD --frame, all there--> HEAD       PAYLOAD --the rest of it--> HEAD
      \\----frame, in part----> PAYLOAD      \\
       \\_______________________________________--CLOSE--> ENDED    --ERROR--> FAILED    (final both)

Rule 1: never raise for what the peer sent; ERROR, with the code and the reason for our close frame.
Rule 2: what is certain to be wrong is refused at once: a head as soon as it is there, text at the first bad octet.
Rule 3: nothing is kept but the message under way, unmasked and decompressed, and never more of it than max_size.
Rule 4: how a message is cut must not cost: a million fragments of a byte become neither a million objects nor a million
copies of what came before.
"""

import codecs
from typing import Final, final

from librt.strings import read_i64_be
from mypy_extensions import i64, mypyc_attr

from ladybug.protocol.deflate import Inflater
from ladybug.protocol.frames import (
    BINARY_FRAME,
    CLOSE_FRAME,
    CONTINUATION,
    FIN,
    INVALID_DATA,
    LENGTH16,
    LENGTH64,
    MASK,
    MESSAGE_TOO_BIG,
    MOST_CONTROL,
    NO_STATUS_RCVD,
    PING_FRAME,
    PONG_FRAME,
    PROTOCOL_ERROR,
    RSV1,
    RSV2_RSV3,
    TEXT_FRAME,
    is_close_code,
    read_mask,
    turn_mask,
    unmask,
)

NEED_DATA: Final[i64] = 0
TEXT: Final[i64] = 1  # .text is a whole message
BINARY: Final[i64] = 2  # .content is a whole message
PING: Final[i64] = 3  # .content is what a pong must carry (RFC 6455 section 5.5.3)
PONG: Final[i64] = 4  # .content is what it carries
CLOSE: Final[i64] = 5  # .code and .reason
ERROR: Final[i64] = 6  # .code and .reason are for our close frame
_GO_ON: Final[i64] = 7  # no event yet, but the bytes may hold one

HEAD: Final[i64] = 0
PAYLOAD: Final[i64] = 1
ENDED: Final[i64] = 2
FAILED: Final[i64] = 3

NO_LIMIT: Final[i64] = 1 << 61

# Pieces of a message are joined when it is whole; so many small ones in a row already when they are there. An object's own
# size is about 40 bytes, so what is kept is never more than twice the bytes that came, and 4 KiB.
MOST_LOOSE: Final[i64] = 64
LARGE: Final[i64] = 4096

# Stops before an incomplete sequence at the end, raises at the first octet that cannot become good (section 8.1).
DECODE: Final = codecs.utf_8_decode


@mypyc_attr(native_class=True)
@final
class WebSocket:
    """Receives the messages of one connection.

    Args:
        max_size: bytes of a message, after decompression; 0 for no limit.
        inflater: decompresses messages; None when no compression was agreed.

    Attributes:
        text, content, code, reason: of the last event; the first two are empty again after NEED_DATA.
    """

    def __init__(self, max_size: i64, inflater: Inflater | None) -> None:
        self.max_size: Final[i64] = max_size if max_size > 0 else NO_LIMIT
        self.inflater: Final = inflater
        self.state: i64 = HEAD
        self.buffer = b""
        self.position: i64 = 0  # everything before it is consumed
        # The frame under way
        self.final = False
        self.remaining: i64 = 0  # of its payload
        self.mask: i64 = 0  # turned to meet what remains
        # The message under way: fragments that are not yet the whole of it
        self.opcode: i64 = CONTINUATION  # TEXT_FRAME or BINARY_FRAME; CONTINUATION when there is none
        self.compressed = False
        self.size: i64 = 0  # of the pieces
        self.pieces: list[bytes] | None = None
        self.joined: i64 = 0  # pieces before this one are not joined again
        self.tail = b""  # of a text: the beginning of a character
        self.text = ""
        self.content = b""
        self.code = 0
        self.reason = ""

    @property
    def held(self) -> i64:
        """Bytes that are kept: of a message that is not complete, and not looked at yet."""
        return len(self.buffer) - self.position + self.size

    def receive_data(self, data: bytes) -> None:
        """Take newly read bytes; they are only looked at by next_event()."""
        if self.state >= ENDED:
            return
        if self.position >= len(self.buffer):
            self.buffer = data
        else:
            self.buffer = self.buffer[self.position :] + data
        self.position = 0

    def has_input(self) -> bool:
        """Whether bytes are waiting that next_event() has not consumed."""
        return self.position < len(self.buffer)

    def is_failed(self) -> bool:
        """Whether next_event() answers ERROR, now and for ever."""
        return self.state == FAILED

    def next_event(self) -> i64:
        """The next event. After CLOSE always NEED_DATA, after ERROR always ERROR (section 7.1.7)."""
        event: i64 = _GO_ON
        while event == _GO_ON:
            state = self.state
            if state == HEAD:
                event = self._next_frame()
            elif state == PAYLOAD:
                event = self._next_piece()
            elif state == ENDED:
                return NEED_DATA
            else:
                return ERROR
        return event

    def _wait(self) -> i64:
        # At most an incomplete head or control frame is left.
        if self.position > 0:
            self.buffer = self.buffer[self.position :]
            self.position = 0
        self.text = ""
        self.content = b""
        return NEED_DATA

    def _consume(self, end: i64) -> None:
        if end == len(self.buffer):
            self.buffer = b""
            self.position = 0
        else:
            self.position = end

    def _next_frame(self) -> i64:
        data = self.buffer
        at = self.position
        end: i64 = len(data)
        if end - at < 2:
            return self._wait()
        first: i64 = data[at]
        second: i64 = data[at + 1]
        opcode: i64 = first & 0x0F
        # Section 5.1: "The server MUST close the connection upon receiving a frame that is not masked."
        if second < MASK:
            return self.fail(PROTOCOL_ERROR, "frame without mask")
        # Section 5.2: "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values"; RFC 7692
        # section 6.1 gives RSV1 one, in the first frame of a message.
        if first & RSV2_RSV3 != 0 or (
            first & RSV1 != 0 and (self.inflater is None or (opcode != TEXT_FRAME and opcode != BINARY_FRAME))
        ):
            return self.fail(PROTOCOL_ERROR, "reserved bits set")
        if opcode >= CLOSE_FRAME:
            return self._next_control(data, at, first, second - MASK)
        # Section 5.4: fragments of one message follow each other, with nothing but control frames between them.
        if opcode == CONTINUATION:
            if self.opcode == CONTINUATION:
                return self.fail(PROTOCOL_ERROR, "continuation of no message")
        elif opcode > BINARY_FRAME:
            return self.fail(PROTOCOL_ERROR, "reserved opcode")
        elif self.opcode != CONTINUATION:
            return self.fail(PROTOCOL_ERROR, "message inside a message")
        # Section 5.2: "the minimal number of bytes MUST be used to encode the length"
        size: i64 = second - MASK
        at += 2
        if size == LENGTH16:
            if end - at < 2:
                return self._wait()
            size = (i64(data[at]) << 8) | data[at + 1]
            if size < LENGTH16:
                return self.fail(PROTOCOL_ERROR, "length not minimal")
            at += 2
        elif size == LENGTH64:
            if end - at < 8:
                return self._wait()
            size = read_i64_be(data, at)
            # "the most significant bit MUST be 0"
            if size < 65536:
                return self.fail(PROTOCOL_ERROR, "length out of range" if size < 0 else "length not minimal")
            at += 8
        compressed = self.compressed if opcode == CONTINUATION else first & RSV1 != 0
        # What a compressed frame will come to is not known yet.
        if not compressed and size > self.max_size - self.size:
            return self.fail(MESSAGE_TOO_BIG, "message too big")
        if end - at < 4:
            return self._wait()
        mask = read_mask(data, at)
        at += 4
        if opcode != CONTINUATION:
            self.opcode = opcode
            self.compressed = compressed
        if end - at >= size:
            piece = unmask(data, at, size, mask)
            self._consume(at + size)
            return self._take(piece, first >= FIN)
        self.final = first >= FIN
        self.remaining = size
        self.mask = mask
        self.state = PAYLOAD
        self._consume(at)
        return _GO_ON

    def _next_piece(self) -> i64:
        data = self.buffer
        size: i64 = len(data) - self.position
        if size <= 0:
            return self._wait()
        if size >= self.remaining:
            size = self.remaining
            self.state = HEAD
        piece = unmask(data, self.position, size, self.mask)
        self.mask = turn_mask(self.mask, size)
        self.remaining -= size
        self._consume(self.position + size)
        return self._take(piece, self.final and self.remaining == 0)

    def _take(self, piece: bytes, last: bool) -> i64:
        """Add a piece to the message under way; `last` if it ends it."""
        if self.compressed:
            inflater = self.inflater
            assert inflater is not None
            inflated = inflater.inflate(piece, last, self.max_size - self.size)
            if inflated is None:
                return self.fail(INVALID_DATA, "invalid compressed data")
            piece = inflated
            if len(piece) > self.max_size - self.size:
                return self.fail(MESSAGE_TOO_BIG, "message too big")
        if not last:
            if self.opcode == TEXT_FRAME and not self._begins_well(piece):
                return self.fail(INVALID_DATA, "invalid UTF-8")
            if piece:
                self._keep(piece)
            return _GO_ON
        pieces = self.pieces
        if pieces is not None:
            pieces.append(piece)
            piece = b"".join(pieces)
            self._drop_message()
        opcode = self.opcode
        self.opcode = CONTINUATION
        if opcode == BINARY_FRAME:
            self.content = piece
            return BINARY
        try:
            self.text = piece.decode()
        except UnicodeDecodeError:
            return self.fail(INVALID_DATA, "invalid UTF-8")
        return TEXT

    def _keep(self, piece: bytes) -> None:
        pieces = self.pieces
        if pieces is None:
            pieces = self.pieces = []
        pieces.append(piece)
        self.size += len(piece)
        if len(piece) >= LARGE:
            self.joined = len(pieces)
        elif len(pieces) - self.joined == MOST_LOOSE:
            first = int(self.joined)
            pieces[first:] = [b"".join(pieces[first:])]
            self.joined += 1

    def _drop_message(self) -> None:
        self.pieces = None
        self.joined = 0
        self.size = 0
        self.tail = b""

    def _begins_well(self, piece: bytes) -> bool:
        """Whether the text so far can still become good UTF-8; decoded for good when it is whole."""
        if self.tail:
            piece = self.tail + piece
        try:
            _, good = DECODE(piece, "strict", False)
        except UnicodeDecodeError:
            return False
        self.tail = tail = piece[good:]
        # CPython waits for the third octet of an encoded surrogate, which some of its error handlers let pass.
        return len(tail) != 2 or tail[0] != 0xED or tail[1] < 0xA0

    def _next_control(self, data: bytes, at: i64, first: i64, size: i64) -> i64:
        opcode: i64 = first & 0x0F
        if opcode > PONG_FRAME:
            return self.fail(PROTOCOL_ERROR, "reserved opcode")
        # Section 5.5: "MUST have a payload length of 125 bytes or less and MUST NOT be fragmented"
        if first < FIN:
            return self.fail(PROTOCOL_ERROR, "fragmented control frame")
        if size > MOST_CONTROL:
            return self.fail(PROTOCOL_ERROR, "control frame too long")
        if len(data) - at < 6 + size:
            return self._wait()
        payload = unmask(data, at + 6, size, read_mask(data, at + 2))
        self._consume(at + 6 + size)
        if opcode == CLOSE_FRAME:
            return self._close(payload)
        self.content = payload
        return PING if opcode == PING_FRAME else PONG

    def _close(self, payload: bytes) -> i64:
        """Section 5.5.1: a close frame is empty, or begins with a code; a reason in UTF-8 may follow."""
        if not payload:
            return self._end(CLOSE, NO_STATUS_RCVD, "")
        if len(payload) == 1:
            return self.fail(PROTOCOL_ERROR, "close frame with half a code")
        code = (payload[0] << 8) | payload[1]
        if not is_close_code(code):
            return self.fail(PROTOCOL_ERROR, "invalid close code")
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            return self.fail(INVALID_DATA, "invalid UTF-8")
        return self._end(CLOSE, code, reason)

    def fail(self, code: int, reason: str) -> i64:
        """Nothing after this can be understood; the bytes are dropped."""
        return self._end(ERROR, code, reason)

    def _end(self, event: i64, code: int, reason: str) -> i64:
        self.state = ENDED if event == CLOSE else FAILED
        self.code = code
        self.reason = reason
        self.buffer = b""
        self.position = 0
        self._drop_message()
        return event
