"""The control socket: requests and answers over real sockets, clients that misbehave, and paths."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ladybug import control
from ladybug.control import (
    MOST_CLIENTS,
    MOST_REQUEST,
    PATIENCE,
    RETRY,
    ControlServer,
    Refused,
    ask,
    directories,
    open_control,
    resident_memory,
    running,
    waiting_connections,
    whole_argument,
)
from ladybug.exceptions import StartupError
from tests.control_server import Master
from tests.pair import DEADLINE, Records, captured_log, no_descriptors_left


def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"request": request}


def refuse(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise Refused("Not now.")


def fail(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ZeroDivisionError("a mistake of ours")


def unspeakable(_: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"value": object()}


def large(_: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"value": "x" * (4 << 20)}


COMMANDS: Mapping[str, control.Command] = {
    "echo": echo,
    "refuse": refuse,
    "fail": fail,
    "unspeakable": unspeakable,
    "large": large,
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


@pytest.fixture
def master(path: str) -> Iterator[Master]:
    server = open_control(path, COMMANDS)
    assert server is not None
    master = Master(server)
    with master:
        yield master


@contextlib.contextmanager
def connected(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(path)
        yield client


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


# -- requests


def test_a_request_gets_its_answer(master: Master, path: str) -> None:
    assert ask(path, "echo", workers=3) == {"request": {"command": "echo", "workers": 3}}
    assert ask(path, "echo", name="ü") == {"request": {"command": "echo", "name": "ü"}}


def test_a_refusal_is_told(master: Master, path: str) -> None:
    with pytest.raises(Refused, match=r"^Not now\.$"):
        ask(path, "refuse")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"status",
        b"[]",
        b"3",
        b"{}",
        b'{"command": 3}',
        b'{"command": []}',
        b'{"command": "explode"}',
        b"\xff\xfe",
        b"[" * 4000,
    ],
)
def test_what_is_not_a_command_is_told_what_there_is(master: Master, path: str, line: bytes) -> None:
    with connected(path) as client:
        client.sendall(line + b"\n")
        answer = json.loads(rest(client))
    assert not answer["ok"]
    assert "echo, refuse, fail, unspeakable, large" in answer["error"]


@pytest.mark.parametrize("command", ["fail", "unspeakable"])
def test_a_mistake_in_a_command_costs_only_its_answer(master: Master, path: str, command: str) -> None:
    with captured_log() as log, pytest.raises(Refused, match="The server made a mistake"):
        ask(path, command)
    assert log.take() == ["A command on the control socket has failed"]
    assert ask(path, "echo")


def test_a_request_may_come_in_pieces(master: Master, path: str) -> None:
    with connected(path) as client:
        for byte in b'{"command": "echo"}\n':
            client.sendall(bytes([byte]))
        assert json.loads(rest(client))["ok"]


def test_an_answer_larger_than_the_kernels_buffers_arrives(master: Master, path: str) -> None:
    assert len(ask(path, "large")["value"]) == 4 << 20


def test_arguments_are_checked() -> None:
    assert whole_argument({"workers": 2}, "workers", 1) == 2
    for wrong in ({}, {"workers": 0}, {"workers": "2"}, {"workers": True}, {"workers": 2.0}, {"workers": None}):
        with pytest.raises(Refused, match=r"^workers has to be a whole number, at least 1\.$"):
            whole_argument(wrong, "workers", 1)


# -- clients that misbehave


def test_a_client_that_goes_without_a_word_is_forgotten(master: Master, path: str) -> None:
    for _ in range(3 * MOST_CLIENTS):
        with connected(path):
            pass
    assert ask(path, "echo")


def test_a_client_that_says_too_much_is_closed(master: Master, path: str) -> None:
    with connected(path) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"x" * (4 * MOST_REQUEST))
        assert rest(client) == b""


def test_slow_clients_neither_hold_up_others_nor_stay(master: Master, path: str) -> None:
    with contextlib.ExitStack() as clients:
        silent = [clients.enter_context(connected(path)) for _ in range(MOST_CLIENTS - 2)]
        deaf = clients.enter_context(connected(path))
        deaf.sendall(b'{"command": "large"}\n')
        assert ask(path, "echo")
        master.pass_time(PATIENCE)
        for client in silent:
            assert rest(client) == b""
        assert not rest(deaf).endswith(b"\n")


def test_who_does_not_ask_gives_way_to_who_does(master: Master, path: str) -> None:
    with contextlib.ExitStack() as clients:
        silent = [clients.enter_context(connected(path)) for _ in range(3 * MOST_CLIENTS)]
        assert ask(path, "echo")
        assert rest(silent[0]) == b""
        silent[-1].sendall(b'{"command": "echo"}\n')
        assert json.loads(rest(silent[-1]))["ok"]


def test_more_clients_than_there_is_room_for_wait_their_turn(master: Master, path: str) -> None:
    with contextlib.ExitStack() as clients:
        first = [clients.enter_context(connected(path)) for _ in range(MOST_CLIENTS)]
        for deaf in first:
            deaf.sendall(b'{"command": "large"}\n')
            assert deaf.recv(1)
        last = clients.enter_context(connected(path))
        last.sendall(b'{"command": "echo"}\n')
        wakeups = master.wakeups
        assert not select.select([last], [], [], 0.2)[0]
        assert master.wakeups - wakeups < 2 * MOST_CLIENTS, "it does not spin meanwhile"
        first[0].close()
        assert json.loads(rest(last))["ok"]


def test_deadlines_are_told(path: str) -> None:
    server = ControlServer(path, COMMANDS)
    assert server.next_deadline() is None
    with connected(path):
        server.serve(100.0)
        assert server.next_deadline() == 100.0 + PATIENCE
        server.serve(100.0 + PATIENCE)
        assert server.next_deadline() is None
    server.close()


def test_who_cannot_be_accepted_for_want_of_descriptors_waits_and_nobody_spins(path: str) -> None:
    server = ControlServer(path, COMMANDS)
    with connected(path) as client:
        client.sendall(b'{"command": "echo"}\n')
        with no_descriptors_left():
            for now in (100.0, 100.0 + RETRY / 2, 100.0 + RETRY):
                server.serve(now)
                assert list(server.interests()) == [], "the listener is readable all the time"
            assert server.next_deadline() == 100.0 + 2 * RETRY
        server.serve(100.0 + 2 * RETRY)
        assert json.loads(rest(client))["ok"]
    assert server.next_deadline() is None
    assert len(list(server.interests())) == 1
    server.close()


# -- who asks


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"[]\n", b"{}\n"])
def test_another_program_behind_the_path_is_noticed(path: str, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OSError, match="something else"):
            ask(path, "status")
        thread.join()


def test_a_server_that_does_not_answer_is_not_waited_for_long(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(TimeoutError):
            ask(path, "status", timeout=0.05)


# -- the path


def test_it_is_private_and_removed_at_the_end(master: Master, path: str) -> None:
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    master.stop()
    assert list(Path(path).parent.iterdir()) == []


def test_a_leftover_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
    server = open_control(path, COMMANDS)
    assert server is not None
    server.close()


def test_a_server_that_runs_is_left_alone_unless_it_is_to_be_replaced(master: Master, path: str) -> None:
    with pytest.raises(StartupError, match="is in use by another server: choose another --control-socket"):
        open_control(path, COMMANDS)
    assert ask(path, "echo")
    successor = open_control(path, {"status": lambda _: {"who": "successor"}}, replace=True)
    assert successor is not None
    second = Master(successor)
    assert ask(path, "status") == {"who": "successor"}
    master.stop()
    assert ask(path, "status") == {"who": "successor"}, "the predecessor removes only what is its own"
    second.stop()
    assert not Path(path).exists()


def test_a_file_is_not_removed(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(StartupError, match="exists and is not a socket"):
        open_control(path, COMMANDS)
    assert Path(path).read_text() == "precious"


@pytest.mark.parametrize("where", ["/nowhere/control.sock", "/tmp/" + "x" * 200])
def test_a_path_that_cannot_be_had_is_refused(where: str) -> None:
    with pytest.raises(StartupError, match="Choose another --control-socket"):
        open_control(where, COMMANDS)


def test_off_is_none() -> None:
    assert open_control("off", COMMANDS) is None


# -- where it is by default


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only directory is that is looked in."""
    monkeypatch.setattr(control, "directories", lambda: [str(tmp_path / "ladybug")])
    return tmp_path


