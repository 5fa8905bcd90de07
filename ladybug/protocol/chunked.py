"""The chunked transfer coding (RFC 9112 section 7.1), decoded strictly and with every part bounded.

Our own, where heads are httptools': a pipelined request may follow in the same bytes, and llhttp does not tell where a
body ended; it also bounds neither extensions nor trailers, and hands trailers on as if they were headers.
"""

import re
from typing import Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import FIELD_LINE
from ladybug.protocol.limits import MAX_CHUNK_EXTENSIONS, MAX_CHUNK_LINE, Limits

# chunk-size [ chunk-ext ]; "recipients MUST anticipate potentially large hexadecimal numerals": 15 digits are 60 bits.
# chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ), a value being a token or a quoted-string.
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED_STRING: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"(?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + QUOTED_STRING + rb"))?)*"
)
SIZE: Final[i64] = 0
DATA: Final[i64] = 1
DATA_END: Final[i64] = 2
TRAILERS: Final[i64] = 3
DONE: Final[i64] = 4

MORE: Final[i64] = 0  # the bytes given do not go further: call again with what is left of them and more
CHUNK: Final[i64] = 1  # .content is the next piece of the content
END: Final[i64] = 2  # the body, trailers included, ended at .position
BROKEN: Final[i64] = 3  # .refusal says why


@mypyc_attr(native_class=True)
@final
class ChunkedDecoder:
    """Decodes one body; made when a chunked request begins.

    Call decode() until it answers MORE; the caller keeps the bytes from .position on and presents them again, followed
    by newer ones, at position 0. What it must keep is bounded: a line is refused once it is too long.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self.state: i64 = SIZE
        self.position: i64 = 0
        self.content = b""
        self.refusal: Refusal | None = None
        self.remaining: i64 = 0  # of the current chunk
        self.received: i64 = 0  # content bytes so far
        self.extensions: i64 = 0  # bytes of chunk extensions so far
        self.trailers: i64 = 0  # trailer lines so far
        self.trailers_size: i64 = 0

    def decode(self, data: bytes) -> i64:
        while True:
            if self.state == SIZE:
                line = self._line(data, MAX_CHUNK_LINE, errors.LONG_CHUNK_LINE)
                if line is None:
                    return MORE if self.refusal is None else BROKEN
                if not self._begin_chunk(line):
                    return BROKEN
            elif self.state == DATA:
                available: i64 = len(data) - self.position
                if available == 0:
                    return MORE
                size = self.remaining if self.remaining < available else available
                self.content = data[self.position : self.position + size]
                self.position += size
                self.remaining -= size
                if self.remaining == 0:
                    self.state = DATA_END
                return CHUNK
            elif self.state == DATA_END:
                if len(data) - self.position < 2:
                    # One byte is enough to see that the chunk is longer than it said.
                    if len(data) > self.position and data[self.position] != 13:
                        return self._break(errors.BAD_CHUNK)
                    return MORE
                if data[self.position] != 13 or data[self.position + 1] != 10:
                    return self._break(errors.BAD_CHUNK)
                self.position += 2
                self.state = SIZE
            elif self.state == TRAILERS:
                line = self._line(data, self.limits.fields_size - self.trailers_size, errors.FIELDS_TOO_LARGE)
                if line is None:
                    return MORE if self.refusal is None else BROKEN
                if not line:
                    self.state = DONE
                    return END
                if not self._trailer(line):
                    return BROKEN
            else:
                return END

    def _begin_chunk(self, line: bytes) -> bool:
        match = CHUNK_LINE.fullmatch(line)
        if match is None:
            self._break(errors.BAD_CHUNK)
            return False
        digits: bytes = match[1]
        self.remaining = int(digits, 16)
        self.extensions += len(line) - len(digits)
        if self.extensions > MAX_CHUNK_EXTENSIONS:
            self._break(errors.LONG_CHUNK_LINE)
            return False
        self.received += self.remaining
        if self.limits.body >= 0 and self.received > self.limits.body:
            self._break(errors.CONTENT_TOO_LARGE)
            return False
        self.state = TRAILERS if self.remaining == 0 else DATA
        return True

    def _trailer(self, line: bytes) -> bool:
        self.trailers += 1
        self.trailers_size += len(line) + 2
        if self.trailers > self.limits.fields:
            self._break(errors.FIELDS_TOO_LARGE)
            return False
        # Its value goes nowhere: ASGI has no place for request trailers, and merging them into the header fields is what
        # section 7.1.2 forbids.
        if FIELD_LINE.fullmatch(line) is None:
            self._break(errors.BAD_TRAILER)
            return False
        return True

    def _line(self, data: bytes, limit: i64, too_long: Refusal) -> bytes | None:
        """The next line without its CRLF; None when it is incomplete, or longer than `limit` (then .refusal is set)."""
        end: i64 = data.find(b"\n", int(self.position))
        if end < 0:
            if len(data) - self.position > limit + 2:
                self._break(too_long)
            return None
        if end - self.position > limit + 1:
            self._break(too_long)
            return None
        if end == self.position or data[end - 1] != 13:
            self._break(errors.BAD_LINE_END)
            return None
        line = data[self.position : end - 1]
        self.position = end + 1
        return line

    def _break(self, refusal: Refusal) -> i64:
        self.refusal = refusal
        return BROKEN
