"""HTTP/1.1 and 1.0, the server's side of receiving: bytes in, events out (RFC 9112).

Theory of operation. The connection calls receive_data() with what it read, then next_event() until it answers NEED_DATA
or the message is complete; after the response it calls start_next_cycle(), and bytes that came early (pipelining) are
there already. One message at a time: nothing of the next request is looked at before that.

    HEAD --REQUEST--> BODY or CHUNKED --DATA...--> COMPLETE --start_next_cycle()--> HEAD
      \\________________________ERROR___________________/   (final: the connection answers and closes)

Rule 1: never raise for what the peer sent; ERROR, and .refusal carries the answer.
Rule 2: never keep more than the limits allow; what is incomplete is measured before more is read.
Rule 3: never search a head's bytes for its end twice.
"""

import re
from typing import Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.protocol import errors
from ladybug.protocol.chunked import BROKEN, CHUNK, MORE, ChunkedDecoder
from ladybug.protocol.chunked import END as END_OF_BODY
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import CHUNKED as CHUNKED_BODY
from ladybug.protocol.fields import TCHAR, RequestHead
from ladybug.protocol.head import parse_head, parse_request_line
from ladybug.protocol.limits import Limits
from ladybug.protocol.scanner import Scanner

# The scanner is meant for compiled code only; see its plate.
COMPILED: Final = not __file__.endswith(".py")

NEED_DATA: Final[i64] = 0
REQUEST: Final[i64] = 1  # .head holds it; valid until the next call
DATA: Final[i64] = 2  # .content holds a piece of the body
END: Final[i64] = 3
ERROR: Final[i64] = 4

HEAD: Final[i64] = 0
BODY: Final[i64] = 1
CHUNKED: Final[i64] = 2
COMPLETE: Final[i64] = 3
FAILED: Final[i64] = 4

END_OF_HEAD: Final = b"\r\n\r\n"
SHORTEST_HEAD: Final[i64] = 18  # "GET / HTTP/1.1" CRLF CRLF; the scanner may read eight bytes anywhere in that
BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
MOST_EMPTY_LINES: Final[i64] = 4  # before a request line


@mypyc_attr(native_class=True)
@final
class HeadParser:
    """What parses heads for all connections of a worker: the scanner, its arrays, and the head they fill."""

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self.head: Final = RequestHead()
        self.scanner: Final = Scanner()


