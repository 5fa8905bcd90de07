"""Requests that must not be served: malformed, ambiguous, or a way to smuggle another request past somebody in front.

Rules: the answer is one of `statuses`, says `Connection: close`, and is the last thing on the connection. What is wrong in
the head never reaches the application. What is wrong in the body (`in_body`) may find the application running; it must then
never see that body end as if it were complete. `before` requests come first and must be answered as usual.
"""

from __future__ import annotations

from dataclasses import dataclass

BAD_REQUEST = (400,)
# A coding we do not implement: RFC 9112 6.1 says 501 (SHOULD), a faulty framing is a plain 400.
BAD_CODING = (400, 501)
# RFC 9110 15.6.6 for a version we do not serve; a line that is no request line at all is a 400.
BAD_VERSION = (400, 505)
NOT_IMPLEMENTED = (400, 405, 501)
TOO_LARGE = (400, 413, 431)


@dataclass(frozen=True)
class Refused:
    """Bytes, and how they are refused."""

    name: str
    raw: bytes
    statuses: tuple[int, ...]
    rule: str
    in_body: bool = False
    before: int = 0

    def __str__(self) -> str:
        return self.name


def _line(name: str, line: bytes, rule: str, statuses: tuple[int, ...] = BAD_REQUEST) -> Refused:
    """This request line over a good field section."""
    return Refused(name, line + b"\r\nHost: a\r\n\r\n", statuses, rule)


def _fields(name: str, lines: bytes, rule: str, statuses: tuple[int, ...] = BAD_REQUEST) -> Refused:
    """These bytes between a good Host line and the empty line, and a request that must not be found behind them."""
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    return Refused(name, raw, statuses, rule)


def _host(name: str, lines: bytes, rule: str = "RFC 9112 3.2", version: bytes = b"1.1") -> Refused:
    """A request with exactly these field lines."""
    return Refused(name, b"GET / HTTP/" + version + b"\r\n" + lines + b"\r\n", BAD_REQUEST, rule)


def _length(name: str, value: bytes, statuses: tuple[int, ...] = BAD_REQUEST) -> Refused:
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + value + b"\r\n\r\nhello"
    return Refused(f"a content-length of {name}", raw, statuses, "RFC 9110 8.6")


def _coding(value: bytes, statuses: tuple[int, ...] = BAD_CODING, rule: str = "RFC 9112 6.1") -> Refused:
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n"
    return Refused(f"a transfer-encoding of {value!r}", raw, statuses, rule)


