"""The supervisor alone: a made-up fleet, a made-up clock, and every order of events hypothesis can think of."""

from __future__ import annotations

import signal
from math import inf
from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from ladybug.slots import (
    ORDERS,
    REPORTED,
    Fleet,
    Report,
    Worker,
)
from ladybug.supervisor import (
    ABORT,
    CROSSING,
    LAST_HANDSHAKES,
    LAST_WORDS,
    MOST_WORKERS,
    RESPAWN_DELAYS,
    SILENCE,
    STACKS,
    SUCCESSION,
    YOUNG,
    Supervisor,
    Timeouts,
    describe_exit,
)

GRACEFUL = 30.0
TERM_TIMEOUT = 43.0
QUIT_TIMEOUT = 13.0
BOOT_TIMEOUT = 120.0
HEALTHCHECK = 30.0


class MadeUpFleet:
    """Stands in for the master: carries out actions on processes that are only numbers, at a time that is only one too."""

    def __init__(
        self,
        slots: int,
        *,
        forks_fail_after: float = inf,
        delay: float = 0.0,
        boot: float = 0.0,
        is_loading: bool = False,
    ) -> None:
        timeouts = Timeouts(GRACEFUL, TERM_TIMEOUT, QUIT_TIMEOUT, boot, HEALTHCHECK, delay)
        self.supervisor = Supervisor(slots, timeouts)
        self.delay = delay
        self.drained: set[int] = set()  # on the word of somebody else
        self.now = 1000.0
        self.slots = set(range(slots))
        self.ready: set[int] = set()
        self.route = frozenset[int]()
        self.still: set[int] = set()  # whose event loop does not run
        self.asked: list[int] = []  # for their stacks
        self.opens_fail = False
        self.successor: str | None = None
        self.reloads = 0
        self.reloading = False
        self.last_pid = 100
        self.alive: dict[int, int] = {}  # pid: slot
        self.told: dict[int, list[signal.Signals]] = {}
        self.forks_fail_after = forks_fail_after
        self.forks = 0
        self.is_loading = is_loading  # what workers are forked of
        self.waiting: list[Spawn] = []
        self.listening = True
        self.dropped: list[int] = []
        self.stopping = False
        self.announced = 0
        self.exit_code: int | None = None
        self.log: list[Log] = []
        self.perform(self.supervisor.start(self.now))

    def perform(self, actions: list[Action]) -> None:
        waiting = list(actions)
        while waiting:
            action = waiting.pop(0)
            assert self.exit_code is None, f"{action} after Exit"
            match action:
                case Spawn():
                    waiting += self.spawn(action)
                case Signal(pid, number):
                    assert pid in self.alive, f"{action} for a process that is gone"
                    self.check_replacement(pid, number)
                    self.told[pid].append(number)
                    if number in (SIGTERM, SIGQUIT) and pid in self.ready and pid not in self.still:
                        waiting += self.supervisor.reported(pid, Report.CLOSED, "", self.now)
                case Stopping():
                    assert self.listening and not self.stopping
                    self.stopping = True
                case StopListening():
                    assert self.stopping
                    assert self.listening, "told twice to stop listening"
                    self.listening = False
                case Announce():
                    self.announced += 1
                case Log(level, text):
                    self.log.append(Log(level, text))
                case LogStacks(pid, level, text):
                    assert pid in self.asked
                    self.log.append(Log(level, text))
                case AskStacks(pid):
                    assert pid in self.alive
                    self.asked.append(pid)
                case DropStacks(pid):
                    assert pid in self.asked
                    self.dropped.append(pid)
                case OpenSlot(slot):
                    assert slot not in self.slots
                    if self.opens_fail:
                        waiting += self.supervisor.open_failed(slot, "too many open files", self.now)
                    else:
                        self.slots.add(slot)
                        waiting += self.supervisor.opened(slot, self.now)
                case CloseSlot(slot):
                    assert slot in self.slots and slot not in self.route and not self.in_slot(slot)
                    self.slots.remove(slot)
                    waiting += self.supervisor.closed(slot, self.now)
                case Route(slots):
                    assert slots <= self.slots
                    self.route = slots
                case LoadAnew():
                    assert self.supervisor.is_reloading
                case Reloading():
                    assert not self.reloading
                    self.reloading = True
                case Reloaded():
                    assert self.reloading
                    self.reloading = False
                    self.reloads += 1
                case ReopenLogs():
                    pass
                case StartSuccessor():
                    assert self.successor is None
                    self.successor = "starting"
                case StopSuccessor():
                    assert self.successor is not None
                    self.successor = "told to stop"
                case HandOver():
                    assert self.listening, "handed over what was closed"
                    self.listening = False
                case Exit(code):
                    assert not self.alive, "left before its workers"
                    self.exit_code = code

    def check_replacement(self, pid: int, number: signal.Signals) -> None:
        """As long as the fleet is to serve, nobody who serves is told to go without a successor who does."""
        slot = self.alive[pid]
        goes_on = (
            self.supervisor.fleet in (Fleet.BOOTING, Fleet.RUNNING) and not self.supervisor._slots[slot].is_closing
        )
        if goes_on and pid in self.ready - self.drained and not self.told[pid] and number != SIGUSR1:
            if number == SIGABRT:
                assert pid in self.asked, "aborted, and nobody knows why"
                return
            assert number == (SIGUSR2 if self.delay and not self.told[pid] else SIGTERM)
            others = [other for other in self.in_slot(slot) if other > pid and not self.told[other]]
            assert any(other in self.ready for other in others), "told to go, and nobody serves in its place"

    def spawn(self, action: Spawn) -> list[Action]:
        assert action.slot in self.slots
        if self.is_loading:
            assert action.slot not in [other.slot for other in self.waiting]
            self.waiting.append(action)
            return []
        assert self.listening, "spawned while stopping"
        self.forks += 1
        if self.forks > self.forks_fail_after:
            return self.supervisor.spawn_failed(action.slot, "no more processes", self.now)
        self.last_pid += 1
        self.alive[self.last_pid] = action.slot
        self.told[self.last_pid] = []
        return self.supervisor.spawned(action.slot, self.last_pid, self.now)

    def load(self, why_not: str = "") -> None:
        """What workers are forked of is there, or cannot be had."""
        self.is_loading = False
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            if why_not or self.supervisor.fleet not in (Fleet.BOOTING, Fleet.RUNNING):
                self.perform(self.supervisor.spawn_failed(action.slot, why_not, self.now, "It could not be loaded"))
            else:
                self.perform(self.spawn(action))

    def report(self, pid: int, report: Report, text: str = "") -> None:
        if report is Report.CLOSED and SIGTERM not in self.told[pid]:
            self.drained.add(pid)
        if report is Report.READY:
            self.ready.add(pid)
        self.perform(self.supervisor.reported(pid, report, text, self.now))

    def exit(self, pid: int, returncode: int, in_flight: int = 0) -> None:
        del self.alive[pid]
        self.perform(self.supervisor.exited(pid, returncode, self.now, in_flight))

    def stop(self) -> None:
        self.perform(self.supervisor.stop_requested(self.now))

    def reload(self) -> None:
        self.perform(self.supervisor.reload_requested(self.now))

    def scale(self, by: int) -> None:
        self.perform(self.supervisor.scale_requested(self.supervisor.size + by, self.now))

    def tick(self, seconds: float) -> None:
        """`seconds` later the master wakes up. All hearts have beaten meanwhile that are not still."""
        self.now += seconds
        beats = {pid: self.now if pid not in self.still else 0.0 for pid in self.alive}
        self.perform(self.supervisor.tick(self.now, beats))

    def pass_time(self, seconds: float) -> None:
        """As the master passes it: awake at every deadline."""
        end = self.now + seconds
        while (deadline := self.supervisor.next_deadline()) is not None and deadline <= end and self.exit_code is None:
            assert deadline > self.now, "a deadline that has passed would make the master spin"
            self.tick(deadline - self.now)
        if self.exit_code is None:
            self.tick(end - self.now)

    def pass_to_deadline(self) -> float:
        """Sleep until there is something to do but to feel pulses; how long that was."""
        began, before = self.now, (len(self.log), self.forks, str(self.told))
        while (len(self.log), self.forks, str(self.told)) == before:
            deadline = self.supervisor.next_deadline()
            assert deadline is not None
            self.tick(deadline - self.now)
        return self.now - began

    def upgrade(self) -> None:
        self.perform(self.supervisor.upgrade_requested(self.now))

    def succeed(self) -> None:
        self.successor = None
        self.perform(self.supervisor.successor_ready(self.now))

    def fail_to_succeed(self) -> None:
        self.successor = None
        self.perform(self.supervisor.successor_failed("the new one exited with code 3", self.now))

    def hold_still(self, pid: int) -> None:
        """From now on its event loop does not run."""
        self.tick(0)
        self.still.add(pid)

    def boot(self, pid: int) -> None:
        self.report(pid, Report.READY)

    def obey(self) -> None:
        """Whoever was told to drain has drained."""
        for pid in list(self.alive):
            if SIGTERM in self.told[pid] or SIGQUIT in self.told[pid]:
                self.exit(pid, 0)

    def in_slot(self, slot: int) -> list[int]:
        return [pid for pid, place in self.alive.items() if place == slot]

    def texts(self, level: int = ERROR) -> list[str]:
        return [entry.text for entry in self.log if entry.level >= level]


