"""Response heads: from an http.response.start message to bytes, every field checked (RFC 9110 sections 5 and 15).

What an application gives is written as it stands, with three exceptions: Connection and Transfer-Encoding belong to
the server (it frames and persists, and names Upgrade in Connection), and nothing containing CR, LF or NUL gets out.
Fields are checked where they are copied, eight bytes at a time in compiled code; names are looked up in a table of names
already checked.
"""

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, final

from librt.strings import BytesWriter, read_i64_le
from librt.time import time
from mypy_extensions import i64, mypyc_attr

from ladybug.protocol.scanner import decimal

COMPILED: Final = not __file__.endswith(".py")


def _status_lines() -> list[bytes]:
    # RFC 9110 renamed some; older Pythons still have the old phrases.
    renamed = {
        413: "Content Too Large",
        414: "URI Too Long",
        416: "Range Not Satisfiable",
        422: "Unprocessable Content",
    }
    phrases = {int(status): status.phrase for status in HTTPStatus} | renamed
    return [f"HTTP/1.1 {status} {phrases.get(status, '')}\r\n".encode() for status in range(1000)]


STATUS_LINES: Final[list[bytes]] = _status_lines()

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FORBIDDEN: Final = re.compile(rb"[\r\n\0]")

# What a field name means to the server; any other is ORDINARY.
ORDINARY: Final[i64] = 0
CONTENT_LENGTH: Final[i64] = 1
TRANSFER_ENCODING: Final[i64] = 2
CONNECTION: Final[i64] = 3
DATE: Final[i64] = 4
SERVER: Final[i64] = 5
UPGRADE: Final[i64] = 6
MOST_NAMES: Final = 1024  # applications make up names; the table of checked ones must not grow for ever

CRLF: Final = b"\r\n"
COLON: Final = b": "


def has_control(value: bytes) -> bool:
    """Whether CR, LF or NUL stands in `value`."""
    if not COMPILED:
        return FORBIDDEN.search(value) is not None
    high: i64 = -9187201950435737472  # 0x8080808080808080
    spaces: i64 = 0x2020202020202020
    length: i64 = len(value)
    limit: i64 = length - 8
    i: i64 = 0
    while i <= limit:
        w: i64 = read_i64_le(value, i)
        if (w - spaces) & ~w & high != 0:  # some byte below 0x20: TAB and the like are let through, slowly
            return FORBIDDEN.search(value) is not None
        i += 8
    while i < length:
        byte: i64 = value[i]
        if byte < 32 and (byte == 13 or byte == 10 or byte == 0):
            return True
        i += 1
    return False


