"""The log as operators see it: the access line, the loggers' names, levels, and configurations of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fleet import children_of, is_gone
from tests.integration.support import (
    APPS,
    DEADLINE,
    ROOT,
    Client,
    Server,
    Truncated,
    eventually,
    request_bytes,
    serve,
    server_command,
    server_environment,
    variant_options,
)


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


class Unread:
    """A server whose outputs are one pipe, which nobody reads."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.path = str(directory / f"server-{workers}")
        self.reader, writer = os.pipe()
        options = [
            "--uds",
            self.path,
            "--workers",
            str(workers),
            "--timeout-graceful-shutdown",
            "0",
            *variant_options(),
        ]
        self.process = subprocess.Popen(
            [*server_command(), f"{APPS}.http1:app", "--app-dir", str(ROOT), *options],
            env=server_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(writer)

    def answers(self) -> bool:
        """One request, whose line in the log is longer than a page."""
        try:
            with Client(self.path, timeout=2) as client:
                return client.request(f"/hello?{'x' * 5000}").status == 200
        except (OSError, Truncated):
            return False

    def fill(self) -> None:
        """Until all who serve stand still over their access lines, and nothing at all finds room."""
        eventually(self.answers, "the server to answer")
        for _ in range(100):
            if not self.answers():
                break
        else:
            pytest.fail("it answers on, whatever becomes of its log")
        end = os.open(f"/proc/{self.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(end, b".")
        os.close(end)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        os.close(self.reader)


@pytest.mark.skipif(
    sys.platform != "linux" or bool(variant_options()), reason="looks into /proc; independent of the loop"
)
def test_a_log_that_nobody_reads_holds_up_no_stop(tmp_path: Path) -> None:
    """Both kinds of server at once, because the ends of those who are blocked take their time: 13 s, and 16 s."""
    with contextlib.ExitStack() as stack:
        servers = [Unread(tmp_path, workers) for workers in (2, 0)]
        for server in servers:
            stack.callback(server.kill)
        for server in servers:
            server.fill()
        fleet, alone = servers
        workers = children_of(fleet.process.pid)
        assert len(workers) == 2
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
        assert fleet.process.wait(40) == 1, "workers had to be killed"
        assert alone.process.wait(40) == -signal.SIGALRM
        for pid in workers:
            eventually(lambda pid=pid: is_gone(pid), "the workers to go with their master")  # type: ignore[misc]
