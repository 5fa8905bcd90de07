"""The head scanner: plain request heads, eight bytes at a time, into a fixed-size array of offsets.

It answers one of two things: the head is plain, and here is what it says; or DOUBTFUL, and httptools under the strict
layer (head.py) must decide. It never refuses and never accepts what head.py would not accept with the same result; a
differential fuzz test holds the two together. Plain means: a common method, an origin-form target, HTTP/1.1 or 1.0,
clean field lines, exactly one ordinary Host, at most one Content-Length, and none of the fields that need thought
(Transfer-Encoding, Expect, Connection other than keep-alive or close).

Facts it rests on:
- The caller has seen CR LF CR LF at or after the start, so every loop below meets a control byte before the data ends.
- In a word of eight bytes, (w - 0x20..20) & ~w & 0x80..80 is non-zero when a byte is below 0x20 (borrows only ever add
  bits above the first such byte), and byte | 0x20 lower-cases letters, leaves '-' and digits, and maps only CR onto '-'.
- Offsets, four to a field, stand in a vec[i64] made once per worker: no growth, overflow is DOUBTFUL. Python objects are
  made once, at the end, names from a table of known ones.

Only compiled code calls this: interpreted it would be slow, and integers that never overflow would make it wrong.
"""

from typing import Final, final

from librt.strings import read_i64_le
from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

from ladybug.protocol.fields import LOWER_TOKEN, MAX_LENGTH_DIGITS, Field, RequestHead
from ladybug.protocol.limits import MAX_FIELDS, Limits

DOUBTFUL: Final[i64] = -1

SPACE: Final[i64] = 32
TAB: Final[i64] = 9
CR: Final[i64] = 13
LF: Final[i64] = 10
COLON: Final[i64] = 58

CASE: Final[i64] = 0x2020202020202020
ONES: Final[i64] = 0x0101010101010101
SPACES: Final[i64] = 0x2020202020202020

# Classes of bytes in a request target: 0 ends the scan, 1 is ordinary, 2 '?', 3 '%'. '#' is 0: not part of a target.
_ORDINARY: Final = bytes(range(0x21, 0x7F))
TARGET_CLASS: Final = bytes(
    0 if byte not in _ORDINARY or byte == 0x23 else 2 if byte == 0x3F else 3 if byte == 0x25 else 1
    for byte in range(256)
)
# Bytes of an ordinary Host: a name, an IPv4 address, a port. IP literals and the rest of RFC 3986 go to head.py.
HOST_CLASS: Final = bytes(1 if (chr(byte).isalnum() and byte < 0x80) or byte in b"-." else 0 for byte in range(256))

# The names of the table, the fields with a meaning here first: their position is their number.
HOST: Final[i64] = 0
CONTENT_LENGTH: Final[i64] = 1
CONNECTION: Final[i64] = 2
TRANSFER_ENCODING: Final[i64] = 3
EXPECT: Final[i64] = 4
X_FORWARDED_FOR: Final[i64] = 5
X_FORWARDED_PROTO: Final[i64] = 6
UPGRADE: Final[i64] = 7
UNKNOWN: Final[i64] = -1
KNOWN_NAMES: Final[list[bytes]] = (
    b"host content-length connection transfer-encoding expect x-forwarded-for x-forwarded-proto upgrade "
    b"accept accept-charset accept-encoding accept-language access-control-request-headers access-control-request-method "
    b"authorization cache-control cdn-loop cf-connecting-ip cf-ipcountry cf-ray cf-visitor content-disposition "
    b"content-encoding content-language content-type cookie date dnt forwarded from if-match if-modified-since "
    b"if-none-match if-range if-unmodified-since idempotency-key keep-alive last-event-id max-forwards origin pragma priority "
    b"proxy-authorization range referer sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode "
    b"sec-fetch-site sec-fetch-user sec-gpc sec-purpose sec-websocket-extensions sec-websocket-key sec-websocket-protocol "
    b"sec-websocket-version te traceparent tracestate trailer true-client-ip upgrade-insecure-requests "
    b"user-agent via x-amzn-trace-id x-api-key x-correlation-id x-csrf-token x-csrftoken x-forwarded-host x-forwarded-port "
    b"x-forwarded-server x-real-ip x-request-id x-requested-with"
).split()
LONGEST_KNOWN: Final[i64] = 32

