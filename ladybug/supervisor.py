"""The supervisor: what happened in the fleet goes in, what to do comes out. It touches no process, no clock and no log.

    actions = supervisor.<event>(..., now)      start, spawned, spawn_failed, reported, exited, stop_requested, tick
    perform(actions)                            Spawn, Signal, StopListening, Announce, Log, Exit
    wait(until=supervisor.next_deadline())      then say what happened, or that the time has come: tick

`now` is any clock that only moves forward, in seconds. Each Spawn is answered, with `spawned` or `spawn_failed`, before
any other event.

Theory of operation. Tables hold the states: WORKER those of one process, FLEET those of all together. An event first
moves a state, as its table says; an entry that is missing is an error of the caller (KeyError). Then `_decide` looks at
the fleet as it stands and does whatever is still to be done. It does not ask which event brought this about, so there is
no order of events it could have forgotten.

A worker's life:

    BOOTING -> SERVING -> RETIRING -> DRAINING -> gone      retired: its successor serves before it leaves
    BOOTING -> SERVING -> gone                              died: replaced, after a delay if it died young
    BOOTING -> FAILED -> gone                               could not start

Rules:
- A slot has one worker, or two while one of them is leaving.
- Until every slot has served once, a worker that cannot start stops the fleet: exit code 3, one message. After that it
  never does: a replacement that fails is tried again, less and less often, and what serves goes on serving.
- A stop has three degrees, TERM (drain), QUIT (cut short) and KILL, and each INT or TERM takes it one further. Whoever was
  told to go has a deadline, so a stop always ends.
"""

import enum
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ladybug.exceptions import STARTUP_FAILURE

# Seconds to wait before a slot is filled again, by how often its workers died young: once may be chance.
RESPAWN_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A worker that has served for so many seconds did not die young, and the count begins anew. As long as the longest delay.
YOUNG = 30.0
# Exit code of a stop in which a worker died or had to be killed: requests, or lifespan shutdown, may be lost.
UNCLEAN_STOP = 1
# Levels of Log, as `logging` has them.
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40


class Worker(enum.Enum):
    """State of one worker process."""

    BOOTING = "booting"
    SERVING = "serving"
    RETIRING = "retiring"  # serves on until its successor does
    FAILED = "failed"  # has said why it cannot start, and is about to exit
    DRAINING = "draining"  # was sent TERM
    QUITTING = "quitting"  # was sent QUIT
    KILLED = "killed"  # was sent KILL


class Report(enum.Enum):
    """What a worker says of itself."""

    READY = "ready"
    FAILED = "failed"
    RETIRING = "retiring"


class Fleet(enum.Enum):
    """State of all workers together."""

    BOOTING = "booting"  # until every slot has served once
    RUNNING = "running"
    STOPPING = "stopping"
    QUITTING = "quitting"
    KILLING = "killing"
    OVER = "over"


class Turn(enum.Enum):
    """What moves the fleet from one state to the next."""

    COMPLETE = "complete"  # every slot has served
    CANNOT_BOOT = "cannot boot"
    STOP = "stop"  # INT or TERM
    EMPTY = "empty"  # the last worker has gone


# -- the tables

# What a worker that was told to go says of itself has crossed our signal on the way, and changes nothing any more.
WORKER: Mapping[tuple[Worker, Report], Worker] = {
    (Worker.BOOTING, Report.READY): Worker.SERVING,
    (Worker.BOOTING, Report.FAILED): Worker.FAILED,
    (Worker.SERVING, Report.RETIRING): Worker.RETIRING,
    (Worker.DRAINING, Report.READY): Worker.DRAINING,
    (Worker.DRAINING, Report.FAILED): Worker.DRAINING,
    (Worker.DRAINING, Report.RETIRING): Worker.DRAINING,
    (Worker.QUITTING, Report.READY): Worker.QUITTING,
    (Worker.QUITTING, Report.FAILED): Worker.QUITTING,
    (Worker.QUITTING, Report.RETIRING): Worker.QUITTING,
    (Worker.KILLED, Report.READY): Worker.KILLED,
    (Worker.KILLED, Report.FAILED): Worker.KILLED,
    (Worker.KILLED, Report.RETIRING): Worker.KILLED,
}

