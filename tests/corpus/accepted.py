"""Requests that are right, if sometimes unusual, and what the application must be given for them.

Rules: `Request` holds the ASGI view (path decoded, raw_path untouched, query without "?", names lower-cased, values without
the white space around them). A case with several requests is a pipeline: the application gets them in this order.
"""

from __future__ import annotations

from dataclasses import dataclass

Fields = list[tuple[bytes, bytes]]

HOST: Fields = [(b"host", b"a")]


@dataclass(frozen=True)
class Request:
    """One request as the application sees it."""

    headers: Fields
    method: str = "GET"
    path: str = "/"
    raw_path: bytes = b"/"
    query: bytes = b""
    version: str = "1.1"
    body: bytes = b""


@dataclass(frozen=True)
class Accepted:
    """Bytes, and the requests in them."""

    name: str
    raw: bytes
    requests: tuple[Request, ...]
    rule: str

    def __str__(self) -> str:
        return self.name


def _one(name: str, rule: str, raw: bytes, request: Request) -> Accepted:
    return Accepted(name, raw, (request,), rule)


def _head(name: str, rule: str, lines: bytes, headers: Fields) -> Accepted:
    """A GET of / with these field lines after the Host."""
    return _one(name, rule, b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n", Request([*HOST, *headers]))


def _target(name: str, rule: str, target: bytes, path: str, raw_path: bytes, query: bytes = b"") -> Accepted:
    """A GET of this target."""
    raw = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    return _one(name, rule, raw, Request(HOST, path=path, raw_path=raw_path, query=query))


def _absolute(name: str, target: bytes, host: bytes, path: str, raw_path: bytes, query: bytes = b"") -> Accepted:
    """A GET of this absolute-form target; the Host line beside it says something else."""
    raw = b"GET " + target + b" HTTP/1.1\r\nHost: other.example\r\nX: 1\r\n\r\n"
    headers = [(b"host", host), (b"x", b"1")]
    return _one(name, "RFC 9112 3.2.2", raw, Request(headers, path=path, raw_path=raw_path, query=query))


def _chunked(name: str, rule: str, content: bytes, body: bytes, *, coding: bytes = b"chunked") -> Accepted:
    """A POST with this chunked content, and a GET after it: the end must be found exactly."""
    headers = [*HOST, (b"transfer-encoding", coding)]
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + content
    return Accepted(
        name, raw + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", (Request(headers, "POST", body=body), NEXT), rule
    )


def _followed(name: str, rule: str, raw: bytes, request: Request) -> Accepted:
    """This request, and a GET after it on the same connection."""
    return Accepted(name, raw + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", (request, NEXT), rule)


NEXT = Request(HOST, path="/next", raw_path=b"/next")

_TCHARS = b"!#$%&'*+-.^_`|~09azAZ"
_LONG_TARGET = b"/" + b"p" * 8000
_COOKIE = b"c" * 32000

REQUEST_LINES = (
    _one(
        "the smallest request",
        "RFC 9112 3.2: only 1.1 owes a Host",
        b"GET / HTTP/1.0\r\n\r\n",
        Request([], version="1.0"),
    ),
    _one(
        "1.0 with a Host",
        "RFC 9112 3.2",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        Request(HOST, version="1.0"),
    ),
    _one("an empty line before the request", "RFC 9112 2.2", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Request(HOST)),
    *(
        _one(
            f"the method {method}",
            "RFC 9110 9, RFC 5789, RFC 4918, RFC 3253",
            method.encode() + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            Request([*HOST, (b"content-length", b"0")], method),
        )
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "MKCOL", "REPORT", "PURGE")
    ),
)

TARGETS = (
    _target("a path and a query", "RFC 9112 3.2.1", b"/a/b?c=d&e", "/a/b", b"/a/b", b"c=d&e"),
    _target("an empty query", "RFC 3986 3.4", b"/a?", "/a", b"/a"),
    _target("question marks in the query", "RFC 3986 3.4", b"/a?b?c=?", "/a", b"/a", b"b?c=?"),
    _target("a query as it came", "www 2.5 query_string", b"/?a=%20%C3%A4+%zz", "/", b"/", b"a=%20%C3%A4+%zz"),
    _target("percent-encoding in the path", "www 2.5 path", b"/a%20b%2Fc%3F", "/a b/c?", b"/a%20b%2Fc%3F"),
    _target("percent-encoded UTF-8", "www 2.5 path", b"/%C3%A4%E2%82%AC", "/ä€", b"/%C3%A4%E2%82%AC"),
    _target("lower-case percent-encoding", "RFC 3986 2.1", b"/%c3%a4", "/ä", b"/%c3%a4"),
    _target("an encoded percent sign decodes once", "RFC 3986 2.4", b"/%2541", "/%41", b"/%2541"),
    _target("a plus sign is no space", "RFC 3986 2.2", b"/a+b", "/a+b", b"/a+b"),
    _target("dot segments stay", "www 2.5 path", b"/a/../b/./c", "/a/../b/./c", b"/a/../b/./c"),
    _target("empty segments stay", "www 2.5 path", b"//a//b/", "//a//b/", b"//a//b/"),
    _target("a colon and an at sign", "RFC 3986 3.3", b"/a:b@c", "/a:b@c", b"/a:b@c"),
    _target("every sub-delimiter", "RFC 3986 2.2", b"/!$&'()*+,;=-._~", "/!$&'()*+,;=-._~", b"/!$&'()*+,;=-._~"),
    _target("a URL in the query", "RFC 3986 3.4", b"/?u=http://b/c", "/", b"/", b"u=http://b/c"),
    _target("a URL in the path", "RFC 3986 3.3", b"/http://b/c", "/http://b/c", b"/http://b/c"),
    _target("a target of 8000 octets", "RFC 9112 3", _LONG_TARGET, _LONG_TARGET.decode(), _LONG_TARGET),
    _absolute("absolute-form", b"http://b.example/p%20q?r=s", b"b.example", "/p q", b"/p%20q", b"r=s"),
    _absolute("absolute-form with a port", b"http://b.example:8080/p", b"b.example:8080", "/p", b"/p"),
    _absolute("absolute-form with an IPv6 address", b"http://[::1]:80/p", b"[::1]:80", "/p", b"/p"),
    _absolute("absolute-form in upper case", b"HTTP://b.example/P", b"b.example", "/P", b"/P"),
    _absolute(
        "absolute-form with a slash in its query", b"http://b.example/?u=/a/b", b"b.example", "/", b"/", b"u=/a/b"
    ),
    _one(
        "asterisk-form",
        "RFC 9112 3.2.4",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        Request(HOST, "OPTIONS", path="*", raw_path=b"*"),
    ),
)

FIELDS = (
    _head("names are lower-cased, values are not", "www 2.5 headers", b"X-MiXeD: VaLuE\r\n", [(b"x-mixed", b"VaLuE")]),
    _head("spaces around a value go", "RFC 9112 5.1", b"X:   v  \r\n", [(b"x", b"v")]),
    _head("tabs around a value go", "RFC 9112 5.1", b"X:\t v \t\r\n", [(b"x", b"v")]),
    _head("white space inside a value stays", "RFC 9110 5.5", b"X: a \t b\r\n", [(b"x", b"a \t b")]),
    _head("no white space at all", "RFC 9112 5", b"X:v\r\n", [(b"x", b"v")]),
    _head("an empty value", "RFC 9110 5.5", b"X:\r\nY: \t \r\n", [(b"x", b""), (b"y", b"")]),
    _head("a colon in a value", "RFC 9110 5.5", b"X: a:b::c\r\n", [(b"x", b"a:b::c")]),
    _head("obs-text in a value", "RFC 9110 5.5", b"X: \xc3\xa4\xff\x80\r\n", [(b"x", b"\xc3\xa4\xff\x80")]),
    _head(
        "every visible character",
        "RFC 9110 5.5",
        b"X: " + bytes(range(33, 127)) + b"\r\n",
        [(b"x", bytes(range(33, 127)))],
    ),
    _head("every character of a token", "RFC 9110 5.6.2", _TCHARS + b": v\r\n", [(_TCHARS.lower(), b"v")]),
    _head(
        "repeated names stay apart, in order",
        "www 2.5 headers",
        b"X: 1\r\nY: 2\r\nx: 3\r\n",
        [(b"x", b"1"), (b"y", b"2"), (b"x", b"3")],
    ),
    _head("a long cookie", "RFC 6265 6.1", b"Cookie: " + _COOKIE + b"\r\n", [(b"cookie", _COOKIE)]),
    _head(
        "as many fields as fit",
        "128 fields by default, the Host is one",
        b"".join(b"X-%d: v\r\n" % number for number in range(127)),
        [(b"x-%d" % number, b"v") for number in range(127)],
    ),
    _head("underscores are no hyphens", "RFC 9110 5.1", b"Content_Length: 5\r\n", [(b"content_length", b"5")]),
    _one(
        "a Host with a port",
        "RFC 9110 7.2",
        b"GET / HTTP/1.1\r\nHost: b.example:8080\r\n\r\n",
        Request([(b"host", b"b.example:8080")]),
    ),
    _one(
        "an IPv6 Host", "RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Request([(b"host", b"[::1]:80")])
    ),
    _one(
        "a Host of all that a name may hold",
        "RFC 3986 3.2.2",
        b"GET / HTTP/1.1\r\nHost: a_b-c~d.e%41!$&'()*+,;=\r\n\r\n",
        Request([(b"host", b"a_b-c~d.e%41!$&'()*+,;=")]),
    ),
    _one("the Host last", "RFC 9110 5.3", b"GET / HTTP/1.1\r\nX: 1\r\nHOST: a\r\n\r\n", Request([(b"x", b"1"), *HOST])),
)

BODIES = (
    _followed(
        "a body by its length",
        "RFC 9112 6.2",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        Request([*HOST, (b"content-length", b"5")], "POST", body=b"hello"),
    ),
    _followed(
        "a body that looks like a request",
        "RFC 9112 6.2",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        Request([*HOST, (b"content-length", b"28")], "POST", body=b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    _followed(
        "a length with zeros before it",
        "RFC 9110 8.6",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello",
        Request([*HOST, (b"content-length", b"0005")], "POST", body=b"hello"),
    ),
    _followed(
        "a length with white space around it",
        "RFC 9112 5.1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t 5 \r\n\r\nhello",
        Request([*HOST, (b"content-length", b"5")], "POST", body=b"hello"),
    ),
    _followed(
        "a length of zero",
        "RFC 9110 8.6",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        Request([*HOST, (b"content-length", b"0")], "POST"),
    ),
    _followed(
        "a POST without a body",
        "RFC 9112 6.3",
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        Request(HOST, "POST"),
    ),
    _followed(
        "a GET with a body",
        "RFC 9110 9.3.1",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        Request([*HOST, (b"content-length", b"5")], body=b"hello"),
    ),
    _followed(
        "an empty line after a body",
        "RFC 9112 2.2",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\n",
        Request([*HOST, (b"content-length", b"5")], "POST", body=b"hello"),
    ),
    _followed(
        "a body of every byte",
        "RFC 9112 6",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 256\r\n\r\n" + bytes(range(256)),
        Request([*HOST, (b"content-length", b"256")], "POST", body=bytes(range(256))),
    ),
    _followed(
        "an expectation whose body is already there",
        "RFC 9110 10.1.1",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        Request([*HOST, (b"expect", b"100-continue"), (b"content-length", b"5")], "POST", body=b"hello"),
    ),
    _followed(
        "an upgrade nobody offers, with a body",
        "RFC 9110 7.8: a server MAY ignore it",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\nContent-Length: 5\r\n\r\nhello",
        Request(
            [*HOST, (b"connection", b"Upgrade"), (b"upgrade", b"foo/2"), (b"content-length", b"5")],
            "POST",
            body=b"hello",
        ),
    ),
    _followed(
        "an upgrade nobody offers, with a chunked body",
        "RFC 9110 7.8",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n",
        Request(
            [*HOST, (b"connection", b"Upgrade"), (b"upgrade", b"foo"), (b"transfer-encoding", b"chunked")],
            "POST",
            body=b"hello",
        ),
    ),
    _followed(
        "an upgrade to cleartext HTTP/2",
        "RFC 9113 3.1: deprecated, ignored",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        Request(
            [
                *HOST,
                (b"connection", b"Upgrade, HTTP2-Settings"),
                (b"upgrade", b"h2c"),
                (b"http2-settings", b"AAMAAABk"),
            ]
        ),
    ),
    _chunked("a chunked body", "RFC 9112 7.1", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    _chunked("an empty chunked body", "RFC 9112 7.1", b"0\r\n\r\n", b""),
    _chunked("several chunks", "RFC 9112 7.1", b"1\r\nh\r\n3\r\nell\r\n1\r\no\r\n0\r\n\r\n", b"hello"),
    _chunked(
        "chunk sizes in both cases",
        "RFC 9112 7.1",
        b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        b"0123456789" * 2,
    ),
    _chunked("a chunk size with zeros before it", "RFC 9112 7.1", b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    _chunked("chunk data of CR and LF", "RFC 9112 7.1", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    _chunked("chunk data that looks like the end", "RFC 9112 7.1", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    _chunked("a chunk extension", "RFC 9112 7.1.1", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
    _chunked("a quoted chunk extension", "RFC 9112 7.1.1", b'5;a="b c";d\r\nhello\r\n0\r\n\r\n', b"hello"),
    _chunked("a trailer field", "RFC 9112 7.1.2: not merged", b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello"),
    _chunked(
        "trailer fields that would do harm as headers",
        "RFC 9110 6.5.1",
        b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: b\r\nConnection: close\r\n\r\n",
        b"hello",
    ),
    _chunked(
        "the coding in capitals",
        "RFC 9112 7: case-insensitive",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"hello",
        coding=b"CHUNKED",
    ),
)

PIPELINES = (
    Accepted(
        "three requests in one piece",
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        (
            Request(HOST, path="/1", raw_path=b"/1"),
            Request([*HOST, (b"content-length", b"2")], "POST", path="/2", raw_path=b"/2", body=b"hi"),
            Request(HOST, path="/3", raw_path=b"/3"),
        ),
        "RFC 9112 9.3.2",
    ),
    Accepted(
        "1.0 that asks to be kept",
        b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        (
            Request([(b"connection", b"keep-alive")], path="/1", raw_path=b"/1", version="1.0"),
            Request([(b"connection", b"Keep-Alive")], path="/2", raw_path=b"/2", version="1.0"),
        ),
        "RFC 9112 9.3",
    ),
)

ACCEPTED = (*REQUEST_LINES, *TARGETS, *FIELDS, *BODIES, *PIPELINES)
