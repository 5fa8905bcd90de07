"""The lifespan protocol (2.0): startup before the first request, shutdown after the last, failures that are told."""

from __future__ import annotations

import ast
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.support import QUIET, Client, Server, eventually, fresh_key, request_bytes, serve

STARTUP_FAILURE = 3


def said(server: Server, what: str) -> int:
    """How often the application has said this."""
    return len(re.findall(rf"^APP {re.escape(what)}$", server.output.text("stdout"), re.MULTILINE))


def expect_boot_failure(app: str, *options: str, workers: int = 0) -> Server:
    """The server ends with the exit code for a failed startup, without ever having announced itself as serving."""
    server = Server(app, *options, workers=workers)
    assert server.wait() == STARTUP_FAILURE, server.output.text()
    return server


# -- what goes well


@pytest.mark.parametrize("workers", [0, 1])
def test_startup_and_shutdown_each_happen_once(workers: int) -> None:
    with serve("lifespans:good", workers=workers) as server:
        assert server.request("/hello").status == 200
        assert (said(server, "startup"), said(server, "shutdown")) == (1, 0)
        assert server.stop() == 0
        assert (said(server, "startup"), said(server, "shutdown"), said(server, "left")) == (1, 1, 1)


def test_the_lifespan_scope_is_what_the_specification_says() -> None:
    with serve("lifespans:good") as server:
        scope = ast.literal_eval(server.output.wait_for(r"APP scope (.*)")[1])
        assert scope == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}


def test_each_worker_has_a_lifespan_of_its_own() -> None:
    with serve("lifespans:good", workers=2) as server:
        eventually(lambda: said(server, "startup") == 2, "both workers to start")
        pid = server.request("/state").value()["pid"]
        assert pid != server.pid
        assert server.stop() == 0
        assert said(server, "shutdown") == 2


def test_the_state_of_the_lifespan_reaches_the_requests() -> None:
    with serve("lifespans:good") as server:
        assert server.request("/state").value() == {"pid": server.pid, "shared": []}
    with serve("lifespans:stateless") as server:
        assert server.request("/state").value() == {}


def test_a_lifespan_may_be_handled_through_tasks() -> None:
    with serve("lifespans:in_tasks") as server:
        assert server.request("/hello").status == 200
        assert server.stop() == 0
        assert (said(server, "background task ended"), said(server, "shutdown")) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 1])
def test_either_signal_runs_the_shutdown(number: signal.Signals, workers: int) -> None:
    with serve("lifespans:good", workers=workers) as server:
        server.output.wait_for("APP startup")
        server.request("/hello")
        assert server.stop(number) == 0
        assert said(server, "shutdown") == 1