def booted(slots: int = 1, *, delay: float = 0.0, boot: float = 0.0) -> MadeUpFleet:
    fleet = MadeUpFleet(slots, delay=delay, boot=boot)
    for pid in list(fleet.alive):
        fleet.report(pid, Report.READY)
    assert fleet.supervisor.fleet is Fleet.RUNNING
    fleet.log.clear()
    return fleet


def test_every_slot_gets_a_worker_and_the_fleet_is_announced_once_all_serve() -> None:
    fleet = MadeUpFleet(3)
    assert sorted(fleet.alive.values()) == [0, 1, 2]
    first, second, third = fleet.alive
    fleet.report(second, Report.READY)
    fleet.report(first, Report.READY)
    assert fleet.announced == 0
    fleet.report(third, Report.READY)
    assert fleet.announced == 1
    assert fleet.supervisor.next_deadline() == fleet.now + SILENCE, "an idle fleet needs a look now and then"


def test_a_worker_that_cannot_start_stops_the_fleet_with_its_message() -> None:
    fleet = MadeUpFleet(2)
    first, second = fleet.alive
    fleet.report(first, Report.FAILED, "Cannot import the application")
    assert fleet.texts() == ["Cannot import the application"]
    assert not fleet.listening
    assert fleet.told[second] == [SIGTERM]
    fleet.exit(first, 3)
    fleet.exit(second, 0)
    assert fleet.exit_code == 3


def test_workers_that_all_fail_at_the_same_time_say_so_once() -> None:
    fleet = MadeUpFleet(4)
    pids = list(fleet.alive)
    for pid in pids:
        fleet.report(pid, Report.FAILED, f"cause, said by {pid}")
    for pid in pids:
        fleet.exit(pid, 3)
    assert fleet.texts() == [f"cause, said by {pids[0]}"]
    assert fleet.exit_code == 3


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(-11, "signal 11, SIGSEGV"), (1, "exit code 1"), (0, "exit code 0"), (-9, "signal 9, SIGKILL")],
)
def test_a_worker_that_dies_while_booting_stops_the_fleet(returncode: int, words: str) -> None:
    fleet = MadeUpFleet(2)
    first, second = fleet.alive
    fleet.exit(second, returncode)
    assert fleet.texts() == [f"Worker 2 died while booting ({words})"]
    fleet.exit(first, 0)
    assert fleet.exit_code == 3


def test_a_fork_that_fails_at_boot_stops_the_fleet() -> None:
    fleet = MadeUpFleet(3, forks_fail_after=1)
    assert fleet.texts() == ["Worker 2 cannot be started: no more processes"]
    (pid,) = fleet.alive
    assert fleet.told[pid] == [SIGTERM]
    fleet.exit(pid, 0)
    assert fleet.exit_code == 3


def test_a_worker_that_is_killed_is_replaced_at_once() -> None:
    fleet = booted(2)
    victim = next(iter(fleet.alive))
    fleet.exit(victim, -9, in_flight=3)
    assert len(fleet.in_slot(0)) == 1
    assert (
        fleet.log[-1].text
        == f"Worker 1 (pid {victim}) was killed by signal 9 (SIGKILL) with 3 requests in flight; starting another"
    )


def test_the_delay_grows_for_workers_that_die_young_and_is_forgotten_for_old_ones() -> None:
    fleet = booted()
    slept = []
    for _ in range(len(RESPAWN_DELAYS) + 2):
        (pid,) = fleet.alive
        assert not fleet.told[pid]
        fleet.pass_time(YOUNG / 2)
        fleet.exit(pid, 1)
        slept.append(0.0 if fleet.alive else fleet.pass_to_deadline())
        (pid,) = fleet.alive
        fleet.report(pid, Report.READY)
    assert slept == [*RESPAWN_DELAYS, 30.0, 30.0]

    fleet.pass_time(YOUNG)
    (pid,) = fleet.alive
    fleet.exit(pid, 1)
    assert fleet.alive, "who lived long is replaced at once again"


def test_a_replacement_that_cannot_start_is_tried_again_while_the_others_serve() -> None:
    fleet = booted(2)
    victim, survivor = fleet.alive
    fleet.exit(victim, -9)
    for delay in (1, 2, 4, 8, 16, 30, 30):
        (pid,) = fleet.in_slot(0)
        fleet.report(pid, Report.FAILED, "no database")
        fleet.exit(pid, 3)
        assert fleet.texts()[-1] == f"Worker 1 (pid {pid}) could not start; starting another in {delay} s: no database"
        assert fleet.pass_to_deadline() == delay
    assert fleet.told[survivor] == []
    assert fleet.exit_code is None


def test_a_replacement_that_dies_while_booting_does_not_stop_the_fleet() -> None:
    fleet = booted(1)
    (victim,) = fleet.alive
    fleet.exit(victim, -9)
    (pid,) = fleet.alive
    fleet.exit(pid, -11)
    assert fleet.texts()[-1] == f"Worker 1 (pid {pid}) died while booting (signal 11, SIGSEGV); starting another in 1 s"
    fleet.pass_to_deadline()
    assert fleet.alive