FLEET: Mapping[tuple[Fleet, Turn], Fleet] = {
    (Fleet.BOOTING, Turn.COMPLETE): Fleet.RUNNING,
    (Fleet.BOOTING, Turn.CANNOT_BOOT): Fleet.STOPPING,
    (Fleet.BOOTING, Turn.STOP): Fleet.STOPPING,
    (Fleet.RUNNING, Turn.STOP): Fleet.STOPPING,
    (Fleet.STOPPING, Turn.STOP): Fleet.QUITTING,
    (Fleet.QUITTING, Turn.STOP): Fleet.KILLING,
    (Fleet.KILLING, Turn.STOP): Fleet.KILLING,
    (Fleet.STOPPING, Turn.EMPTY): Fleet.OVER,
    (Fleet.QUITTING, Turn.EMPTY): Fleet.OVER,
    (Fleet.KILLING, Turn.EMPTY): Fleet.OVER,
    (Fleet.OVER, Turn.STOP): Fleet.OVER,
}

# What every worker is told in these states of the fleet, unless it was told as much before.
TOLD: Mapping[Fleet, Worker] = {
    Fleet.STOPPING: Worker.DRAINING,
    Fleet.QUITTING: Worker.QUITTING,
    Fleet.KILLING: Worker.KILLED,
}

# How a worker is told, mildest first.
ORDERS: Mapping[Worker, signal.Signals] = {
    Worker.DRAINING: signal.SIGTERM,
    Worker.QUITTING: signal.SIGQUIT,
    Worker.KILLED: signal.SIGKILL,
}
_SEVERITY: Mapping[Worker, int] = {state: degree for degree, state in enumerate(ORDERS, start=1)}


# -- actions


class Spawn(NamedTuple):
    """Fork a worker for `slot`, the `generation`th there, and answer with `spawned` or `spawn_failed`."""

    slot: int
    generation: int


class Signal(NamedTuple):
    """Send `signal` to the worker `pid`."""

    pid: int
    signal: signal.Signals


class StopListening(NamedTuple):
    """Close the master's listeners: from now on the workers' are the last ones."""


class Announce(NamedTuple):
    """Every slot serves: say so."""


class Log(NamedTuple):
    level: int
    text: str


class Exit(NamedTuple):
    """Nobody is left: leave with this exit code."""

    code: int


Action = Spawn | Signal | StopListening | Announce | Log | Exit


class _Process:
    """One worker process, from its fork until it is reaped."""

    def __init__(self, pid: int, slot: "_Slot") -> None:
        self.pid = pid
        self.slot = slot
        self.state = Worker.BOOTING
        self.serving_since: float | None = None
        self.kill_at: float | None = None
        self.failure = ""  # why it cannot start, in its own words

    @property
    def name(self) -> str:
        return f"Worker {self.slot.number + 1} (pid {self.pid})"


