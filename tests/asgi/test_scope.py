"""The scope: types and values exactly as the ASGI specification has them, and nothing shared that may be changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ladybug.asgi.forwarded import Trust
from ladybug.asgi.scope import build_scope, decode_path, scope_template
from ladybug.asgi.service import Service
from ladybug.protocol.fields import RequestHead
from ladybug.protocol.head import parse_head
from ladybug.protocol.limits import Limits
from tests.pair import Message, Stack, hello, new_service, on_every_stack

CLIENT, SERVER = ("10.0.0.1", 1234), ("10.0.0.2", 80)


def head_of(raw: bytes) -> RequestHead:
    head = RequestHead()
    assert parse_head(head, raw, Limits()) is None
    return head


def service_with(root_path: str = "", **settings: Any) -> Service:
    async def make() -> Service:
        return new_service(hello)

    service = asyncio.run(make())
    service.scope_template = scope_template(root_path)
    service.root_path = root_path
    for name, value in settings.items():
        setattr(service, name, value)
    return service


def scope_of(raw: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", root_path: str = "", **settings: Any) -> Message:
    return build_scope(service_with(root_path, **settings), head_of(raw), CLIENT, SERVER)


def test_every_key_and_its_type() -> None:
    raw = b"PUT /a%20b/%C3%A4?q=%20 HTTP/1.1\r\nHost: a\r\nX-Y: Z\r\nx-y: z\r\n\r\n"
    assert scope_of(raw) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": "/a b/ä",
        "raw_path": b"/a%20b/%C3%A4",
        "query_string": b"q=%20",
        "root_path": "",
        "headers": [(b"host", b"a"), (b"x-y", b"Z"), (b"x-y", b"z")],
        "client": ("10.0.0.1", 1234),
        "server": ("10.0.0.2", 80),
        "extensions": {
            "http.response.pathsend": {},
            "http.response.early_hint": {},
            "http.response.trailers": {},
        },
    }


def test_plain_types_only() -> None:
    """Applications compare, serialise and put them into databases."""
    scope = scope_of(b"GET /?a HTTP/1.0\r\nContent-Length: 3\r\n\r\n")
    for key in ("type", "http_version", "method", "scheme", "path", "root_path"):
        assert type(scope[key]) is str
    for key in ("raw_path", "query_string"):
        assert type(scope[key]) is bytes
    assert type(scope["headers"]) is list
    assert all(len(pair) == 2 and type(pair[0]) is type(pair[1]) is bytes for pair in scope["headers"])
    for address in (scope["client"], scope["server"]):
        assert type(address[0]) is str and type(address[1]) is int
    assert scope["http_version"] == "1.0"
    assert "state" not in scope


@pytest.mark.parametrize(
    ("raw_path", "path"),
    [
        (b"/", "/"),
        (b"/a+b", "/a+b"),
        (b"/%41%2F%3F%25", "/A/?%"),
        (b"/%e4%f6", "/\ufffd\ufffd"),
        (b"/%c3", "/\ufffd"),
        (b"/%", "/%"),
        (b"/%4", "/%4"),
        (b"/%zz%41", "/%zzA"),
        (b"/%00", "/\0"),
        (b"/%f0%9f%90%9e", "/\N{LADY BEETLE}"),
    ],
)
def test_percent_decoding(raw_path: bytes, path: str) -> None:
    assert decode_path(raw_path) == path
    scope = scope_of(b"GET " + raw_path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (scope["path"], scope["raw_path"]) == (path, raw_path)


def test_an_asterisk_is_no_path_below_the_root() -> None:
    assert scope_of(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", root_path="/root")["path"] == "*"


def test_root_path() -> None:
    scope = scope_of(b"GET /a%20b HTTP/1.1\r\nHost: a\r\n\r\n", root_path="/root")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/root", "/root/a b", b"/a%20b")


def test_asgi_2_applications_hear_so() -> None:
    assert scope_of(asgi={"version": "2.0", "spec_version": "2.5"})["asgi"]["version"] == "2.0"


def test_state_is_a_copy_that_shares_its_values() -> None:
    pool: list[int] = []
    service = service_with(state={"pool": pool})
    head = head_of(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    one, two = (build_scope(service, head, CLIENT, SERVER) for _ in range(2))
    assert one["state"] == {"pool": pool} and one["state"]["pool"] is pool
    one["state"]["mine"] = 1
    assert "mine" not in two["state"] and "mine" not in build_scope(service, head, None, None)["state"]


def test_no_request_sees_what_another_changed() -> None:
    service = service_with(state={})
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    one = build_scope(service, head_of(raw), CLIENT, SERVER)
    pristine = {key: repr(value) for key, value in one.items()}
    for key in ("asgi", "extensions", "state"):
        one[key]["mine"] = 1
    one["headers"].append((b"mine", b"1"))
    one["path"], one["mine"] = "/mine", 1
    two = build_scope(service, head_of(raw), CLIENT, SERVER)
    assert {key: repr(value) for key, value in two.items()} == pristine


def test_clients_and_servers_without_address() -> None:
    service = service_with()
    scope = build_scope(service, head_of(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), None, ("/run/x.sock", None))
    assert (scope["client"], scope["server"]) == (None, ("/run/x.sock", None))


def test_forwarded_fields_count_only_with_trust() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\n"
    assert (scope_of(raw)["client"], scope_of(raw)["scheme"]) == (CLIENT, "http")
    distrusted = scope_of(raw, trust=Trust("127.0.0.1"))
    assert (distrusted["client"], distrusted["scheme"]) == (CLIENT, "http")
    trusted = scope_of(raw, trust=Trust("10.0.0.0/8"))
    assert (trusted["client"], trusted["scheme"]) == (("1.2.3.4", 0), "https")


@on_every_stack
async def test_what_an_application_is_given(stack: Stack) -> None:
    scopes = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async with stack.pair(app) as pair:
        for _ in range(2):
            await pair.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            await pair.response()
        assert scopes[0] == scopes[1]
        assert scopes[0] is not scopes[1]
        assert scopes[0]["client"] == pair.client.getsockname()
        assert scopes[0]["server"] == pair.client.getpeername()
