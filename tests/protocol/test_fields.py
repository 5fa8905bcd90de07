"""Header fields: the alphabet of names and hosts, and what fields say about a message."""

from __future__ import annotations

import string

import pytest

from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import CHUNKED, LOWER_TOKEN, NO_BODY, TCHAR, Field, RequestHead, host_is_valid
from ladybug.protocol.fields import interpret_fields as interpret


def test_tokens_are_those_of_rfc_9110() -> None:
    assert set(TCHAR) == set(b"!#$%&'*+-.^_`|~") | set((string.ascii_letters + string.digits).encode())
    for byte in range(256):
        expected = bytes([byte]).lower()[0] if byte in TCHAR else 0
        assert LOWER_TOKEN[byte] == expected


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"",
            b"a",
            b"a.b",
            b"A.B.",
            b"1.2.3.4",
            b"[::1]",
            b"[v1.a]",
            b"[::ffff:1.2.3.4]:65535",
            b"a:",
            b"a:0",
            b"a:80",
        ),
        *(b"xn--bcher-kva.example", b"a_b", b"%41", b"a%2Fb", b"~!$&'()*+,;="),
    ],
)
def test_hosts_of_rfc_3986(host: bytes) -> None:
    assert host_is_valid(host)


@pytest.mark.parametrize(
    "host",
    [
        *(b"a b", b" a", b"a ", b"a/b", b"a?b", b"a#b", b"u@a", b"a:b", b"a:1:2", b"a:123456", b"[::1", b"::1", b"[]"),
        *(b"[x]", b"a%4", b"a%", b"a%gg", b"\x00", b"a\x00", b"\xff", b"a\n", b"a\\b", b'"a"', b"<a>", b"a|b", b"a^b"),
    ],
)
def test_what_is_no_host(host: bytes) -> None:
    assert not host_is_valid(host)


def head_with(headers: list[Field], http11: bool = True) -> RequestHead:
    head = RequestHead()
    head.http11 = http11
    head.headers = headers
    return head


HOST = (b"host", b"h")


@pytest.mark.parametrize(
    ("headers", "http11", "refusal"),
    [
        ([], True, errors.MISSING_HOST),
        ([HOST, HOST], True, errors.REPEATED_HOST),
        ([HOST, HOST], False, errors.REPEATED_HOST),
        ([(b"host", b"a b")], True, errors.BAD_HOST),
        ([HOST, (b"content-length", b"")], True, errors.BAD_CONTENT_LENGTH),
        ([HOST, (b"content-length", b"1 ")], True, errors.BAD_CONTENT_LENGTH),
        ([HOST, (b"content-length", b"-0")], True, errors.BAD_CONTENT_LENGTH),
        ([HOST, (b"content-length", b"1" * 19)], True, errors.BAD_CONTENT_LENGTH),
        ([HOST, (b"content-length", b"\xd9\xa1")], True, errors.BAD_CONTENT_LENGTH),
        ([HOST, (b"content-length", b"\xb2")], True, errors.BAD_CONTENT_LENGTH),
        ([HOST, (b"content-length", b"1"), (b"content-length", b"1")], True, errors.REPEATED_CONTENT_LENGTH),
        (
            [HOST, (b"content-length", b"0"), (b"transfer-encoding", b"chunked")],
            True,
            errors.LENGTH_WITH_CODING,
        ),
        ([HOST, (b"transfer-encoding", b"chunked")], False, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"")], True, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"chunked,")], True, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"chunked\x0b")], True, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"chunked;a=b")], True, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"identity")], True, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"chunked, chunked")], True, errors.BAD_TRANSFER_CODING),
        ([HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"x")], True, errors.BAD_TRANSFER_CODING),
        (
            [HOST, (b"transfer-encoding", b"x"), (b"transfer-encoding", b"chunked")],
            True,
            errors.UNKNOWN_TRANSFER_CODING,
        ),
        ([HOST, (b"transfer-encoding", b",chunked")], True, errors.UNKNOWN_TRANSFER_CODING),
    ],
)
def test_ambiguous_messages_are_refused(headers: list[Field], http11: bool, refusal: Refusal) -> None:
    assert interpret(head_with(headers, http11)) is refusal


@pytest.mark.parametrize(
    ("value", "body"),
    [(b"0", 0), (b"00", 0), (b"1", 1), (b"007", 7), (b"9" * 18, 10**18 - 1), (b"0" * 17 + b"1", 1)],
)
def test_lengths(value: bytes, body: int) -> None:
    head = head_with([HOST, (b"content-length", value)])
    assert interpret(head) is None
    assert head.body == body


def test_no_framing_is_no_body() -> None:
    head = head_with([HOST])
    head.body = 99
    assert interpret(head) is None
    assert head.body == NO_BODY


def test_chunked_is_known_in_any_case_and_with_white_space() -> None:
    for value in (b"chunked", b"CHUNKED", b" chunked\t"):
        head = head_with([HOST, (b"transfer-encoding", value)])
        assert interpret(head) is None
        assert head.body == CHUNKED


@pytest.mark.parametrize(
    ("value", "http11", "expected"),
    [
        (b"100-continue", True, True),
        (b"100-CONTINUE", True, True),
        (b"100-continue", False, False),
        (b"100-continue, x", True, False),
        (b"x", True, False),
        (b"", True, False),
    ],
)
def test_the_only_expectation_there_is(value: bytes, http11: bool, expected: bool) -> None:
    head = head_with([HOST, (b"expect", value)], http11)
    head.expect_continue = not expected
    assert interpret(head) is None
    assert head.expect_continue is expected


@pytest.mark.parametrize(
    ("name", "forwarded"),
    [(b"x-forwarded-for", True), (b"x-forwarded-proto", True), (b"x-forwarded-host", False), (b"forwarded", False)],
)
def test_forwarded_fields_are_noticed(name: bytes, forwarded: bool) -> None:
    head = head_with([HOST, (name, b"x")])
    assert interpret(head) is None
    assert head.forwarded is forwarded


@pytest.mark.parametrize(("name", "upgrade"), [(b"upgrade", True), (b"upgrade-insecure-requests", False)])
def test_an_upgrade_is_noticed(name: bytes, upgrade: bool) -> None:
    head = head_with([HOST, (name, b"")])
    assert interpret(head) is None
    assert head.upgrade is upgrade
    head.headers = [HOST]
    assert interpret(head) is None
    assert not head.upgrade


def test_a_refusal_says_what_it_is() -> None:
    assert repr(errors.BAD_HOST) == "Refusal(400, 'Invalid Host header')"