def test_a_retiring_worker_leaves_when_its_successor_serves() -> None:
    fleet = booted()
    (old,) = fleet.alive
    fleet.report(old, Report.RETIRING, "is tired")
    fleet.report(old, Report.RETIRING, "is very tired")
    assert fleet.texts(INFO)[-1] == f"Worker 1 (pid {old}) is tired and gets a successor"
    old, new = fleet.alive
    assert fleet.told[old] == []
    fleet.report(new, Report.READY)
    assert fleet.told[old] == [SIGTERM]
    fleet.exit(old, 0)
    assert list(fleet.alive) == [new]


def test_workers_that_retire_together_are_replaced_one_after_the_other() -> None:
    fleet = booted(3)
    for pid in list(fleet.alive):
        fleet.report(pid, Report.RETIRING, "is tired")
    for _ in range(3):
        (heir,) = [pid for pid in fleet.alive if pid > 103 and fleet.supervisor._by_pid[pid].state is Worker.BOOTING]
        fleet.boot(heir)
    assert sorted(fleet.alive.values()) == [0, 0, 1, 1, 2, 2]
    fleet.obey()
    assert sorted(fleet.alive.values()) == [0, 1, 2]


def test_a_retiring_worker_serves_on_while_its_successors_fail() -> None:
    fleet = booted()
    (old,) = fleet.alive
    fleet.report(old, Report.RETIRING)
    for _ in range(3):
        new = max(fleet.alive)
        fleet.report(new, Report.FAILED, "no database")
        fleet.exit(new, 3)
        if len(fleet.alive) == 1:
            fleet.pass_to_deadline()
        assert fleet.told[old] == []
    fleet.report(max(fleet.alive), Report.READY)
    assert fleet.told[old] == [SIGTERM]


def test_a_retiring_worker_that_dies_early_leaves_its_place_to_the_successor() -> None:
    fleet = booted()
    (old,) = fleet.alive
    fleet.report(old, Report.RETIRING)
    fleet.exit(old, -9)
    assert len(fleet.alive) == 1
    assert fleet.log[-1].text == f"Worker 1 (pid {old}) was killed by signal 9 (SIGKILL)"


def test_a_retired_worker_that_does_not_leave_is_killed() -> None:
    fleet = booted()
    (old,) = fleet.alive
    fleet.report(old, Report.RETIRING)
    fleet.report(max(fleet.alive), Report.READY)
    assert fleet.pass_to_deadline() == TERM_TIMEOUT - LAST_WORDS
    assert fleet.told[old] == [SIGTERM, SIGABRT]
    assert fleet.pass_to_deadline() == LAST_WORDS
    assert fleet.told[old] == [SIGTERM, SIGABRT, SIGKILL]
    fleet.exit(old, -9)
    fleet.stop()
    (last,) = fleet.alive
    fleet.exit(last, 0)
    assert fleet.exit_code == 0, "what happened long before the stop is no fault of the stop"


def test_a_stop_tells_all_workers_at_once_and_ends_with_the_last() -> None:
    fleet = booted(3)
    pids = list(fleet.alive)
    fleet.stop()
    assert not fleet.listening
    assert [fleet.told[pid] for pid in pids] == [[SIGTERM]] * 3
    fleet.exit(pids[0], 0)
    fleet.exit(pids[1], 0)
    assert fleet.exit_code is None
    fleet.exit(pids[2], 0)
    assert fleet.exit_code == 0


def test_each_further_stop_goes_one_degree_further() -> None:
    fleet = booted(2)
    fleet.stop()
    fleet.stop()
    fleet.stop()
    fleet.stop()
    assert list(fleet.told.values()) == [[SIGTERM, SIGQUIT, SIGKILL]] * 2
    assert fleet.texts(INFO) == [
        "Stopping; what runs has 30 s to finish. Stop again to cut it short",
        "Cutting short what still runs. Stop again to kill it",
        "Stopping at once: killing the workers",
    ]


def test_workers_are_killed_at_their_deadline_and_the_stop_is_then_not_clean() -> None:
    fleet = booted(2)
    first, second = fleet.alive
    fleet.stop()
    assert fleet.pass_to_deadline() == TERM_TIMEOUT - LAST_WORDS
    assert fleet.pass_to_deadline() == LAST_WORDS
    assert fleet.told == {first: [SIGTERM, SIGABRT, SIGKILL], second: [SIGTERM, SIGABRT, SIGKILL]}
    assert fleet.supervisor.next_deadline() is None, "more cannot be done"
    fleet.exit(first, -9)
    fleet.exit(second, -9)
    assert fleet.exit_code == 1


def test_cutting_a_stop_short_brings_the_deadline_nearer_but_never_puts_it_off() -> None:
    fleet = booted()
    fleet.stop()
    fleet.pass_time(1)
    fleet.stop()
    assert fleet.supervisor.next_deadline() == fleet.now + QUIT_TIMEOUT - LAST_WORDS

    fleet = booted()
    fleet.stop()
    fleet.pass_time(TERM_TIMEOUT - LAST_WORDS - 1)
    fleet.stop()
    assert fleet.supervisor.next_deadline() == fleet.now + 1
    fleet.pass_time(1)
    assert fleet.told == {101: [SIGTERM, SIGQUIT, SIGABRT]}


@pytest.mark.parametrize("stops", [1, 2])
def test_who_does_not_leave_in_time_tells_where_it_is(stops: int) -> None:
    fleet = booted()
    for _ in range(stops):
        fleet.stop()
    fleet.pass_time(TERM_TIMEOUT - LAST_WORDS if stops == 1 else QUIT_TIMEOUT - LAST_WORDS)
    assert fleet.told[101][-1] is SIGABRT
    del fleet.alive[101]
    fleet.perform(fleet.supervisor.exited(101, -6, fleet.now, 0, "in main"))
    assert fleet.texts() == ["Worker 1 (pid 101) is aborted: it was here\nin main"]
    assert fleet.exit_code == 1


def test_a_stop_while_booting_is_a_clean_one() -> None:
    fleet = MadeUpFleet(2)
    first, second = fleet.alive
    fleet.report(first, Report.READY)
    fleet.stop()
    assert fleet.told == {first: [SIGTERM], second: [SIGTERM]}
    fleet.report(second, Report.FAILED, "was interrupted")
    fleet.exit(second, 3)
    fleet.exit(first, 0)
    assert fleet.exit_code == 0
    assert fleet.texts() == []


def test_a_failed_worker_that_hangs_in_its_exit_is_killed() -> None:
    fleet = MadeUpFleet(1)
    (pid,) = fleet.alive
    fleet.report(pid, Report.FAILED, "no database")
    assert fleet.pass_to_deadline() == QUIT_TIMEOUT - LAST_WORDS
    assert fleet.told[pid][-1] is SIGABRT
    assert fleet.pass_to_deadline() == LAST_WORDS
    assert fleet.told[pid][-1] is SIGKILL
    fleet.exit(pid, -9)
    assert fleet.exit_code == 3


