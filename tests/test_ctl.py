"""`ladybug ctl`: what it asks, what it prints, and what it says when there is nobody, or somebody who refuses."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ladybug import cli, control, ctl
from ladybug.control import Refused, Status, open_control, whole_argument
from tests.control_server import Master

STATUS: Status = {
    "pid": 4711,
    "version": "1.2",
    "app": "shop:app",
    "addresses": ["http://127.0.0.1:8000", "http://[::1]:8000"],
    "state": "running",
    "age": 93784.5,
    "under_way": [],
    "workers": 3,
    "slots": [
        {
            "slot": 1,
            "receiving": True,
            "waiting": 0,
            "restarts": {},
            "trouble": "",
            "workers": [
                {
                    "pid": 4712,
                    "generation": 1,
                    "state": "serving",
                    "age": 93783.0,
                    "silent": 0.4,
                    "connections": 12,
                    "in_flight": 3,
                    "requests": 123456,
                    "memory": 48 << 20,
                }
            ],
        },
        {
            "slot": 2,
            "receiving": False,
            "waiting": 7,
            "restarts": {"was killed by signal 9 (SIGKILL)": 2, "served its number of requests": 1},
            "trouble": "",
            "workers": [
                {
                    "pid": 4713,
                    "generation": 4,
                    "state": "draining",
                    "age": 3725.0,
                    "silent": 65.0,
                    "connections": 1,
                    "in_flight": 1,
                    "requests": 9,
                    "memory": None,
                },
                {
                    "pid": 4999,
                    "generation": 5,
                    "state": "booting",
                    "age": 2.0,
                    "silent": 2.0,
                    "connections": 0,
                    "in_flight": 0,
                    "requests": 0,
                    "memory": 20 << 20,
                },
            ],
        },
        {
            "slot": 3,
            "receiving": False,
            "waiting": None,
            "restarts": {"exited with code 1": 5},
            "trouble": "Worker 3 could not start: no database",
            "workers": [],
        },
    ],
    "message": "The last reload was given up: \x1b[2Jno module named shop.",
}

TABLE = """\
Ladybug 1.2 (pid 4711) serving shop:app on http://127.0.0.1:8000, http://[::1]:8000
running for 1 d 2 h, 3 workers

SLOT  PID   GENERATION  STATE     AGE        HEARD          CONNECTIONS  RUNNING  REQUESTS  MEMORY  WAITING  RESTARTS
1     4712  1           serving   1 d 2 h    0 s ago        12           3        123456    48 MiB  0        0
2     4713  4           draining  1 h 2 min  1 min 5 s ago  1            1        9                 7        3
2     4999  5           booting   2 s        2 s ago        0            0        0         20 MiB
3                       empty                                                                                5

