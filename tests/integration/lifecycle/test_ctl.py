"""`ladybug ctl` and a real server: asked, commanded, found, not found.

Servers of others may be running as this user, and would be found as well. So whoever is told something here is named.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import (
    DEADLINE,
    Server,
    eventually,
    serve,
    server_command,
    server_environment,
    variant_options,
)

APP = "tests.integration.apps.blocking:app"

pytestmark = pytest.mark.skipif(bool(variant_options()), reason="independent of loop and poller")


class Operator:
    """Somebody with a shell, a runtime directory of their own, and a variable that says where the server's socket is."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o700)
        self.path = directory / "control.sock"
        self.env = {"XDG_RUNTIME_DIR": str(directory), "LADYBUG_CONTROL_SOCKET": str(self.path)}

    @contextlib.contextmanager
    def server(self, *options: str, workers: int = 2) -> Iterator[Server]:
        with serve(APP, *options, workers=workers, env=self.env) as server:
            yield server

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*server_command(), "ctl", *words],
            env=server_environment(self.env),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )

    def status(self) -> dict[str, Any]:
        ran = self.types("status", "--json")
        assert ran.returncode == 0, ran.stderr
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    def sees(self, *states: str) -> bool:
        """Whether these are the states of all workers, slot by slot."""
        return [worker["state"] for slot in self.status()["slots"] for worker in slot["workers"]] == list(states)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def pids(status: dict[str, Any]) -> set[int]:
    return {worker["pid"] for slot in status["slots"] for worker in slot["workers"]}


def test_status_tells_of_every_worker(operator: Operator) -> None:
    with operator.server() as server:
        found = operator.status()
        assert found["pid"] == server.pid
        assert found["app"] == APP
        assert found["addresses"] == [f"http://127.0.0.1:{server.port}"]
        assert found["workers"] == 2
        assert [slot["slot"] for slot in found["slots"]] == [1, 2]
        for slot in found["slots"]:
            assert slot["receiving"]
            assert slot["restarts"] == {}
            (worker,) = slot["workers"]
            assert worker["state"] == "serving"
            assert worker["generation"] == 1
        # The workers count by themselves, and tell with their next heartbeat.
        for _ in range(5):
            assert server.request("/").value()["pid"] in pids(found)

        def requests() -> int:
            return sum(worker["requests"] for slot in operator.status()["slots"] for worker in slot["workers"])

        eventually(lambda: requests() == 5, "five requests in the status")
        ran = operator.types("status")
        assert ran.returncode == 0
        assert ran.stdout.startswith(
            f"Ladybug {found['version']} (pid {server.pid}) serving {APP} on http://127.0.0.1:"
        )