def test_a_worker_that_dies_in_a_stop_is_told_of_and_makes_it_unclean() -> None:
    fleet = booted()
    (pid,) = fleet.alive
    fleet.stop()
    fleet.exit(pid, -11)
    assert f"Worker 1 (pid {pid}) was killed by signal 11 (SIGSEGV) while it was stopping" in fleet.texts(WARNING)
    assert fleet.exit_code == 1


def test_nothing_that_is_waiting_for_its_delay_is_spawned_in_a_stop() -> None:
    fleet = booted(2)
    victim, survivor = fleet.alive
    fleet.exit(victim, 1)
    (replacement,) = fleet.in_slot(0)
    fleet.exit(replacement, 1)
    fleet.stop()
    fleet.pass_time(60)
    fleet.exit(survivor, 0)
    assert fleet.exit_code == 0


def test_a_report_the_table_does_not_have_is_an_error() -> None:
    fleet = MadeUpFleet(1)
    (pid,) = fleet.alive
    with pytest.raises(KeyError):
        fleet.report(pid, Report.RETIRING)


# -- reload


def test_a_reload_replaces_one_worker_after_the_other_and_each_serves_until_its_successor_does() -> None:
    fleet = booted(2)
    first, second = fleet.alive
    fleet.reload()
    assert fleet.reloading
    assert sorted(fleet.alive.values()) == [0, 0, 1], "one at a time"
    fleet.boot(103)
    assert fleet.told[first] == [SIGTERM]
    assert fleet.in_slot(1) == [second, 104], "the next need not wait until the first has drained"
    assert fleet.told[second] == []
    fleet.boot(104)
    assert fleet.told[second] == [SIGTERM]
    assert fleet.reloads == 1
    assert fleet.texts(INFO)[-1] == "Reloaded"
    fleet.obey()
    assert list(fleet.alive) == [103, 104]


@pytest.mark.parametrize("how", ["it says so", "it dies", "no fork", "it takes too long"])
def test_a_reload_that_fails_leaves_everything_as_it_was(how: str) -> None:
    fleet = booted(2, boot=BOOT_TIMEOUT)
    before = list(fleet.alive)
    for attempt in range(20):
        forks, told = fleet.forks, len(fleet.log)
        fleet.forks_fail_after = forks if how == "no fork" else inf
        fleet.reload()
        if how == "it says so":
            fleet.report(fleet.last_pid, Report.FAILED, "no database")
            fleet.exit(fleet.last_pid, 3)
        elif how == "it dies":
            fleet.exit(fleet.last_pid, -11)
        elif how == "it takes too long":
            fleet.pass_time(BOOT_TIMEOUT)
            assert fleet.told[fleet.last_pid] == [SIGABRT]
            fleet.exit(fleet.last_pid, -6)
        assert fleet.reloads == attempt + 1
        (text,) = [entry.text for entry in fleet.log[told:] if entry.level >= WARNING]
        assert text.startswith("The reload is abandoned, and who served before goes on. Worker 1 ")
        fleet.pass_time(100)
        assert list(fleet.alive) == before
        assert fleet.forks == forks + 1, "nothing is tried before the next HUP"
        assert [fleet.told[pid] for pid in before] == [[], []]
    fleet.forks_fail_after = inf
    fleet.reload()
    fleet.boot(fleet.last_pid)
    fleet.boot(fleet.last_pid)
    fleet.obey()
    assert sorted(fleet.alive.values()) == [0, 1]
    assert not set(before) & set(fleet.alive)


def test_a_reload_that_fails_half_way_leaves_what_has_been_replaced() -> None:
    fleet = booted(2)
    _, second = fleet.alive
    fleet.reload()
    fleet.boot(103)
    fleet.report(104, Report.FAILED, "no database")
    fleet.exit(104, 3)
    fleet.obey()
    assert list(fleet.alive) == [second, 103]


def test_another_hup_begins_the_reload_again_and_ends_who_boots_what_is_outdated() -> None:
    fleet = booted(2)
    first, second = fleet.alive
    fleet.reload()
    fleet.boot(103)
    fleet.reload()
    assert fleet.told[104] == [SIGTERM]
    assert fleet.told[103] == [], "it serves"
    fleet.exit(104, 0)
    fleet.exit(first, 0)
    assert fleet.in_slot(0) == [103, 105] or fleet.in_slot(1) == [second, 105]
    for pid in (105, 106):
        fleet.boot(pid)
        fleet.obey()
    assert list(fleet.alive) == [105, 106]
    assert fleet.reloads == 1


def test_who_boots_what_is_outdated_and_does_not_go_is_cut_short() -> None:
    fleet = booted(1)
    fleet.reload()
    fleet.reload()
    fleet.pass_time(CROSSING)
    assert fleet.told[102] == [SIGTERM, SIGQUIT]
    fleet.pass_time(QUIT_TIMEOUT + ABORT)
    assert fleet.told[102] == [SIGTERM, SIGQUIT, SIGABRT, SIGKILL]


def test_who_was_ready_before_it_heard_that_it_is_outdated_finishes_what_it_has_begun() -> None:
    """It accepts connections from when it is ready, and that is a moment before we hear of it."""
    fleet = booted(1)
    fleet.reload()
    fleet.reload()
    fleet.report(102, Report.READY)
    fleet.pass_time(TERM_TIMEOUT - LAST_WORDS - 1)
    assert fleet.told[102] == [SIGTERM]
    fleet.stop()
    assert fleet.told[102] == [SIGTERM]
    fleet.stop()
    assert fleet.told[102] == [SIGTERM, SIGQUIT]


def test_a_reload_waits_for_room_but_not_for_ever() -> None:
    fleet = booted(1)
    fleet.reload()
    fleet.boot(102)
    fleet.reload()
    assert list(fleet.alive) == [101, 102], "the one that drains takes the room"
    fleet.pass_time(TERM_TIMEOUT)
    assert fleet.told[101] == [SIGTERM, SIGABRT, SIGKILL]
    fleet.exit(101, -9)
    assert list(fleet.alive) == [102, 103]


def test_a_stop_during_a_reload_is_a_stop() -> None:
    fleet = booted(2)
    fleet.reload()
    fleet.stop()
    assert all(signals == [SIGTERM] for signals in fleet.told.values())
    fleet.reload()
    fleet.obey()
    assert fleet.exit_code == 0


def test_a_worker_that_dies_during_a_reload_is_replaced_by_a_new_one() -> None:
    fleet = booted(2)
    fleet.reload()
    fleet.exit(102, -9)
    assert fleet.in_slot(1) == [104], "nobody serves there, so it is not asked whose turn it is"
    fleet.boot(104)
    fleet.boot(103)
    fleet.obey()
    assert list(fleet.alive) == [103, 104]
    assert not fleet.reloading


def test_a_hup_is_a_new_chance_for_a_slot_that_nobody_could_fill() -> None:
    fleet = booted(1)
    fleet.exit(101, -9)
    for _ in range(4):
        fleet.exit(fleet.last_pid, 1)
        fleet.pass_to_deadline()
    fleet.exit(fleet.last_pid, 1)
    assert not fleet.alive
    fleet.reload()
    assert len(fleet.alive) == 1


def test_a_hup_while_the_fleet_boots_begins_that_again() -> None:
    fleet = MadeUpFleet(2)
    fleet.boot(101)
    fleet.reload()
    assert fleet.told == {101: [], 102: [SIGTERM], 103: [], 104: []}
    fleet.boot(103)
    fleet.boot(104)
    fleet.obey()
    assert fleet.announced == 1
    assert sorted(fleet.alive.values()) == [0, 1]
    assert not fleet.reloading


