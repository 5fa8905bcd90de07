"""The log as operators see it: the access line, the loggers' names, levels, and configurations of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import Server, eventually, request_bytes, serve


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("http1:app") as running:
        yield running


def test_each_response_is_a_line_on_standard_output(server: Server) -> None:
    with server.connect() as client:
        host, port = client.socket.getsockname()
        client.request("/hello?a=%20b", method="POST", body=b"x")
    line = server.output.wait_for(rf'.*{host}:{port} - "POST /hello\?a=%20b HTTP/1\.1" 200.*\n')[0]
    assert line == f'INFO:     {host}:{port} - "POST /hello?a=%20b HTTP/1.1" 200 OK\n'
    assert line in server.output.text("stdout")
    assert line not in server.output.text("stderr")


def test_the_access_line_tells_the_version_and_the_status(server: Server) -> None:
    server.request("/nowhere", version="1.0")
    server.output.wait_for(r'"GET /nowhere HTTP/1\.0" 404 Not Found\n')


def test_a_path_cannot_forge_a_line(server: Server) -> None:
    server.request("/a%0AINFO:%20%20forged%0D%0Ab")
    server.output.wait_for(r'"GET /a\S* HTTP/1\.1" 404')
    assert not re.search(r"^INFO: +forged", server.output.text(), re.MULTILINE)


def test_a_stream_is_logged_with_its_status(server: Server) -> None:
    server.request("/stream?logged")
    server.output.wait_for(r'"GET /stream\?logged HTTP/1\.1" 200 OK\n')


def test_pipelined_requests_are_each_logged(server: Server) -> None:
    with server.connect() as client:
        client.send(request_bytes("/hello?pipelined") * 5)
        for _ in range(5):
            client.read_response()
    eventually(lambda: server.output.text("stdout").count('"GET /hello?pipelined HTTP/1.1" 200 OK\n') == 5, "5 lines")


def test_the_access_log_can_be_turned_off() -> None:
    with serve("http1:app", "--no-access-log") as server:
        assert server.request("/hello").status == 200
        assert server.stop() == 0
        assert "GET" not in server.output.text()


def test_a_level_hides_what_is_below_it() -> None:
    # Port 0 would be known from the log only: here it is given, and the server is found by asking.
    with serve("http1:app") as probe:
        port = probe.port
    server = Server("http1:app", "--log-level", "warning", bind=("--host", "127.0.0.1", "--port", str(port)))
    server.port = port
    try:
        wait_until_it_answers(server)
        assert server.stop() == 0
        assert server.output.text() == ""
    finally:
        if server.process.poll() is None:
            server.kill()


def wait_until_it_answers(server: Server) -> None:
    def answers() -> bool:
        try:
            return server.request("/hello").status == 200
        except ConnectionRefusedError:
            return False

    eventually(answers, "the server to answer")


def test_colours_are_for_those_who_ask() -> None:
    with serve("http1:app", "--use-colors") as server:
        server.request("/hello")
        assert "\x1b[" in server.output.wait_for(r".*GET /hello.*")[0]
    with serve("http1:app") as server:
        server.request("/hello")
        assert "\x1b[" not in server.output.wait_for(r".*GET /hello.*")[0]


def test_colours_can_be_asked_for_and_forbidden_by_variables() -> None:
    with serve("http1:app", env={"FORCE_COLOR": "1"}) as server:
        server.request("/hello")
        assert "\x1b[" in server.output.wait_for(r".*GET /hello.*")[0]
    with serve("http1:app", "--use-colors", env={"NO_COLOR": "1"}) as server:
        server.request("/hello")
        assert "\x1b[" in server.output.wait_for(r".*GET /hello.*")[0], "the option was given on purpose"


def settings() -> dict[str, Any]:
    """A configuration as people bring it from other servers: own formats, the loggers by name."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {"format": "MINE %(name)s %(levelname)s %(message)s"},
            "access": {
                "()": "ladybug.log.AccessFormatter",
                "fmt": "ASKED %(client_addr)s %(request_line)s %(status_code)s",
                "use_colors": False,
            },
        },
        "handlers": {
            "plain": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"},
            "access": {"class": "logging.StreamHandler", "formatter": "access", "stream": "ext://sys.stdout"},
        },
        "loggers": {
            "ladybug": {"handlers": ["plain"], "level": "INFO", "propagate": False},
            "ladybug.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        },
    }


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_log_configuration_is_taken_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"log.{kind}"
    path.write_text(json.dumps(settings()))  # JSON is YAML, too
    with serve("http1:app", "--log-config", str(path)) as server:
        server.request("/hello")
        server.output.wait_for(r"ASKED 127\.0\.0\.1:\d+ GET /hello HTTP/1\.1 200")
        server.output.wait_for(r"MINE ladybug\.error INFO ")


def test_a_plain_formatter_gets_the_access_record_as_uvicorn_gives_it(tmp_path: Path) -> None:
    given = settings()
    given["formatters"]["access"] = {"format": "%(name)s|%(message)s|%(args)s"}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(given))
    with serve("http1:app", "--log-config", str(path)) as server:
        server.request("/hello?x")
        line = server.output.wait_for(r"ladybug\.access\|.*")[0]
    _, message, args = line.split("|")
    assert re.fullmatch(r'127\.0\.0\.1:\d+ - "GET /hello\?x HTTP/1\.1" 200', message)
    assert re.fullmatch(r"\('127\.0\.0\.1:\d+', 'GET', '/hello\?x', '1\.1', 200\)", args)


def test_workers_log_like_a_single_process() -> None:
    with serve("http1:app", workers=2) as server:
        for _ in range(20):
            server.request("/hello")
        eventually(lambda: server.output.text("stdout").count('"GET /hello HTTP/1.1" 200 OK\n') == 20, "20 lines")