def _chunks(name: str, content: bytes, rule: str = "RFC 9112 7.1", statuses: tuple[int, ...] = BAD_REQUEST) -> Refused:
    """A chunked request with this content, and a request that must not be found behind it."""
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + content
    return Refused(name, raw + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", statuses, rule, in_body=True)


_WORKING = b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\n"

REQUEST_LINES = (
    _line("two spaces after the method", b"GET  / HTTP/1.1", "RFC 9112 3"),
    _line("two spaces before the version", b"GET /  HTTP/1.1", "RFC 9112 3"),
    _line("a space in the target", b"GET /a b HTTP/1.1", "RFC 9112 3.2"),
    _line("a space after the version", b"GET / HTTP/1.1 ", "RFC 9112 3"),
    _line("tabs instead of spaces", b"GET\t/\tHTTP/1.1", "RFC 9112 3"),
    _line("a space before the method", b" GET / HTTP/1.1", "RFC 9112 3"),
    _line("no method", b"/ HTTP/1.1", "RFC 9112 3"),
    _line("a method that is no token", b"G@T / HTTP/1.1", "RFC 9110 9.1"),
    _line("a method with a NUL", b"GE\x00T / HTTP/1.1", "RFC 9110 9.1"),
    _line("a method nobody knows", b"FROBNICATE / HTTP/1.1", "RFC 9110 9.1", NOT_IMPLEMENTED),
    _line("a target without its slash", b"GET index.html HTTP/1.1", "RFC 9112 3.2"),
    _line("an asterisk for GET", b"GET * HTTP/1.1", "RFC 9112 3.2.4"),
    _line("an asterisk with a tail", b"OPTIONS *foo HTTP/1.1", "RFC 9112 3.2.4"),
    _line("an absolute target without a host", b"GET http:///path HTTP/1.1", "RFC 9110 4.2.1"),
    _line("an absolute target with a bad host", b"GET http://a^b/path HTTP/1.1", "RFC 9112 3.2.2"),
    _line("CONNECT", b"CONNECT a:443 HTTP/1.1", "RFC 9110 9.3.6", NOT_IMPLEMENTED),
    _line("CONNECT for a path", b"CONNECT / HTTP/1.1", "RFC 9110 9.3.6", NOT_IMPLEMENTED),
    _line("a NUL in the target", b"GET /a\x00b HTTP/1.1", "RFC 9112 3.2"),
    _line("a control character in the target", b"GET /a\x01b HTTP/1.1", "RFC 9112 3.2"),
    _line("a tab in the target", b"GET /a\tb HTTP/1.1", "RFC 9112 3.2"),
    _line("a DEL in the target", b"GET /a\x7fb HTTP/1.1", "RFC 9112 3.2"),
    _line("a bare CR in the target", b"GET /a\rb HTTP/1.1", "RFC 9112 2.2"),
    _line("a bare CR before the line's end", b"GET / HTTP/1.1\r", "RFC 9112 2.2"),
    _line("no version", b"GET /", "RFC 9112 3: HTTP/0.9 has no version", BAD_VERSION),
    _line("HTTP/0.9", b"GET / HTTP/0.9", "RFC 9112 2.3", BAD_VERSION),
    _line("HTTP/1.2", b"GET / HTTP/1.2", "RFC 9112 2.3: only 1.0 and 1.1 are served", BAD_VERSION),
    _line("HTTP/2.0", b"GET / HTTP/2.0", "RFC 9110 15.6.6", BAD_VERSION),
    _line("HTTP/3", b"GET / HTTP/3", "RFC 9112 2.3", BAD_VERSION),
    _line("HTTP/11.1", b"GET / HTTP/11.1", "RFC 9112 2.3", BAD_VERSION),
    _line("HTTP/1.10", b"GET / HTTP/1.10", "RFC 9112 2.3", BAD_VERSION),
    _line("HTTP/1", b"GET / HTTP/1", "RFC 9112 2.3", BAD_VERSION),
    _line("HTTP/1,1", b"GET / HTTP/1,1", "RFC 9112 2.3", BAD_VERSION),
    _line("a version in lower case", b"GET / http/1.1", "RFC 9112 2.3", BAD_VERSION),
    _line("another protocol", b"GET / RTSP/1.0", "RFC 9112 2.3", BAD_VERSION),
    Refused("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD_VERSION, "RFC 9113 3.4"),
    Refused("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), BAD_REQUEST, "RFC 9112 3"),
    Refused("junk", b"\x80\x81\x82 what\r\n\r\n", BAD_REQUEST, "RFC 9112 3"),
)

LINE_ENDS = (
    Refused("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", BAD_REQUEST, "RFC 9112 2.2, refused on purpose"),
    Refused("a bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", BAD_REQUEST, "RFC 9112 2.2"),
    Refused("a bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", BAD_REQUEST, "RFC 9112 2.2"),
    Refused("a bare LF for the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", BAD_REQUEST, "RFC 9112 2.2"),
    Refused(
        "a bare CR for the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n", BAD_REQUEST, "RFC 9112 2.2"
    ),
    Refused("bare CR everywhere", b"GET / HTTP/1.1\rHost: a\r\r", BAD_REQUEST, "RFC 9112 2.2"),
    _fields("a field behind a bare LF", b"X: y\nTransfer-Encoding: chunked\r\n", "RFC 9112 2.2"),
    _fields("a field behind a bare CR", b"X: y\rTransfer-Encoding: chunked\r\n", "RFC 9112 2.2"),
    _fields("a bare CR in a value", b"X: a\rb\r\n", "RFC 9110 5.5"),
    _fields("a CR before the CRLF", b"X: a\r\r\n", "RFC 9112 2.2"),
)

FIELD_LINES = (
    _fields("a space before the colon", b"X : 1\r\n", "RFC 9112 5.1: MUST be a 400"),
    _fields("a tab before the colon", b"X\t: 1\r\n", "RFC 9112 5.1"),
    _fields("a length hidden by a space", b"Content-Length : 5\r\n", "RFC 9112 5.1"),
    _fields("a coding hidden by a space", b"Transfer-Encoding : chunked\r\n", "RFC 9112 5.1"),
    _fields("a space in a name", b"X Y: 1\r\n", "RFC 9110 5.1"),
    _fields("a folded line", b"X: a\r\n b\r\n", "RFC 9112 5.2"),
    _fields("a line folded with a tab", b"X: a\r\n\tb\r\n", "RFC 9112 5.2"),
    _fields("a folded empty value", b"X:\r\n b\r\n", "RFC 9112 5.2"),
    _fields("a coding in a folded line", b"X: a\r\n Transfer-Encoding: chunked\r\n", "RFC 9112 5.2"),
    _fields("a folded coding", b"Transfer-Encoding:\r\n chunked\r\n", "RFC 9112 5.2"),
    _fields("a line of white space", b"X: a\r\n \r\n", "RFC 9112 5.2"),
    Refused("white space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", BAD_REQUEST, "RFC 9112 2.2"),
    _fields("no colon", b"nothing\r\n", "RFC 9112 5"),
    _fields("no name", b": 1\r\n", "RFC 9110 5.1"),
    *(
        _fields(f"{bytes([byte])!r} in a name", b"X" + bytes([byte]) + b"Y: 1\r\n", "RFC 9110 5.6.2")
        for byte in b'\x00\x01\x0b\x1f\x7f\x80\xff"(),/;<=>?@[\\]{}'
    ),
    *(
        _fields(f"{bytes([byte])!r} in a value", b"X: a" + bytes([byte]) + b"b\r\n", "RFC 9110 5.5")
        for byte in b"\x00\x01\x08\x0b\x0c\x1b\x1f\x7f"
    ),
)

HOSTS = (
    _host("no Host", b"X: 1\r\n"),
    _host("no field at all", b""),
    _host("two Hosts", b"Host: a\r\nHost: b\r\n"),
    _host("the same Host twice", b"Host: a\r\nHost: a\r\n"),
    _host("two Hosts in 1.0", b"Host: a\r\nHost: b\r\n", version=b"1.0"),
    Refused(
        "no Host beside an absolute target",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        BAD_REQUEST,
        "RFC 9112 3.2: MUST in any 1.1",
    ),
    *(
        _host(f"a Host of {value!r}", b"Host: " + value + b"\r\n")
        for value in (
            b"a b",
            b"a, b",
            b"a/b",
            b"a?b",
            b"a#b",
            b"u@a",
            b"a\\b",
            b'a"b',
            b"a<b>",
            b"a^b",
            b"a|b",
            b"a`b",
            b"{a}",
            b"a\tb",
            b"\xc3\xa4",
            b"a%4",
            b"a%zz",
            b"a:b",
            b"a:80:80",
            b"a:-1",
            b"a:8 0",
            b"[::1",
            b"::1",
            b"[::1]x",
            b"[]",
            b"[::1]:x",
            b"[zz]",
            b"http://a",
        )
    ),
)

FRAMING = (
    _length("nothing", b""),
    _length("a sign", b"+5"),
    _length("less than nothing", b"-5"),
    _length("a fraction", b"5.0"),
    _length("hexadecimal", b"0x5"),
    _length("an underscore", b"5_0"),
    _length("an exponent", b"1e1"),
    _length("two numbers", b"5 5"),
    _length("a list of different lengths", b"5, 6"),
    _length("a list of equal lengths", b"5, 5"),
    _length("a list with nothing", b"5,"),
    _length("foreign digits", b"\xd9\xa5"),
    _length("letters", b"five"),
    _length("a NUL", b"5\x00"),
    _length("more than 64 bits", b"18446744073709551621", (400, 413)),
    _length("more than any machine holds", b"9" * 100, (400, 413)),
    _fields("two different lengths", b"Content-Length: 5\r\nContent-Length: 6\r\n", "RFC 9112 6.3"),
    _fields("the same length twice", b"Content-Length: 0\r\nContent-Length: 0\r\n", "RFC 9112 6.3, refused on purpose"),
    _fields("two lengths apart", b"Content-Length: 0\r\nX: 1\r\ncontent-length: 40\r\n", "RFC 9112 6.3"),
    _fields("a length, then a coding", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "RFC 9112 6.1"),
    _fields("a coding, then a length", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "RFC 9112 6.1"),
    _fields("a length of zero and a coding", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "RFC 9112 6.1"),
    _fields(
        "a coding twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "RFC 9112 6.1", BAD_CODING
    ),
    _fields(
        "a coding behind another", b"Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n", "RFC 9112 6.1", BAD_CODING
    ),
    _fields(
        "a coding before another", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", "RFC 9112 6.1", BAD_CODING
    ),
    *(
        _coding(value)
        for value in (
            b"",
            b"identity",
            b"gzip",
            b"gzip, chunked",
            b"chunked, gzip",
            b"chunked, identity",
            b"chunked, chunked",
            b"chunked,chunked",
            b"xchunked",
            b"chunkedx",
            b"chunk",
            b"x chunked",
            b"chunked x",
            b'"chunked"',
            b"'chunked'",
            b"chunked;q=1",
            b"chunked\x00",
            b"\x0bchunked",
            b"chunked\x0c",
            b"\xffchunked",
        )
    ),
    Refused(
        "a coding in 1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD_CODING,
        "RFC 9112 6.1: faulty framing",
    ),
    Refused(
        "a length and a coding in 1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD_CODING,
        "RFC 9112 6.1",
    ),
)

CHUNKS = (
    *(
        _chunks(f"a chunk size of {size!r}", size + b"\r\nhello\r\n0\r\n\r\n")
        for size in (
            b"",
            b"g",
            b"5g",
            b"0x5",
            b"+5",
            b"-5",
            b" 5",
            b"5 ",
            b"\t5",
            b"5\x00",
            b"5,",
            b"5_0",
            b"\x0b5",
            b"5.",
        )
    ),
    _chunks("a chunk size of more than 64 bits", b"10000000000000005\r\nhello\r\n0\r\n\r\n", statuses=(400, 413)),
    _chunks("a chunk size that wraps to a small one", b"FFFFFFFFFFFFFFFF5\r\nhello\r\n0\r\n\r\n", statuses=(400, 413)),
    _chunks("a bare LF after a chunk size", b"5\nhello\r\n0\r\n\r\n"),
    _chunks("a bare CR after a chunk size", b"5\rhello\r\n0\r\n\r\n"),
    _chunks("a bare LF after chunk data", b"5\r\nhello\n0\r\n\r\n"),
    _chunks("a bare CR after chunk data", b"5\r\nhello\r0\r\n\r\n"),
    _chunks("chunk data without its end", b"5\r\nhello0\r\n\r\n"),
    _chunks("chunk data longer than its size", b"5\r\nhello!\r\n0\r\n\r\n"),
    _chunks("chunk data shorter than its size", b"6\r\nhello\r\n0\r\n\r\n"),
    _chunks("a bare LF in a chunk extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1.1"),
    _chunks("a bare CR in a chunk extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1.1"),
    _chunks("a NUL in a chunk extension", b"5;a=\x00\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1.1"),
    _chunks("a bare LF after the last chunk", b"0\n\r\n"),
    _chunks("a bare LF for the end of the trailers", b"0\r\n\n"),
    _chunks("a bare LF after a trailer field", b"0\r\nX: 1\n\r\n", "RFC 9112 7.1.2"),
    _chunks("a bare CR in a trailer field", b"0\r\nX: 1\r2\r\n\r\n", "RFC 9112 7.1.2"),
    _chunks("a NUL in a trailer field", b"0\r\nX: \x00\r\n\r\n", "RFC 9112 7.1.2"),
    _chunks("a folded trailer field", b"0\r\nX: 1\r\n 2\r\n\r\n", "RFC 9112 7.1.2"),
    _chunks("a trailer field without a colon", b"0\r\nnothing\r\n\r\n", "RFC 9112 7.1.2"),
    _chunks("a trailer field with a space before its colon", b"0\r\nX : 1\r\n\r\n", "RFC 9112 7.1.2"),
    _chunks("a trailer field without a name", b"0\r\n: 1\r\n\r\n", "RFC 9112 7.1.2"),
)

OVERSIZE = (
    _line("a request line of 17 KiB", b"GET /" + b"a" * (17 << 10) + b" HTTP/1.1", "16 KiB by default", (414,)),
    _line("a query of 17 KiB", b"GET /?" + b"a" * (17 << 10) + b" HTTP/1.1", "16 KiB by default", (414,)),
    _line("a method of 17 KiB", b"A" * (17 << 10) + b" / HTTP/1.1", "no method is that long", (400, 414, 501)),
    _fields("a field of 65 KiB", b"X: " + b"a" * (65 << 10) + b"\r\n", "64 KiB by default", (431,)),
    _fields("a name of 65 KiB", b"X" * (65 << 10) + b": 1\r\n", "64 KiB by default", (431,)),
    _fields("fields of 65 KiB", (b"X: " + b"a" * 1021 + b"\r\n") * 65, "64 KiB by default", (431,)),
    _fields("128 fields beside the Host", b"X: 1\r\n" * 128, "128 fields by default", (431,)),
    _fields("a thousand empty fields", b"X:\r\n" * 1000, "128 fields by default", (431,)),
    _chunks(
        "a chunk extension of 70 KiB",
        b"5;" + b"a" * (70 << 10) + b"\r\nhello\r\n0\r\n\r\n",
        "RFC 9112 7.1.1",
        TOO_LARGE,
    ),
    _chunks(
        "a chunk size of 70 KiB of zeros", b"0" * (70 << 10) + b"5\r\nhello\r\n0\r\n\r\n", "RFC 9112 7.1", TOO_LARGE
    ),
    _chunks("a trailer field of 70 KiB", b"0\r\nX: " + b"a" * (70 << 10) + b"\r\n\r\n", "RFC 9110 6.5", TOO_LARGE),
    _chunks("a thousand trailer fields", b"0\r\n" + b"X: 1\r\n" * 1000 + b"\r\n", "RFC 9110 6.5", TOO_LARGE),
)

AFTER_GOOD_ONES = (
    Refused("junk behind a good request", _WORKING + b"junk\r\n\r\n", BAD_REQUEST, "RFC 9112 9.3.2", before=1),
    Refused(
        "a bad Host behind two good requests",
        _WORKING * 2 + b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        BAD_REQUEST,
        "RFC 9112 9.3.2",
        before=2,
    ),
    Refused(
        "a smuggled length behind a good request",
        _WORKING + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD_REQUEST,
        "RFC 9112 6.1",
        before=1,
    ),
)

REFUSED = (
    *REQUEST_LINES,
    *LINE_ENDS,
    *FIELD_LINES,
    *HOSTS,
    *FRAMING,
    *CHUNKS,
    *OVERSIZE,
    *AFTER_GOOD_ONES,
)
