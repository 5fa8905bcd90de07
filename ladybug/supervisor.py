"""The supervisor: what happened in the fleet goes in, what to do comes out. It touches no process, no clock and no log.

    actions = supervisor.<event>(..., now)      start, spawned, reported, exited, stop_requested, reload_requested ...
    perform(actions)                            Spawn, Signal, Route, StopListening, Log, Exit ...
    wait(until=supervisor.next_deadline())      then first of all: tick, with the workers' heartbeats

`now` is any clock that only moves forward, in seconds. The actions, and which of them are to be answered, are in `actions.py`.

Theory of operation. Who is in which state, and what moves it, is in the tables of `slots.py`. An event first moves a state, as
its table says. Then `_decide` looks at the fleet as it stands and does whatever is still to be done. It does not ask which
event brought this about, so there is no order of events it could have forgotten.

Rules:
- A slot has one worker, or two while one of them is leaving or about to.
- Who is to be replaced (a reload, too many requests, too old, too fat) serves until its successor does. Successors boot one
  at a time, so that never all slots are busy starting. A slot where nobody serves is filled at once.
- Until every slot has served once, a worker that cannot start stops the fleet: exit code 3, one message. After that it
  never does: the reload that wanted it is abandoned, whoever serves goes on, and an empty slot is tried again, less and
  less often.
- A reload is a number, the edition. A worker forked before the latest one is outdated, as long as the reload lasts.
- A stop has degrees: LEAVING (serve on, but say goodbye), TERM (drain), QUIT (cut short) and KILL. Each INT or TERM takes it
  one further. Whoever was told to go has a deadline, so a stop always ends.
- Deadlines count only while the master runs. After a night in which the whole machine stood still nobody is late.
"""

import signal
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import NamedTuple

from ladybug.actions import (
    ERROR,
    INFO,
    WARNING,
    Action,
    Announce,
    AskStacks,
    CloseSlot,
    DropStacks,
    Exit,
    HandOver,
    LoadAnew,
    Log,
    LogStacks,
    OpenSlot,
    Reloaded,
    Reloading,
    ReopenLogs,
    Route,
    Signal,
    Spawn,
    StartSuccessor,
    StopListening,
    Stopping,
    StopSuccessor,
)
from ladybug.exceptions import STARTUP_FAILURE
from ladybug.slots import (
    ENDS,
    FLEET,
    ORDERS,
    OVERDUE,
    REPORTED,
    SERVES,
    SEVERITY,
    STAYS,
    TOLD,
    Fleet,
    Process,
    Report,
    Slot,
    Turn,
    View,
    Worker,
)

# Seconds to wait before a slot is filled again, by how often its workers died young: once may be chance.
RESPAWN_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A worker that has served for so many seconds did not die young, and the count begins anew. As long as the longest delay.
YOUNG = 30.0
# Slots that TTIN and `ladybug ctl scale` make, at most: a slip of a finger must not fork until nothing moves.
MOST_WORKERS = 500
# Seconds without a heartbeat, which comes every half second, after which a worker gets no new connections. Who is only slow
# for a moment loses nothing by that, so nothing is logged yet.
SILENCE = 1.0
# Seconds more, after which the log tells where it stands. Its stacks are written by then: a handler in C does that, whatever
# Python is doing.
STACKS = 3.0
# Seconds in which a worker that boots what is not wanted any more has heard that, and said if it was ready by then.
CROSSING = 1.0
# Seconds that a worker gets to die of SIGABRT.
ABORT = 2.0
# The same at the end of a stop, of whose time these are the last. Few, because until then a worker may leave by itself; a
# handler in C writes its stacks meanwhile.
LAST_WORDS = 0.5
# Seconds for which a slot that goes away is still looked after. A handshake that was under way when the kernel was told to
# steer elsewhere ends up in its queue; the client's ACK may have to be sent again (RFC 6298: after a second).
LAST_HANDSHAKES = 3.0
# Seconds that a successor has beyond what its workers have to boot; and those that it has to stop.
SUCCESSION = 30.0
# Seconds that a successor has if its workers may boot for ever.
LONGEST_UPGRADE = 600.0
# The master was stopped, or the machine, if it comes so many seconds too late.
OVERSLEPT = 1.0
# Exit code of a stop in which a worker died or had to be killed: requests, or lifespan shutdown, may be lost.
UNCLEAN_STOP = 1


