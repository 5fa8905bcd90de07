"""Each limit: exactly at it is accepted, one more is refused with its status, however the bytes arrive."""

from __future__ import annotations

import pytest

from ladybug.protocol.limits import MAX_CHUNK_EXTENSIONS, MAX_CHUNK_LINE, MAX_FIELDS, Limits
from tests.corpus.feeding import FEEDINGS, Feeding, byte_by_byte, whole
from tests.protocol.events import Outcome, play

HOST = b"Host: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"

every_feeding = pytest.mark.parametrize("feeding", FEEDINGS, ids=lambda feeding: feeding.__name__)


def complete(outcome: Outcome) -> bool:
    return outcome.status == 0 and [message.complete for message in outcome.messages] == [True]


@every_feeding
@pytest.mark.parametrize("limit", [40, 16384])
# The plain parser, and the one for what is not plain.
@pytest.mark.parametrize("method", [b"GET", b"PROPFIND"])
def test_the_request_line(method: bytes, limit: int, feeding: Feeding) -> None:
    def line(size: int) -> bytes:
        beginning, end = method + b" /", b" HTTP/1.1"
        return beginning + b"x" * (size - len(beginning) - len(end)) + end + b"\r\n" + HOST + b"\r\n"

    limits = Limits(request_line=limit)
    assert complete(play(feeding(line(limit)), limits))
    assert play(feeding(line(limit + 1)), limits).status == 414


@every_feeding
@pytest.mark.parametrize("limit", [1, 2, 128])
@pytest.mark.parametrize("host", [b"Host: a\r\n", b"Host: [::1]\r\n"])  # plain, and not
def test_the_number_of_fields(host: bytes, limit: int, feeding: Feeding) -> None:
    limits = Limits(fields=limit)
    beginning = b"GET / HTTP/1.1\r\n" + host
    assert complete(play(feeding(beginning + b"X: 1\r\n" * (limit - 1) + b"\r\n"), limits))
    assert play(feeding(beginning + b"X: 1\r\n" * limit + b"\r\n"), limits).status == 431


@every_feeding
@pytest.mark.parametrize("limit", [32, 65536])
@pytest.mark.parametrize("host", [b"Host: a\r\n", b"Host: [::1]\r\n"])
def test_the_size_of_the_fields(host: bytes, limit: int, feeding: Feeding) -> None:
    def head(size: int) -> bytes:
        return b"GET / HTTP/1.1\r\n" + host + b"X: " + b"x" * (size - len(host) - 5) + b"\r\n\r\n"

    limits = Limits(fields_size=limit)
    assert complete(play(feeding(head(limit)), limits))
    assert play(feeding(head(limit + 1)), limits).status == 431


@every_feeding
@pytest.mark.parametrize("limit", [0, 1, 1000])
def test_the_content_by_its_length(limit: int, feeding: Feeding) -> None:
    def post(size: int) -> bytes:
        return b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size

    limits = Limits(body=limit)
    assert complete(play(feeding(post(limit)), limits))
    outcome = play(feeding(post(limit + 1)), limits)
    assert outcome.status == 413
    assert outcome.messages == [], "the application never hears of it"


@every_feeding
@pytest.mark.parametrize("limit", [0, 1, 1000])
def test_the_content_in_chunks(limit: int, feeding: Feeding) -> None:
    def post(size: int) -> bytes:
        return (
            CHUNKED
            + b"".join(b"%x\r\n%s\r\n" % (n, b"x" * n) for n in (size // 2, size - size // 2) if n)
            + b"0\r\n\r\n"
        )

    limits = Limits(body=limit)
    assert complete(play(feeding(post(limit)), limits))
    assert play(feeding(post(limit + 1)), limits).status == 413


def test_a_chunk_that_would_be_too_large_is_refused_before_it_comes() -> None:
    outcome = play([CHUNKED + b"fffffffffffffff\r\n"], Limits(body=1000))
    assert outcome.status == 413


def test_without_a_limit_a_body_may_have_any_length() -> None:
    for framing in (
        b"Content-Length: 999999999999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
    ):
        outcome = play([b"POST / HTTP/1.1\r\n" + HOST + framing + b"some"])
        assert outcome.status == 0
        assert outcome.messages[0].content == b"some"


@every_feeding
def test_a_chunk_line(feeding: Feeding) -> None:
    def post(size: int) -> bytes:
        return CHUNKED + b"1;" + b"x" * (size - 2) + b"\r\na\r\n0\r\n\r\n"

    assert complete(play(feeding(post(MAX_CHUNK_LINE))))
    assert play(feeding(post(MAX_CHUNK_LINE + 1))).status == 400


def test_all_chunk_extensions_of_a_body() -> None:
    chunk = b"1;" + b"x" * (MAX_CHUNK_LINE - 2) + b"\r\na\r\n"
    most = MAX_CHUNK_EXTENSIONS // (MAX_CHUNK_LINE - 1)
    assert complete(play([CHUNKED + chunk * most + b"0\r\n\r\n"]))
    assert play([CHUNKED + chunk * (most + 2) + b"0\r\n\r\n"]).status == 400


@every_feeding
@pytest.mark.parametrize("limit", [64, 65536])
@pytest.mark.parametrize("lines", [1, 2])
def test_the_size_of_the_trailers(lines: int, limit: int, feeding: Feeding) -> None:
    def post(size: int) -> bytes:
        first = b"a: b\r\n" * (lines - 1)
        return CHUNKED + b"0\r\n" + first + b"x: " + b"y" * (size - len(first) - 5) + b"\r\n\r\n"

    limits = Limits(fields_size=limit)
    assert complete(play(feeding(post(limit)), limits))
    assert play(feeding(post(limit + 1)), limits).status == 431


@every_feeding
def test_the_number_of_trailers(feeding: Feeding) -> None:
    limits = Limits(fields=3)
    assert complete(play(feeding(CHUNKED + b"0\r\n" + b"a: b\r\n" * 3 + b"\r\n"), limits))
    assert play(feeding(CHUNKED + b"0\r\n" + b"a: b\r\n" * 4 + b"\r\n"), limits).status == 431


def test_limits_hold_for_each_request_anew() -> None:
    limits = Limits(request_line=40, fields=2, fields_size=40, body=10)
    one = b"POST /" + b"x" * 20 + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
    for feeding in (whole, byte_by_byte):
        outcome = play(feeding(one * 50), limits)
        assert outcome.status == 0
        assert len(outcome.messages) == 50


@pytest.mark.parametrize("fields", [0, -1, MAX_FIELDS + 1])
def test_a_number_of_fields_the_array_does_not_hold(fields: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 128"):
        Limits(fields=fields)


def test_the_defaults() -> None:
    limits = Limits()
    assert (limits.request_line, limits.fields, limits.fields_size, limits.body) == (16384, 128, 65536, -1)
