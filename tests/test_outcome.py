"""What has become of a command: judged by what the status shows, from the first look to the last."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from ladybug import control
from ladybug.control import Refused, SlotStatus, Status
from ladybug.outcome import Failed, TooLate, await_outcome, of_reload, of_scale, of_stop, of_upgrade
from tests.control_server import Master


def slot(number: int, *, receiving: bool = True, trouble: str = "") -> SlotStatus:
    return SlotStatus(slot=number, receiving=receiving, waiting=0, restarts={}, trouble=trouble, workers=[])


def status(*slots: SlotStatus, **changes: Any) -> Status:
    found: dict[str, Any] = {
        "pid": 4711,
        "state": "running",
        "under_way": [],
        "workers": len(slots),
        "slots": list(slots),
        "message": "",
        "addresses": ["http://127.0.0.1:8000"],
        **changes,
    }
    return cast(Status, found)


BEFORE = status()


def test_a_reload_is_done_when_it_is_not_under_way_any_more() -> None:
    assert of_reload(status(state="reloading", under_way=["reload"])) is None
    assert of_reload(status()) == "Reloaded."


@pytest.mark.parametrize(
    "seen",
    [
        status(message="The reload is abandoned: no database"),
        status(state="stopping", under_way=["reload"]),
        None,
    ],
    ids=["abandoned", "stopped", "gone"],
)
def test_a_reload_that_fails_says_why(seen: Status | None) -> None:
    with pytest.raises(Failed, match="abandoned: no database" if seen and seen["message"] else "not complete"):
        of_reload(seen)


def test_a_fleet_is_scaled_when_somebody_serves_in_every_slot_and_no_slot_is_left_over() -> None:
    judge = of_scale(2)
    assert judge(status(slot(1), slot(2, receiving=False))) is None
    assert judge(status(slot(1), slot(2), slot(3, receiving=False), workers=2)) is None, "the third still drains"
    assert judge(status(slot(1), slot(2))) == "2 workers serve."
    assert of_scale(1)(status(slot(1))) == "1 worker serves."


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (status(slot(1), slot(2, trouble="Worker 2 could not start: no database"), slot(3)), "no database"),
        (status(slot(1), slot(2), message="Worker 3 cannot be added: too many open files"), "too many open files"),
        (status(slot(1)), "Somebody else wants 1 workers"),
        (status(slot(1), slot(2), slot(3), state="stopping"), "stopping"),
        (None, "gone"),
    ],
)
def test_a_fleet_that_cannot_be_scaled_says_why(seen: Status | None, why: str) -> None:
    with pytest.raises(Failed, match=why):
        of_scale(3)(seen)


def test_an_upgrade_is_done_when_another_master_answers_or_this_one_leaves_for_it() -> None:
    judge = of_upgrade(BEFORE)
    assert judge(status(state="upgrading", under_way=["upgrade"])) is None
    assert judge(status(pid=4712)) == "The new master (pid 4712) serves."
    assert judge(status(state="stopping")) == "The new master serves."


def test_an_upgrade_that_fails_says_why() -> None:
    with pytest.raises(Failed, match="exited with code 3"):
        of_upgrade(BEFORE)(status(message="The upgrade is abandoned: the new one exited with code 3"))


def test_an_old_master_that_was_quick_to_leave_is_told_from_one_that_has_crashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ladybug.outcome.running", lambda: ["/a", "/b", "/c"])
    answers: dict[str, Any] = {"/b": status(addresses=["http://127.0.0.1:9000"], pid=4713), "/c": BEFORE}

    def ask(path: str, command: str) -> Any:
        if path not in answers:
            raise ConnectionRefusedError
        return answers[path]

    monkeypatch.setattr("ladybug.outcome.ask", ask)
    with pytest.raises(Failed, match="has gone"):
        of_upgrade(BEFORE)(None)
    answers["/a"] = status(pid=4714)
    assert of_upgrade(BEFORE)(None) == "The new master (pid 4714) serves."


def test_a_stop_is_done_when_the_process_has_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        judge = of_stop(status(pid=process.pid))
        assert judge(status(pid=process.pid, state="stopping")) is None
        reaper = threading.Timer(0.2, lambda: process.communicate(b"\n"))
        reaper.start()
        assert judge(None) == "Stopped."
        reaper.join()
        assert process.poll() == 0


def test_a_stop_is_done_when_somebody_else_is_at_its_place() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert of_stop(status(pid=process.pid))(status(pid=os.getpid())) == "Stopped."


# -- looking


class Statuses:
    """A master whose status is another one at each look."""

    def __init__(self, *seen: Mapping[str, Any]) -> None:
        self.seen = list(seen)

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.seen:
            raise Refused("not now")
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "control.sock")


def test_it_is_looked_until_it_is_done(path: str) -> None:
    under_way = status(state="reloading", under_way=["reload"])
    server = control.ControlServer(path, {"status": Statuses(under_way, under_way, status())})
    with Master(server):
        assert await_outcome(path, of_reload) == "Reloaded."


def test_it_is_looked_no_longer_than_wanted(path: str) -> None:
    server = control.ControlServer(path, {"status": Statuses(status(state="reloading", under_way=["reload"]))})
    with Master(server), pytest.raises(TooLate):
        await_outcome(path, of_reload, timeout=0.3)


def test_a_server_that_has_gone_is_no_error_by_itself(path: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert await_outcome(path, of_stop(status(pid=process.pid))) == "Stopped."
