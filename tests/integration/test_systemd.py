"""A real server under a stand-in for systemd, and under systemd-socket-activate where it is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.support import (
    APPS,
    DEADLINE,
    ROOT,
    Client,
    Program,
    Server,
    eventually,
    serve,
    server_command,
    variant_options,
)
from tests.test_systemd import Manager

APP = f"{APPS}.operations:app"

needs_activate = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux")
pytestmark = linux


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    with made.socket:
        yield made


def environment_of(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


# -- sd_notify


def test_ready_is_said_when_every_worker_is(manager: Manager, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = Server(APP, workers=2, env=environment_of(manager, GATE=str(gate)))
    try:
        # One of them serves, and the other is not ready: nothing is said.
        port = only_port_of(server)
        with Client(("127.0.0.1", port)) as client:
            client.request("/who")
        assert manager.all() == []
        gate.touch()
        assert manager.next() == f"READY=1\nSTATUS=Serving on http://127.0.0.1:{port}"
        assert server.stop() == 0
        assert manager.all() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=18000000"]
        server.check_log()
    finally:
        if server.process.poll() is None:
            server.kill()


def only_port_of(server: Server) -> int:
    """Where a server listens that has not said so yet."""
    ports: set[int] = set()

    def look() -> bool:
        with contextlib.suppress(psutil.Error):
            sockets = psutil.Process(server.pid).net_connections("tcp")
            ports.update(found.laddr.port for found in sockets if found.status == psutil.CONN_LISTEN)
        return bool(ports)

    eventually(look, "a listening socket")
    (port,) = ports
    return port


@pytest.mark.parametrize("workers", [0, 1])
def test_one_process_says_the_same(manager: Manager, workers: int) -> None:
    with serve(APP, workers=workers, env=environment_of(manager, WATCHDOG_USEC="1000000")) as server:
        assert manager.next() == f"READY=1\nSTATUS=Serving on http://127.0.0.1:{server.port}"
        assert [manager.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
        assert server.stop() == 0
        assert any(message.startswith("STOPPING=1\n") for message in manager.all())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_application_and_what_it_starts_know_nothing_of_it(manager: Manager, workers: int) -> None:
    with serve(APP, workers=workers, env=environment_of(manager, WATCHDOG_USEC="60000000")) as server:
        variables = server.request("/environment").value()
        assert not [name for name in variables if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))]


def test_a_start_that_fails_never_says_ready(manager: Manager) -> None:
    server = Server("tests.integration.apps.nowhere:app", workers=1, env=environment_of(manager))
    assert server.wait() == 3
    assert not any("READY" in message for message in manager.all())


@pytest.mark.slow
def test_the_status_has_figures_after_a_while(manager: Manager) -> None:
    """Those of a worker that has gone are not forgotten."""
    with serve(APP, workers=1, env=environment_of(manager)) as server:
        status = (
            manager.next().removeprefix("READY=1\n") + "; workers: 1, connections: {}, requests in flight: 0, served: 4"
        )
        for _ in range(3):
            assert server.request("/who").status == 200
        with server.connect() as client:
            assert client.request("/who").status == 200
            while manager.next() != status.format(1):
                pass
        (worker,) = psutil.Process(server.pid).children()
        server.signal(signal.SIGHUP)
        psutil.wait_procs([worker], timeout=DEADLINE)
        assert not worker.is_running()
        while manager.next() != status.format(0):
            pass


def test_the_watchdog_starves_when_every_loop_is_blocked(manager: Manager) -> None:
    with serve(APP, workers=1, env=environment_of(manager, WATCHDOG_USEC="3000000")) as server:
        manager.next()
        (worker,) = psutil.Process(server.pid).children()
        worker.suspend()
        server.output.wait_for("systemd's watchdog is not told")
        manager.all()
        worker.resume()
        assert manager.next() == "WATCHDOG=1"


def test_a_server_outlives_a_manager_that_is_gone(manager: Manager) -> None:
    manager.socket.close()
    with serve(APP, workers=1, env=environment_of(manager, WATCHDOG_USEC="1000000")) as server:
        assert server.request("/who").status == 200


def test_an_upgrade_names_the_new_main_process_which_is_nobodys_child(manager: Manager) -> None:
    """systemd does not await the end of a main process that was another's child when it heard of it."""
    server = Server(APP, workers=1, env=environment_of(manager))
    try:
        assert manager.next().startswith("READY=1")
        manager.main_pid = server.pid
        server.signal(signal.SIGHUP)
        while not manager.next().startswith("RELOADING=1"):
            pass
        server.signal(signal.SIGUSR2)
        heard = ""
        while not (message := manager.next()).startswith("MAINPID="):
            heard = message
        assert heard.startswith("READY=1"), "NotifyAccess=main: nobody else can end the reload"
        manager.main_pid = None
        successor = psutil.Process(int(message.removeprefix("MAINPID=")))
        assert successor.ppid() != server.pid
        assert server.process.wait(DEADLINE) == 0
        assert " ".join(successor.cmdline()).startswith("ladybug: master")
        # It has all the variables that it needs to go on with.
        successor.send_signal(signal.SIGTERM)
        while not (message := manager.next()).startswith("STOPPING=1"):
            pass
        server.output.wait_until_closed()
    finally:
        server.kill()