SLOTS: Final[i64] = 512
ENTRY: Final[i64] = 6  # length, four words of the name, its number


def _zeros(count: i64) -> vec[i64]:
    zeros = vec[i64]()
    i: i64 = 0
    while i < count:
        zeros = append(zeros, 0)
        i += 1
    return zeros


def _slot(length: i64, first: i64, last: i64) -> i64:
    mixed: i64 = first ^ (first >> 9) ^ (first >> 25) ^ (first >> 41) ^ (last >> 5) ^ (last >> 21) ^ (last >> 47)
    return (mixed + length * 37) & (SLOTS - 1)


@mypyc_attr(native_class=True)
@final
class NameTable:
    """Known field names by their words: an open-addressed table whose hit needs neither slice nor hash nor validation."""

    def __init__(self) -> None:
        self.entries: vec[i64] = _zeros(SLOTS * ENTRY)
        number: i64 = 0
        for name in KNOWN_NAMES:
            self._add(name, number)
            number += 1

    def _add(self, name: bytes, number: i64) -> None:
        data = name + bytes(16)
        length: i64 = len(name)
        first: i64 = word(data, 0, length)
        last: i64 = read_i64_le(data, length - 8) | CASE if length >= 8 else first
        slot: i64 = _slot(length, first, last)
        while self.entries[slot * ENTRY] != 0:
            slot = (slot + 1) & (SLOTS - 1)
        at: i64 = slot * ENTRY
        self.entries[at] = length
        self.entries[at + 1] = first
        self.entries[at + 2] = last
        self.entries[at + 3] = read_i64_le(data, 8) | CASE if length > 16 else 0
        self.entries[at + 4] = read_i64_le(data, 16) | CASE if length > 24 else 0
        self.entries[at + 5] = number

    def find(self, data: bytes, start: i64, end: i64) -> i64:
        """The number of the name at data[start:end], whatever its case, or UNKNOWN."""
        length: i64 = end - start
        if length > LONGEST_KNOWN or start + 8 > len(data):
            return UNKNOWN
        first: i64 = word(data, start, length)
        last: i64 = first
        if length >= 8:
            last = read_i64_le(data, end - 8) | CASE
        slot: i64 = _slot(length, first, last)
        while True:
            at: i64 = slot * ENTRY
            known: i64 = self.entries[at]
            if known == 0:
                return UNKNOWN
            if known == length and self.entries[at + 1] == first and self.entries[at + 2] == last:
                if length <= 16:
                    return self.entries[at + 5]
                if self.entries[at + 3] == (read_i64_le(data, start + 8) | CASE) and (
                    length <= 24 or self.entries[at + 4] == (read_i64_le(data, start + 16) | CASE)
                ):
                    return self.entries[at + 5]
            slot = (slot + 1) & (SLOTS - 1)


def word(data: bytes, start: i64, length: i64) -> i64:
    """The first eight bytes of a name, lower-cased; a shorter name is padded with zeros."""
    if length >= 8:
        return read_i64_le(data, start) | CASE
    keep: i64 = 1
    keep = (keep << (length * 8)) - 1
    return (read_i64_le(data, start) | CASE) & keep