Slot 2 gets no new connections now.
Slot 2 was restarted: was killed by signal 9 (SIGKILL) (2 times), served its number of requests.
Slot 3 gets no new connections now.
Worker 3 could not start: no database.
Slot 3 was restarted: exited with code 1 (5 times).
The last reload was given up: ?[2Jno module named shop.
"""


def refuse(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise Refused("An upgrade is under way: wait until it is over.")


COMMANDS: Mapping[str, control.Command] = {
    "status": lambda _: dict(STATUS),
    "reload": lambda _: {"text": "Reloading."},
    "stop": lambda _: {"text": "Stopping."},
    "scale": lambda request: {"text": f"{whole_argument(request, 'workers', 1)} workers from now on."},
    "upgrade": refuse,
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory that is looked in."""
    monkeypatch.delenv("LADYBUG_CONTROL_SOCKET", raising=False)
    for module in (control, ctl):
        monkeypatch.setattr(module, "directories", lambda: [str(tmp_path / "ladybug")])
    return tmp_path / "ladybug"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server with a path of its own, where nobody looks."""
    with serving(str(tmp_path / "control.sock")) as master:
        yield master.server.path


def serving(setting: str = "auto") -> Master:
    opened = open_control(setting, COMMANDS)
    assert opened is not None
    return Master(opened)


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(cli.main, ["ctl", *arguments], env=variables)


def test_status_is_a_table(server: str) -> None:
    result = run("status", "--control-socket", server)
    assert (result.exit_code, result.output) == (0, TABLE)


def test_status_for_programs_is_what_the_server_says(server: str) -> None:
    result = run("status", "--json", "--control-socket", server)
    assert result.exit_code == 0
    assert json.loads(result.output) == STATUS


@pytest.mark.parametrize(
    ("command", "said"),
    [(["reload"], "Reloading.\n"), (["stop"], "Stopping.\n"), (["scale", "5"], "5 workers from now on.\n")],
)
def test_a_command_is_passed_on(server: str, command: list[str], said: str) -> None:
    result = run(*command, "--control-socket", server)
    assert (result.exit_code, result.output) == (0, said)


@pytest.mark.parametrize("state", ["running", "reloading", "upgrading"])
def test_a_server_that_serves_is_ready(server: str, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setitem(STATUS, "state", state)
    result = run("ready", "--control-socket", server)
    assert (result.exit_code, result.output) == (0, "Ready.\n")


@pytest.mark.parametrize("state", ["booting", "leaving", "stopping", "quitting", "killing", "over"])
def test_a_server_that_leaves_is_not_ready(server: str, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setitem(STATUS, "state", state)
    result = run("ready", "--control-socket", server)
    assert (result.exit_code, result.output) == (1, f"Error: It is {state}.\n")


def test_a_server_whose_workers_all_stand_still_is_not_ready(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATUS, "slots", [{**slot, "receiving": False} for slot in STATUS["slots"]])
    result = run("ready", "--control-socket", server)
    assert (result.exit_code, result.output) == (1, "Error: None of its workers can take a request.\n")


def test_a_refusal_ends_with_code_1(server: str) -> None:
    result = run("upgrade", "--control-socket", server)
    assert (result.exit_code, result.output) == (1, "Error: An upgrade is under way: wait until it is over.\n")


def test_what_is_no_socket_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("reload", "--control-socket", str(tmp_path / "file"))
    assert (result.exit_code, result.output) == (3, f"Error: {tmp_path / 'file'} is not a socket.\n")


@pytest.mark.parametrize("command", [["stop"], ["reload"], ["scale", "3"], ["upgrade"]])
def test_who_does_not_wait_has_no_timeout(server: str, command: list[str]) -> None:
    result = run(*command, "--timeout", "3", "--control-socket", server)
    assert result.exit_code == 2
    assert "it is for --wait." in result.output


def test_the_variable_of_the_server_says_where_it_is(server: str) -> None:
    assert run("reload", LADYBUG_CONTROL_SOCKET=server).exit_code == 0


def test_the_server_may_be_named_before_the_command(server: str) -> None:
    assert run("--control-socket", server, "reload", LADYBUG_CONTROL_SOCKET="/nowhere").exit_code == 0


def test_the_name_after_the_command_is_the_one_that_counts(server: str) -> None:
    assert run("--control-socket", "/nowhere", "reload", "--control-socket", server).exit_code == 0


@pytest.mark.parametrize("setting", ["", "auto"])
def test_the_only_server_is_found(setting: str) -> None:
    with serving():
        result = run("reload", LADYBUG_CONTROL_SOCKET=setting)
        assert (result.exit_code, result.stdout) == (0, "Reloading.\n")
        assert result.stderr == "shop:app on http://127.0.0.1:8000, http://[::1]:8000 (pid 4711)\n", "who was meant"


def test_of_several_servers_one_has_to_be_named(directory: Path) -> None:
    with serving(), socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "other.sock"))
        other.listen()

        def hang_up() -> None:
            for _ in range(2):  # the look whether somebody is there, and the question who
                other.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        result = run("stop")
        thread.join()
    assert result.exit_code == 2
    assert result.output.startswith("Error: There are several servers; say which one:\n")
    first, second = sorted(result.output.splitlines()[1:])
    assert first == (
        f"  --control-socket {directory}/{os.getpid()}.sock"
        "    shop:app on http://127.0.0.1:8000, http://[::1]:8000 (pid 4711)"
    )
    assert second.startswith(f"  --control-socket {directory}/other.sock    does not say what it is")


def test_without_a_server_it_says_where_it_looked(directory: Path) -> None:
    result = run("status")
    assert result.exit_code == 3
    assert f"No server of this user was found (looked in {directory})." in result.output


def leave_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))


def test_a_path_without_a_server_is_told_from_one_with_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    result = run("status", "--control-socket", str(path))
    assert result.exit_code == 3
    assert f"{path} is not there" in result.output
    leave_socket(path)
    result = run("status", "--control-socket", str(path))
    assert result.exit_code == 3
    assert f"{path} is left over from a server that is gone" in result.output


def test_a_server_that_was_started_without_it_is_not_looked_for() -> None:
    result = run("status", LADYBUG_CONTROL_SOCKET="off")
    assert result.exit_code == 3
    assert "off" in result.output


@pytest.mark.parametrize("arguments", [["scale"], ["scale", "0"], ["scale", "many"], ["explode"], ["status", "--loud"]])
def test_a_wrong_command_line_ends_with_code_2(server: str, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("given", ["+1", "-1", "-10"])
def test_scale_is_no_step(server: str, given: str) -> None:
    result = run("scale", given, "--control-socket", server)
    assert result.exit_code == 2
    assert f"{given}: scale takes the number of workers that is wanted, not how many more or fewer." in result.output


@pytest.mark.parametrize(
    ("given", "why"),
    [("abc", "'abc' is not a whole number."), ("0", "0 is out of range: it must be at least 1.")],
)
def test_what_scale_cannot_take_is_named(server: str, given: str, why: str) -> None:
    result = run("scale", given, "--control-socket", server)
    assert result.exit_code == 2
    assert f"Invalid value for 'WORKERS': {why}" in result.output


def test_an_application_in_a_module_called_ctl_is_served() -> None:
    context = cli.main.make_context("ladybug", ["ctl:app"])
    assert cli.given_values(context.params) == {"app": "ctl:app"}


def test_help_names_it() -> None:
    assert "ladybug ctl --help" in CliRunner().invoke(cli.main, ["--help"]).output
    for command in ([], ["scale"]):
        for typed in ("--help", "-h"):
            assert run(*command, typed).output.startswith("Usage: ladybug ctl ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7380, "2 h 3 min"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, words: str) -> None:
    assert ctl.duration(seconds) == words