def default_server() -> ControlServer:
    server = open_control("auto", COMMANDS)
    assert server is not None
    return server


def test_by_default_it_has_the_process_id_in_a_private_directory(runtime: Path) -> None:
    server = default_server()
    try:
        assert server.path == str(runtime / "ladybug" / f"{os.getpid()}.sock")
        assert stat.S_IMODE((runtime / "ladybug").stat().st_mode) == 0o700
        assert running() == [server.path]
    finally:
        server.close()
    assert running() == []


def test_leftovers_of_others_are_removed_and_running_servers_are_not(runtime: Path) -> None:
    directory = runtime / "ladybug"
    directory.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as alive:
        gone.bind(str(directory / "1.sock"))
        alive.bind(str(directory / "2.sock"))
        alive.listen()
        unfinished = directory / "3.sock.3"
        unfinished.write_text("")
        (directory / "notes").write_text("")
        server = default_server()
        gone.close()
        assert {path.name for path in directory.iterdir()} == {"2.sock", "3.sock.3", "notes", Path(server.path).name}
        assert running() == sorted([str(directory / "2.sock"), server.path])
        server.close()


def others(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 12345, -1)


def open_to_all(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)


def link(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir(0o700)
    directory.symlink_to(directory.parent / "elsewhere")


def file(directory: Path) -> None:
    directory.write_text("")


@pytest.mark.parametrize("spoil", [others, open_to_all, link, file])
def test_a_directory_that_is_not_ours_alone_is_not_trusted(runtime: Path, spoil: Callable[[Path], None]) -> None:
    if spoil is others and os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    spoil(runtime / "ladybug")
    with captured_log() as log:
        assert open_control("auto", COMMANDS) is None
    assert_said(log, "is not private to this user")
    assert running() == []


def test_a_directory_that_cannot_be_made_is_no_reason_not_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "directories", lambda: ["/nowhere/ladybug"])
    with captured_log() as log:
        assert open_control("auto", COMMANDS) is None
    assert_said(log, "/nowhere/ladybug: No such file or directory")