def skip_value(data: bytes, start: i64) -> i64:
    """The position of the first byte at or after `start` that may not stand in a field value: below 0x20, or DEL."""
    high: i64 = -9187201950435737472  # 0x8080808080808080; a literal in the loop would be boxed on each use
    deletes: i64 = 9187201950435737471  # 0x7F7F7F7F7F7F7F7F
    limit: i64 = len(data) - 8
    i: i64 = start
    while i <= limit:
        w: i64 = read_i64_le(data, i)
        d: i64 = w ^ deletes
        if ((w - SPACES) & ~w | (d - ONES) & ~d) & high != 0:
            break
        i += 8
    byte: i64 = data[i]
    while byte >= SPACE and byte != 127:
        i += 1
        byte = data[i]
    return i


@mypyc_attr(native_class=True)
@final
class Scanner:
    """Scans plain heads; one per worker, because its array of offsets is reused by every head."""

    def __init__(self) -> None:
        self.names: Final = NameTable()
        # Four to a field: the known name's number or UNKNOWN, start of the name, start and end of the value.
        # The name's end needs no place: it is the colon, found again only for unknown names.
        self.offsets: Final[vec[i64]] = _zeros(MAX_FIELDS * 4)

    def scan(self, head: RequestHead, data: bytes, start: i64, limits: Limits) -> i64:
        """Read the head that begins at `start`; the position after it, or DOUBTFUL with `head` in no particular state.

        `data` must hold CR LF CR LF somewhere after `start`.
        """
        # Request line: method SP request-target SP HTTP-version CRLF (RFC 9112 section 3)
        w: i64 = read_i64_le(data, start)
        i: i64
        if w & 0xFFFFFFFF == 0x20544547:  # "GET "
            head.method = "GET"
            i = start + 4
        elif w & 0xFFFFFFFFFF == 0x2054534F50:  # "POST "
            head.method = "POST"
            i = start + 5
        elif w & 0xFFFFFFFF == 0x20545550:  # "PUT "
            head.method = "PUT"
            i = start + 4
        elif w & 0xFFFFFFFFFF == 0x2044414548:  # "HEAD "
            head.method = "HEAD"
            i = start + 5
        elif data.startswith(b"DELETE ", int(start)):
            head.method = "DELETE"
            i = start + 7
        elif data.startswith(b"PATCH ", int(start)):
            head.method = "PATCH"
            i = start + 6
        elif data.startswith(b"OPTIONS ", int(start)):
            head.method = "OPTIONS"
            i = start + 8
        else:
            return DOUBTFUL
        target: i64 = i
        if data[i] != 47:  # "/": origin-form
            return DOUBTFUL
        question: i64 = 0
        encoded = False
        while True:
            kind: i64 = TARGET_CLASS[data[i]]
            if kind != 1:
                if kind == 0:
                    break
                if kind == 3:
                    encoded = encoded or question == 0
                elif question == 0:
                    question = i
            i += 1
        # A space ended the target, then "HTTP/1." and the minor version; the data is long enough, or read would raise.
        if data[i] != SPACE or i + 9 > len(data) - 4 or read_i64_le(data, i + 1) & 0xFFFFFFFFFFFFFF != 0x2E312F50545448:
            return DOUBTFUL
        minor: i64 = data[i + 8] - 48
        if minor < 0 or minor > 1 or data[i + 9] != CR or data[i + 10] != LF:
            return DOUBTFUL
        if i + 9 - start > limits.request_line:
            return DOUBTFUL
        if question == 0:
            head.raw_path = data[target:i]
            head.query = b""
        else:
            head.raw_path = data[target:question]
            head.query = data[question + 1 : i]
        head.encoded = encoded
        head.http11 = minor == 1
        return self._scan_fields(head, data, i + 11, limits)

    def _scan_fields(self, head: RequestHead, data: bytes, start: i64, limits: Limits) -> i64:
        offsets = self.offsets
        names = self.names
        most: i64 = limits.fields * 4
        at: i64 = 0
        i: i64 = start
        hosts: i64 = 0
        lengths: i64 = 0
        head.persistent = head.http11
        head.body = 0
        head.expect_continue = False
        head.forwarded = False
        head.upgrade = False
        byte: i64 = data[i]
        while byte != CR:
            if at == most:
                return DOUBTFUL
            # field-name ":" OWS field-value OWS CRLF (RFC 9112 section 5)
            name: i64 = i
            while byte > SPACE and byte != COLON:
                i += 1
                byte = data[i]
            if byte != COLON or i == name:
                return DOUBTFUL
            known: i64 = names.find(data, name, i)
            i += 1
            byte = data[i]
            while byte == SPACE or byte == TAB:
                i += 1
                byte = data[i]
            value: i64 = i
            i = skip_value(data, i)
            while data[i] == TAB:
                i = skip_value(data, i + 1)
            if data[i] != CR or data[i + 1] != LF:
                return DOUBTFUL
            end: i64 = i
            while end > value and (data[end - 1] == SPACE or data[end - 1] == TAB):
                end -= 1
            i += 2
            if known >= 0 and known <= UPGRADE:
                if known == HOST:
                    hosts += 1
                    if not host_is_ordinary(data, value, end):
                        return DOUBTFUL
                elif known == CONTENT_LENGTH:
                    lengths += 1
                    head.body = decimal(data, value, end)
                    if head.body < 0:
                        return DOUBTFUL
                elif known == CONNECTION:
                    option = data[value:end]
                    if option == b"keep-alive" or option == b"Keep-Alive":
                        head.persistent = True
                    elif option == b"close":
                        head.persistent = False
                    else:
                        return DOUBTFUL
                    if self._repeated(CONNECTION, at):
                        return DOUBTFUL
                elif known == UPGRADE:
                    head.upgrade = True
                elif known >= X_FORWARDED_FOR:
                    head.forwarded = True
                else:
                    return DOUBTFUL
            offsets[at] = known
            offsets[at + 1] = name
            offsets[at + 2] = value
            offsets[at + 3] = end
            at += 4
            byte = data[i]
        if data[i + 1] != LF or lengths > 1 or hosts > 1 or (hosts == 0 and head.http11):
            return DOUBTFUL
        if i - start > limits.fields_size:
            return DOUBTFUL
        headers = self._fields(data, at)
        if headers is None:
            return DOUBTFUL
        head.headers = headers
        return i + 2

    def _repeated(self, known: i64, at: i64) -> bool:
        i: i64 = 0
        while i < at:
            if self.offsets[i] == known:
                return True
            i += 4
        return False

    def _fields(self, data: bytes, stop: i64) -> list[Field] | None:
        """The fields as Python objects; None when an unknown name is not a token."""
        offsets = self.offsets
        headers: list[Field] = []
        at: i64 = 0
        while at < stop:
            known: i64 = offsets[at]
            if known >= 0:
                headers.append((KNOWN_NAMES[known], data[offsets[at + 2] : offsets[at + 3]]))
            else:
                start: i64 = offsets[at + 1]
                end: i64 = start
                while data[end] != COLON:
                    end += 1
                name = data[start:end].translate(LOWER_TOKEN)
                if 0 in name:
                    return None
                headers.append((name, data[offsets[at + 2] : offsets[at + 3]]))
            at += 4
        return headers


def host_is_ordinary(data: bytes, start: i64, end: i64) -> bool:
    i: i64 = start
    while i < end and HOST_CLASS[data[i]] == 1:
        i += 1
    if i == end:
        return True
    if data[i] != COLON or end - i > 6:
        return False
    i += 1
    port: i64 = 0
    while i < end and data[i] >= 48 and data[i] <= 57:
        port = port * 10 + data[i] - 48
        i += 1
    return i == end and port <= 65535


def decimal(data: bytes, start: i64, end: i64) -> i64:
    """The value of 1*DIGIT, or -1 for anything else, or more digits than 63 bits are sure to hold."""
    if start == end or end - start > MAX_LENGTH_DIGITS:
        return -1
    value: i64 = 0
    i: i64 = start
    while i < end:
        digit: i64 = data[i] - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
        i += 1
    return value