# -- more slots and fewer


def test_a_slot_more_is_opened_and_filled() -> None:
    fleet = booted(2)
    fleet.scale(+1)
    assert fleet.slots == {0, 1, 2}
    assert fleet.in_slot(2) == [103]
    assert fleet.route == {0, 1}
    fleet.boot(103)
    assert fleet.route == {0, 1, 2}


def test_a_slot_that_cannot_be_opened_is_none() -> None:
    fleet = booted(1)
    fleet.opens_fail = True
    fleet.scale(+1)
    assert fleet.texts() == ["Worker 2 cannot be added: too many open files"]
    assert fleet.supervisor.size == 1
    fleet.opens_fail = False
    fleet.scale(+1)
    assert fleet.in_slot(1) == [102]


def test_a_slot_less_is_steered_around_drained_and_closed_last() -> None:
    fleet = booted(3)
    fleet.scale(-1)
    assert fleet.route == {0, 1}
    assert fleet.told[103] == [SIGTERM]
    fleet.exit(103, 0)
    assert fleet.slots == {0, 1, 2}, "the last handshakes are not over"
    fleet.pass_time(LAST_HANDSHAKES)
    assert fleet.slots == {0, 1}
    fleet.scale(+1)
    assert fleet.in_slot(2) == [104], "the number is free again"


def test_a_slot_less_is_one_where_nobody_serves() -> None:
    fleet = booted(3)
    fleet.exit(101, -9)
    fleet.scale(-1)
    fleet.obey()
    fleet.hold_still(103)
    fleet.pass_time(LAST_HANDSHAKES)
    assert fleet.slots == {1, 2}
    assert fleet.route == {1}
    fleet.scale(-1)
    assert fleet.told[102] == [] and fleet.told[103] == [SIGTERM]


def test_a_slot_that_goes_away_can_come_back() -> None:
    fleet = booted(2)
    fleet.scale(-1)
    fleet.scale(+1)
    assert fleet.slots == {0, 1}
    assert fleet.in_slot(1) == [102, 103]
    fleet.obey()
    fleet.pass_time(LAST_HANDSHAKES)
    assert fleet.in_slot(1) == [103]


def test_a_slip_of_the_finger_is_bounded() -> None:
    fleet = booted(2)
    fleet.scale(+1_000_000)
    assert fleet.supervisor.size == MOST_WORKERS


def test_why_a_slot_is_empty_is_to_be_seen_until_somebody_serves_there() -> None:
    fleet = booted(1)
    fleet.scale(+1)
    fleet.report(102, Report.FAILED, "no database")
    fleet.exit(102, 3)
    first, second = fleet.supervisor.view()
    assert (first.trouble, "no database" in second.trouble) == ("", True)
    fleet.boot(103)
    assert fleet.supervisor.view()[1].trouble == ""


def test_a_slot_that_goes_away_is_in_no_trouble() -> None:
    fleet = booted(1)
    fleet.scale(+1)
    fleet.report(102, Report.FAILED, "no database")
    fleet.scale(-1)
    assert [slot.trouble for slot in fleet.supervisor.view()] == ["", ""]


def test_who_serves_on_after_a_reload_that_failed_is_in_no_trouble() -> None:
    fleet = booted(1)
    fleet.reload()
    fleet.report(102, Report.FAILED, "no database")
    assert fleet.supervisor.view()[0].trouble == ""
    assert "no database" in fleet.supervisor.message


@pytest.mark.parametrize("event", ["reload_requested", "upgrade_requested", "scale_requested"])
def test_what_came_of_an_old_operation_is_no_reason_for_a_new_one_to_fail(event: str) -> None:
    fleet = booted(1)
    fleet.reload()
    fleet.report(102, Report.FAILED, "no database")
    fleet.stop()
    assert "no database" in fleet.supervisor.message
    fleet.perform(getattr(fleet.supervisor, event)(*([2] if event == "scale_requested" else []), fleet.now))
    assert "no database" not in fleet.supervisor.message


def test_one_worker_stays() -> None:
    fleet = booted(1)
    fleet.scale(-1)
    assert fleet.told == {101: []}
    assert fleet.texts(WARNING) == ["There is one worker, and one has to stay"]


def test_a_slot_that_goes_away_holds_up_no_reload() -> None:
    fleet = booted(2)
    fleet.reload()
    fleet.scale(-1)
    fleet.boot(103)
    assert not fleet.reloading


# -- another master


def test_a_successor_that_serves_ends_this_fleet_which_hands_over_and_closes_nothing() -> None:
    fleet = booted(2)
    fleet.upgrade()
    assert fleet.told == {101: [], 102: []}
    fleet.succeed()
    assert fleet.told == {101: [SIGTERM], 102: [SIGTERM]}
    fleet.obey()
    assert fleet.exit_code == 0


def test_a_reload_lasts_as_long_as_somebody_may_still_accept_who_is_not_new() -> None:
    fleet = booted(2)
    fleet.hold_still(101)
    fleet.reload()
    fleet.boot(103)
    fleet.boot(104)
    assert fleet.told == {101: [SIGTERM], 102: [SIGTERM], 103: [], 104: []}
    fleet.pass_time(20)
    assert fleet.reloading
    fleet.report(101, Report.CLOSED)
    assert not fleet.reloading


def test_a_reload_is_over_when_the_last_who_does_not_close_has_gone() -> None:
    fleet = booted(1)
    fleet.hold_still(101)
    fleet.reload()
    fleet.boot(102)
    assert fleet.reloading
    fleet.exit(101, -9)
    assert not fleet.reloading


def test_who_drains_on_the_word_of_somebody_else_is_replaced_at_once_and_gets_nothing_more() -> None:
    fleet = booted(2)
    fleet.report(101, Report.CLOSED)
    assert fleet.route == {1}
    assert fleet.texts(WARNING)[-1] == "Worker 1 (pid 101) was told to stop by somebody else; starting another"
    fleet.boot(103)
    assert fleet.route == {0, 1}
    assert fleet.told == {101: [], 102: [], 103: []}
    fleet.exit(101, 0)
    (slot, _) = fleet.supervisor.view()
    assert slot.restarts == {"was told to stop": 1}
    # Again and again, it is not chance.
    fleet.report(103, Report.CLOSED)
    assert fleet.texts(WARNING)[-1] == "Worker 1 (pid 103) was told to stop by somebody else; starting another in 1 s"
    fleet.pass_time(TERM_TIMEOUT + ABORT)
    assert fleet.told[103] == [SIGABRT, SIGKILL]


def test_restarts_are_counted_by_reason_whatever_its_figures_were() -> None:
    fleet = booted(1)
    for pid, seconds in ((101, 58), (102, 61)):
        fleet.report(pid, Report.RETIRING, f"has served for long ({seconds} s)")
        assert fleet.texts(INFO)[-1] == f"Worker 1 (pid {pid}) has served for long ({seconds} s) and gets a successor"
        fleet.boot(pid + 1)
        fleet.obey()
    (slot,) = fleet.supervisor.view()
    assert slot.restarts == {"has served for long": 2}


