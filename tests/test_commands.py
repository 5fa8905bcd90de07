"""Commands: what operators are told, of a fleet in whatever state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ladybug.actions import Action, OpenSlot, Spawn, StartSuccessor
from ladybug.children import Child
from ladybug.commands import Commands
from ladybug.config import Config
from ladybug.control import Refused
from ladybug.link import MasterLink
from ladybug.listeners import open_listeners
from ladybug.places import Places
from ladybug.scoreboard import Scoreboard
from ladybug.slots import Report
from ladybug.stacks import Stacks
from ladybug.supervisor import MOST_WORKERS, Supervisor, Timeouts

NOW = 1000.0


class World:
    """A supervisor of two slots; its workers are this process, over and over, by other numbers."""

    def __init__(self) -> None:
        self.config = Config("somewhere:app", port=0, workers=2)
        self.places = Places(self.config, open_listeners(self.config, 2))
        self.supervisor = Supervisor(
            2, Timeouts(graceful=1.0, term=2.0, quit=1.0, boot=10.0, healthcheck=30.0, delay=0.0)
        )
        self.scoreboard = Scoreboard(8)
        self.children: dict[int, Child] = {}
        self.done: list[Action] = []
        commands = Commands(self.config, ["http://here"], self.supervisor, self.places, self.children, self.done.extend)
        self.commands = commands.by_name()

    def ask(self, command: str, **arguments: Any) -> Any:
        return self.commands[command]({"command": command, **arguments})

    def boot(self) -> None:
        """Start, and have the workers serve."""
        for action in self.supervisor.start(NOW):
            if isinstance(action, Spawn):
                self.spawn(action.slot)

    def spawn(self, slot: int) -> None:
        link, link_of_worker = os.pipe()
        lifeline_of_worker, lifeline = os.pipe()
        os.close(link_of_worker)
        os.close(lifeline_of_worker)
        pid = 100 + len(self.children)
        record = self.scoreboard.claim(slot, 1, NOW)
        self.children[pid] = Child(pid, MasterLink(link), lifeline, record, Stacks())
        self.done.extend(self.supervisor.spawned(slot, pid, NOW))
        self.done.extend(self.supervisor.reported(pid, Report.READY, "", NOW))

    def close(self) -> None:
        self.places.close()
        for child in self.children.values():
            child.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def running(world: World) -> World:
    world.boot()
    world.done.clear()
    return world


def test_the_status_of_a_fleet_that_boots(world: World) -> None:
    status = world.ask("status")
    assert (status["state"], status["app"], status["addresses"]) == ("booting", "somewhere:app", ["http://here"])
    assert [slot["slot"] for slot in status["slots"]] == [1, 2]
    assert [slot["workers"] for slot in status["slots"]] == [[], []]


def test_the_status_of_a_fleet_that_runs(running: World) -> None:
    status = running.ask("status")
    assert (status["state"], status["workers"], status["under_way"], status["message"]) == ("running", 2, [], "")
    assert [[worker["pid"] for worker in slot["workers"]] for slot in status["slots"]] == [[100], [101]]
    assert [slot["workers"][0]["state"] for slot in status["slots"]] == ["serving", "serving"]


def test_a_reload_is_under_way_until_it_is_over(running: World) -> None:
    assert running.ask("reload") == {"text": "Reloading."}
    status = running.ask("status")
    assert (status["state"], status["under_way"]) == ("reloading", ["reload"])
    assert [action.slot for action in running.done if isinstance(action, Spawn)] == [0]


def test_a_fleet_that_grows(running: World) -> None:
    assert running.ask("scale", workers=3) == {"text": "Going to 3."}
    assert [action.slot for action in running.done if isinstance(action, OpenSlot)] == [2]
    assert running.ask("status")["workers"] == 3


@pytest.mark.parametrize("workers", [0, -1, 1.5, "two", None, MOST_WORKERS + 1])
def test_a_size_that_cannot_be_is_refused(running: World, workers: Any) -> None:
    with pytest.raises(Refused):
        running.ask("scale", workers=workers)
    assert running.ask("status")["workers"] == 2


def test_while_a_successor_starts_the_size_stays(running: World) -> None:
    assert running.ask("upgrade") == {"text": "A new master is starting."}
    assert any(isinstance(action, StartSuccessor) for action in running.done)
    assert running.ask("status")["state"] == "upgrading"
    with pytest.raises(Refused, match="stays while a successor starts"):
        running.ask("scale", workers=3)


@pytest.mark.parametrize("command", ["reload", "upgrade", "scale"])
def test_a_fleet_that_stops_does_nothing_new(running: World, command: str) -> None:
    assert running.ask("stop") == {"text": "Stopping."}
    assert running.ask("status")["state"] == "stopping"
    with pytest.raises(Refused, match=r"\w\.$"):
        running.ask(command, workers=3)
