"""The scanner beside the reference parser: it accepts only what head.py accepts, and says exactly the same about it."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ladybug.protocol import scanner
from ladybug.protocol.fields import RequestHead
from ladybug.protocol.head import parse_head
from ladybug.protocol.http1 import SHORTEST_HEAD
from ladybug.protocol.limits import Limits
from ladybug.protocol.scanner import DOUBTFUL, KNOWN_NAMES, LONGEST_KNOWN, SLOTS, Scanner, decimal, host_is_ordinary
from tests.protocol.events import Head, head_of
from tests.protocol.heads import nearly_plain_head, plain_head

compiled_only = pytest.mark.skipif(
    scanner.__file__.endswith(".py"),
    reason="only compiled code calls the scanner: interpreted integers do not wrap, which it rests on",
)

END_OF_HEAD = b"\r\n\r\n"
SCANNER = Scanner()  # one for all, as in a worker: nothing may be left in its arrays
DEFAULTS = Limits()


def scan(data: bytes, start: int = 0, limits: Limits = DEFAULTS) -> tuple[int, Head]:
    head = RequestHead()
    end = SCANNER.scan(head, data, start, limits)
    return end, head_of(head)


def check_agreement(data: bytes, start: int, limits: Limits = DEFAULTS) -> bool:
    """Whether the scanner took the head at `start`; if it did, the reference parser must agree in everything."""
    end, head = scan(data, start, limits)
    if end == DOUBTFUL:
        return False
    assert end == data.find(END_OF_HEAD, start) + 4, data
    reference = RequestHead()
    refusal = parse_head(reference, data[start:end], limits)
    assert refusal is None, (refusal, data)
    assert head == head_of(reference), data
    return True


@compiled_only
@settings(deadline=None, max_examples=1000)
@given(st.integers(0, 2**64), st.binary(max_size=12), st.binary(max_size=30))
def test_plain_heads_are_taken_and_mean_the_same(seed: int, before: bytes, after: bytes) -> None:
    head = plain_head(random.Random(seed))
    assert check_agreement(before + head + after, len(before)), "a plain head needs no second opinion"


@compiled_only
@settings(deadline=None, max_examples=2000)
@given(st.integers(0, 2**64), st.binary(max_size=12))
def test_nearly_plain_heads_are_never_taken_wrongly(seed: int, after: bytes) -> None:
    head = nearly_plain_head(random.Random(seed))
    if len(head) >= SHORTEST_HEAD:
        check_agreement(head + after, 0)


@compiled_only
@settings(deadline=None, max_examples=500)
@given(st.integers(0, 2**64), st.integers(20, 60), st.integers(1, 6), st.integers(10, 120))
def test_small_limits_mean_the_same(seed: int, request_line: int, fields: int, fields_size: int) -> None:
    limits = Limits(request_line=request_line, fields=fields, fields_size=fields_size)
    check_agreement(plain_head(random.Random(seed)), 0, limits)


@compiled_only
@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=60))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX")
@example(b"GET / HTTP/1.")
@example(b"GET / HTTP/1.1\r\n")
@example(b"OPTIONS ")
def test_bytes_without_form_never_raise(data: bytes) -> None:
    """Whatever stands before it, the end of head is there, as the caller has made sure."""
    data = data + bytes(max(0, SHORTEST_HEAD - 4 - len(data))) + END_OF_HEAD
    check_agreement(data, 0)


def with_lines(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines]) + END_OF_HEAD


@compiled_only
@pytest.mark.parametrize("name", KNOWN_NAMES, ids=lambda name: name.decode())
def test_every_known_name_is_found_in_any_case_and_nothing_like_it_is(name: bytes) -> None:
    special = {b"host", b"content-length", b"connection", b"transfer-encoding", b"expect"}
    likely = [name, name.upper(), name.title(), name.swapcase()]
    if name not in special:
        for written in likely:
            data = with_lines(written + b": v")
            end, head = scan(data)
            assert end == len(data)
            assert head.headers[1] == (name, b"v")
            check_agreement(data, 0)
    for place in range(len(name)):
        for bit in range(8):
            flipped = bytearray(name)
            flipped[place] ^= 1 << bit
            check_agreement(with_lines(bytes(flipped) + b": 5"), 0)
    for near in (name + b"x", name[:-1], b"x" + name, name + b"-", name + name, name[::-1]):
        check_agreement(with_lines(near + b": 5"), 0)


@compiled_only
@pytest.mark.parametrize("place", range(9))
def test_every_byte_at_every_place_of_a_word(place: int) -> None:
    """Values, names and targets are looked at eight bytes at a time: no place may be blind for a byte."""
    for byte in range(256):
        filler = bytearray(b"aaaaaaaaaaaaaaaaaa")
        filler[place] = byte
        check_agreement(with_lines(b"X-Y: " + bytes(filler)), 0)
        check_agreement(with_lines(b"Cookie:" + bytes(filler)), 0)
        check_agreement(with_lines(b"X" + bytes(filler) + b": 1"), 0)
        check_agreement(b"GET /" + bytes(filler) + b" HTTP/1.1\r\nHost: a" + END_OF_HEAD, 0)
        check_agreement(b"GET / HTTP/1.1\r\nHost: " + bytes(filler) + END_OF_HEAD, 0)
        check_agreement(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + bytes(filler[place:]) + END_OF_HEAD, 0)


@compiled_only
def test_heads_end_where_the_data_ends() -> None:
    """Words are read near the end of the data; none may be read beyond it."""
    for size in range(40):
        for line in (b"X:" + b"v" * size, b"x" * (size + 1) + b":", b"Host2: " + b" " * size):
            assert check_agreement(with_lines(line), 0)
    for lines in (b"X:", b"TE:", b"Via:", b"a:b"):
        assert check_agreement(with_lines(lines), 0)


@compiled_only
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_needs_thought_is_left_to_the_reference_parser(data: bytes) -> None:
    assert scan(data)[0] == DOUBTFUL
    assert parse_head(RequestHead(), data, DEFAULTS) is None


@compiled_only
@pytest.mark.parametrize(
    ("line", "upgrade"),
    [(b"Upgrade: h2c", True), (b"UPGRADE:", True), (b"Upgrade-Insecure-Requests: 1", False), (b"Upgraded: x", False)],
)
def test_an_upgrade_without_its_connection_option_is_plain(line: bytes, upgrade: bool) -> None:
    data = with_lines(line)
    assert check_agreement(data, 0)
    assert scan(data)[1].upgrade is upgrade


@compiled_only
def test_a_doubtful_head_leaves_nothing_in_the_next() -> None:
    doubtful = (
        b"POST /%41?x HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: 1\r\nContent-Length: 5\r\n"
        b"Upgrade: x\r\nConnection: upgrade\r\n\r\n"
    )
    head = RequestHead()
    assert SCANNER.scan(head, doubtful, 0, DEFAULTS) == DOUBTFUL
    plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert SCANNER.scan(head, plain, 0, DEFAULTS) == len(plain)
    assert head_of(head) == scan(plain)[1]
    assert (head.query, head.encoded, head.body, head.persistent) == (b"", False, 0, True)
    assert not head.forwarded and not head.upgrade


# -- Small parts that the pure form uses as well --------------------------------------------------------------------------


def test_the_table_has_room_for_its_names() -> None:
    assert len(KNOWN_NAMES) == len(set(KNOWN_NAMES))
    assert len(KNOWN_NAMES) * 2 < SLOTS, "an open-addressed table that is nearly full is slow"
    assert max(map(len, KNOWN_NAMES)) <= LONGEST_KNOWN
    assert all(name == name.lower() for name in KNOWN_NAMES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0),
        (b"12", 12),
        (b"0012", 12),
        (b"9" * 18, 10**18 - 1),
        (b"9" * 19, -1),
        (b"", -1),
        (b"-1", -1),
        (b"1a", -1),
    ],
)
def test_decimal(text: bytes, value: int) -> None:
    assert decimal(b"xx" + text + b"99", 2, 2 + len(text)) == value


@pytest.mark.parametrize(
    ("host", "ordinary"),
    [
        (b"a.b-c", True),
        (b"", True),
        (b"a:", True),
        (b"a:65535", True),
        (b"a:655350", False),
        (b"a:b", False),
        (b"a_", False),
    ],
)
def test_ordinary_hosts(host: bytes, ordinary: bool) -> None:
    assert host_is_ordinary(b"::" + host + b"!!", 2, 2 + len(host)) is ordinary
