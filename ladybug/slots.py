"""Slots and their workers: what state each is in, and the tables that say what moves it to the next.

A worker's life, and what may become of it:

    BOOTING -> SERVING -> (LEAVING ->) DRAINING -> gone     replaced: its successor serves before it leaves
    BOOTING -> SERVING -> gone                              died: replaced, after a delay if it died young
    BOOTING -> FAILED -> gone                               could not start
    DRAINING -> ABORTED -> KILLED                           did not leave in time, like QUITTING and FAILED
    SERVING -> SILENT -> BLOCKED -> ABORTED -> KILLED       its event loop stands still; as soon as it runs again: SERVING

REPORTED and OVERDUE are the tables of one process, FLEET that of all together. An entry that is missing is an error of whoever
looks it up (KeyError).

Rule: nothing is decided here. What is to be done about a state is the supervisor's.
"""

import enum
import signal
from collections.abc import Mapping
from math import inf
from typing import NamedTuple


class Worker(enum.Enum):
    """State of one worker process."""

    BOOTING = "booting"
    SERVING = "serving"
    SILENT = "silent"  # misses its heartbeat; was asked for its stacks
    BLOCKED = "blocked"  # the same, and the log tells of it
    FAILED = "failed"  # has said why it cannot start, and is about to exit
    # Told to go:
    LEAVING = "leaving"  # was sent USR2: serves on, and says Connection: close
    UNWANTED = (
        "unwanted"  # was sent TERM while it booted: it has nothing to finish, unless it was ready a moment before
    )
    DRAINING = "draining"  # was sent TERM
    QUITTING = "quitting"  # was sent QUIT
    ABORTED = "aborted"  # was sent ABRT
    KILLED = "killed"  # was sent KILL


class Report(enum.Enum):
    """What a worker says of itself."""

    READY = "ready"
    FAILED = "failed"
    RETIRING = "retiring"  # goes on serving, and asks for a successor
    CLOSED = "closed"  # drains, and accepts nothing any more


class Fleet(enum.Enum):
    """State of all workers together."""

    BOOTING = "booting"  # until every slot has served once
    RUNNING = "running"
    LEAVING = "leaving"  # for the time of --shutdown-delay
    STOPPING = "stopping"
    QUITTING = "quitting"
    KILLING = "killing"
    OVER = "over"


class Turn(enum.Enum):
    """What moves the fleet from one state to the next."""

    COMPLETE = "complete"  # every slot has served
    CANNOT_BOOT = "cannot boot"
    STOP = "stop"  # INT or TERM
    QUIT = "quit"
    DELAYED = "delayed"  # --shutdown-delay is over
    SUCCEEDED = "succeeded"  # another master has taken over
    EMPTY = "empty"  # the last worker has gone


# -- the tables

# How a worker is told to go, mildest first.
ORDERS: Mapping[Worker, signal.Signals] = {
    Worker.LEAVING: signal.SIGUSR2,
    Worker.UNWANTED: signal.SIGTERM,
    Worker.DRAINING: signal.SIGTERM,
    Worker.QUITTING: signal.SIGQUIT,
    Worker.ABORTED: signal.SIGABRT,
    Worker.KILLED: signal.SIGKILL,
}
SEVERITY: Mapping[Worker, int] = {state: degree for degree, state in enumerate(ORDERS, start=1)}
# Takes connections, or will again. And: holds its slot, so that nobody else is needed there.
SERVES = frozenset({Worker.SERVING, Worker.SILENT, Worker.BLOCKED})
STAYS = SERVES | {Worker.BOOTING, Worker.FAILED}
# Serves no longer, and has a deadline by which it is gone.
ENDS = (frozenset(ORDERS) - {Worker.LEAVING, Worker.UNWANTED}) | {Worker.FAILED}

REPORTED: Mapping[tuple[Worker, Report], Worker] = {
    (Worker.BOOTING, Report.READY): Worker.SERVING,
    (Worker.BOOTING, Report.FAILED): Worker.FAILED,
    **{(state, Report.RETIRING): state for state in SERVES},
    # What a worker that was told to go says of itself has crossed our signal on the way, and changes nothing any more.
    **{(state, report): state for state in ORDERS for report in Report},
    (Worker.UNWANTED, Report.READY): Worker.DRAINING,
    # Somebody else has told it to go.
    **{(state, Report.CLOSED): Worker.DRAINING for state in (*SERVES, Worker.LEAVING)},
}

