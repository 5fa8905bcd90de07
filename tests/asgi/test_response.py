"""Response heads: what applications give goes out as it stands, or not at all."""

from __future__ import annotations

import email.utils
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from librt.strings import BytesWriter

from ladybug.asgi.response import MOST_NAMES, STATUS_LINES, HeadWriter, has_control
from tests.fuzz.test_fuzz_response import check_head, lines_of

Headers = list[Any]


def written(headers: Headers, status: int = 200, head_writer: HeadWriter | None = None) -> list[bytes]:
    """The lines of a head, without their CRLFs."""
    writer = BytesWriter()
    (head_writer or HeadWriter([], False, False)).write_start(writer, status, headers)
    return lines_of(writer.getvalue())


def test_a_head_is_the_status_line_and_the_fields_as_given() -> None:
    assert written([(b"Content-Type", b"text/plain"), (b"X-y", b""), (b"set-cookie", b"a"), (b"set-cookie", b"b")]) == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain",
        b"X-y: ",
        b"set-cookie: a",
        b"set-cookie: b",
    ]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK"),
        (404, b"HTTP/1.1 404 Not Found"),
        (418, b"HTTP/1.1 418 I'm a Teapot"),
        # RFC 9112 section 4: the blank stays, even where there is no reason phrase
        (299, b"HTTP/1.1 299 "),
        (999, b"HTTP/1.1 999 "),
    ],
)
def test_status_lines(status: int, line: bytes) -> None:
    assert STATUS_LINES[status] == line + b"\r\n"
    assert written([], status) == [line]


