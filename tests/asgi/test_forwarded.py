"""X-Forwarded-*: whom to believe, and who the client is then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ladybug.asgi.forwarded import MOST_REMEMBERED, Trust, split_port


def forwarded(trust: str, peer: str | None, *fields: tuple[bytes, bytes]) -> tuple[Any, str]:
    scope: dict[str, Any] = {
        "client": None if peer is None else (peer, 1),
        "scheme": "http",
        "headers": [(b"host", b"a"), *fields],
    }
    Trust(trust).apply(scope)
    return scope["client"], scope["scheme"]


def client(trust: str, *values: bytes, peer: str | None = "127.0.0.1") -> Any:
    return forwarded(trust, peer, *((b"x-forwarded-for", value) for value in values))[0]


@pytest.mark.parametrize(
    ("trust", "host", "trusted"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1,::1", "::1", True),
        ("127.0.0.1, ::1", "::1", True),
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("2001:db8::/32", "2001:db8::5", True),
        ("2001:db8::/32", "10.0.0.1", False),
        ("*", "10.0.0.1", True),
        ("*", "anything", True),
        ("*", "", True),
        ("proxy.internal", "proxy.internal", True),
        ("proxy.internal", "other.internal", False),
        # Not a network, its host bits are set: taken literally, as uvicorn takes it
        ("10.0.0.1/8", "10.0.0.1", False),
        ("10.0.0.1/8", "10.0.0.1/8", True),
        ("", "", False),
        ("", "127.0.0.1", False),
        ("127.0.0.1", "", False),
    ],
)
def test_who_is_trusted(trust: str, host: str, trusted: bool) -> None:
    trusting = Trust(trust)
    assert trusting.trusts(host) is trusted
    assert trusting.trusts(host) is trusted, "and so the second time"


@pytest.mark.parametrize(
    ("trust", "values", "expected"),
    [
        ("127.0.0.1", [b"1.2.3.4"], ("1.2.3.4", 0)),
        ("127.0.0.1", [b" 1.2.3.4 "], ("1.2.3.4", 0)),
        ("127.0.0.1", [b"1.2.3.4:567"], ("1.2.3.4", 567)),
        ("127.0.0.1", [b"2001:db8::1"], ("2001:db8::1", 0)),
        ("127.0.0.1", [b"[2001:db8::1]:567"], ("2001:db8::1", 567)),
        # The list is read from its end; what stands left of the first stranger is the stranger's word
        ("127.0.0.1", [b"6.6.6.6, 1.2.3.4"], ("1.2.3.4", 0)),
        ("127.0.0.1,10.0.0.0/8", [b"6.6.6.6, 1.2.3.4, 10.0.0.5"], ("1.2.3.4", 0)),
        ("127.0.0.1,10.0.0.0/8", [b"6.6.6.6, 1.2.3.4, 10.0.0.5:99"], ("1.2.3.4", 0)),
        ("127.0.0.1,10.0.0.0/8", [b"6.6.6.6", b"1.2.3.4, 10.0.0.5"], ("1.2.3.4", 0)),
        ("127.0.0.1,10.0.0.0/8", [b"10.0.0.7, 10.0.0.5"], ("10.0.0.7", 0)),
        ("*", [b"6.6.6.6, 1.2.3.4"], ("6.6.6.6", 0)),
        ("127.0.0.1", [b"unknown"], ("unknown", 0)),
        ("127.0.0.1", [b"_hidden, 127.0.0.1"], ("_hidden", 0)),
        # Nothing there to believe
        ("127.0.0.1", [], ("127.0.0.1", 1)),
        ("127.0.0.1", [b""], ("127.0.0.1", 1)),
        # An element that is empty is none
        ("127.0.0.1", [b"1.2.3.4,"], ("1.2.3.4", 0)),
        ("127.0.0.1", [b", ,6.6.6.6, ,1.2.3.4 , ,"], ("1.2.3.4", 0)),
        # Nobody's port
        ("127.0.0.1", [b"1.2.3.4:65536"], ("1.2.3.4", 0)),
        ("127.0.0.1", ["1.2.3.4:\xb2".encode("latin-1")], ("1.2.3.4", 0)),
        # What a log could not hold
        ("127.0.0.1", [b"\x9b31mred"], ("%9B31mred", 0)),
        ("127.0.0.1", [b'1.2.3.4" 200\tb'], ("1.2.3.4%22%20200%09b", 0)),
        ("127.0.0.1", [b"fe80::1%eth0"], ("fe80::1%eth0", 0)),
        ("127.0.0.1", [b"a" * 300], ("a" * 255, 0)),
        ("127.0.0.1", [b":80"], ("127.0.0.1", 1)),
        ("10.0.0.1", [b"1.2.3.4"], ("127.0.0.1", 1)),
    ],
)
def test_who_the_client_is(trust: str, values: list[bytes], expected: tuple[str, int]) -> None:
    assert client(trust, *values) == expected


def test_a_unix_sockets_peer_is_trusted_only_with_everybody() -> None:
    assert client("127.0.0.1", b"1.2.3.4", peer=None) is None
    assert client("*", b"1.2.3.4", peer=None) == ("1.2.3.4", 0)


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        (b"https", "https"),
        (b"http", "http"),
        (b" https ", "https"),
        (b"wss", "https"),
        (b"ws", "http"),
        (b"ftp", "http"),
        (b"", "http"),
        (b"https,http", "http"),
    ],
)
def test_the_scheme(value: bytes, scheme: str) -> None:
    assert forwarded("127.0.0.1", "127.0.0.1", (b"x-forwarded-proto", value)) == (("127.0.0.1", 1), scheme)
    assert forwarded("10.0.0.1", "127.0.0.1", (b"x-forwarded-proto", value))[1] == "http"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("1.2.3.4", ("1.2.3.4", 0)),
        ("1.2.3.4:80", ("1.2.3.4", 80)),
        ("1.2.3.4:", ("1.2.3.4", 0)),
        ("1.2.3.4:x", ("1.2.3.4", 0)),
        ("1.2.3.4:-1", ("1.2.3.4", 0)),
        ("::1", ("::1", 0)),
        ("[::1]", ("::1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]80", ("::1", 0)),
        ("[::1", ("[::1", 0)),
        ("", ("", 0)),
        (":80", ("", 80)),
    ],
)
def test_ports(host: str, expected: tuple[str, int]) -> None:
    assert split_port(host) == expected


def test_what_is_remembered_is_bounded() -> None:
    trust = Trust("10.0.0.0/8")
    for number in range(MOST_REMEMBERED + 100):
        assert trust.trusts(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        assert not trust.trusts(f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(trust.remembered) <= MOST_REMEMBERED


@example([b":80"], "*")
@given(st.lists(st.binary(max_size=30), max_size=4), st.sampled_from(["*", "127.0.0.1", "10.0.0.0/8,127.0.0.1"]))
def test_nothing_a_client_writes_raises(values: list[bytes], trust: str) -> None:
    fields = [(b"x-forwarded-for", value) for value in values] + [(b"x-forwarded-proto", value) for value in values]
    address, scheme = forwarded(trust, "127.0.0.1", *fields)
    assert scheme in ("http", "https")
    assert type(address[0]) is str and address[0] and 0 <= address[1] <= 99999
