"""What the application is given and what it may send back: ASGI 3.0 with the www specification 2.5, through a real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.asgi import WAYS, WRONG
from tests.integration.support import MIB, Client, Server, Truncated, chunk_bytes, fresh_key, request_bytes, serve


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("asgi:app") as running:
        yield running


# -- the connection scope


def test_the_scope_is_what_the_specification_says(server: Server, client: Client) -> None:
    scope: dict[str, Any] = client.request("/scope?a=b%20c", headers=["X-One: 1", "x-one: 2"]).value()
    headers = scope.pop("headers")
    assert isinstance(headers, list)
    assert [tuple(pair) for pair in headers] == [(b"host", b"localhost"), (b"x-one", b"1"), (b"x-one", b"2")]
    assert all(len(pair) == 2 for pair in headers)
    extensions = scope.pop("extensions")
    assert set(extensions) >= {"http.response.pathsend", "http.response.early_hint", "http.response.trailers"}
    assert all(value == {} for value in extensions.values())
    host, port = scope.pop("client")
    assert (host, port) == client.socket.getsockname()
    assert tuple(scope.pop("server")) == ("127.0.0.1", server.port)
    assert scope.pop("state") == {"shared": [], "label": "from lifespan"}
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope",
        "raw_path": b"/scope",
        "query_string": b"a=b%20c",
        "root_path": "",
    }


def test_the_scope_holds_plain_types_only(client: Client) -> None:
    assert client.request("/scope_types").value() == {
        "scope": "dict",
        "asgi": "dict",
        "raw_path": "bytes",
        "query_string": "bytes",
        "header name": "bytes",
        "header value": "bytes",
    }


def test_the_version_of_an_http10_request_is_1_0(client: Client) -> None:
    scope = client.request("/scope", version="1.0", host=None).value()
    assert scope["http_version"] == "1.0"
    assert scope["headers"] == []


def test_the_path_is_decoded_and_the_raw_path_is_not(client: Client) -> None:
    scope = client.request("/a%20b?%20").value()
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"%20")
    scope = client.request("/%C3%A4").value()
    assert (scope["path"], scope["raw_path"]) == ("/ä", b"/%C3%A4")


def test_a_root_path_is_put_before_the_path() -> None:
    with serve("asgi:app", "--root-path", "/api") as server:
        scope = server.request("/scope").value()
        assert (scope["root_path"], scope["path"]) == ("/api", "/api/scope")


def test_a_client_of_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = Server("asgi:app", bind=("--uds", str(path)))
    try:
        server.output.wait_for(str(path))
        with Client(str(path)) as client:
            scope = client.request("/scope").value()
        assert scope["client"] is None
        assert list(scope["server"]) == [str(path), None]
        assert server.stop() == 0
    finally:
        server.kill()


def test_ipv6_addresses_are_plain() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with (
        serve("asgi:app", bind=("--host", "::1", "--port", "0")) as server,
        socket.create_connection(("::1", server.port)) as raw,
    ):
        raw.sendall(request_bytes("/scope", headers=["Connection: close"]))
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert b"('::1', %d)" % raw.getsockname()[1] in answer or b"['::1', %d]" % raw.getsockname()[1] in answer
        assert b"('::1', %d)" % server.port in answer or b"['::1', %d]" % server.port in answer


FORWARDED = ["X-Forwarded-For: 6.6.6.6, 192.0.2.1", "X-Forwarded-Proto: https"]


def test_a_proxy_on_this_machine_is_believed(client: Client) -> None:
    scope = client.request("/scope", headers=FORWARDED).value()
    # The right-most address is the one the proxy saw; what stands before it anybody may have made up.
    assert (scope["client"][0], scope["scheme"]) == ("192.0.2.1", "https")
    scope = client.request("/scope").value()
    assert (tuple(scope["client"]), scope["scheme"]) == (client.socket.getsockname(), "http")


@pytest.mark.parametrize("options", [("--no-proxy-headers",), ("--forwarded-allow-ips", "10.0.0.0/8")])
def test_a_proxy_nobody_trusts_is_not_believed(options: tuple[str, ...]) -> None:
    with serve("asgi:app", *options) as server, server.connect() as client:
        scope = client.request("/scope", headers=FORWARDED).value()
        assert (tuple(scope["client"]), scope["scheme"]) == (client.socket.getsockname(), "http")


def test_each_request_has_its_own_copy_of_the_state(client: Client) -> None:
    assert client.request("/change_state").value() == 1
    assert client.request("/state").value() == ["label", "shared"]
    assert client.request("/change_state").value() == 2
    # Leave it as it was for the other tests of this server.
    assert client.request("/state").value() == ["label", "shared"]


def test_what_an_application_does_to_its_scope_stays_with_it(client: Client) -> None:
    client.request("/change_scope")
    scope = client.request("/scope").value()
    assert scope["path"] == "/scope"
    assert "app" not in scope
    assert [tuple(pair) for pair in scope["headers"]] == [(b"host", b"localhost")]
    assert scope["extensions"], "the extensions are shared by all requests"
    assert scope["asgi"]["version"] == "3.0", "scope['asgi'] is shared by all requests"


# -- receive


def test_a_request_without_a_body_is_one_message(client: Client) -> None:
    assert client.request("/messages").value() == [{"type": "http.request", "body": b"", "more_body": False}]


def test_a_body_is_one_or_more_messages_of_exact_types(client: Client) -> None:
    seen = client.request("/messages", method="POST", body=b"hello").value()
    assert all(message.keys() == {"type", "body", "more_body"} for message in seen)
    assert all(type(message["body"]) is bytes and type(message["more_body"]) is bool for message in seen)
    assert b"".join(message["body"] for message in seen) == b"hello"
    assert [message["more_body"] for message in seen] == [True] * (len(seen) - 1) + [False]


def test_receive_after_the_body_waits_for_the_disconnect(server: Server) -> None:
    for body in (b"", b"hello"):
        key = fresh_key()
        with server.connect() as client:
            client.send(request_bytes(f"/wait_for_disconnect?{key}", method="POST", body=body))
            server.read_note(f"{key}-read")
            client.close()
        assert server.read_note(key) == [{"type": "http.disconnect"}] * 3


def test_a_reset_is_a_disconnect_too(server: Server) -> None:
    key = fresh_key()
    client = server.connect()
    client.send(request_bytes(f"/wait_for_disconnect?{key}"))
    server.read_note(f"{key}-read")
    client.reset()
    assert server.read_note(key) == [{"type": "http.disconnect"}] * 3


def test_a_disconnect_is_seen_behind_pipelined_requests(server: Server) -> None:
    key = fresh_key()
    with server.connect() as client:
        client.send(request_bytes(f"/wait_for_disconnect?{key}") + request_bytes("/hello") * 3)
        server.read_note(f"{key}-read")
        client.reset()
    assert server.read_note(key) == [{"type": "http.disconnect"}] * 3


def test_receive_after_the_response_is_a_disconnect(server: Server, client: Client) -> None:
    key = fresh_key()
    assert client.request(f"/receive_after_the_response?{key}").body == b"hello"
    assert server.read_note(key) == [{"type": "http.disconnect"}] * 2
    assert client.request("/hello").body == b"hello"


def test_two_receives_at_once_both_end_with_the_disconnect(server: Server) -> None:
    key = fresh_key()
    with server.connect() as client:
        client.send(request_bytes(f"/receive_twice_at_once?{key}"))
        server.read_note(f"{key}-waiting")
    assert server.read_note(key) == ["http.disconnect"] * 2


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_an_upload_that_breaks_off_ends_in_a_disconnect(server: Server, how: str, framing: str) -> None:
    key = fresh_key()
    client = server.connect()
    header = "Content-Length: 10" if framing == "length" else "Transfer-Encoding: chunked"
    part = b"12345" if framing == "length" else chunk_bytes(b"12345")
    client.send(request_bytes(f"/upload_that_breaks_off?{key}", method="POST", headers=[header]) + part)
    assert server.read_note(f"{key}-got")["body"] == b"12345"
    client.reset() if how == "reset" else client.close()
    assert server.read_note(key) == [
        {"type": "http.request", "body": b"12345", "more_body": True},
        {"type": "http.disconnect"},
    ]


def test_a_cancelled_receive_takes_nothing_with_it(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/cancelled_receive?{key}", method="POST", headers=["Content-Length: 5"]))
    assert server.read_note(key) == "given up"
    client.send(b"hello")
    assert client.read_response().body == b"hello"


# -- tasks


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_receive_and_send_may_be_called_in_any_way(client: Client, way: str, version: str) -> None:
    response = client.request(f"/way?{way}", method="POST", body=b"content", version=version)
    assert (response.status, response.body) == (200, b"abcd")


def test_the_application_runs_in_a_task(client: Client) -> None:
    assert client.request("/task").value() == {"task": True, "all": True, "timeout": True}


@pytest.mark.parametrize("key", ["now", "later", "longer"])
def test_requests_do_not_share_a_context(server: Server, client: Client, key: str) -> None:
    client.send(request_bytes(f"/leak_context?{key}") * 5)
    assert [client.read_response().body for _ in range(5)] == [b"clean"] * 5
    assert client.request(f"/leak_context?{key}").body == b"clean"
    assert server.request(f"/leak_context?{key}").body == b"clean"


# -- around the end of a response


def test_work_after_the_response_does_not_hold_the_connection(server: Server, client: Client) -> None:
    keys = [fresh_key() for _ in range(3)]
    for key in keys:
        assert client.request(f"/background?{key}").body == b"answered"
    assert client.request("/hello").body == b"hello"
    for key in reversed(keys):
        client.request(f"/board?{key}-go", method="POST")
        assert client.request(f"/board?{key}").value() == "done"


def test_work_after_the_response_outlives_the_connection(server: Server) -> None:
    key = fresh_key()
    assert server.request(f"/background?{key}", headers=["Connection: close"]).body == b"answered"
    server.post_note(f"{key}-go")
    assert server.read_note(key) == "done"


def test_messages_after_completion_are_ignored(server: Server, client: Client) -> None:
    key = fresh_key()
    assert client.request(f"/send_after_completion?{key}").body == b"hello"
    assert server.read_note(key) is None
    assert client.request("/hello").body == b"hello"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_send_raises_an_oserror_once_the_client_has_gone(server: Server, how: str) -> None:
    key = fresh_key()
    client = server.connect()
    client.send(request_bytes(f"/send_until_it_fails?{key}"))
    client.read_head()
    client.reset() if how == "reset" else client.close()
    errors = server.read_note(key)
    assert [error["oserror"] for error in errors] == [True, True], errors


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_first_send_after_a_disconnect_raises_already(server: Server, how: str) -> None:
    key = fresh_key()
    client = server.connect()
    client.send(request_bytes(f"/send_after_disconnect?{key}"))
    server.read_note(f"{key}-read")
    client.reset() if how == "reset" else client.close()
    errors = server.read_note(key)
    assert [error["oserror"] for error in errors] == [True, True], errors


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_blocked_send_ends_with_the_client(server: Server, how: str) -> None:
    key = fresh_key()
    client = server.connect(receive_buffer=4096)
    client.send(request_bytes(f"/blocked_send?{key}"))
    assert server.read_note(f"{key}-blocked") < 64 * MIB
    client.reset() if how == "reset" else client.close()
    assert server.read_note(key)["oserror"]


def test_the_oserror_of_a_client_that_left_is_no_traceback(server: Server) -> None:
    key = fresh_key()
    with server.connect() as client:
        client.send(request_bytes(f"/raise_after_disconnect?{key}"))
        client.read_head()
        client.reset()
    assert server.read_note(key) == "left"
    assert server.request("/hello").body == b"hello"
    assert "in raise_after_disconnect" not in server.output.text()


# -- messages that are wrong


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_message_raises_a_clear_error(server: Server, client: Client, case: str) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/wrong?{key}&{case.replace(' ', '-')}"))
    error = server.read_note(key)
    assert error is not None, "nothing was raised"
    assert error["name"] in ("RuntimeError", "TypeError", "ValueError", "KeyError", "AttributeError"), error
    assert error["text"], error
    server.expect_error("in wrong")
    # Before a response has started it is a 500; a started one must not look complete.
    try:
        assert client.read_response().status == 500
    except Truncated as cut:
        assert cut.response is None or cut.response.status == 200


# -- shapes of applications


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("asgi:function", ()),
        ("asgi:app", ("--interface", "asgi3")),
        ("asgi:Asgi2", ()),
        ("asgi:Asgi2", ("--interface", "asgi2")),
        ("asgi:asgi2_function", ("--interface", "asgi2")),
        ("asgi:asgi2_function", ()),
        ("asgi:make", ("--factory",)),
    ],
)
def test_every_shape_of_application_is_served(target: str, options: tuple[str, ...]) -> None:
    with serve(target, *options) as server:
        with server.connect() as client:
            assert client.request("/echo", method="POST", body=b"hello").body == b"hello"
            scope = client.request("/scope").value()
        assert scope["asgi"] == {"version": "2.0" if "sgi2" in target else "3.0", "spec_version": "2.5"}
        assert scope["state"] == {"shared": [], "label": "from lifespan"}