def test_the_servers_own_fields() -> None:
    lines = written([(b"a", b"b")], head_writer=HeadWriter([(b"X-Extra", b"1"), (b"x-more", b"2")], True, True))
    assert lines[:2] == [b"HTTP/1.1 200 OK", b"a: b"]
    date, server, *extra = lines[2:]
    assert server == b"server: ladybug"
    assert extra == [b"X-Extra: 1", b"x-more: 2"]
    # RFC 9110 section 5.6.7: IMF-fixdate
    assert re.fullmatch(rb"date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)
    told = email.utils.parsedate_to_datetime(date[6:].decode()).timestamp()
    assert abs(told - time.time()) <= 2


@pytest.mark.parametrize(
    ("server_header", "date_header", "defaults", "given", "expected"),
    [
        (True, True, [], [], [b"date", b"server"]),
        (False, True, [], [], [b"date"]),
        (True, False, [], [], [b"server"]),
        (False, False, [], [], []),
        (True, True, [], [b"Date"], [b"date", b"server"]),
        (True, True, [], [b"SERVER"], [b"date", b"server"]),
        (True, True, [], [b"date", b"server"], [b"date", b"server"]),
        (False, False, [], [b"date", b"server"], [b"date", b"server"]),
        (True, True, [(b"Server", b"other")], [], [b"date", b"server"]),
        (True, True, [(b"DATE", b"never")], [], [b"date", b"server"]),
    ],
)
def test_date_and_server_are_there_once(
    server_header: bool,
    date_header: bool,
    defaults: list[tuple[bytes, bytes]],
    given: list[bytes],
    expected: list[bytes],
) -> None:
    head_writer = HeadWriter(defaults, server_header, date_header)
    for _ in range(2):
        lines = written([(name, b"mine") for name in given], head_writer=head_writer)
        assert sorted(line.partition(b":")[0].lower() for line in lines[1:]) == expected
        for name in given:
            assert name + b": mine" in lines


@pytest.mark.parametrize(
    ("headers", "status", "length", "close", "lines"),
    [
        ([], 200, -1, False, []),
        ([(b"Content-Length", b"5")], 200, 5, False, [b"Content-Length: 5"]),
        ([(b"content-length", b"005")], 200, 5, False, [b"content-length: 005"]),
        ([(b"content-length", b"9" * 18)], 200, 10**18 - 1, False, [b"content-length: " + b"9" * 18]),
        # RFC 9110 section 8.6: not with 204
        ([(b"content-length", b"0")], 204, 0, False, []),
        ([(b"connection", b"close")], 200, -1, True, []),
        ([(b"Connection", b"Keep-Alive, CLOSE")], 200, -1, True, []),
        ([(b"connection", b"closed")], 200, -1, False, []),
        ([(b"connection", b"keep-alive")], 200, -1, False, []),
        ([(b"transfer-encoding", b"Chunked")], 200, -1, False, []),
        # RFC 9110 section 7.8
        ([(b"Upgrade", b"h2c")], 426, -1, False, [b"connection: upgrade", b"Upgrade: h2c"]),
        (
            [(b"connection", b"upgrade, close"), (b"upgrade", b"h2c")],
            *(426, -1, True, [b"connection: upgrade", b"upgrade: h2c"]),
        ),
    ],
)
def test_what_belongs_to_the_server(
    headers: Headers, status: int, length: int, close: bool, lines: list[bytes]
) -> None:
    head_writer = HeadWriter([], False, False)
    head_writer.content_length, head_writer.close = 77, not close
    assert written(headers, status, head_writer)[1:] == lines
    assert (head_writer.content_length, head_writer.close) == (length, close)


def test_only_cr_lf_and_nul_are_refused_wherever_they_stand() -> None:
    for size in range(18):
        assert not has_control(b"x" * size)
        for place in range(size):
            for byte in range(256):
                value = bytearray(b"\t" * size)
                value[place] = byte
                assert has_control(bytes(value)) is (byte in (0, 10, 13)), (size, place, byte)


def test_a_refused_name_is_refused_again() -> None:
    """The table of checked names must never learn a bad one."""
    head_writer = HeadWriter([], False, False)
    bad = [b"x\r\ny", b"", b"a b", b"a:", b"\xff", b"a\x00", b"content-length ", b"content-length\n"]
    for _ in range(3):
        for name in bad:
            with pytest.raises(ValueError, match="not a token"):
                head_writer.kind(name)
    assert not set(bad) & set(head_writer.kinds)


def test_the_table_of_names_does_not_grow_for_ever() -> None:
    head_writer = HeadWriter([], False, False)
    for number in range(3 * MOST_NAMES):
        assert written([(b"x-%d" % number, b"v")], head_writer=head_writer)[1] == b"x-%d: v" % number
    assert len(head_writer.kinds) <= MOST_NAMES
    with pytest.raises(ValueError, match="not a token"):
        written([(b"bad name", b"v")], head_writer=head_writer)
    with pytest.raises(ValueError, match="more than one"):
        written([(b"cOnTeNt-lEnGtH", b"1"), (b"CoNtEnT-LeNgTh", b"1")], head_writer=head_writer)


def test_names_are_known_in_any_case() -> None:
    head_writer = HeadWriter([], False, False)
    for name in (b"content-length", b"transfer-encoding", b"connection", b"date", b"server"):
        kinds = {head_writer.kind(way) for way in (name, name.upper(), name.title(), name.swapcase())}
        assert kinds == {head_writer.kind(name)}
        assert head_writer.kind(name) != head_writer.kind(b"x-" + name)


def test_trailers_and_hints_are_field_lines_only() -> None:
    writer = BytesWriter()
    HeadWriter([(b"x", b"y")], True, True).write_fields(writer, [(b"a", b"b"), [b"c", b"d"]])
    assert writer.getvalue() == b"a: b\r\nc: d\r\n"


@pytest.mark.parametrize("name", [b"content-length", b"Transfer-Encoding", b"connection", b"Date", b"server"])
def test_fields_that_must_not_be_trailers(name: bytes) -> None:
    with pytest.raises(ValueError, match="must not be sent in a trailer section"):
        HeadWriter([], True, True).write_fields(BytesWriter(), [(name, b"1")])


odd_bytes = st.binary(max_size=20) | st.sampled_from(
    [
        b"a",
        b"content-length",
        b"5",
        b"date",
        b"\r\n",
        b"a\r\nb: c",
        b"close",
        b"chunked",
        b"x" * 8 + b"\n",
        b"\0",
        b"a b",
    ]
)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(odd_bytes, odd_bytes), max_size=5), st.sampled_from([200, 204, 304, 500]))
def test_no_header_ever_writes_another(headers: list[tuple[bytes, bytes]], status: int) -> None:
    check_head(headers, status)