@mypyc_attr(native_class=True)
@final
class HeadWriter:
    """Writes response heads; one per worker. Its attributes describe the head written last.

    Args:
        default_headers: fields added to every response (--header), already checked.
        server_header, date_header: add Server and Date where the application gives none. RFC 9110 section 6.6.1: "An
            origin server with a clock MUST generate a Date header field in all 2xx, 3xx and 4xx responses".
    """

    def __init__(self, default_headers: list[tuple[bytes, bytes]], server_header: bool, date_header: bool) -> None:
        given = {name.lower() for name, _ in default_headers}
        self.server_header: Final = server_header and b"server" not in given
        self.date_header: Final = date_header and b"date" not in given
        self.extra: Final = b"".join([name + COLON + value + CRLF for name, value in default_headers])
        self.second: i64 = -1
        self.defaults = b""  # date, server and extra of this second
        self.date = b""
        self.server: Final = b"server: ladybug\r\n"
        self.names: dict[bytes, i64] = {
            b"content-length": CONTENT_LENGTH,
            b"transfer-encoding": TRANSFER_ENCODING,
            b"connection": CONNECTION,
            b"date": DATE,
            b"server": SERVER,
            b"upgrade": UPGRADE,
        }
        self.kinds: dict[bytes, i64] = dict(self.names)
        # Of the head written last:
        self.content_length: i64 = -1
        self.close = False

    def refresh(self) -> None:
        """Renew the fields that change once a second."""
        now: i64 = int(time())
        if now == self.second:
            return
        self.second = now
        self.date = f"date: {formatdate(float(now), usegmt=True)}\r\n".encode()
        self.defaults = (
            (self.date if self.date_header else b"") + (self.server if self.server_header else b"") + self.extra
        )

    def kind(self, name: bytes) -> i64:
        """What the server must know about a field name. Raises ValueError when it is not a token."""
        known = self.kinds.get(name)
        if known is not None:
            return known
        if TOKEN.fullmatch(name) is None:
            raise ValueError(f"Response header name is not a token (RFC 9110 section 5.1): {name!r}")
        kind: i64 = self.names.get(name.lower(), ORDINARY)
        if len(self.kinds) < MOST_NAMES:
            self.kinds[name] = kind
        return kind

    def write_start(self, writer: BytesWriter, status: int, headers: list[Any]) -> None:
        """Write the status line, the application's fields and the server's own; the framing and the end are to follow.

        Sets content_length (-1: none given) and close (the application asked for it). Raises TypeError or ValueError
        for fields that must not be sent; the writer then holds a part of the head, which the caller takes back.
        """
        self.content_length = -1
        self.close = False
        date = False
        server = False
        writer.write(STATUS_LINES[status])
        for pair in headers:
            name: bytes
            value: bytes
            first: Any
            second: Any
            if isinstance(pair, tuple) and len(pair) == 2:
                first, second = pair
            else:
                first, second = unpack(pair)
            if isinstance(first, bytes) and isinstance(second, bytes):
                name = first
                value = second
            else:
                name = as_bytes(first, "name")
                value = as_bytes(second, "value")
            kind = self.kind(name)
            if has_control(value):
                raise ValueError(f"Response header {name.decode()} contains CR, LF or NUL: {value!r}")
            if kind != ORDINARY:
                if kind == CONTENT_LENGTH:
                    self._take_content_length(value)
                    # RFC 9110 section 8.6: "A server MUST NOT send a Content-Length header field in any response with a
                    # status code of 1xx (Informational) or 204 (No Content)."
                    if status == 204 or status == 205:
                        continue
                elif kind == TRANSFER_ENCODING:
                    if value.lower() != b"chunked":
                        raise ValueError(
                            f"Response transfer coding {value!r} is not supported: the server frames messages"
                        )
                    continue
                elif kind == CONNECTION:
                    if b"close" in [option.strip() for option in value.lower().split(b",")]:
                        self.close = True
                    continue
                elif kind == DATE:
                    date = True
                elif kind == SERVER:
                    server = True
                else:
                    # RFC 9110 section 7.8: "A sender of Upgrade MUST also send an 'Upgrade' connection option"
                    writer.write(b"connection: upgrade\r\n")
            writer.write(name)
            writer.write(COLON)
            writer.write(value)
            writer.write(CRLF)
        self.refresh()
        if not date and not server:
            writer.write(self.defaults)
            return
        if self.date_header and not date:
            writer.write(self.date)
        if self.server_header and not server:
            writer.write(self.server)
        writer.write(self.extra)

    def _take_content_length(self, value: bytes) -> None:
        if self.content_length >= 0:
            raise ValueError("Response has more than one content-length")
        self.content_length = decimal(value, 0, len(value))
        if self.content_length < 0:
            raise ValueError(f"Response content-length is not a number: {value!r}")

    def write_fields(self, writer: BytesWriter, headers: list[Any]) -> None:
        """Write field lines only: a trailer section, or those of an interim response. Raises like write_start()."""
        for pair in headers:
            first, second = unpack(pair)
            name = as_bytes(first, "name")
            value = as_bytes(second, "value")
            # RFC 9110 section 6.5.1: trailers must not frame, route or authenticate; these would.
            if self.kind(name) != ORDINARY:
                raise ValueError(f"Field {name!r} must not be sent in a trailer section")
            if has_control(value):
                raise ValueError(f"Field {name.decode()} contains CR, LF or NUL: {value!r}")
            writer.write(name)
            writer.write(COLON)
            writer.write(value)
            writer.write(CRLF)


def unpack(pair: Any) -> tuple[Any, Any]:
    """The two items of a header, whatever iterable it is."""
    try:
        name, value = pair
    except (TypeError, ValueError):
        raise TypeError(f"A response header must be a pair of bytes [name, value], not {pair!r}") from None
    return name, value


def as_bytes(given: Any, what: str) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given)
    raise TypeError(f"A response header's {what} must be bytes, not {type(given).__name__}: {given!r}")
