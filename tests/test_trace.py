"""--log-level trace: what the application and the server say to each other, and what of it must not be seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from ladybug import trace
from ladybug.config import Config
from ladybug.log import TRACE, configure_logging
from ladybug.trace import Traced, shown
from tests.integration.support import serve
from tests.integration.websocket.peer import connect
from tests.pair import Message

SECRET = b"Bearer 1234"


@pytest.fixture(autouse=True)
def _level_restored() -> Iterator[None]:
    level = trace.logger.level
    yield
    trace.logger.setLevel(level)


def test_contents_are_shown_by_their_size_and_fields_not_at_all() -> None:
    message = {"type": "http.response.body", "body": b"12345", "more_body": True}
    assert shown(message) == {"type": "http.response.body", "body": "<5 bytes>", "more_body": True}
    assert shown({"text": "käse", "bytes": None}) == {"text": "<4 chars>", "bytes": None}
    assert shown({"headers": [(b"authorization", SECRET)], "state": {"pool": 1}}) == {
        "headers": "<...>",
        "state": "<...>",
    }
    assert message["body"] == b"12345", "the application's own is left alone"


@pytest.mark.parametrize("message", [None, 5, {"body": 5}, {}])
def test_what_is_no_message_is_shown_as_it_is(message: object) -> None:
    assert shown(message) == message


def test_a_call_is_logged_from_scope_to_end(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.body", "body": b"abc"})
        if scope["path"] == "/broken":
            raise KeyError("x")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"12"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def main() -> None:
        traced = Traced(app)
        await traced({"type": "http", "path": "/", "client": ("::1", 5)}, receive, send)
        with pytest.raises(KeyError):
            await traced({"type": "http", "path": "/broken", "client": None}, receive, send)

    sent: list[Message] = []
    with caplog.at_level(TRACE, trace.logger.name):
        trace.logger.addHandler(caplog.handler)
        asyncio.run(main())
        trace.logger.removeHandler(caplog.handler)
    received = "Receive {'type': 'http.request', 'body': '<2 bytes>'}"
    answered = "Send {'type': 'http.response.body', 'body': '<3 bytes>'}"
    assert list(dict.fromkeys(record.getMessage() for record in caplog.records)) == [
        "::1:5 - ASGI [1] Started scope={'type': 'http', 'path': '/', 'client': ('::1', 5)}",
        f"::1:5 - ASGI [1] {received}",
        f"::1:5 - ASGI [1] {answered}",
        "::1:5 - ASGI [1] Completed",
        "ASGI [2] Started scope={'type': 'http', 'path': '/broken', 'client': None}",
        f"ASGI [2] {received}",
        f"ASGI [2] {answered}",
        "ASGI [2] Raised KeyError('x')",
    ]
    assert sent == [{"type": "http.response.body", "body": b"abc"}] * 2


def test_it_is_wanted_at_its_level_only() -> None:
    for level, wanted in (("info", False), ("debug", False), ("trace", True), ("info", False)):
        configure_logging(Config("a:b", log_level=level))
        assert trace.is_wanted() is wanted
    logging.getLogger("ladybug.error").setLevel(logging.INFO)
    logging.getLogger("ladybug.access").setLevel(logging.INFO)


def test_a_request_can_be_followed() -> None:
    with serve("http1:app", "--log-level", "trace") as server:
        response = server.request("/echo", method="POST", headers=["Authorization: " + SECRET.decode()], body=b"12345")
        assert response.status == 200
        size = len(response.body)
        server.output.wait_for(r"TRACE: +127\.0\.0\.1:\d+ - ASGI \[\d+\] Started scope=\{.*'path': '/echo'.*")
        server.output.wait_for(r"TRACE: .* Receive \{'type': 'http\.request', 'body': '<5 bytes>'.*")
        server.output.wait_for(
            r"TRACE: .* Send \{'type': 'http\.response\.start', 'status': 200, 'headers': '<\.\.\.>'.*"
        )
        server.output.wait_for(rf"TRACE: .* Send \{{'type': 'http\.response\.body', 'body': '<{size} bytes>'.*")
        server.output.wait_for(r"TRACE: .* Completed\n")
        assert SECRET.decode() not in server.output.text()


def test_the_lifespan_and_a_websocket_can_be_followed() -> None:
    with serve("lifespans:good", "--log-level", "trace") as server:
        server.output.wait_for(r"ASGI \[1\] Started scope=\{'type': 'lifespan'.*'state': '<\.\.\.>'")
        server.output.wait_for(r"ASGI \[1\] Send \{'type': 'lifespan\.startup\.complete'\}")
    with serve("examples.websocket_chat:app", "--log-level", "trace") as server, connect(server) as peer:
        peer.open("/room?name=Ada", headers=["Origin: http://localhost"])
        peer.send_text("secret")
        while peer.read_message() != "Ada: secret":
            pass
        peer.finish()
        server.output.wait_for(r"Receive \{'type': 'websocket\.receive', .*'<6 chars>'")
        assert "secret" not in server.output.text()