def test_whoever_has_a_successor_says_goodbye_first_if_there_is_a_delay() -> None:
    fleet = booted(2, delay=10.0)
    fleet.reload()
    fleet.boot(103)
    fleet.boot(104)
    assert fleet.told == {101: [SIGUSR2], 102: [SIGUSR2], 103: [], 104: []}
    fleet.pass_time(9)
    assert fleet.told[101] == [SIGUSR2]
    assert bool(fleet.reloading)
    fleet.pass_time(1)
    assert not fleet.reloading
    assert fleet.told == {101: [SIGUSR2, SIGTERM], 102: [SIGUSR2, SIGTERM], 103: [], 104: []}
    fleet.obey()
    fleet.report(103, Report.RETIRING, "is old")
    fleet.boot(105)
    fleet.scale(-1)
    assert [fleet.told[pid] for pid in (103, 104, 105)] == [[SIGUSR2], [SIGUSR2], []]
    assert fleet.route == {0}
    fleet.stop()
    assert [fleet.told[pid] for pid in (103, 104, 105)] == [[SIGUSR2]] * 3
    fleet.stop()
    assert [fleet.told[pid] for pid in (103, 104, 105)] == [[SIGUSR2, SIGTERM]] * 3


def test_who_is_replaced_and_does_not_go_after_its_goodbye_is_killed() -> None:
    fleet = booted(1, delay=10.0)
    fleet.reload()
    fleet.boot(102)
    fleet.pass_time(10 + TERM_TIMEOUT + ABORT)
    assert fleet.told[101] == [SIGUSR2, SIGTERM, SIGABRT, SIGKILL]


def test_a_fleet_that_has_a_successor_says_goodbye_first_if_there_is_a_delay() -> None:
    fleet = booted(2, delay=10.0)
    fleet.upgrade()
    fleet.succeed()
    assert list(fleet.told.values()) == [[SIGUSR2]] * 2
    fleet.exit(101, 0)
    fleet.hold_still(102)
    fleet.pass_time(9)
    assert fleet.route == {0, 1}, "the listeners are another's, and so is what comes in"
    fleet.pass_time(1)
    assert fleet.told[102] == [SIGUSR2, SIGTERM]
    fleet.obey()
    assert fleet.exit_code == 0


def test_a_successor_that_fails_changes_nothing_and_there_may_be_another() -> None:
    fleet = booted(2)
    for _ in range(3):
        fleet.upgrade()
        fleet.upgrade()
        fleet.fail_to_succeed()
        assert fleet.texts()[-1] == (
            "The upgrade is abandoned, and this master goes on: the new one exited with code 3"
        )
        fleet.pass_time(1000)
    assert fleet.told == {101: [], 102: []}
    assert fleet.listening


def test_a_successor_that_takes_too_long_is_stopped() -> None:
    fleet = booted(1, boot=BOOT_TIMEOUT)
    fleet.upgrade()
    fleet.pass_time(BOOT_TIMEOUT + SUCCESSION)
    assert fleet.successor == "told to stop"
    fleet.fail_to_succeed()
    assert fleet.told == {101: []}


def test_there_is_no_successor_until_a_slot_that_goes_away_has_gone() -> None:
    """It would inherit the listeners, and serve there again."""
    fleet = booted(2)
    fleet.scale(-1)
    fleet.upgrade()
    fleet.obey()
    fleet.upgrade()
    refusal = "Worker 2 is still leaving, and there is no upgrade until it has gone"
    assert (fleet.successor, fleet.texts(WARNING)) == (None, [refusal, refusal])
    assert fleet.supervisor.message == refusal
    fleet.pass_time(2 * LAST_HANDSHAKES)
    assert fleet.slots == {0}
    fleet.upgrade()
    assert (fleet.successor, fleet.supervisor.message) == ("starting", "")


def test_the_number_of_slots_stays_while_a_successor_starts() -> None:
    fleet = booted(2)
    fleet.upgrade()
    fleet.scale(-1)
    fleet.scale(+1)
    fleet.pass_time(2 * LAST_HANDSHAKES)
    assert fleet.slots == {0, 1}
    assert fleet.texts(WARNING) == ["The number of workers stays while a successor starts"] * 2


def test_a_reload_while_a_successor_starts_is_one() -> None:
    fleet = booted(1)
    fleet.upgrade()
    fleet.reload()
    fleet.boot(102)
    assert (fleet.reloads, fleet.successor) == (1, "starting")
    fleet.succeed()
    fleet.obey()
    assert fleet.exit_code == 0


def test_a_stop_stops_the_successor_too() -> None:
    fleet = booted(1)
    fleet.upgrade()
    fleet.stop()
    assert (fleet.successor, fleet.told) == ("told to stop", {101: [SIGTERM]})
    fleet.succeed()
    fleet.obey()
    assert fleet.exit_code == 0


# -- event loops that stand still


def test_a_worker_that_stands_still_is_steered_around_told_of_aborted_and_killed() -> None:
    fleet = booted(2)
    stuck, _ = fleet.alive
    fleet.hold_still(stuck)
    fleet.pass_time(SILENCE)
    assert fleet.route == {1}
    assert fleet.asked == [stuck]
    assert fleet.texts(INFO) == []
    fleet.pass_time(STACKS)
    assert fleet.texts(WARNING) == [f"Worker 1 (pid {stuck}) has not run its event loop for 4 s"]
    assert fleet.told[stuck] == []
    fleet.pass_time(HEALTHCHECK - SILENCE - STACKS)
    assert fleet.told[stuck] == [SIGABRT]
    assert fleet.texts(WARNING)[-1] == (
        f"Worker 1 (pid {stuck}) has not run its event loop for 30 s (--timeout-worker-healthcheck); starting another"
    )
    assert len(fleet.in_slot(0)) == 2, "its successor takes its queue at once"
    fleet.boot(103)
    assert fleet.route == {0, 1}
    fleet.pass_time(ABORT)
    assert fleet.told[stuck] == [SIGABRT, SIGKILL]


def test_a_worker_that_runs_again_is_as_good_as_any() -> None:
    fleet = booted(2)
    fleet.hold_still(101)
    fleet.pass_time(10)
    assert fleet.route == {1}
    fleet.still.clear()
    fleet.tick(0.5)
    assert fleet.route == {0, 1}
    assert fleet.texts(INFO)[-1] == "Worker 1 (pid 101) runs its event loop again, after 10 s"
    assert fleet.dropped == [101], "where it was says nothing about what it may die of later"
    fleet.pass_time(100)
    assert fleet.told[101] == []


def test_who_was_away_is_not_told_that_everybody_else_was() -> None:
    """The machine, or the master, was stopped: SIGSTOP, a debugger, a suspended virtual machine."""
    fleet = booted(2, boot=BOOT_TIMEOUT)
    fleet.reload()
    for pid in (101, 102):
        fleet.hold_still(pid)
    fleet.tick(3600)
    assert fleet.route == {0, 1}
    assert fleet.told == {101: [], 102: [], 103: []}
    fleet.pass_time(SILENCE)
    assert fleet.route == frozenset(), "but from then on, time counts"