class _Slot:
    """A place in the fleet, which outlives its workers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.workers: list[_Process] = []  # oldest first
        self.generation = 0
        self.is_spawning = False
        self.has_served = False
        self.died_young = 0  # how often in a row
        self.spawn_at = 0.0

    @property
    def wants_worker(self) -> bool:
        """True if nobody serves here, or only one who asked for a successor, and there is room for another.

        A failed worker takes its room until it is gone: its exit decides when to try again.
        """
        staying = any(worker.state in (Worker.BOOTING, Worker.SERVING, Worker.FAILED) for worker in self.workers)
        return not staying and len(self.workers) < 2 and not self.is_spawning


class Supervisor:
    """Decides for a fleet of `slots` workers.

    graceful        seconds a worker may take to drain, for the log
    term_timeout    seconds from TERM to KILL
    quit_timeout    seconds from QUIT, or from a failure to start, to KILL
    """

    def __init__(self, slots: int, *, graceful: float, term_timeout: float, quit_timeout: float) -> None:
        self.fleet = Fleet.BOOTING
        self._slots = [_Slot(number) for number in range(slots)]
        self._by_pid: dict[int, _Process] = {}
        self._graceful = graceful
        self._timeouts = {Worker.DRAINING: term_timeout, Worker.QUITTING: quit_timeout}
        self._exit_code = 0
        self._actions: list[Action] = []

    # -- events

    def start(self, now: float) -> list[Action]:
        """The listeners are open: begin."""
        return self._decide(now)

    def spawned(self, slot: int, pid: int, now: float) -> list[Action]:
        """The fork of a Spawn has worked."""
        process = _Process(pid, self._slots[slot])
        process.slot.is_spawning = False
        process.slot.workers.append(process)
        self._by_pid[pid] = process
        return self._decide(now)

    def spawn_failed(self, slot: int, reason: str, now: float) -> list[Action]:
        """The fork of a Spawn has not worked."""
        place = self._slots[slot]
        place.is_spawning = False
        what = f"Worker {slot + 1} cannot be started: {reason}"
        if self.fleet is Fleet.BOOTING:
            self._cannot_boot(what)
        elif self.fleet is Fleet.RUNNING:
            self._log(ERROR, what + self._replacing(place, now))
        return self._decide(now)

    def reported(self, pid: int, report: Report, text: str, now: float) -> list[Action]:
        """A worker said something of itself; `text` is why, for FAILED."""
        process = self._by_pid[pid]
        before, process.state = process.state, WORKER[process.state, report]
        if process.state is not before:
            self._entered(process, text, now)
        return self._decide(now)

    def exited(self, pid: int, returncode: int, now: float, in_flight: int = 0) -> list[Action]:
        """A worker has been reaped: its exit code, or the negative number of the signal that killed it.

        in_flight   requests it was working on when it was last heard of
        """
        process = self._by_pid.pop(pid)
        process.slot.workers.remove(process)
        if process.state in ORDERS:
            self._left(process, returncode)
        else:
            self._died(process, returncode, in_flight, now)
        return self._decide(now)

    def stop_requested(self, now: float) -> list[Action]:
        """INT or TERM: begin to stop, or take the stop one degree further."""
        self._turn(Turn.STOP)
        if self.fleet is Fleet.STOPPING:
            self._log(INFO, f"Stopping; what runs has {self._graceful:g} s to finish. Stop again to cut it short")
        elif self.fleet is Fleet.QUITTING:
            self._log(WARNING, "Cutting short what still runs. Stop again to kill it")
        return self._decide(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._decide(now)

    def next_deadline(self) -> float | None:
        """When `tick` has to be called if nothing happens before; None: never."""
        return min(self._deadlines(), default=None)

    # -- what an event means for the one worker it is about

    def _entered(self, process: _Process, text: str, now: float) -> None:
        """A worker has changed its state by itself."""
        if process.state is Worker.SERVING:
            process.serving_since = now
            process.slot.has_served = True
            self._log(DEBUG if self.fleet is Fleet.BOOTING else INFO, f"{process.name} is ready")
        elif process.state is Worker.RETIRING:
            self._log(INFO, f"{process.name} has served its number of requests and gets a successor")
        elif process.state is Worker.FAILED:
            process.failure = text
            process.kill_at = now + self._timeouts[Worker.QUITTING]
            if self.fleet is Fleet.BOOTING:
                self._cannot_boot(text)

    def _left(self, process: _Process, returncode: int) -> None:
        """A worker that was told to go has gone. One that was told while it booted may have failed first: no harm."""
        if returncode not in (0, STARTUP_FAILURE):
            if self.fleet is not Fleet.RUNNING:
                self._exit_code = self._exit_code or UNCLEAN_STOP
            if process.state is not Worker.KILLED:
                self._log(WARNING, f"{process.name} {describe_exit(returncode)} while it was stopping")

    def _died(self, process: _Process, returncode: int, in_flight: int, now: float) -> None:
        """A worker has gone that nobody had told to."""
        if process.serving_since is not None:
            if now - process.serving_since >= YOUNG:
                process.slot.died_young = 0
            lost = f" with {_count(in_flight, 'request')} in flight" if in_flight else ""
            what = f"{process.name} {describe_exit(returncode)}{lost}"
        elif process.state is Worker.FAILED:
            what = f"{process.name} could not start"
        elif self.fleet is Fleet.BOOTING:
            self._cannot_boot(f"Worker {process.slot.number + 1} died while booting ({_short_exit(returncode)})")
            return
        else:
            what = f"{process.name} died while booting ({_short_exit(returncode)})"
        what += self._replacing(process.slot, now)
        self._log(
            WARNING if process.serving_since else ERROR, f"{what}: {process.failure}" if process.failure else what
        )

    def _replacing(self, slot: _Slot, now: float) -> str:
        """Set when the slot is filled again; the rest of the sentence that tells of the loss."""
        delay = RESPAWN_DELAYS[min(slot.died_young, len(RESPAWN_DELAYS) - 1)]
        slot.died_young += 1
        slot.spawn_at = now + delay
        if not slot.wants_worker:
            return ""
        return f"; starting another in {delay:g} s" if delay else "; starting another"

    def _cannot_boot(self, text: str) -> None:
        """The one message, and the end. What other workers say after it finds them told to go already."""
        self._exit_code = STARTUP_FAILURE
        self._turn(Turn.CANNOT_BOOT)
        self._log(ERROR, text)

    # -- what is to be done

    def _decide(self, now: float) -> list[Action]:
        """Look at the whole fleet and do what is missing."""
        if self.fleet is Fleet.BOOTING and all(slot.has_served for slot in self._slots):
            self._turn(Turn.COMPLETE)
            self._actions.append(Announce())
        if self.fleet in TOLD:
            self._tell(self._by_pid.values(), TOLD[self.fleet], now)
        elif self.fleet is not Fleet.OVER:
            for slot in self._slots:
                self._tell(_replaced(slot), Worker.DRAINING, now)
                self._fill(slot, now)
        self._kill_overdue(now)
        if self.fleet in TOLD and not self._by_pid and not any(slot.is_spawning for slot in self._slots):
            self._turn(Turn.EMPTY)
            if self._exit_code != STARTUP_FAILURE:
                self._log(INFO, "Stopped")
            self._actions.append(Exit(self._exit_code))
        actions, self._actions = self._actions, []
        return actions

    def _fill(self, slot: _Slot, now: float) -> None:
        if slot.wants_worker and slot.spawn_at <= now:
            slot.is_spawning = True
            slot.generation += 1
            self._actions.append(Spawn(slot.number, slot.generation))

    def _tell(self, processes: Iterable[_Process], state: Worker, now: float) -> None:
        """Send each the signal that belongs to `state`, unless it was told that much already."""
        for process in processes:
            if _SEVERITY.get(process.state, 0) < _SEVERITY[state]:
                process.state = state
                process.kill_at = self._kill_at(process, now)
                self._actions.append(Signal(process.pid, ORDERS[state]))

    def _kill_at(self, process: _Process, now: float) -> float | None:
        """The deadline that goes with the state: never later than one that was set before, and none for the dead."""
        timeout = self._timeouts.get(process.state)
        if timeout is None:
            return None
        return now + timeout if process.kill_at is None else min(process.kill_at, now + timeout)

    def _kill_overdue(self, now: float) -> None:
        overdue = [
            process for process in self._by_pid.values() if process.kill_at is not None and process.kill_at <= now
        ]
        for process in overdue:
            self._log(WARNING, f"{process.name} has not stopped in time: killing it")
        self._tell(overdue, Worker.KILLED, now)

    def _deadlines(self) -> Iterator[float]:
        for process in self._by_pid.values():
            if process.kill_at is not None:
                yield process.kill_at
        if self.fleet in (Fleet.BOOTING, Fleet.RUNNING):
            for slot in self._slots:
                if slot.wants_worker:
                    yield slot.spawn_at

    def _turn(self, turn: Turn) -> None:
        before, self.fleet = self.fleet, FLEET[self.fleet, turn]
        if self.fleet is Fleet.STOPPING and before is not Fleet.STOPPING:
            self._actions.append(StopListening())

    def _log(self, level: int, text: str) -> None:
        self._actions.append(Log(level, text))


def _replaced(slot: _Slot) -> Iterator[_Process]:
    """Who asked for a successor here and now has one that serves."""
    if any(worker.state is Worker.SERVING for worker in slot.workers):
        for worker in slot.workers:
            if worker.state is Worker.RETIRING:
                yield worker


# -- words


def describe_exit(returncode: int) -> str:
    """How a process ended: "exited with code 1", "was killed by signal 9 (SIGKILL)"."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    return f"was killed by signal {-returncode} ({_signal_name(-returncode)})"


def _short_exit(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    return f"signal {-returncode}, {_signal_name(-returncode)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "real-time"  # 34 to 64 on Linux: only the first and the last of them have names


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
