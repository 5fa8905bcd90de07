"""The strict layer over httptools: one complete head in, a RequestHead or a refusal out."""

from __future__ import annotations

import pytest

from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import CHUNKED, RequestHead
from ladybug.protocol.head import parse_head, parse_request_line, split_target
from ladybug.protocol.limits import Limits


def parse(raw: bytes, limits: Limits | None = None) -> tuple[RequestHead, Refusal | None]:
    head = RequestHead()
    return head, parse_head(head, raw, limits or Limits())


def accepted(raw: bytes) -> RequestHead:
    head, refusal = parse(raw)
    assert refusal is None, refusal
    return head


def refused(raw: bytes, limits: Limits | None = None) -> Refusal:
    _, refusal = parse(raw, limits)
    assert refusal is not None
    return refusal


def test_a_head_is_read_completely() -> None:
    head = accepted(
        b"POST /a%20b/c?d=%20 HTTP/1.1\r\nHOST:a:80\r\nX-Forwarded-For: 1.2.3.4\r\nExpect: 100-Continue\r\n"
        b"Transfer-Encoding: Chunked\r\nConnection: close\r\n\r\n"
    )
    assert (head.method, head.raw_path, head.query, head.encoded) == ("POST", b"/a%20b/c", b"d=%20", True)
    assert head.headers == [
        (b"host", b"a:80"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"expect", b"100-Continue"),
        (b"transfer-encoding", b"Chunked"),
        (b"connection", b"close"),
    ]
    assert (head.http11, head.persistent, head.body) == (True, False, CHUNKED)
    assert head.expect_continue and head.forwarded


def test_nothing_is_left_of_the_head_before() -> None:
    """One RequestHead serves all requests of a worker."""
    head = RequestHead()
    loud = (
        b"POST /%41?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
        b"X-Forwarded-Proto: https\r\nContent-Length: 7\r\n\r\n"
    )
    assert parse_head(head, loud, Limits()) is None
    assert parse_head(head, b"GET / HTTP/1.0\r\n\r\n", Limits()) is None
    assert (head.method, head.raw_path, head.query, head.headers) == ("GET", b"/", b"", [])
    assert (head.encoded, head.http11, head.persistent, head.body) == (False, False, False, 0)
    assert not head.expect_continue and not head.forwarded


@pytest.mark.parametrize(
    ("target", "raw_path", "query", "host"),
    [
        (b"/", b"/", b"", b"h"),
        (b"//", b"//", b"", b"h"),
        (b"/a?b", b"/a", b"b", b"h"),
        (b"/?", b"/", b"", b"h"),
        (b"/a%3Fb", b"/a%3Fb", b"", b"h"),
        (b'/{}|^`"<>\\', b'/{}|^`"<>\\', b"", b"h"),
        (b"http://x", b"/", b"", b"x"),
        (b"http://x?a", b"/", b"a", b"x"),
        (b"http://x/?a", b"/", b"a", b"x"),
        (b"https://x:1/a/b?c?d", b"/a/b", b"c?d", b"x:1"),
        (b"HtTp://[::1]:80/a", b"/a", b"", b"[::1]:80"),
        (b"http://x//y", b"//y", b"", b"x"),
    ],
)
def test_the_target_is_split_by_its_form(target: bytes, raw_path: bytes, query: bytes, host: bytes) -> None:
    head = accepted(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (head.raw_path, head.query, head.headers) == (raw_path, query, [(b"host", host)])


@pytest.mark.parametrize(
    "target",
    [
        *(b"*", b"x", b"a:80", b"http:", b"http:/", b"http://", b"http:///a", b"http://?a", b"http://u@x/", b"ws://x/"),
        *(b"http://a b/", b"http://[::1/", b"/a#b", b"#", b"/\x80"),
    ],
)
def test_a_target_of_no_known_form_is_refused(target: bytes) -> None:
    assert refused(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n").status == 400


def test_asterisk_form_is_for_options_only() -> None:
    assert accepted(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").raw_path == b"*"
    assert refused(b"POST * HTTP/1.1\r\nHost: h\r\n\r\n") is errors.BAD_TARGET


def test_an_absolute_target_gives_a_1_0_request_its_host() -> None:
    head = accepted(b"GET http://x/ HTTP/1.0\r\nA: b\r\n\r\n")
    assert head.headers == [(b"host", b"x"), (b"a", b"b")]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        (b"", errors.MISSING_HOST),
        (b"Host: h\r\nHost: h\r\n", errors.REPEATED_HOST),
        (b"Host: a b\r\n", errors.BAD_HOST),
        (b"Host: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n", errors.REPEATED_CONTENT_LENGTH),
    ],
)
def test_an_absolute_target_excuses_no_field(fields: bytes, refusal: Refusal) -> None:
    """What llhttp notices as well it may call by another name; the status is the same."""
    assert refused(b"GET http://x/ HTTP/1.1\r\n" + fields + b"\r\n").status == refusal.status


@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"Content-Length"])
def test_an_upgrade_does_not_hide_the_framing(name: bytes) -> None:
    value = b"chunked" if name == b"Transfer-Encoding" else b"5"
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n" + name + b": " + value + b"\r\n\r\n"
    head = accepted(raw)
    assert head.body == (CHUNKED if value == b"chunked" else 5)
    assert len(head.headers) == 4


def test_what_llhttp_objects_to_in_the_framing_keeps_its_status() -> None:
    def post(lines: bytes) -> Refusal:
        return refused(b"POST / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n")

    assert post(b"Transfer-Encoding: chunked, chunked\r\n").status == 400
    assert post(b"Transfer-Encoding: gzip, chunked\r\n") is errors.UNKNOWN_TRANSFER_CODING
    assert post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n").status == 400
    assert post(b"X: \x01\r\n") is errors.BAD_FIELD


def test_an_early_look_at_the_request_line_agrees_with_the_whole_head() -> None:
    for line in (
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.0",
        b"CONNECT a:1 HTTP/1.1",
        b"GET / HTTP/3.0",
        b"x",
        b"GET / HTTP/1",
    ):
        early = parse_request_line(RequestHead(), line)
        late = parse(line + b"\r\nHost: h\r\n\r\n")[1]
        assert early is late


def test_split_target_reads_what_the_request_line_left() -> None:
    head = RequestHead()
    assert parse_request_line(head, b"GET /a%41?b HTTP/1.1") is None
    assert head.raw_path == b"/a%41?b"
    assert split_target(head, head.raw_path) is None
    assert (head.raw_path, head.query, head.encoded) == (b"/a%41", b"b", True)