def test_a_worker_that_boots_for_long_is_not_taken_for_one_that_stands_still() -> None:
    fleet = booted(1, boot=BOOT_TIMEOUT)
    fleet.exit(101, -9)
    fleet.still.add(102)
    fleet.pass_time(BOOT_TIMEOUT - 1)
    assert fleet.told[102] == []
    fleet.pass_time(1)
    assert fleet.told[102] == [SIGABRT]
    assert fleet.texts()[-1] == (
        "Worker 1 (pid 102) is given up; starting another in 1 s:"
        " it has not started within 120 s (--timeout-worker-boot)"
    )


def test_a_fleet_that_does_not_boot_in_time_is_stopped() -> None:
    fleet = MadeUpFleet(2, boot=BOOT_TIMEOUT)
    fleet.boot(101)
    fleet.pass_time(BOOT_TIMEOUT)
    assert fleet.told == {101: [SIGTERM], 102: [SIGABRT]}
    fleet.exit(101, 0)
    fleet.exit(102, -6)
    assert fleet.exit_code == 3


def test_the_stacks_of_who_died_of_a_fatal_signal_are_told() -> None:
    fleet = booted(1)
    del fleet.alive[101]
    fleet.perform(fleet.supervisor.exited(101, -11, fleet.now, 0, "in main"))
    assert fleet.texts(WARNING) == [
        "Worker 1 (pid 101) was killed by signal 11 (SIGSEGV); starting another: it was here\nin main"
    ]


# -- more ways to stop


def test_a_delayed_stop_says_goodbye_first() -> None:
    fleet = booted(2, delay=10.0)
    fleet.stop()
    assert (fleet.listening, list(fleet.told.values())) == (True, [[SIGUSR2]] * 2)
    fleet.pass_time(10)
    assert (fleet.listening, list(fleet.told.values())) == (False, [[SIGUSR2, SIGTERM]] * 2)
    fleet.obey()
    assert fleet.exit_code == 0


def test_until_a_delayed_stop_begins_nobody_waits_for_who_died_or_stands_still() -> None:
    fleet = booted(4, delay=10.0)
    fleet.exit(104, -9)
    assert fleet.route == {0, 1, 2}
    fleet.stop()
    fleet.tick(0.5)
    assert fleet.route == {0, 1, 2}
    fleet.boot(105)
    assert fleet.route == {0, 1, 2, 3}, "who booted meanwhile takes its share"
    fleet.exit(101, -9)
    assert fleet.route == {1, 2, 3}
    fleet.hold_still(102)
    fleet.pass_time(SILENCE)
    assert fleet.route == {2, 3}
    fleet.still.clear()
    fleet.tick(0.5)
    assert fleet.route == {1, 2, 3}
    fleet.pass_time(10)
    assert list(fleet.told.values()) == [[SIGUSR2], *[[SIGUSR2, SIGTERM]] * 2, [], [SIGUSR2, SIGTERM]]


def test_a_second_stop_ends_the_delay() -> None:
    fleet = booted(1, delay=10.0)
    fleet.stop()
    fleet.stop()
    assert not fleet.listening
    assert fleet.told[101] == [SIGUSR2, SIGTERM]


def test_a_quit_cuts_short_at_once() -> None:
    fleet = booted(2, delay=10.0)
    fleet.perform(fleet.supervisor.quit_requested(fleet.now))
    assert list(fleet.told.values()) == [[SIGQUIT]] * 2
    fleet.perform(fleet.supervisor.quit_requested(fleet.now))
    assert list(fleet.told.values()) == [[SIGQUIT, SIGKILL]] * 2


def test_everybody_reopens_the_logs() -> None:
    fleet = booted(2)
    fleet.perform(fleet.supervisor.reopen_requested(fleet.now))
    assert list(fleet.told.values()) == [[SIGUSR1]] * 2


def test_a_fleet_waits_for_what_it_is_forked_of() -> None:
    fleet = MadeUpFleet(2, boot=BOOT_TIMEOUT, is_loading=True)
    assert [spawn.slot for spawn in fleet.waiting] == [0, 1]
    fleet.pass_time(1000.0)
    assert fleet.forks == 0 and fleet.texts() == []
    fleet.load()
    for pid in list(fleet.alive):
        fleet.boot(pid)
    assert fleet.announced == 1


def test_a_reload_whose_code_cannot_be_loaded_is_given_up() -> None:
    fleet = booted(2)
    fleet.is_loading = True
    fleet.reload()
    fleet.load("no database")
    assert fleet.texts() == [
        "The reload is abandoned, and who served before goes on. It could not be loaded: no database"
    ]
    assert not fleet.reloading
    fleet.pass_time(RESPAWN_DELAYS[-1])
    assert len(fleet.alive) == 2 and not any(fleet.told.values())


def test_a_stop_while_something_is_loaded_ends_when_that_is_given_up() -> None:
    fleet = booted(1)
    fleet.is_loading = True
    fleet.reload()
    fleet.stop()
    fleet.obey()
    assert fleet.exit_code is None
    fleet.load()
    assert fleet.exit_code == 0


def test_a_slot_that_goes_away_is_not_closed_under_a_worker_that_is_on_its_way() -> None:
    fleet = booted(2)
    fleet.is_loading = True
    fleet.exit(fleet.in_slot(1)[0], -9)
    fleet.scale(-1)
    fleet.pass_time(10 * LAST_HANDSHAKES)
    assert fleet.slots == {0, 1}
    fleet.load()
    fleet.obey()
    fleet.pass_time(0.0)
    assert fleet.slots == {0}