@mypyc_attr(native_class=True)
@final
class Http1:
    """Receives the requests of one connection.

    Attributes:
        state: HEAD, BODY, CHUNKED, COMPLETE or FAILED.
        content: after DATA, the piece of the body.
        refusal: after ERROR, why and with which status.
        is_head: after ERROR: the request that is refused is a HEAD request, as far as that can be told.
        remaining: while in BODY, content bytes still to come.
    """

    def __init__(self, parser: HeadParser) -> None:
        self.parser: Final = parser
        self.state: i64 = HEAD
        self.buffer = b""
        self.position: i64 = 0  # everything before it is consumed
        self.empty_lines: i64 = 0  # ignored before the request line to come
        self.searched: i64 = 0  # no end of head begins before it
        self.remaining: i64 = 0
        self.chunked: ChunkedDecoder | None = None
        self.content = b""
        self.refusal: Refusal | None = None
        self.is_head = False

    def receive_data(self, data: bytes) -> None:
        """Take newly read bytes; they are only looked at by next_event()."""
        if self.position >= len(self.buffer):
            self.buffer = data
            self.searched = 0
        else:
            self.buffer = self.buffer[self.position :] + data
            self.searched = self.searched - self.position if self.searched > self.position else 0
        self.position = 0

    def has_input(self) -> bool:
        """Whether bytes are waiting that next_event() has not consumed."""
        return self.position < len(self.buffer)

    def begins_head_request(self) -> bool:
        """Whether what is being received is a HEAD request."""
        return self.buffer.startswith(b"HEAD ", int(self.position))

    def take_rest(self) -> bytes:
        """What came behind the message: another protocol's bytes, after an upgrade."""
        rest = self.buffer[self.position :]
        self.buffer = b""
        self.position = 0
        return rest

    def next_event(self) -> i64:
        """The next event; see the plate for what to do with each."""
        state = self.state
        if state == HEAD:
            return self._next_head()
        if state == BODY:
            return self._next_content()
        if state == CHUNKED:
            return self._next_chunk()
        if state == COMPLETE:
            return END
        return ERROR

    def start_next_cycle(self) -> None:
        """The message is complete and answered: look for the next one. Must not be called in any state but COMPLETE."""
        self.state = HEAD
        self.chunked = None
        self.content = b""
        if self.position >= len(self.buffer):
            self.buffer = b""
            self.position = 0

    def _next_head(self) -> i64:
        data = self.buffer
        # RFC 9112 section 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least
        # one empty line (CRLF) received prior to the request-line". They are dropped, so they cost no memory.
        while self.position + 1 < len(data) and data[self.position] == 13 and data[self.position + 1] == 10:
            self.position += 2
            self.empty_lines += 1
            if self.empty_lines > MOST_EMPTY_LINES:
                return self.fail(errors.BAD_REQUEST_LINE)
        start = self.position
        if start >= len(data):
            self.buffer = b""
            self.position = 0
            return NEED_DATA
        limits = self.parser.limits
        head = self.parser.head
        if COMPILED and len(data) - start >= SHORTEST_HEAD and self._holds_head(data):
            end: i64 = self.parser.scanner.scan(head, data, start, limits)
            if end >= 0:
                return self._begin_body(head, limits, end)
        terminator: i64 = data.find(END_OF_HEAD, int(self.searched if self.searched > start else start))
        if terminator < 0:
            return self._check_incomplete(data, start, limits)
        refusal = parse_head(head, data[start : terminator + 4], limits)
        if refusal is not None:
            return self.fail(refusal)
        return self._begin_body(head, limits, terminator + 4)

    def _holds_head(self, data: bytes) -> bool:
        # Most requests without a body end where the data ends: three nanoseconds instead of a search.
        start = self.searched if self.searched > self.position else self.position
        return data.endswith(END_OF_HEAD) or data.find(END_OF_HEAD, int(start)) >= 0

    def _check_incomplete(self, data: bytes, start: i64, limits: Limits) -> i64:
        """Refuse what can no longer become a good head, as early as that is certain; else wait for more."""
        first = data[start]
        if first not in TCHAR and not (first == 13 and len(data) - start == 1):
            return self.fail(errors.BAD_REQUEST_LINE)
        line_end: i64 = data.find(b"\n", int(start))
        line_size: i64 = (len(data) if line_end < 0 else line_end) - start - 1  # but for a CR that may end it
        if line_size > limits.request_line:
            return self.fail(errors.TARGET_TOO_LONG)
        unsearched: i64 = self.searched if self.searched > start else start
        if line_end >= unsearched and data[line_end - 1] == 13:
            refusal = parse_request_line(self.parser.head, data[start : line_end - 1])
            if refusal is not None:
                return self.fail(refusal)
        if BARE_LINE_END.search(data, int(unsearched)) is not None:
            return self.fail(errors.BAD_LINE_END)
        # The last three bytes may begin the CRLF CRLF, the last one may be the CR before an LF.
        self.searched = len(data) - 3 if len(data) - 3 > start else start
        if line_end < 0:
            return NEED_DATA
        if len(data) - line_end - 1 > limits.fields_size + 3:
            return self.fail(errors.FIELDS_TOO_LARGE)
        return NEED_DATA

    def _begin_body(self, head: RequestHead, limits: Limits, end: i64) -> i64:
        """The head ends at `end`, and may pass."""
        if limits.body >= 0 and head.body > limits.body:
            return self.fail(errors.CONTENT_TOO_LARGE)
        self.position = end
        self.searched = 0
        self.empty_lines = 0
        if head.body == 0:
            self.state = COMPLETE
        elif head.body == CHUNKED_BODY:
            self.chunked = ChunkedDecoder(limits)
            self.state = CHUNKED
        else:
            self.remaining = head.body
            self.state = BODY
        return REQUEST

    def _next_content(self) -> i64:
        data = self.buffer
        available: i64 = len(data) - self.position
        if available <= 0:
            return NEED_DATA
        if available >= self.remaining:
            self.state = COMPLETE
            available = self.remaining
        if self.position == 0 and available == len(data):
            self.content = data
            self.buffer = b""
        else:
            self.content = data[self.position : self.position + available]
            self.position += available
        self.remaining -= available
        return DATA

    def _next_chunk(self) -> i64:
        decoder = self.chunked
        assert decoder is not None
        broken = decoder.refusal
        if broken is not None:
            return self.fail(broken)
        decoder.position = self.position
        answer = decoder.decode(self.buffer)
        if answer == CHUNK:
            # All that is there, as one piece: a body of two-byte chunks must not become a million objects.
            pieces = [decoder.content]
            while True:
                following = decoder.decode(self.buffer)
                if following != CHUNK:
                    break
                pieces.append(decoder.content)
            decoder.content = b""
            self.content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.position = decoder.position
            if following == END_OF_BODY:
                self.state = COMPLETE
            return DATA
        self.position = decoder.position
        if answer == MORE:
            return NEED_DATA
        if answer == BROKEN:
            assert decoder.refusal is not None
            return self.fail(decoder.refusal)
        self.state = COMPLETE
        return END

    def fail(self, refusal: Refusal) -> i64:
        """Nothing after this can be understood as HTTP; the bytes are dropped."""
        self.is_head = self.state == HEAD and self.begins_head_request()
        self.state = FAILED
        self.refusal = refusal
        self.buffer = b""
        self.position = 0
        return ERROR
