"""Listeners on real sockets: who may have an address, who is refused, and in which words."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ladybug.listeners
from ladybug.config import Config
from ladybug.exceptions import StartupError
from ladybug.listeners import (
    close_listeners,
    describe,
    is_shared,
    join_listeners,
    let_go_of_given,
    open_listeners,
    remove_path,
    turn_away,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="one listener per slot only on Linux")


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@contextlib.contextmanager
def opened(slots: int = 1, **settings: Any) -> Iterator[list[list[socket.socket]]]:
    listeners = open_listeners(Config("app:app", **settings), slots)
    try:
        yield listeners
    finally:
        close_listeners(listeners)


def port_of(listeners: list[list[socket.socket]]) -> int:
    port: int = listeners[0][0].getsockname()[1]
    return port


def queued(listener: socket.socket) -> int:
    """Take what waits in the queue; how many that were."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def backlog_of(listener: socket.socket) -> int:
    """tcp(7), TCP_INFO: of a listener, the eighth 32-bit figure is the length of its queue."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("8xIIIIII", info)[5])


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def refusal(**settings: Any) -> str:
    gc.collect()  # what earlier tests have left would otherwise go meanwhile
    before = open_files()
    with pytest.raises(StartupError) as caught:
        open_listeners(Config("app:app", **settings), 2)
    assert open_files() == before, "something was left open"
    return str(caught.value)


# -- TCP


@linux
def test_the_kernel_spreads_connections_over_the_slots() -> None:
    with opened(slots=3, port=0) as listeners, contextlib.ExitStack() as clients:
        assert len({slot[0].fileno() for slot in listeners}) == 3
        assert len({slot[0].getsockname() for slot in listeners}) == 1
        for _ in range(120):
            clients.enter_context(socket.create_connection(("127.0.0.1", port_of(listeners))))
        counts = [queued(slot[0]) for slot in listeners]
        assert sum(counts) == 120
        assert min(counts) >= 15, f"120 connections on 3 listeners: {counts}"


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_another_slot_joins_on_the_same_addresses(host: str) -> None:
    config = Config("app:app", host=host, port=0, backlog=77)
    listeners = open_listeners(config, 1)
    listeners.append(join_listeners(config, listeners[0]))
    try:
        first, joined = listeners[0][0], listeners[1][0]
        assert joined.getsockname() == first.getsockname()
        assert backlog_of(joined) == 77
        assert not joined.get_inheritable() and not joined.getblocking()
        with contextlib.ExitStack() as clients:
            for _ in range(60):
                clients.enter_context(socket.create_connection(("127.0.0.1", port_of(listeners))))
            counts = [queued(slot[0]) for slot in listeners]
            assert sum(counts) == 60
            assert min(counts) >= 5, f"60 connections on 2 listeners: {counts}"
    finally:
        close_listeners(listeners)


def test_another_slot_shares_what_all_share(path: Path) -> None:
    config = Config("app:app", uds=path)
    listeners = open_listeners(config, 1)
    assert is_shared(config)
    assert join_listeners(config, listeners[0]) is listeners[0]
    close_listeners(listeners)


def test_listeners_are_non_blocking_and_not_inherited_over_exec() -> None:
    with opened(slots=2, port=0) as listeners:
        for slot in listeners:
            assert not slot[0].getblocking()
            assert not slot[0].get_inheritable()


@linux
def test_the_backlog_is_the_one_of_the_settings() -> None:
    with opened(slots=2, port=0, backlog=77) as listeners:
        assert [backlog_of(slot[0]) for slot in listeners] == [77, 77]


@linux
def test_accepted_connections_have_no_nagle_delay() -> None:
    with opened(port=0) as listeners, socket.create_connection(("127.0.0.1", port_of(listeners))):
        connection, _ = listeners[0][0].accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("reuse_port", [False, True])
@pytest.mark.parametrize("theirs", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("ours", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_anybody_listens_on_is_refused(ours: str, theirs: str, reuse_port: bool) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((theirs, 0))
        other.listen()
        port = other.getsockname()[1]
        expected = f"{ours}:{port} is in use by another process: choose another --port, or stop that process."
        assert refusal(host=ours, port=port) == expected


def test_a_port_of_another_server_of_ours_is_refused() -> None:
    with opened(slots=2, port=0) as listeners:
        assert "is in use by another process" in refusal(port=port_of(listeners))


def open_when_all_do(port: int, barrier: threading.Barrier) -> list[list[socket.socket]] | None:
    barrier.wait()
    try:
        return open_listeners(Config("app:app", port=port), 2)
    except StartupError:
        return None


@linux
def test_of_servers_that_open_a_port_at_the_same_moment_one_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind_and_pause(*args: Any) -> list[socket.socket]:
        bound = bind_slots(*args)
        time.sleep(0.02)  # bound and not yet listening is when others cannot see us: make it last
        return bound

    bind_slots = ladybug.listeners._bind_slots
    monkeypatch.setattr(ladybug.listeners, "_bind_slots", bind_and_pause)
    with opened(port=0) as listeners:
        port = port_of(listeners)
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(open_when_all_do, [port] * 4, [barrier] * 4))
    for got in results:
        close_listeners(got or [])
    assert sum(got is not None for got in results) == 1


@linux
def test_the_lock_of_somebody_who_never_lets_go_does_not_keep_us_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladybug.listeners._LOCK_PATIENCE", 0.05)
    with opened(port=0) as listeners:
        port = port_of(listeners)
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(f"\0ladybug opens port {port}")
        with opened(port=port):
            pass


def test_connections_in_time_wait_do_not_hold_up_a_restart() -> None:
    with opened(port=0) as listeners:
        port = port_of(listeners)
        client = socket.create_connection(("127.0.0.1", port))
        connection, _ = listeners[0][0].accept()
        connection.close()  # who closes first has the TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    with opened(port=port) as listeners:
        assert port_of(listeners) == port


@ipv6
def test_all_addresses_of_a_host_get_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with opened(slots=2, host="localhost", port=0) as listeners:
        port = port_of(listeners)
        assert [[describe(listener) for listener in slot] for slot in listeners] == [
            [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
        ] * 2


def test_an_address_this_machine_lacks_is_left_out_if_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with opened(slots=2, host="somewhere", port=0) as listeners:
        assert [len(slot) for slot in listeners] == [1, 1]


@ipv6
def test_two_colons_are_every_interface_of_both_families() -> None:
    with opened(slots=1, host="::", port=0) as listeners:
        port = port_of(listeners)
        assert describe(listeners[0][0]) == f"http://[::]:{port}"
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


def test_an_empty_host_is_every_interface() -> None:
    with opened(slots=1, host="", port=0) as listeners:
        port = port_of(listeners)
        socket.create_connection(("127.0.0.1", port)).close()
        assert f"http://0.0.0.0:{port}" in [describe(listener) for listener in listeners[0]]


def test_a_host_without_an_address_is_refused() -> None:
    text = refusal(host="no-such-host.invalid", port=0)
    assert re.fullmatch(r"The host 'no-such-host.invalid' has no address here \(.+\): choose another --host\.", text)


def test_an_address_of_another_machine_is_refused() -> None:
    assert refusal(host="192.0.2.1", port=0) == "192.0.2.1:0 is not an address of this machine: choose another --host."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open any port")
def test_a_port_that_needs_privilege_is_refused() -> None:
    assert "127.0.0.1:80 may not be opened by this user" in refusal(port=80)


# -- the stop


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=ipv6)])
def test_after_turning_away_what_is_queued_can_be_taken_and_nothing_comes_in_between(host: str) -> None:
    config = Config("app:app", host=host, port=0)
    listeners = open_listeners(config, 2)
    address = listeners[0][0].getsockname()
    with contextlib.ExitStack() as clients:
        for _ in range(10):
            clients.enter_context(socket.create_connection(address[:2])).send(b"request")
        turn_away(config, listeners)
        late = clients.enter_context(socket.socket(listeners[0][0].family))
        late.settimeout(10)
        with ThreadPoolExecutor(1) as pool:
            attempt = pool.submit(late.connect, address)
            assert sum(queued(slot[0]) for slot in listeners) == 10
            close_listeners(listeners)
            with pytest.raises(ConnectionRefusedError):
                attempt.result()


@linux
def test_an_inherited_socket_goes_on_taking_connections_for_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        config = Config("app:app", fd=owner.fileno())
        listeners = open_listeners(config, 1)
        turn_away(config, listeners)
        close_listeners(listeners)
        socket.create_connection(owner.getsockname()).close()


# -- Unix sockets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # A Unix socket's path holds 107 bytes at most; where pytest's own is too long, tests would test that.
    return tmp_path / "s"


def test_slots_share_one_unix_socket_that_everybody_may_connect_to(path: Path) -> None:
    with opened(slots=3, uds=str(path)) as listeners:
        assert listeners[0][0] is listeners[1][0] is listeners[2][0]
        assert describe(listeners[0][0]) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert queued(listeners[0][0]) == 1


def test_a_unix_socket_left_behind_is_replaced(path: Path) -> None:
    with opened(uds=str(path)):
        pass
    assert path.exists(), "closing alone leaves the path, as a server that was killed does"
    with opened(uds=str(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_socket_that_somebody_serves_is_refused(path: Path) -> None:
    with opened(uds=str(path)):
        assert refusal(uds=str(path)) == (
            f"{path} is in use by another process: choose another --uds, or stop that process."
        )
        assert path.exists()


def test_a_unix_socket_whose_queue_is_full_is_refused(path: Path) -> None:
    with opened(uds=str(path), backlog=1), contextlib.ExitStack() as clients:
        with contextlib.suppress(BlockingIOError):
            while True:
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        assert "is in use by another process" in refusal(uds=str(path))


def test_a_file_in_the_way_is_never_removed(path: Path) -> None:
    path.write_text("somebody's")
    assert refusal(uds=str(path)) == f"{path} exists and is not a socket: remove it, or choose another --uds."
    remove_path(Config("app:app", uds=str(path)))
    assert path.read_text() == "somebody's"


def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    missing = path / "missing"
    assert refusal(uds=str(missing)) == f"{missing} cannot be made, because its directory does not exist."


def test_a_path_too_long_for_a_unix_socket_is_refused(path: Path) -> None:
    assert "cannot be opened: AF_UNIX path too long" in refusal(uds=str(path) + "x" * 108)


def test_the_owner_removes_the_path_at_its_end(path: Path) -> None:
    with opened(uds=str(path)):
        pass
    remove_path(Config("app:app", uds=str(path)))
    assert not path.exists()
    remove_path(Config("app:app", uds=str(path)))  # and may do so twice


def test_the_path_of_a_successor_stays(path: Path) -> None:
    with opened(uds=str(path)):
        pass
    with opened(uds=str(path)):
        remove_path(Config("app:app", uds=str(path)))
        assert path.exists()


# -- inherited sockets


def test_an_inherited_listener_is_used_and_stays_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        with opened(slots=2, fd=owner.fileno()) as listeners:
            assert listeners[0][0] is listeners[1][0]
            assert listeners[0][0].fileno() != owner.fileno()
            assert describe(listeners[0][0]) == f"http://127.0.0.1:{owner.getsockname()[1]}"
            socket.create_connection(owner.getsockname()).close()
            assert queued(listeners[0][0]) == 1
        socket.create_connection(owner.getsockname()).close()


def test_a_child_keeps_the_number_of_a_given_socket_but_not_the_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given, socket.create_server(("127.0.0.1", 0)) as other:
        # As a successor has it: listeners that are nobody's copies, and a number that is something else by now.
        with opened(fd=given.fileno()) as listeners:
            ours = listeners[0][0].fileno()
            let_go_of_given(Config("app:app", fd=[given.fileno(), ours, other.fileno()]), listeners)
            assert os.path.samestat(os.fstat(given.fileno()), Path(os.devnull).stat())
            assert not os.get_inheritable(given.fileno())
            for listener in (listeners[0][0], other):
                socket.create_connection(listener.getsockname()).close()
            address = listeners[0][0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_an_inherited_socket_that_is_only_bound_begins_to_listen() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        with opened(fd=owner.fileno(), backlog=77) as listeners:
            socket.create_connection(owner.getsockname()).close()
            assert backlog_of(listeners[0][0]) == 77


def test_a_number_that_is_not_open_is_refused() -> None:
    with socket.socket() as closed:
        number = closed.fileno()
    assert refusal(fd=number) == (
        f"File descriptor {number} is not open in this process: --fd takes the number of an inherited socket."
    )


def test_a_file_descriptor_that_is_no_socket_is_refused() -> None:
    with Path(os.devnull).open() as file:
        assert f"File descriptor {file.fileno()} is not a socket" in refusal(fd=file.fileno())


def test_a_connected_socket_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert f"File descriptor {ours.fileno()} cannot listen for connections" in refusal(fd=ours.fileno())
