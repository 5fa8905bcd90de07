"""Starlette, FastAPI, Quart, Django Channels and python-socketio applications, unmodified, through the websockets library."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_client

from tests.integration.support import Server, serve
from tests.integration.websocket.peer import APPS

MODULES = {"starlette": "starlette", "fastapi": "fastapi", "quart": "quart", "channels": "channels"}
TIMEOUT = 15.0


def serving(name: str, module: str, **how: Any) -> Any:
    pytest.importorskip(module)
    # In a worker under a master: the way applications are really run.
    return serve(f"{APPS}.framework_{name}:app", workers=1, **how)


@pytest.fixture(scope="module", params=MODULES)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(framework: str) -> Iterator[Server]:
    with serving(framework, MODULES[framework]) as running:
        yield running


def opened(server: Server, path: str, **how: Any) -> AbstractContextManager[ClientConnection]:
    uri = f"ws://127.0.0.1:{server.port}{path}"
    opening: AbstractContextManager[ClientConnection] = connect_client(uri, proxy=None, open_timeout=TIMEOUT, **how)
    return opening


def test_text_and_bytes_come_back(server: Server) -> None:
    with opened(server, "/echo") as client:
        for message in ("hi", b"hi", "käse 🧀", "x" * 200_000, bytes(range(256)) * 1000):
            client.send(message)
            assert client.recv(timeout=TIMEOUT) == message


def test_the_application_hears_that_the_client_leaves(server: Server, framework: str) -> None:
    before = server.output.text("stdout").count("APP left")
    with opened(server, "/echo") as client:
        client.send("hi")
        assert client.recv(timeout=TIMEOUT) == "hi"
        client.close(4001, "enough")
    expected = {"quart": "APP left", "channels": "APP left 4001"}.get(framework, "APP left 4001 enough")
    server.output.wait_for(f"(?:APP left.*\n[^A]*){{{before}}}{expected}\n")


def test_an_application_hears_of_a_client_that_vanishes(server: Server, framework: str) -> None:
    with opened(server, "/echo") as client:
        client.send("hi")
        assert client.recv(timeout=TIMEOUT) == "hi"
        client.socket.shutdown(socket.SHUT_RDWR)
        expected = "" if framework == "quart" else " 1006"
        server.output.wait_for(f"APP left{expected}")


def test_json_is_decoded_and_encoded(server: Server) -> None:
    with opened(server, "/json") as client:
        values: list[Any] = [{"a": [1, 2.5, None, "ä"]}, [], "text", 0]
        for value in values:
            client.send(json.dumps(value))
            assert json.loads(client.recv(timeout=TIMEOUT)) == {"got": value}


def test_subprotocol_headers_and_close_code_arrive(server: Server) -> None:
    with opened(server, "/subprotocol", subprotocols=["chat", "superchat"]) as client:
        assert client.subprotocol == "chat"
        assert client.response is not None and client.response.headers["x-app"] == "1"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=TIMEOUT)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "bye")


def test_the_request_reaches_the_application(server: Server) -> None:
    headers = {"Cookie": "session=abc"}
    with opened(server, "/sub/ada/describe?q=1", additional_headers=headers) as client:
        found = json.loads(client.recv(timeout=TIMEOUT))
    assert found == {"path": "/sub/ada/describe", "query": {"q": "1"}, "cookie": "abc", "user": "ada"}


def test_a_refusal_is_a_403(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, "/refuse"):
        pass
    assert refused.value.response.status_code == 403


def test_a_denial_has_its_own_status_and_content(server: Server, framework: str) -> None:
    if framework not in ("starlette", "quart"):
        pytest.skip(f"{framework} has no way to say it")
    with pytest.raises(InvalidStatus) as refused, opened(server, "/deny"):
        pass
    response = refused.value.response
    assert response.status_code == 401
    assert json.loads(response.body or b"") == {"detail": "not you"}


def test_a_path_that_is_not_there_is_refused(server: Server, framework: str) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, "/nowhere"):
        pass
    assert refused.value.response.status_code in (403, 404, 500)
    server.permit_error("No route found for path")


def test_an_error_closes_with_1011(server: Server) -> None:
    with opened(server, "/fail") as client, pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=TIMEOUT)
    assert closed.value.rcvd is not None
    # Quart answers for its applications itself: 1000 behind an error, with every server.
    assert closed.value.rcvd.code in (1011, 1000)
    server.permit_error("failed on purpose")


def test_a_stream_of_messages_arrives_in_order(server: Server) -> None:
    with opened(server, "/stream") as client:
        client.send("5000")
        assert [client.recv(timeout=TIMEOUT) for _ in range(5000)] == [str(number) for number in range(5000)]


def test_ordinary_requests_are_served_beside_it(server: Server) -> None:
    with opened(server, "/echo") as client:
        client.send("hi")
        assert json.loads(server.request("/page").body) == {"hello": "world"}
        assert client.recv(timeout=TIMEOUT) == "hi"


def test_a_room_hears_what_each_says(server: Server, framework: str) -> None:
    if framework not in ("fastapi", "channels"):
        pytest.skip("no room there")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server, "/room")) for _ in range(10)]
        for client in clients:
            assert client.recv(timeout=TIMEOUT) == "joined"
        for number, client in enumerate(clients):
            client.send(f"from {number}")
            for other in clients:
                assert other.recv(timeout=TIMEOUT) == f"from {number}"
        clients.pop().close()
        for client in clients:
            assert client.recv(timeout=TIMEOUT) == "left"


def test_a_stop_closes_every_framework_in_order(framework: str) -> None:
    with serving(framework, MODULES[framework]) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server, path)) for path in ("/echo", "/json", "/stream", "/echo")]
        clients[0].send("hi")
        assert clients[0].recv(timeout=TIMEOUT) == "hi"
        server.signal(signal.SIGTERM)
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert server.wait() == 0
        assert "ancel" not in server.output.text("stderr")


# -- python-socketio


@pytest.fixture(scope="module")
def socketio_server() -> Iterator[Server]:
    with serving("socketio", "socketio") as running:
        yield running


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]], ids="+".join)
def test_socketio_calls_and_events(socketio_server: Server, transports: list[str]) -> None:
    socketio = pytest.importorskip("socketio")

    async def talk() -> tuple[Any, list[Any], str]:
        client = socketio.AsyncClient()
        heard: asyncio.Queue[Any] = asyncio.Queue()
        client.on("heard", heard.put)
        await client.connect(f"http://127.0.0.1:{socketio_server.port}", transports=transports)
        doubled = await client.call("double", "käse ", timeout=TIMEOUT)
        # No more: 16 packets in one answer are the library's own limit, and a binary event takes two.
        for number in range(5):
            await client.emit("shout", {"number": number, "data": b"\0" * 1000})
        got = [await asyncio.wait_for(heard.get(), TIMEOUT) for _ in range(5)]
        transport = client.transport()
        await client.disconnect()
        return doubled, got, transport

    doubled, got, transport = asyncio.run(talk())
    assert doubled == "käse käse "
    assert got == [{"number": number, "data": b"\0" * 1000} for number in range(5)]
    assert transport == transports[-1]
    socketio_server.output.wait_for("APP disconnected")
