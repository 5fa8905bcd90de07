"""The upgrade: one process leaves its sockets to another program."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

import pytest

from ladybug.config import Config
from ladybug.exceptions import StartupError
from ladybug.upgrade import EXEC_FAILED, VARIABLE, Inheritance, Start, Successor, directory_now
from tests.pair import DEADLINE

ROOT = Path(__file__).resolve().parents[1]

HEIR = """
import os, sys
from ladybug.config import Config
from ladybug.upgrade import Inheritance
inheritance = Inheritance.take()
assert inheritance is not None and "LADYBUG_INHERITANCE" not in os.environ
config = Config("m:a")
(first,), (second,) = inheritance.adopt(config)
assert not os.get_inheritable(first.fileno())
assert config.fd == ([first.fileno()] if sys.argv[1] == "given" else [])
assert os.getcwd() == sys.argv[2], os.getcwd()
connection, _ = first.accept()
connection.sendall(os.environ["GREETING"].encode())
inheritance.say_ready()
second.accept()
"""


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def successor(listeners: list[list[socket.socket]], *command: str, given: bool = False, cwd: str = "/") -> Successor:
    environment = {"GREETING": "hello", "PYTHONPATH": str(ROOT)}
    return Successor(Start(cwd, command), listeners, given, environment, "keeper")


def end_of(heir: Successor) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(heir.pid, 0)[1])
    heir.close()
    return code


@pytest.mark.parametrize("given", [True, False])
def test_a_successor_serves_on_the_sockets_and_says_ready(given: bool, tmp_path: Path) -> None:
    with listener() as first, listener() as second:
        word = "given" if given else "own"
        heir = successor(
            [[first], [second]],
            *(sys.executable, "-c", HEIR, word, str(tmp_path)),
            given=given,
            cwd=str(tmp_path),
        )
        assert not heir.is_ready()
        with socket.create_connection(first.getsockname(), DEADLINE) as client:
            assert client.recv(100) == b"hello"
        assert select.select([heir.fd], [], [], DEADLINE)[0]
        assert heir.is_ready()
        os.kill(heir.pid, 0)
        with socket.create_connection(second.getsockname(), DEADLINE):
            assert end_of(heir) == 0
        assert not os.get_inheritable(first.fileno()), "the flag is the child's alone"


def test_a_successor_that_ends_is_not_ready() -> None:
    with listener() as first:
        heir = successor([[first]], sys.executable, "-c", "raise SystemExit(3)")
        assert select.select([heir.fd], [], [], DEADLINE)[0]
        assert not heir.is_ready()
        assert end_of(heir) == 3


def test_a_successor_that_cannot_be_executed_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with listener() as first:
        heir = successor([[first]], "/there/is/no/python", "-m", "ladybug")
        assert end_of(heir) == EXEC_FAILED
    assert "Cannot execute /there/is/no/python -m ladybug: " in capfd.readouterr().err


def test_a_successor_can_be_killed() -> None:
    with listener() as first:
        heir = successor([[first]], sys.executable, "-c", "import time; time.sleep(600)")
        heir.kill(signal.SIGTERM)
        assert end_of(heir) == -signal.SIGTERM


def test_who_is_gone_cannot_be_killed_and_need_not_be() -> None:
    """The keeper reaps the successor, and whoever embeds the server may reap the keeper."""
    with listener() as first:
        heir = successor([[first]], sys.executable, "-c", "")
        assert end_of(heir) == 0
        heir.kill(signal.SIGTERM)
        heir.let_go()


def test_slots_that_shared_a_listener_still_do() -> None:
    with listener() as first:
        ready, say = os.pipe()
        copy = os.dup(first.fileno())
        one, two = Inheritance([[copy], [copy]], False, say).adopt(Config("m:a"))
        assert one[0] is two[0]
        one[0].close()
        os.close(ready)
        os.close(say)


def test_who_inherits_nothing_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Inheritance.take() is None
    somebody_else = {"pid": os.getpid() + 1, "listeners": [[0]], "is_given": False, "ready": 1}
    monkeypatch.setenv(VARIABLE, json.dumps(somebody_else))
    assert Inheritance.take() is None
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("text", ["no json", "[]", "{}", f'{{"pid": {os.getpid()}, "listeners": [[9999]]}}'])
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(StartupError, match="is not what a predecessor leaves"):
        Inheritance.take()


def test_a_link_stays_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, current = tmp_path / "release-1", tmp_path / "current"
    release.mkdir()
    current.symlink_to(release)
    monkeypatch.chdir(current)
    monkeypatch.setenv("PWD", str(current))
    assert directory_now() == str(current)
    monkeypatch.setenv("PWD", "/somewhere/else")
    assert directory_now() == str(release)
