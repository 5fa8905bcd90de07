"""What operators ask and command through the control socket (control.py), answered from the tables of the fleet.

The commands are the signals' by other names, with one thing more: who commands is told what has begun, or why it cannot.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ladybug import __version__
from ladybug.actions import Action
from ladybug.children import Child
from ladybug.control import (
    Command,
    Refused,
    SlotStatus,
    Status,
    WorkerStatus,
    resident_memory,
    waiting_connections,
    whole_argument,
)
from ladybug.places import Places
from ladybug.slots import Fleet
from ladybug.supervisor import MOST_WORKERS, Supervisor

if TYPE_CHECKING:
    from ladybug.config import Config


class Commands:
    """The fleet as its operators see it.

    children    by pid; the master's own table
    perform     does what the supervisor decides
    """

    def __init__(
        self,
        config: "Config",
        addresses: list[str],
        supervisor: Supervisor,
        places: Places,
        children: Mapping[int, Child],
        perform: Callable[[list[Action]], None],
    ) -> None:
        self._config = config
        self._addresses = addresses
        self._supervisor = supervisor
        self._places = places
        self._children = children
        self._perform = perform
        self._began = time.monotonic()

    def by_name(self) -> dict[str, Command]:
        """What a `ControlServer` obeys."""
        return {
            "status": lambda _: self.status(),
            "reload": lambda _: self._reload(),
            "stop": lambda _: self._obeyed(self._supervisor.stop_requested(time.monotonic()), "Stopping."),
            "scale": self._scale,
            "upgrade": lambda _: self._upgrade(),
        }

    # -- commands

    def _scale(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        supervisor = self._supervisor
        size = whole_argument(request, "workers", 1)
        if size > MOST_WORKERS:
            raise Refused(f"More than {MOST_WORKERS} workers are more than anybody means.")
        answer = self._obeyed(supervisor.scale_requested(size, time.monotonic()), f"Going to {size}.")
        if supervisor.size != size:
            why = "The number of workers stays while a successor starts" if supervisor.is_upgrading else ""
            raise Refused(f"{why or supervisor.message or 'The server is stopping'}.")
        return answer

    def _reload(self) -> Mapping[str, Any]:
        answer = self._obeyed(self._supervisor.reload_requested(time.monotonic()), "Reloading.")
        if self._supervisor.fleet not in (Fleet.BOOTING, Fleet.RUNNING):
            raise Refused("The server is stopping.")
        return answer

    def _upgrade(self) -> Mapping[str, Any]:
        answer = self._obeyed(self._supervisor.upgrade_requested(time.monotonic()), "A new master is starting.")
        if not self._supervisor.is_upgrading:
            raise Refused(f"{self._supervisor.message}.")
        return answer

    def _obeyed(self, actions: list[Action], text: str) -> Mapping[str, Any]:
        self._perform(actions)
        return {"text": text}

    # -- the status

    def status(self) -> Status:
        now = time.monotonic()
        return Status(
            pid=os.getpid(),
            version=__version__,
            app=str(self._config.app),  # an application object has no master
            addresses=self._addresses,
            state=self._state(),
            under_way=[
                *(["reload"] if self._supervisor.is_reloading else []),
                *(["upgrade"] if self._supervisor.is_upgrading else []),
            ],
            age=now - self._began,
            workers=self._supervisor.size,
            slots=self._slots(now),
            message=self._supervisor.message,
        )

    def _state(self) -> str:
        fleet = self._supervisor.fleet
        if self._supervisor.is_reloading and fleet in (Fleet.BOOTING, Fleet.RUNNING):
            return "reloading"
        return "upgrading" if self._supervisor.is_upgrading else fleet.value

    def _slots(self, now: float) -> list[SlotStatus]:
        slots = []
        for number, workers, restarts, trouble in self._supervisor.view():
            place = self._places.get(number)
            waiting = [waiting_connections(listener) for listener in place.own] if place is not None else []
            slots.append(
                SlotStatus(
                    slot=number + 1,
                    receiving=number in self._places.receiving,
                    waiting=None if None in waiting or not waiting else sum(count or 0 for count in waiting),
                    restarts=dict(restarts),
                    trouble=trouble,
                    workers=[self._worker(pid, state.value, now) for pid, state in workers],
                )
            )
        return slots

    def _worker(self, pid: int, state: str, now: float) -> WorkerStatus:
        child = self._children[pid]
        row = child.record.read()
        return WorkerStatus(
            pid=pid,
            generation=row.generation,
            state=state,
            age=now - child.born,
            silent=max(0.0, now - row.heartbeat),
            connections=row.connections,
            in_flight=row.in_flight,
            requests=row.requests,
            memory=resident_memory(pid),
        )