def assert_said(log: Records, reason: str) -> None:
    (message,) = log.take()
    assert message.startswith("No control socket, so ladybug ctl will not find this server (")
    assert reason in message


def test_the_users_own_runtime_directory_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert directories() == ["/run/user/7/ladybug", "/tmp/ladybug-7"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert directories() == ["/tmp/ladybug-7"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directories() == ["/run/ladybug", "/tmp/ladybug-0"]


# -- what the fleet is asked


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_resident_memory_is_what_the_kernel_says() -> None:
    found = resident_memory(os.getpid())
    assert found is not None
    assert 1 << 20 < found < 1 << 34


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_waiting_connections_are_counted_until_they_are_accepted() -> None:
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        assert waiting_connections(listener) == 0
        for _ in range(3):
            opened.enter_context(socket.create_connection(listener.getsockname(), DEADLINE))
        end = time.monotonic() + DEADLINE
        while waiting_connections(listener) != 3:  # the last handshake may be a moment behind connect(2)
            assert time.monotonic() < end
        opened.enter_context(listener.accept()[0])
        assert waiting_connections(listener) == 2


def test_a_unix_socket_does_not_tell_who_waits(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert waiting_connections(listener) is None


def test_a_process_that_is_gone_has_no_memory_to_tell_of() -> None:
    assert resident_memory(0) is None


def test_a_forked_child_lets_go_without_harm(path: str) -> None:
    server = ControlServer(path, COMMANDS)
    with connected(path) as client:
        server.serve(0.0)
        pid = os.fork()
        if pid == 0:
            server.forget()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        client.sendall(b'{"command": "echo"}\n')
        server.serve(0.0)
        assert json.loads(rest(client))["ok"]
    server.close()
