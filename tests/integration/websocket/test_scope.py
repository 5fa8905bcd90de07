"""The scope of a WebSocket: the keys, values and types of the ASGI specification (www, "WebSocket connection scope", 2.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.support import Server, serve
from tests.integration.websocket.peer import APPS, Peer, connect

APP = f"{APPS}.scenarios:app"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(APP) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with connect(server) as connection:
        yield connection


def scope_of(peer: Peer, target: str, **how: Any) -> dict[str, Any]:
    """The scope of a WebSocket opened so."""
    scope: dict[str, Any] = peer.open(target, **how).read_value()
    peer.expect_closed_by_server(1000)
    return scope


HANDSHAKE = {b"host", b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version"}


def test_the_scope_is_what_the_specification_says(server: Server, peer: Peer) -> None:
    address = peer.socket.getsockname()
    scope = scope_of(peer, "/scope?a=b%20c", headers=["X-One: 1", "x-one: 2"])
    headers = scope.pop("headers")
    assert [tuple(pair) for pair in headers if pair[0] not in HANDSHAKE] == [(b"x-one", b"1"), (b"x-one", b"2")]
    assert {pair[0] for pair in headers} == HANDSHAKE | {b"x-one"}
    assert tuple(scope.pop("client")) == address
    assert tuple(scope.pop("server")) == ("127.0.0.1", server.port)
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/scope",
        "raw_path": b"/scope",
        "query_string": b"a=b%20c",
        "root_path": "",
        "subprotocols": [],
        "state": {"shared": [], "label": "from lifespan"},
        "extensions": {"websocket.http.response": {}},
    }


def test_the_scope_holds_plain_types_only(peer: Peer) -> None:
    peer.open("/scope_types", headers=["Sec-WebSocket-Protocol: chat"])
    assert peer.read_value() == {
        "scope": "dict",
        "subprotocols": "list",
        "subprotocol": "str",
        "raw_path": "bytes",
        "query_string": "bytes",
        "header name": "bytes",
        "header value": "bytes",
        "extensions": "dict",
    }


def test_an_ordinary_request_keeps_its_own_scope(server: Server) -> None:
    scope = server.request("/scope").value()
    assert (scope["type"], scope["scheme"]) == ("http", "http")
    assert "subprotocols" not in scope
    assert "websocket.http.response" not in scope["extensions"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["chat"], ["chat"]),
        (["chat, superchat"], ["chat", "superchat"]),
        (["b,a", "c"], ["b", "a", "c"]),
        (["a ,\tb"], ["a", "b"]),
        (["v10.stomp, graphql-transport-ws"], ["v10.stomp", "graphql-transport-ws"]),
    ],
)
def test_subprotocols_are_a_list_in_the_order_of_the_client(peer: Peer, lines: list[str], expected: list[str]) -> None:
    scope = scope_of(peer, "/scope", headers=[f"Sec-WebSocket-Protocol: {line}" for line in lines])
    assert scope["subprotocols"] == expected


def test_the_path_is_decoded_and_the_raw_path_is_not(server: Server) -> None:
    for target, path in (("/a%20b", "/a b"), ("/%C3%A4", "/ä")):
        with connect(server) as peer:
            scope = scope_of(peer, target)
        assert (scope["path"], scope["raw_path"]) == (path, target.encode())


def test_a_root_path_is_put_before_the_path() -> None:
    with serve(APP, "--root-path", "/api") as server, connect(server) as peer:
        scope = scope_of(peer, "/scope")
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/scope", b"/scope")


FORWARDED = ["X-Forwarded-For: 6.6.6.6, 192.0.2.1", "X-Forwarded-Proto: https"]


def test_a_proxy_on_this_machine_is_believed(server: Server) -> None:
    with connect(server) as peer:
        scope = scope_of(peer, "/scope", headers=FORWARDED)
    assert (scope["client"][0], scope["scheme"]) == ("192.0.2.1", "wss")
    for proto, scheme in (("http", "ws"), ("wss", "wss"), ("ws", "ws")):
        with connect(server) as peer:
            assert scope_of(peer, "/scope", headers=[f"X-Forwarded-Proto: {proto}"])["scheme"] == scheme


def test_a_proxy_nobody_trusts_is_not_believed() -> None:
    with serve(APP, "--no-proxy-headers") as server, connect(server) as peer:
        address = peer.socket.getsockname()
        scope = scope_of(peer, "/scope", headers=FORWARDED)
        assert (tuple(scope["client"]), scope["scheme"]) == (address, "ws")


def test_what_an_application_does_to_its_scope_stays_with_it(server: Server) -> None:
    with connect(server) as peer:
        peer.open("/change_scope")
    with connect(server) as peer:
        scope = scope_of(peer, "/scope")
    assert (scope["path"], scope["subprotocols"], scope["asgi"]["version"]) == ("/scope", [], "3.0")
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "mine" not in scope["state"]
    assert b"x-added" not in {pair[0] for pair in scope["headers"]}
    assert server.request("/scope").value()["state"] == {"shared": [], "label": "from lifespan"}