def test_exits_are_described_in_words() -> None:
    assert describe_exit(1) == "exited with code 1"
    assert describe_exit(-9) == "was killed by signal 9 (SIGKILL)"
    assert describe_exit(-40) == "was killed by signal 40 (real-time)"


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Workers boot, fail, retire, crash, stand still, obey or ignore; forks fail; users reload, scale and stop; time passes.
    What must hold, always holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = MadeUpFleet(3, delay=5.0, boot=BOOT_TIMEOUT)
        self.states: dict[int, Worker] = {}  # as each worker would tell; absent: booting

    def legal(self, pid: int) -> list[Report]:
        """What this worker can say next. One that was told to go may say what it said anyway."""
        state = self.states.get(pid, Worker.BOOTING)
        return [report for (before, report) in REPORTED if before is state]

    def pick(self, data: st.DataObject, pids: list[int]) -> int:
        return data.draw(st.sampled_from(sorted(pids)), "pid")

    @property
    def is_over(self) -> bool:
        return self.fleet.exit_code is not None

    @precondition(lambda self: any(self.legal(pid) for pid in self.fleet.alive))
    @rule(data=st.data())
    def some_worker_reports(self, data: st.DataObject) -> None:
        pid = self.pick(data, [pid for pid in self.fleet.alive if self.legal(pid)])
        report = data.draw(st.sampled_from(self.legal(pid)), "report")
        self.states[pid] = REPORTED[self.states.get(pid, Worker.BOOTING), report]
        self.fleet.report(pid, report, "cause")

    @precondition(lambda self: self.fleet.alive)
    @rule(data=st.data(), returncode=st.sampled_from([0, 1, 3, -9, -11, -15]))
    def some_worker_exits(self, data: st.DataObject, returncode: int) -> None:
        self.fleet.exit(self.pick(data, list(self.fleet.alive)), returncode)

    @precondition(lambda self: self.fleet.alive)
    @rule(data=st.data())
    def some_event_loop_stops_or_runs_again(self, data: st.DataObject) -> None:
        self.fleet.still ^= {self.pick(data, list(self.fleet.alive))}

    @precondition(lambda self: not self.is_over)
    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 29.0, 31.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.fleet.pass_time(seconds)

    @precondition(lambda self: not self.is_over)
    @rule()
    def everything_stands_still_for_an_hour(self) -> None:
        told = {pid: list(signals) for pid, signals in self.fleet.told.items()}
        self.fleet.still |= set(self.fleet.alive)
        self.fleet.tick(3600.0)
        assert all(self.fleet.told[pid] == signals for pid, signals in told.items() if pid in self.fleet.alive) or (
            self.fleet.supervisor.fleet is not Fleet.RUNNING
        )

    @precondition(lambda self: self.fleet.supervisor.fleet in (Fleet.BOOTING, Fleet.RUNNING))
    @rule()
    def all_goes_well_for_a_while(self) -> None:
        """Then every slot is served by one worker, of the latest edition, and nothing is under way."""
        fleet = self.fleet
        fleet.forks_fail_after = inf
        fleet.load()
        fleet.still.clear()
        if fleet.successor is not None:
            fleet.fail_to_succeed()
        for _ in range(12):
            for pid in list(fleet.alive):
                if fleet.told[pid] or self.states.get(pid) is Worker.FAILED:
                    fleet.exit(pid, 0)
                elif pid not in self.states:
                    self.states[pid] = Worker.SERVING
                    fleet.boot(pid)
            fleet.pass_time(31.0)
        assert sorted(fleet.alive.values()) == sorted(fleet.slots)
        assert fleet.route == fleet.slots
        assert not fleet.reloading

    @precondition(lambda self: not self.is_over)
    @rule()
    def user_reloads(self) -> None:
        self.fleet.reload()

    @rule(why_not=st.sampled_from(["", "no database"]))
    def what_is_forked_of_is_loaded_or_loads_anew(self, why_not: str) -> None:
        if self.fleet.is_loading:
            self.fleet.load(why_not)
        else:
            self.fleet.is_loading = True

    @precondition(lambda self: not self.is_over)
    @rule(by=st.sampled_from([-3, -1, +1]), fail=st.booleans())
    def user_scales(self, by: int, fail: bool) -> None:
        self.fleet.opens_fail = fail
        if by < 0 or len(self.fleet.slots) < 5:
            self.fleet.scale(by)

    @precondition(lambda self: not self.is_over)
    @rule()
    def user_upgrades(self) -> None:
        if self.fleet.successor is None:
            self.fleet.upgrade()

    @precondition(lambda self: not self.is_over and self.fleet.successor is not None)
    @rule(serves=st.booleans())
    def successor_serves_or_ends(self, serves: bool) -> None:
        if serves:
            self.fleet.succeed()
        else:
            self.fleet.fail_to_succeed()

    @precondition(lambda self: not self.is_over)
    @rule()
    def user_quits(self) -> None:
        self.fleet.perform(self.fleet.supervisor.quit_requested(self.fleet.now))

    @precondition(lambda self: not self.is_over)
    @rule()
    def user_stops(self) -> None:
        self.fleet.stop()

    @rule(fail=st.booleans())
    def forks_begin_to_fail_or_work(self, fail: bool) -> None:
        self.fleet.forks_fail_after = 0 if fail else inf

    @invariant()
    def a_slot_has_one_worker_or_a_pair(self) -> None:
        for slot in self.fleet.slots:
            pids = self.fleet.in_slot(slot)
            assert len(pids) <= 2
            serving = [p for p in pids if self.states.get(p) is Worker.SERVING and not self.fleet.told[p]]
            assert len(serving) <= 1 or serving[-1] in self.fleet.asked, "two workers that both mean to stay"

    @invariant()
    def one_slot_at_a_time_has_a_successor_that_boots(self) -> None:
        booting = [pid for pid in self.fleet.alive if pid not in self.states and not self.fleet.told[pid]]
        heirs = [
            pid
            for pid in booting
            if any(
                self.states.get(other) is Worker.SERVING and not self.fleet.told[other]
                for other in self.fleet.in_slot(self.fleet.alive[pid])
            )
        ]
        assert len(heirs) <= 1

    @invariant()
    def connections_are_routed_to_who_serves(self) -> None:
        if self.fleet.listening and self.fleet.supervisor.fleet in (Fleet.BOOTING, Fleet.RUNNING, Fleet.LEAVING):
            for slot in self.fleet.route:
                pids = [pid for pid in self.fleet.in_slot(slot) if self.fleet.told[pid] in ([], [SIGUSR2])]
                assert any(self.states.get(pid) is Worker.SERVING for pid in pids)

    @invariant()
    def there_is_always_a_slot(self) -> None:
        if self.fleet.listening:
            assert self.fleet.supervisor.size >= 1

    @invariant()
    def an_empty_slot_is_filled_in_bounded_time(self) -> None:
        closing = {number for number, slot in self.fleet.supervisor._slots.items() if slot.is_closing}
        if self.fleet.supervisor.fleet in (Fleet.BOOTING, Fleet.RUNNING) and not all(
            self.fleet.in_slot(slot) or slot in [spawn.slot for spawn in self.fleet.waiting]
            for slot in self.fleet.slots - closing
        ):
            deadline = self.fleet.supervisor.next_deadline()
            assert deadline is not None
            assert 0 < deadline - self.fleet.now <= RESPAWN_DELAYS[-1]

    @invariant()
    def whoever_was_told_to_go_has_a_deadline(self) -> None:
        for pid in self.fleet.alive:
            if self.fleet.told[pid] and SIGKILL not in self.fleet.told[pid]:
                deadline = self.fleet.supervisor.next_deadline()
                assert deadline is not None
                assert 0 < deadline - self.fleet.now <= TERM_TIMEOUT

    @invariant()
    def signals_only_get_stronger(self) -> None:
        degrees = list(ORDERS.values())
        for signals in self.fleet.told.values():
            order = [degrees.index(sent) for sent in signals]
            assert order == sorted(set(order))

    @invariant()
    def a_stop_reaches_everybody(self) -> None:
        if not self.fleet.listening:
            assert all(self.fleet.told[pid] or pid in self.fleet.drained for pid in self.fleet.alive)

    @invariant()
    def only_a_fleet_that_never_stood_fails_to_start(self) -> None:
        assert self.fleet.announced <= 1
        if self.fleet.exit_code == 3:
            assert self.fleet.announced == 0

    def teardown(self) -> None:
        """From wherever this is: stop, let nobody obey, and it still ends."""
        if not self.is_over:
            self.fleet.stop()
        for _ in range(20):
            self.fleet.load("the fleet stops")
            if self.is_over:
                break
            self.fleet.pass_time(TERM_TIMEOUT)
            for pid in [pid for pid in self.fleet.alive if SIGKILL in self.fleet.told[pid]]:
                self.fleet.exit(pid, -9)
        assert self.is_over, "the stop does not end"


AnyOrderOfEvents.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