def test_nothing_is_served_before_the_startup_is_complete(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    bind = ("--host", "127.0.0.1", "--port", str(port))
    server = Server("lifespans:starts_when_told", workers=1, env={"GATE": str(gate)}, bind=bind)
    try:
        server.output.wait_for("APP starting")
        # The master listens already: the connection waits in its queue for the worker.
        with Client(("127.0.0.1", port)) as client:
            client.send(request_bytes("/hello"))
            assert not client.readable(QUIET)
            gate.touch()
            assert client.read_response().body == b"hello"
        assert server.stop() == 0
        assert said(server, "shutdown") == 1
    finally:
        server.kill()


def test_a_server_told_to_stop_while_it_starts_stops(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = Server("lifespans:starts_when_told", env={"GATE": str(gate)})
    try:
        server.output.wait_for("APP starting")
        server.signal(signal.SIGTERM)
        gate.touch()
        assert server.wait() == 0
        assert said(server, "shutdown") == 1, "a startup that completed has its shutdown"
    finally:
        if server.process.poll() is None:
            server.kill()


# -- applications without a lifespan


@pytest.mark.parametrize("app", ["none", "silent", "leaves_early", "raises_on_startup"])
def test_auto_serves_an_application_without_a_lifespan(app: str) -> None:
    with serve(f"lifespans:{app}") as server:
        assert server.request("/hello").body == b"hello"
        server.permit_error("the database is not there")


@pytest.mark.parametrize("app", ["good", "none", "fails"])
def test_off_never_calls_the_lifespan(app: str) -> None:
    with serve(f"lifespans:{app}", "--lifespan", "off") as server:
        if app != "fails":
            assert server.request("/hello").body == b"hello"
        assert server.stop() == 0
        assert "APP" not in server.output.text()


@pytest.mark.parametrize("app", ["none", "silent", "raises_on_startup"])
def test_on_insists_on_a_lifespan(app: str) -> None:
    expect_boot_failure(f"lifespans:{app}", "--lifespan", "on")


# -- failures


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("app", ["fails", "fails_and_raises"])
def test_a_failed_startup_ends_the_server_with_the_message(app: str, workers: int) -> None:
    server = expect_boot_failure(f"lifespans:{app}", workers=workers)
    text = server.output.text()
    assert 1 <= text.count("the database is not there") <= max(1, workers), text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_startup_answered_with_the_wrong_message_ends_the_server(workers: int) -> None:
    server = Server("lifespans:wrong_order", "--lifespan", "on", workers=workers)
    assert server.wait() == STARTUP_FAILURE, server.output.text()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_application_that_cannot_be_imported_ends_the_server(workers: int) -> None:
    server = expect_boot_failure("lifespans:nowhere", workers=workers)
    assert "nowhere" in server.output.text()
    server = expect_boot_failure("no_such_module:app", workers=workers)
    assert "no_such_module" in server.output.text()


def test_a_failed_shutdown_is_told() -> None:
    server = Server("lifespans:fails_to_stop")
    server.wait_until_listening()
    assert server.request("/hello").status == 200
    server.stop()
    assert "the database would not close" in server.output.text()


def test_a_shutdown_that_raises_is_told_and_the_server_still_ends() -> None:
    server = Server("lifespans:raises_on_shutdown")
    server.wait_until_listening()
    server.stop()
    assert "raised on shutdown" in server.output.text()


# -- the end, with requests still running


@pytest.mark.parametrize("workers", [0, 1])
def test_a_request_in_flight_is_finished_before_the_shutdown(workers: int) -> None:
    with serve("lifespans:good", workers=workers) as server, server.connect() as client:
        key = fresh_key()
        client.send(request_bytes(f"/slow?{key}"))
        server.read_note(key)
        server.signal(signal.SIGTERM)
        response = client.read_response()
        assert (response.status, response.body) == (200, b"finished")
        assert response.closes, "a connection that ends with the server is told so"
        client.expect_end()
        assert server.wait() == 0
        assert said(server, "shutdown") == 1


def test_an_idle_connection_does_not_hold_the_server() -> None:
    with serve("lifespans:good") as server, server.connect() as client, server.connect() as silent:
        assert client.request("/hello").status == 200
        server.signal(signal.SIGTERM)
        client.expect_end()
        silent.expect_end()
        assert server.wait(5) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_without_end_is_cut_at_the_timeout_and_the_shutdown_still_runs(workers: int) -> None:
    with (
        serve("lifespans:good", "--timeout-graceful-shutdown", "1", workers=workers) as server,
        server.connect() as client,
    ):
        client.send(request_bytes("/endless"))
        assert client.read_head().status == 200
        assert client.read(10) == b"5\r\nbegun\r\n"
        server.signal(signal.SIGTERM)
        assert not client.read_to_end().endswith(b"0\r\n\r\n"), "a stream that was cut looks complete"
        assert server.wait(10) == 0
        assert (said(server, "stream cancelled"), said(server, "shutdown")) == (1, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_signal_cuts_short_but_runs_the_shutdown(workers: int) -> None:
    with (
        serve("lifespans:good", "--timeout-graceful-shutdown", "60", workers=workers) as server,
        server.connect() as client,
        server.connect() as idle,
    ):
        client.send(request_bytes("/endless"))
        assert client.read_head().status == 200
        assert idle.request("/hello").status == 200
        server.signal(signal.SIGTERM)
        # The first signal has been taken once idle connections are closed; two at once would count as one.
        idle.expect_end()
        server.signal(signal.SIGTERM)
        client.read_to_end()
        assert server.wait(10) == 0
        assert said(server, "shutdown") == 1


def test_a_request_that_comes_while_the_server_stops_is_told_to_close() -> None:
    with serve("lifespans:good") as server, server.connect() as busy:
        key = fresh_key()
        busy.send(request_bytes(f"/slow?{key}") + request_bytes("/hello"))
        server.read_note(key)
        server.signal(signal.SIGTERM)
        first = busy.read_response()
        assert first.body == b"finished"
        if not first.closes:
            assert busy.read_response().closes
        busy.expect_end(reset_allowed=True)
        assert server.wait() == 0


def test_a_client_may_leave_while_the_server_stops() -> None:
    with serve("lifespans:good", "--timeout-graceful-shutdown", "60") as server:
        client = Client(("127.0.0.1", server.port))
        client.send(request_bytes("/until_told"))
        assert client.read_head().status == 200
        server.signal(signal.SIGTERM)
        client.close()
        assert server.wait(10) == 0
        assert (said(server, "stream told http.disconnect"), said(server, "shutdown")) == (1, 1)