def test_the_title_tells_the_role_although_the_first_variables_were_taken_away(manager: Manager) -> None:
    command = [*server_command(), APP, "--app-dir", str(ROOT), "--port", "0", "--workers", "1", *variant_options()]
    kept = [f"{name}={value}" for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")]
    program = Program(["env", "-i", "WATCHDOG_USEC=9000000", f"NOTIFY_SOCKET={manager.address}", *kept, *command])
    try:
        assert manager.next().startswith("READY=1")
        title = " ".join(psutil.Process(program.pid).cmdline())
        assert title.startswith("ladybug: master")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
    finally:
        if program.process.poll() is None:
            program.kill()


# -- socket activation


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def activated(*options: str, listen: list[str], names: str = "", workers: int = 2) -> Iterator[Program]:
    """A server that is started with systemd's sockets, as soon as somebody connects to one of them."""
    command = ["systemd-socket-activate"]
    for name in ("PYTHONPATH", "PATH", "PYTHONUNBUFFERED"):
        command += ["-E", name]
    for address in listen:
        command += ["-l", address]
    if names:
        command += [f"--fdname={names}"]
    command += [*server_command(), APP, "--app-dir", str(ROOT), "--workers", str(workers), *variant_options(), *options]
    program = Program(command)
    try:
        yield program
        if program.process.poll() is None:
            program.signal(signal.SIGTERM)
            assert program.wait() == 0, program.output.text()
        program.check_log()
    finally:
        if program.process.poll() is None:
            program.kill()


def connect(address: tuple[str, int] | str) -> Client:
    """A connection, as soon as somebody listens there."""
    made: list[Client] = []

    def attempt() -> bool:
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            made.append(Client(address))
        return bool(made)

    eventually(attempt, f"a listener on {address}")
    return made[0]


@needs_activate
@pytest.mark.parametrize("workers", [0, 2])
def test_the_connection_that_started_the_server_is_answered(workers: int) -> None:
    port = free_port()
    with activated(listen=[f"127.0.0.1:{port}"], names="web", workers=workers) as program:
        with connect(("127.0.0.1", port)) as client:
            assert client.request("/who").status == 200
            variables = client.request("/environment").value()
            assert not [name for name in variables if name.startswith("LISTEN_")]
            assert max(client.request("/files").value()) <= 2
        program.output.wait_for(rf"on http://127\.0\.0\.1:{port}\b")


@needs_activate
def test_several_sockets_are_all_served(tmp_path: Path) -> None:
    port, path = free_port(), str(tmp_path / "web.sock")
    with activated(listen=[f"127.0.0.1:{port}", path]) as program:
        with connect(path) as client:
            assert client.request("/who").status == 200
        with connect(("127.0.0.1", port)) as client:
            assert client.request("/who").status == 200
        program.output.wait_for(rf"on http://127\.0\.0\.1:{port}, unix:{path}\b")
    # It is systemd's, and stays.
    assert os.path.exists(path)  # noqa: PTH110


@needs_activate
def test_a_socket_that_is_named_by_fd_as_well_is_no_conflict() -> None:
    port = free_port()
    with (
        activated("--fd", "3", listen=[f"127.0.0.1:{port}"], workers=1),
        connect(("127.0.0.1", port)) as client,
    ):
        assert client.request("/who").status == 200


@needs_activate
@pytest.mark.parametrize(
    "option", [("--port", "8000"), ("--host", "127.0.0.1"), ("--uds", "/tmp/x.sock"), ("--fd", "4")], ids=lambda o: o[0]
)
def test_two_answers_to_where_to_listen_are_refused(option: tuple[str, str]) -> None:
    port = free_port()
    with activated(*option, listen=[f"127.0.0.1:{port}"]) as program, connect(("127.0.0.1", port)):
        assert program.wait() == 2
        name = option[0].removeprefix("--")
        expected = f"{name}: systemd has opened what to listen on (LISTEN_FDS=1): leave {name} out"
        assert expected in " ".join(program.output.text().replace("│", " ").split())


@needs_activate
def test_connections_wait_in_systemds_queue_from_one_server_to_the_next() -> None:
    """What a stopped server leaves there is answered by the next one: nothing is refused, and nothing is reset."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        for _ in range(2):
            with Client(("127.0.0.1", port)) as waiting:
                waiting.send(b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n")
                server = start_with(listener)
                try:
                    assert waiting.read_response().status == 200
                    server.signal(signal.SIGTERM)
                    assert server.wait() == 0
                finally:
                    if server.process.poll() is None:
                        server.kill()


def start_with(listener: socket.socket) -> Program:
    """A server that has inherited the socket as systemd passes it: number 3, and its own process id in LISTEN_PID."""
    arguments = [APP, "--app-dir", str(ROOT), "--workers", "2", *variant_options()]
    fd = listener.fileno()
    place = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
        " os.dup2(int(sys.argv[1]), 3); os.execvp(sys.argv[2], sys.argv[2:])"
    )
    command = [sys.executable, "-c", place, str(fd), *server_command(), *arguments]
    return Program(command, env={"LISTEN_FDS": "1"}, pass_fds=(fd,))