class Timeouts(NamedTuple):
    """How long what may take, in seconds.

    graceful        for a worker to drain, for the log
    term            from TERM to KILL
    quit            from QUIT, or from a failure to start, to KILL
    boot            to start; 0 is for ever
    healthcheck     for an event loop to stand still; 0 is for ever
    delay           for which whoever has to go serves on and says goodbye; 0: no such time
    """

    graceful: float
    term: float
    quit: float
    boot: float
    healthcheck: float
    delay: float


class Supervisor:
    """Decides for a fleet that begins with `slots` workers."""

    def __init__(self, slots: int, timeouts: Timeouts) -> None:
        self.fleet = Fleet.BOOTING
        self.is_reloading = False
        self._slots = {number: Slot(number, is_open=True) for number in range(slots)}
        self._by_pid: dict[int, Process] = {}
        self._timeouts = timeouts
        self._limits = {
            Worker.BOOTING: timeouts.boot or inf,
            Worker.SERVING: SILENCE,
            Worker.SILENT: STACKS,
            Worker.BLOCKED: max(0.0, timeouts.healthcheck - SILENCE - STACKS) if timeouts.healthcheck else inf,
            Worker.FAILED: timeouts.quit - LAST_WORDS,
            Worker.LEAVING: timeouts.delay,
            Worker.UNWANTED: CROSSING,
            Worker.DRAINING: timeouts.term - LAST_WORDS,
            Worker.QUITTING: timeouts.quit - LAST_WORDS,
            Worker.ABORTED: ABORT,
        }
        self._edition = 0
        self._leave_at = inf
        self._succeed_by = inf  # set while a successor starts
        self.message = ""  # what has come of the last operation, if not what was wanted
        self._route = frozenset[int]()
        self._is_listening = True
        self._exit_code = 0
        self._actions: list[Action] = []
        self._now = 0.0  # when anything happened last

    @property
    def size(self) -> int:
        """How many slots there are, without those that go away."""
        return sum(not slot.is_closing for slot in self._slots.values())

    @property
    def is_upgrading(self) -> bool:
        return self._succeed_by < inf

    def view(self) -> list[View]:
        """The slots, in order."""
        return [
            View(
                slot=number,
                workers=[(worker.pid, worker.state) for worker in slot.workers],
                restarts=slot.restarts,
                trouble="" if slot.is_closing else slot.trouble,
            )
            for number, slot in sorted(self._slots.items())
        ]

    # -- events: workers

    def start(self, now: float) -> list[Action]:
        """The listeners are open: begin."""
        return self._decide(now)

    def spawned(self, slot: int, pid: int, now: float) -> list[Action]:
        """The fork of a Spawn has worked."""
        process = Process(pid, self._slots[slot], self._edition, now + self._limits[Worker.BOOTING])
        process.slot.is_spawning = False
        process.slot.workers.append(process)
        self._by_pid[pid] = process
        return self._decide(now)

    def spawn_failed(self, slot: int, reason: str, now: float, what: str = "") -> list[Action]:
        """The fork of a Spawn has not worked. `what` has failed, if it is not the fork alone."""
        place = self._slots[slot]
        place.is_spawning = False
        self._boot_failed(place, what or f"Worker {slot + 1} cannot be started", reason, now)
        return self._decide(now)

    def reported(self, pid: int, report: Report, text: str, now: float) -> list[Action]:
        """A worker said something of itself; `text` is why, for FAILED and RETIRING. What is counted of the latter ends before
        its figures, which are in parentheses."""
        process = self._by_pid[pid]
        before, process.state = process.state, REPORTED[process.state, report]
        if process.state is Worker.SERVING and before is Worker.BOOTING:
            process.serving_since = process.heard = now
            process.deadline = now + self._limits[Worker.SERVING]
            process.slot.has_served = True
            process.slot.trouble = ""
            self._log(INFO, f"{process.name} is ready")
        elif process.state is Worker.FAILED:
            process.deadline = now + self._limits[Worker.FAILED]
            self._boot_failed(process.slot, f"{process.name} could not start", text, now, process)
        elif report is Report.CLOSED:
            process.is_closed = True
            if process.state is not before:
                process.deadline = now + self._limits[Worker.DRAINING]
            if before in SERVES:
                process.goes_because = process.goes_because or "was told to stop"
                told = f"{process.name} was told to stop by somebody else"
                self._log(WARNING, told + self._replacing(process.slot, now, process))
        elif process.state in SERVES and not process.retires:
            process.retires = True
            process.goes_because = text.partition(" (")[0]
            self._log(INFO, f"{process.name} {text} and gets a successor")
        elif process.state is Worker.LEAVING and report is Report.READY:
            process.heard = now
        elif before is Worker.UNWANTED and report is Report.READY:
            process.deadline = now + self._limits[Worker.DRAINING]
        return self._decide(now)

    def exited(self, pid: int, returncode: int, now: float, in_flight: int = 0, stacks: str = "") -> list[Action]:
        """A worker has been reaped: its exit code, or the negative number of the signal that killed it.

        in_flight   requests it was working on when it was last heard of
        stacks      of its threads, if a fatal signal has had it write them
        """
        process = self._by_pid.pop(pid)
        process.slot.workers.remove(process)
        is_replaced = self.fleet in (Fleet.BOOTING, Fleet.RUNNING) and not process.slot.is_closing
        if is_replaced and process.serving_since is not None:
            reason = process.goes_because or describe_exit(returncode)
            process.slot.restarts[reason] = process.slot.restarts.get(reason, 0) + 1
        where = f"it was here\n{stacks}" if stacks else ""
        if process.state in ORDERS:
            self._left(process, returncode, where)
        else:
            self._died(process, returncode, in_flight, where, now)
        return self._decide(now)

    def tick(self, now: float, beats: Mapping[int, float]) -> list[Action]:
        """The master has woken up; by pid, when the event loops of workers have run. Before any other event is told."""
        expected = self.next_deadline()
        if expected is not None and now - expected > OVERSLEPT:
            for process in self._by_pid.values():
                process.deadline += now - self._now
        for pid, beat in beats.items():
            process = self._by_pid[pid]
            # One that was never heard of boots, and its record shows when that began.
            if not 0.0 < process.heard < beat:
                continue
            if process.state is Worker.LEAVING:
                process.heard = beat
            elif process.state in SERVES:
                if process.state is Worker.BLOCKED:
                    self._log(INFO, f"{process.name} runs its event loop again, after {beat - process.heard:.0f} s")
                if process.state is not Worker.SERVING:
                    self._actions.append(DropStacks(process.pid))
                process.state = Worker.SERVING
                process.heard = beat
                process.deadline = beat + self._limits[Worker.SERVING]
        return self._decide(now)

    def next_deadline(self) -> float | None:
        """When `tick` has to be called if nothing happens before; None: never."""
        at = min(self._deadlines(), default=inf)
        return at if at < inf else None

    # -- events: users

    def stop_requested(self, now: float) -> list[Action]:
        """INT or TERM: begin to stop, or take the stop one degree further."""
        if self.fleet is Fleet.RUNNING:
            self._leave_at = now + self._timeouts.delay
        self._turn(Turn.STOP)
        return self._decide(now)

    def quit_requested(self, now: float) -> list[Action]:
        """QUIT: stop at once, without waiting for what runs."""
        self._turn(Turn.QUIT)
        return self._decide(now)

    def reload_requested(self, now: float) -> list[Action]:
        """HUP: replace every worker. During a reload: begin again, with what is there now."""
        self.message = ""
        if self.fleet in (Fleet.BOOTING, Fleet.RUNNING):
            self._log(INFO, "Reloading again, from the beginning" if self.is_reloading else "Reloading")
            if not self.is_reloading:
                self._actions.append(Reloading())
            self._actions.append(LoadAnew())
            self.is_reloading = True
            self._edition += 1
            for slot in self._slots.values():
                # Whatever has failed before, this is another attempt.
                slot.died_young, slot.spawn_at = 0, now
        return self._decide(now)

    def scale_requested(self, size: int, now: float) -> list[Action]:
        """TTIN, TTOU: so many workers, at least one."""
        self.message = ""
        if self.is_upgrading:
            self._log(WARNING, "The number of workers stays while a successor starts")
        elif self.fleet in (Fleet.BOOTING, Fleet.RUNNING):
            before = self.size
            if size < 1:
                size = 1
                self._log(WARNING, "There is one worker, and one has to stay")
            elif size > MOST_WORKERS:
                size = max(before, MOST_WORKERS)
                self._log(WARNING, f"More than {MOST_WORKERS} workers are more than anybody means")
            while self.size < size:
                self._add_slot()
            while self.size > size:
                # Who serves is missed; of equals the last one goes.
                remaining = [number for number, slot in self._slots.items() if not slot.is_closing]
                least = min(remaining, key=lambda number: (number in self._route, -number))
                self._slots[least].close_at = now + LAST_HANDSHAKES
            if size != before:
                self._log(INFO, f"From {_count(before, 'worker')} to {size}")
        return self._decide(now)

    def opened(self, slot: int, now: float) -> list[Action]:
        """An OpenSlot has worked."""
        self._slots[slot].is_open = True
        return self._decide(now)

    def open_failed(self, slot: int, reason: str, now: float) -> list[Action]:
        """An OpenSlot has not worked."""
        del self._slots[slot]
        self.message = f"Worker {slot + 1} cannot be added: {reason}"
        self._log(ERROR, self.message)
        return self._decide(now)

    def closed(self, slot: int, now: float) -> list[Action]:
        """A CloseSlot is done."""
        del self._slots[slot]
        return self._decide(now)

    def reopen_requested(self, now: float) -> list[Action]:
        """USR1: log files have been moved away."""
        self._actions.append(ReopenLogs())
        self._actions += [Signal(pid, signal.SIGUSR1) for pid in self._by_pid]
        return self._decide(now)

    def upgrade_requested(self, now: float) -> list[Action]:
        """USR2: have another master take over."""
        self.message = ""
        if self.is_upgrading:
            self._log(WARNING, "A successor is starting already")
        elif self.fleet is not Fleet.RUNNING:
            self.message = "An upgrade is for a fleet that serves"
            self._log(WARNING, self.message)
        elif leaving := [number + 1 for number, slot in self._slots.items() if slot.is_closing]:
            # A successor would inherit its listeners, and serve there again.
            self.message = f"Worker {leaving[0]} is still leaving, and there is no upgrade until it has gone"
            self._log(WARNING, self.message)
        else:
            self._log(INFO, "Upgrading: starting a successor of this master")
            self._succeed_by = now + (self._timeouts.boot or LONGEST_UPGRADE) + SUCCESSION
            self._actions.append(StartSuccessor())
        return self._decide(now)

    def successor_failed(self, why: str, now: float) -> list[Action]:
        """There is no successor, or no longer."""
        if self.is_upgrading:
            self._succeed_by = inf
            self.message = f"The upgrade is abandoned, and this master goes on: {why}"
            self._log(ERROR, self.message)
        return self._decide(now)

    def successor_ready(self, now: float) -> list[Action]:
        """The successor serves."""
        if self.is_upgrading:
            self._succeed_by = inf
            self._leave_at = now + self._timeouts.delay
            self._turn(Turn.SUCCEEDED)
        return self._decide(now)

    # -- what an event means for the one worker, or slot, it is about

    def _boot_failed(self, slot: Slot, what: str, why: str, now: float, process: Process | None = None) -> None:
        """A worker cannot be started here, and this is said once. `process` is the one, if there is one."""
        if self.fleet is Fleet.BOOTING:
            self._exit_code = STARTUP_FAILURE
            self._log(ERROR, why if process is not None and process.state is Worker.FAILED else _sentence(what, why))
            self._turn(Turn.CANNOT_BOOT)
        elif self.fleet is Fleet.RUNNING:
            is_abandoned, self.is_reloading = self.is_reloading, False
            what += self._replacing(slot, now, process)
            if is_abandoned:
                self._actions.append(Reloaded(is_complete=False))
                what = f"The reload is abandoned, and who served before goes on. {what}"
                self.message = _sentence(what, why)
            slot.trouble = "" if slot.serving else _sentence(what, why)
            self._log(ERROR, _sentence(what, why))

    def _replacing(self, slot: Slot, now: float, leaving: Process | None = None) -> str:
        """Set when the slot is filled again, which `leaving` has left or is about to; the rest of the sentence that says so."""
        if leaving is not None and leaving.serving_since is not None and now - leaving.serving_since >= YOUNG:
            slot.died_young = 0
        delay = RESPAWN_DELAYS[min(slot.died_young, len(RESPAWN_DELAYS) - 1)]
        slot.died_young += 1
        slot.spawn_at = now + delay
        if slot.is_closing or any(self._stays(worker) for worker in slot.workers if worker is not leaving):
            return ""
        return f"; starting another in {delay:g} s" if delay else "; starting another"

    def _left(self, process: Process, returncode: int, where: str) -> None:
        """A worker that was told to go has gone. One that was told while it booted may have failed first: no harm."""
        if returncode not in (0, STARTUP_FAILURE):
            if self.fleet is not Fleet.RUNNING:
                self._exit_code = self._exit_code or UNCLEAN_STOP
            if process.state is Worker.ABORTED and where:
                self._log(ERROR, _sentence(f"{process.name} is aborted", where))
            elif process.state not in (Worker.ABORTED, Worker.KILLED):
                self._log(
                    WARNING, _sentence(f"{process.name} {describe_exit(returncode)} while it was stopping", where)
                )

    def _died(self, process: Process, returncode: int, in_flight: int, where: str, now: float) -> None:
        """A worker has gone that nobody had told to."""
        if process.serving_since is not None:
            lost = f" with {_count(in_flight, 'request')} in flight" if in_flight else ""
            what = f"{process.name} {describe_exit(returncode)}{lost}"
            self._log(WARNING, _sentence(what + self._replacing(process.slot, now, process), where))
        elif process.state is Worker.BOOTING:
            name = f"Worker {process.slot.number + 1}" if self.fleet is Fleet.BOOTING else process.name
            self._boot_failed(process.slot, f"{name} died while booting ({_short_exit(returncode)})", where, now)

    def _overdue(self, process: Process, now: float) -> None:
        """A worker has been in its state for too long."""
        before, after = process.state, OVERDUE[process.state]
        if before in (Worker.LEAVING, Worker.UNWANTED):
            self._tell([process], after, now)
            return
        silence = f"{process.name} has not run its event loop for {now - process.heard:.0f} s"
        process.deadline = now + LAST_WORDS  # at the latest, if it was told to go
        if after in ORDERS:
            self._tell([process], after, now)
        else:
            process.state = after
            process.deadline = now + self._limits[after]
        if after is Worker.SILENT:
            self._actions.append(AskStacks(process.pid))
        elif after is Worker.BLOCKED:
            self._actions.append(LogStacks(process.pid, WARNING, silence))
        elif before is Worker.BLOCKED:
            process.goes_because = "did not run its event loop"
            self._log(ERROR, f"{silence} (--timeout-worker-healthcheck){self._replacing(process.slot, now, process)}")
        elif before is Worker.BOOTING:
            why = f"it has not started within {self._timeouts.boot:g} s (--timeout-worker-boot)"
            self._boot_failed(process.slot, f"{process.name} is given up", why, now)
        else:
            self._log(WARNING, f"{process.name} has not stopped in time: killing it")

    # -- what is to be done

    def _decide(self, now: float) -> list[Action]:
        """Look at the whole fleet and do what is missing."""
        self._now = now
        # First of all: nobody drains before the listeners are dealt with.
        if self.fleet is Fleet.LEAVING and self._leave_at <= now:
            self._turn(Turn.DELAYED)
        for process in [process for process in self._by_pid.values() if process.deadline <= now]:
            self._overdue(process, now)
        if self.fleet is Fleet.BOOTING and all(slot.has_served or slot.is_closing for slot in self._slots.values()):
            self._turn(Turn.COMPLETE)
            self._actions.append(Announce())
        if self._succeed_by <= now:
            self._succeed_by = now + SUCCESSION
            self._log(WARNING, "The successor takes too long: stopping it")
            self._actions.append(StopSuccessor())
        if self.fleet in TOLD:
            self._tell(self._by_pid.values(), TOLD[self.fleet], now)
            if self.fleet is Fleet.LEAVING and self._is_listening:
                self._direct(now)
        elif self.fleet is not Fleet.OVER:
            # In this order: a slot that goes away gets nothing new before its worker is told, and who left his place in
            # this turn is missed in this turn.
            self._direct(now)
            for slot in list(self._slots.values()):
                self._relieve(slot, now)
            for slot in list(self._slots.values()):
                self._fill(slot, now)
                self._close(slot, now)
            self._finish_reload()
        if self.fleet in TOLD and not self._by_pid and not any(slot.is_spawning for slot in self._slots.values()):
            self._turn(Turn.EMPTY)
            if self._exit_code != STARTUP_FAILURE:
                self._log(INFO, "Stopped")
            self._actions.append(Exit(self._exit_code))
        actions, self._actions = self._actions, []
        return actions

    def _direct(self, now: float) -> None:
        """Let new connections go to who is well."""
        well = frozenset(
            number
            for number, slot in self._slots.items()
            if not slot.is_closing and any(_is_well(worker, now) for worker in slot.workers)
        )
        if well != self._route:
            self._route = well
            self._actions.append(Route(well))

    def _relieve(self, slot: Slot, now: float) -> None:
        """Tell those to go who are not needed here any more."""
        farewell = Worker.LEAVING if self._timeouts.delay else Worker.DRAINING
        if slot.is_closing:
            self._tell(slot.workers, farewell, now)
        else:
            replaced = slot.serving[:-1]
            for worker in replaced:
                worker.goes_because = worker.goes_because or "was reloaded"
            self._tell(replaced, farewell, now)
        outdated = [worker for worker in slot.workers if worker.state is Worker.BOOTING and self._is_due(worker)]
        self._tell(outdated, Worker.UNWANTED, now)

    def _fill(self, slot: Slot, now: float) -> None:
        if self._wants_worker(slot) and slot.spawn_at <= now:
            slot.is_spawning = True
            slot.generation += 1
            self._actions.append(Spawn(slot.number, slot.generation))

    def _wants_worker(self, slot: Slot) -> bool:
        """True if nobody means to stay here and there is room for another; and it is this slot's turn, if somebody serves."""
        if slot.is_closing or not slot.is_open or slot.is_spawning or len(slot.workers) > 1:
            return False
        if any(self._stays(worker) for worker in slot.workers):
            return False
        return not slot.serving or not any(other.has_heir for other in self._slots.values())

    def _may_close(self, slot: Slot) -> bool:
        """True if nobody is there, or on the way there."""
        return not (slot.workers or slot.is_spawning or slot.is_being_closed)

    def _close(self, slot: Slot, now: float) -> None:
        if slot.close_at <= now and self._may_close(slot):
            slot.is_being_closed = True
            self._actions.append(CloseSlot(slot.number))

    def _finish_reload(self) -> None:
        """It is over when no new connection can meet what was there before."""
        if (
            self.is_reloading
            and all(
                any(worker.edition == self._edition for worker in slot.serving) or slot.is_closing
                for slot in self._slots.values()
            )
            and all(worker.edition == self._edition or worker.is_closed for worker in self._by_pid.values())
        ):
            self.is_reloading = False
            self._actions.append(Reloaded(is_complete=True))
            self._log(INFO, "Reloaded")

    def _stays(self, process: Process) -> bool:
        return process.state in STAYS and not self._is_due(process)

    def _is_due(self, process: Process) -> bool:
        """True if it is to be replaced."""
        return process.retires or (self.is_reloading and process.edition < self._edition)

    def _add_slot(self) -> None:
        """One more; if one is just going away, it stays."""
        for slot in self._slots.values():
            if slot.is_closing and not slot.is_being_closed:
                slot.close_at = inf
                return
        number = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        self._slots[number] = Slot(number, is_open=False)
        self._actions.append(OpenSlot(number))

    def _tell(self, processes: Iterable[Process], state: Worker, now: float) -> None:
        """Send each the signal that belongs to `state`, unless it was told that much already."""
        for process in processes:
            if SEVERITY.get(process.state, 0) < SEVERITY[state]:
                # Who is on the way out already gets no more time by being told again.
                latest = process.deadline if process.state in ENDS else inf
                before, process.state = process.state, state
                process.deadline = min(latest, now + self._limits.get(state, inf)) if state in OVERDUE else inf
                if ORDERS[state] is not ORDERS.get(before):
                    self._actions.append(Signal(process.pid, ORDERS[state]))

    def _deadlines(self) -> Iterator[float]:
        for process in self._by_pid.values():
            yield process.deadline
            if process.state is Worker.LEAVING and _is_well(process, self._now):
                yield process.heard + SILENCE
        yield self._succeed_by
        if self.fleet is Fleet.LEAVING:
            yield self._leave_at
        if self.fleet in (Fleet.BOOTING, Fleet.RUNNING):
            for slot in self._slots.values():
                if self._wants_worker(slot):
                    yield slot.spawn_at
                if self._may_close(slot):
                    yield slot.close_at

    def _turn(self, turn: Turn) -> None:
        before, self.fleet = self.fleet, FLEET[self.fleet, turn]
        if self.fleet is before:
            return
        if self.is_upgrading and turn is not Turn.COMPLETE:
            self._succeed_by = inf
            self.message = "The upgrade is abandoned: the server is stopping"
            self._actions.append(StopSuccessor())
        if before in (Fleet.BOOTING, Fleet.RUNNING) and turn not in (Turn.COMPLETE, Turn.SUCCEEDED):
            self._actions.append(Stopping())
        if turn is Turn.SUCCEEDED:
            self._is_listening = False
            self._actions.append(HandOver())
            self._log(INFO, "The successor serves: leaving")
        elif self._is_listening and self.fleet not in (Fleet.BOOTING, Fleet.RUNNING, Fleet.LEAVING):
            self._is_listening = False
            self._actions.append(StopListening())
        if self.fleet is Fleet.LEAVING and turn is Turn.STOP and self._timeouts.delay:
            delay = f"{self._timeouts.delay:g} s"
            self._log(
                INFO, f"Stopping in {delay}; until then connections are taken and closed. Stop again to begin now"
            )
        elif self.fleet is Fleet.STOPPING and turn is not Turn.CANNOT_BOOT:
            self._log(
                INFO, f"Stopping; what runs has {self._timeouts.graceful:g} s to finish. Stop again to cut it short"
            )
        elif self.fleet is Fleet.QUITTING:
            self._log(WARNING, "Cutting short what still runs. Stop again to kill it")
        elif self.fleet is Fleet.KILLING:
            self._log(WARNING, "Stopping at once: killing the workers")

    def _log(self, level: int, text: str) -> None:
        self._actions.append(Log(level, text))


def _is_well(process: Process, now: float) -> bool:
    """Takes connections at this moment. Who was told to leave does so until a stop begins in earnest, and is not watched for
    anything else."""
    return process.state is Worker.SERVING or (process.state is Worker.LEAVING and now < process.heard + SILENCE)


# -- words


def _sentence(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what


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