def test_status_tells_of_a_death_and_its_reason(operator: Operator) -> None:
    with operator.server() as server:
        victim = operator.status()["slots"][1]["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        server.output.wait_for(rf"Worker 2 \(pid (?!{victim}\b)\d+\) is ready")
        slot = operator.status()["slots"][1]
        assert slot["workers"][0]["generation"] == 2
        assert sum(slot["restarts"].values()) == 1
        assert "SIGKILL" in next(iter(slot["restarts"]))


def test_scale_changes_the_number_of_workers(operator: Operator) -> None:
    with operator.server() as server:
        for number in (3, 1, 2):
            assert operator.types("scale", str(number)).returncode == 0
            eventually(lambda number=number: operator.sees(*["serving"] * number), f"{number} workers")  # type: ignore[misc]
            assert server.request("/").status == 200
        assert operator.status()["workers"] == 2


def test_reload_replaces_all_workers(operator: Operator) -> None:
    with operator.server():
        before = pids(operator.status())
        assert operator.types("reload").returncode == 0
        eventually(lambda: operator.sees("serving", "serving") and not pids(operator.status()) & before, "new workers")


def test_stop_stops_and_leaves_nothing_behind(operator: Operator) -> None:
    with operator.server() as server:
        assert stat.S_IMODE(operator.path.stat().st_mode) == 0o600
        assert operator.types("stop").returncode == 0
        assert server.wait() == 0
    assert not operator.path.exists()
    ran = operator.types("status")
    assert ran.returncode == 3
    assert "control.sock is not there" in ran.stderr


def test_of_several_servers_one_has_to_be_named(operator: Operator) -> None:
    """By default each has a name of its own, and the user's own directory is looked in."""
    del operator.env["LADYBUG_CONTROL_SOCKET"]
    with operator.server(workers=1) as one, operator.server(workers=1) as other:
        ran = operator.types("status")
        assert ran.returncode == 2
        for server in (one, other):
            path = operator.path.parent / "ladybug" / f"{server.pid}.sock"
            assert f"--control-socket {path} " in ran.stderr
            assert f"http://127.0.0.1:{server.port} " in ran.stderr
            named = operator.types("status", "--json", "--control-socket", str(path))
            assert json.loads(named.stdout)["pid"] == server.pid
    assert list((operator.path.parent / "ladybug").iterdir()) == []


@pytest.mark.parametrize(("setting", "workers"), [("off", 1), ("auto", 0)])
def test_a_server_without_it_is_not_found(operator: Operator, setting: str, workers: int) -> None:
    operator.env["LADYBUG_CONTROL_SOCKET"] = setting
    with operator.server(workers=workers) as server:
        operator.env["LADYBUG_CONTROL_SOCKET"] = ""
        ran = operator.types("status")
        assert f"http://127.0.0.1:{server.port}" not in ran.stdout + ran.stderr
    assert not (operator.path.parent / "ladybug").exists()


def test_a_second_server_does_not_take_the_path_of_the_first(operator: Operator) -> None:
    with operator.server() as first:
        second = Server(APP, workers=1, env=operator.env)
        assert second.wait() == 3
        assert "is in use by another server: choose another --control-socket" in second.output.text()
        assert operator.status()["pid"] == first.pid


def test_what_a_killed_server_left_is_replaced(operator: Operator) -> None:
    killed = Server(APP, workers=1, env=operator.env)
    try:
        killed.wait_until_listening()
    finally:
        killed.kill()
    ran = operator.types("status")
    assert ran.returncode == 3
    assert "left over from a server that is gone" in ran.stderr
    with operator.server() as server:
        assert operator.status()["pid"] == server.pid


def test_a_successor_serves_although_its_path_cannot_be_had(tmp_path: Path) -> None:
    """By the time it would open it, its predecessor is leaving: nobody else would serve."""
    private = tmp_path / "private"
    private.mkdir()
    operator = Operator(private)
    server = Server(APP, workers=1, env=operator.env)
    try:
        server.wait_until_listening()
        shutil.rmtree(private)
        server.signal(signal.SIGUSR2)
        assert server.process.wait(DEADLINE) == 0
        text = server.output.wait_for(r"ladybug ctl will not find this server: .*/control\.sock cannot be made: .*")[0]
        assert text.endswith("No such file or directory. Choose another --control-socket.")
        assert server.request("/").status == 200
        # A process group of its own: who is left of it is the successor and its worker.
        os.killpg(server.pid, signal.SIGTERM)
        server.output.wait_until_closed()
        server.check_log()
    finally:
        server.kill()


def test_an_upgrade_is_refused_while_a_worker_leaves(operator: Operator) -> None:
    with operator.server() as server:
        leaving = operator.status()["slots"][1]["workers"][0]["pid"]
        os.kill(leaving, signal.SIGSTOP)  # so that it does not leave before we ask
        assert operator.types("scale", "1").returncode == 0
        ran = operator.types("upgrade")
        assert (ran.returncode, ran.stderr) == (
            1,
            "Error: Worker 2 is still leaving, and there is no upgrade until it has gone.\n",
        )
        os.kill(leaving, signal.SIGCONT)
        assert server.request("/").status == 200


def test_clients_that_say_nothing_hold_up_neither_the_server_nor_its_stop(operator: Operator) -> None:
    with contextlib.ExitStack() as clients, operator.server() as server:
        for _ in range(5):
            clients.enter_context(socket.socket(socket.AF_UNIX)).connect(str(operator.path))
        assert server.request("/").status == 200
        assert operator.types("status").returncode == 0
        assert server.stop() == 0