# What becomes of a worker that has been in a state for too long. Who is aborted writes its stacks.
OVERDUE: Mapping[Worker, Worker] = {
    Worker.BOOTING: Worker.ABORTED,
    Worker.SERVING: Worker.SILENT,  # counted from its last heartbeat
    Worker.SILENT: Worker.BLOCKED,
    Worker.BLOCKED: Worker.ABORTED,
    Worker.FAILED: Worker.ABORTED,
    Worker.LEAVING: Worker.DRAINING,
    Worker.UNWANTED: Worker.QUITTING,
    Worker.DRAINING: Worker.ABORTED,
    Worker.QUITTING: Worker.ABORTED,
    Worker.ABORTED: Worker.KILLED,
}

FLEET: Mapping[tuple[Fleet, Turn], Fleet] = {
    (Fleet.BOOTING, Turn.COMPLETE): Fleet.RUNNING,
    (Fleet.BOOTING, Turn.CANNOT_BOOT): Fleet.STOPPING,
    (Fleet.BOOTING, Turn.STOP): Fleet.STOPPING,
    (Fleet.BOOTING, Turn.QUIT): Fleet.QUITTING,
    (Fleet.RUNNING, Turn.STOP): Fleet.LEAVING,
    (Fleet.RUNNING, Turn.QUIT): Fleet.QUITTING,
    (Fleet.RUNNING, Turn.SUCCEEDED): Fleet.LEAVING,
    (Fleet.LEAVING, Turn.DELAYED): Fleet.STOPPING,
    (Fleet.LEAVING, Turn.STOP): Fleet.STOPPING,
    (Fleet.LEAVING, Turn.QUIT): Fleet.QUITTING,
    (Fleet.STOPPING, Turn.STOP): Fleet.QUITTING,
    (Fleet.STOPPING, Turn.QUIT): Fleet.QUITTING,
    (Fleet.QUITTING, Turn.STOP): Fleet.KILLING,
    (Fleet.QUITTING, Turn.QUIT): Fleet.KILLING,
    (Fleet.KILLING, Turn.STOP): Fleet.KILLING,
    (Fleet.KILLING, Turn.QUIT): Fleet.KILLING,
    (Fleet.LEAVING, Turn.EMPTY): Fleet.OVER,
    (Fleet.STOPPING, Turn.EMPTY): Fleet.OVER,
    (Fleet.QUITTING, Turn.EMPTY): Fleet.OVER,
    (Fleet.KILLING, Turn.EMPTY): Fleet.OVER,
    (Fleet.OVER, Turn.STOP): Fleet.OVER,
    (Fleet.OVER, Turn.QUIT): Fleet.OVER,
}

# What every worker is told in these states of the fleet, unless it was told as much before.
TOLD: Mapping[Fleet, Worker] = {
    Fleet.LEAVING: Worker.LEAVING,
    Fleet.STOPPING: Worker.DRAINING,
    Fleet.QUITTING: Worker.QUITTING,
    Fleet.KILLING: Worker.KILLED,
}


# -- who is in these states


class Process:
    """One worker process, from its fork until it is reaped."""

    def __init__(self, pid: int, slot: "Slot", edition: int, deadline: float) -> None:
        self.pid = pid
        self.slot = slot
        self.edition = edition
        self.state = Worker.BOOTING
        self.deadline = (
            deadline  # when it has been in this state for too long; of those told to go, it never moves back
        )
        self.serving_since: float | None = None
        self.heard = 0.0  # when its event loop ran, as far as we know
        self.retires = False
        self.is_closed = False  # accepts nothing any more
        self.goes_because = ""  # for the statistics

    @property
    def name(self) -> str:
        return f"Worker {self.slot.number + 1} (pid {self.pid})"


class Slot:
    """A place in the fleet, which outlives its workers."""

    def __init__(self, number: int, *, is_open: bool) -> None:
        self.number = number
        self.workers: list[Process] = []  # oldest first
        self.generation = 0
        self.is_open = is_open  # has listeners
        self.close_at = inf  # set when the slot is to go away
        self.is_being_closed = False  # and nobody can change that any more
        self.is_spawning = False
        self.has_served = False
        self.restarts: dict[str, int] = {}  # how often its workers were replaced, by reason
        self.died_young = 0  # how often in a row
        self.trouble = ""  # why nobody serves here, if somebody could not be started
        self.spawn_at = 0.0

    @property
    def is_closing(self) -> bool:
        return self.close_at < inf

    @property
    def serving(self) -> list[Process]:
        return [worker for worker in self.workers if worker.state in SERVES]

    @property
    def has_heir(self) -> bool:
        """True while a successor boots beside the one who serves."""
        is_booting = any(worker.state in (Worker.BOOTING, Worker.FAILED) for worker in self.workers)
        return bool(self.serving) and (self.is_spawning or is_booting)


class View(NamedTuple):
    """A slot, for whoever wants to know."""

    slot: int
    workers: list[tuple[int, Worker]]  # pid and state
    restarts: Mapping[str, int]
    trouble: str
