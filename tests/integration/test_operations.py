"""How a server is run: its pid file, its user and group, its umask. With real processes."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.support import APPS, DEADLINE, ROOT, Client, Server, eventually, request_bytes, serve

APP = f"{APPS}.operations:app"
NOBODY = pwd.getpwnam("nobody")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def can_nobody_import() -> bool:
    """Whether this Python and this source tree are open to users other than root."""
    import sys

    places = [Path(sys.executable).resolve(), Path(os.__file__), ROOT]
    return all(parent.stat().st_mode & stat.S_IXOTH for place in places for parent in place.parents)


as_nobody = pytest.mark.skipif(
    os.geteuid() != 0 or not can_nobody_import(), reason="needs root, and a Python that others may read"
)


@contextlib.contextmanager
def refused(*options: str, workers: int = 1) -> Iterator[Server]:
    """A server that does not start: exit code 3, and a message."""
    server = Server(APP, *options, workers=workers)
    try:
        assert server.wait() == 3
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


# -- the pid file


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pid_file_names_the_process_that_takes_signals(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "server.pid"
    with serve(APP, "--pid-file", str(path), workers=workers) as server:
        assert path.read_text() == f"{server.pid}\n"
        os.kill(int(path.read_text()), signal.SIGTERM)
        assert server.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_second_server_is_refused_before_it_binds(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with serve(APP, "--pid-file", str(path), workers=1) as server:
        with refused("--pid-file", str(path)) as second:
            expected = f"{path} belongs to a Ladybug that is running (pid {server.pid}): stop it, or choose another"
            assert expected in second.output.text()
        assert path.read_text() == f"{server.pid}\n"
        assert server.request("/who").status == 200


def test_what_a_killed_server_left_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    server = Server(APP, "--pid-file", str(path), workers=2)
    server.wait_until_listening()
    workers = psutil.Process(server.pid).children()
    server.signal(signal.SIGKILL)
    server.process.wait()
    assert path.read_text() == f"{server.pid}\n"
    # Its workers may still be there: they do not hold it.
    with serve(APP, "--pid-file", str(path), workers=1) as successor:
        assert path.read_text() == f"{successor.pid}\n"
    assert not path.exists()
    eventually(lambda: not any(worker.is_running() for worker in workers), "the workers to follow their master")
    server.output.wait_until_closed()


def test_a_server_that_cannot_start_leaves_no_pid_file(tmp_path: Path) -> None:
    with serve(APP, workers=1) as server, refused("--pid-file", str(tmp_path / "x.pid"), "--port", str(server.port)):
        assert list(tmp_path.iterdir()) == []


# -- user, group, umask


@as_nobody
@pytest.mark.parametrize(("workers", "options"), [(0, ()), (2, ()), (2, ("--preload",))])
def test_the_application_runs_as_the_user_from_its_first_line_on(workers: int, options: tuple[str, ...]) -> None:
    with serve(APP, "--user", "nobody", "--group", "daemon", *options, workers=workers) as server:
        found = server.request("/who").value()
        uids, gids = (NOBODY.pw_uid,) * 3, (1, 1, 1)
        assert (found["uids"], found["imported by"], found["gids"]) == (uids, uids, gids)
        assert 0 not in found["groups"]
        master = psutil.Process(server.pid)
        assert master.uids().effective == (0 if workers else NOBODY.pw_uid)


@as_nobody
def test_a_port_below_1024_is_open_to_a_user_that_may_not_open_it() -> None:
    with serve(APP, "--user", "nobody", workers=2, bind=("--host", "127.0.0.1", "--port", "909")) as server:
        assert server.port == 909
        assert server.request("/who").value()["uids"][0] == NOBODY.pw_uid


@as_nobody
def test_a_worker_that_dies_is_replaced_by_one_of_the_same_user() -> None:
    with serve(APP, "--user", "nobody", workers=1) as server:
        first = server.request("/who").value()
        os.kill(first["pid"], signal.SIGKILL)
        server.output.wait_for(rf"Worker 1 \(pid (?!{first['pid']}\b)\d+\) is ready")
        second = server.request("/who").value()
        assert second["pid"] != first["pid"]
        assert second["uids"] == first["uids"]


@pytest.mark.slow
@as_nobody
def test_workers_of_another_user_follow_their_master_too() -> None:
    """The kernel signals its end to them on their own behalf (F_SETOWN), although it was root's."""
    server = Server(APP, "--user", "nobody", workers=2)
    try:
        server.wait_until_listening()
        workers = psutil.Process(server.pid).children()
        with server.connect() as client:
            client.send(request_bytes("/block"))
            server.signal(signal.SIGKILL)
            server.process.wait(DEADLINE)
            # The one whose loop is blocked has only that signal to end by.
            psutil.wait_procs(workers, timeout=40)
        assert not any(worker.is_running() for worker in workers)
    finally:
        server.kill()


@as_nobody
def test_the_unix_socket_belongs_to_the_user_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    options = ("--user", "nobody", "--umask", "007")
    server = Server(APP, *options, workers=1, bind=("--uds", str(path)))
    try:
        server.output.wait_for("Press Ctrl")
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o660)
        with Client(str(path)) as client:
            assert client.request("/who").value()["umask"] == 0o007
        assert server.stop() == 0
        assert not path.exists()
    finally:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that others can look into; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@as_nobody
def test_log_files_belong_to_the_user(open_path: Path) -> None:
    log, config = open_path / "server.log", open_path / "logging.json"
    handler = {"class": "logging.FileHandler", "filename": str(log)}
    root = {"handlers": ["file"], "level": "INFO"}
    settings = {"version": 1, "disable_existing_loggers": False, "handlers": {"file": handler}, "root": root}
    config.write_text(json.dumps(settings))
    server = Server(APP, "--user", "nobody", "--log-config", str(config), workers=1)
    try:
        eventually(lambda: log.exists() and "Press Ctrl" in log.read_text(), "the log to say that it serves")
        assert log.stat().st_uid == NOBODY.pw_uid
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.kill()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_umask_is_for_all_files_that_are_made(tmp_path: Path, workers: int) -> None:
    made = tmp_path / "made"
    with serve(APP, "--umask", "027", "--pid-file", str(tmp_path / "x.pid"), workers=workers) as server:
        assert server.request(f"/make?{made}").status == 200
        assert stat.S_IMODE(made.stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "x.pid").stat().st_mode) == 0o640


def test_a_unix_socket_is_open_to_all_unless_the_umask_says_otherwise(tmp_path: Path) -> None:
    for options, mode in (((), 0o666), (("--umask", "077"), 0o600)):
        server = Server(APP, *options, workers=1, bind=("--uds", str(tmp_path / "app.sock")))
        try:
            server.output.wait_for("Press Ctrl")
            assert stat.S_IMODE((tmp_path / "app.sock").stat().st_mode) == mode
            assert server.stop() == 0
        finally:
            if server.process.poll() is None:
                server.kill()


@needs_root
def test_a_user_that_is_not_there_is_named_once() -> None:
    with refused("--user", "no-such-user", workers=2) as server:
        assert server.output.text().count("There is no user no-such-user on this system (--user).") == 1
