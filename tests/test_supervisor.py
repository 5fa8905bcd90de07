"""The supervisor alone: a made-up fleet, a made-up clock, and every order of events hypothesis can think of."""

from __future__ import annotations

import signal
from math import inf
from signal import SIGKILL, SIGQUIT, SIGTERM

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ladybug.supervisor import (
    ERROR,
    RESPAWN_DELAYS,
    WARNING,
    WORKER,
    YOUNG,
    Action,
    Announce,
    Fleet,
    Log,
    Report,
    Signal,
    Spawn,
    StopListening,
    Supervisor,
    Worker,
    describe_exit,
)

GRACEFUL = 30.0
TERM_TIMEOUT = 43.0
QUIT_TIMEOUT = 13.0


class MadeUpFleet:
    """Stands in for the master: carries out actions on processes that are only numbers, at a time that is only one too."""

    def __init__(self, slots: int, *, forks_fail_after: float = inf) -> None:
        self.supervisor = Supervisor(slots, graceful=GRACEFUL, term_timeout=TERM_TIMEOUT, quit_timeout=QUIT_TIMEOUT)
        self.now = 1000.0
        self.slots = slots
        self.last_pid = 100
        self.alive: dict[int, int] = {}  # pid: slot
        self.told: dict[int, list[signal.Signals]] = {}
        self.forks_fail_after = forks_fail_after
        self.forks = 0
        self.listening = True
        self.announced = 0
        self.exit_code: int | None = None
        self.log: list[Log] = []
        self.perform(self.supervisor.start(self.now))

    def perform(self, actions: list[Action]) -> None:
        waiting = list(actions)
        while waiting:
            action = waiting.pop(0)
            assert self.exit_code is None, f"{action} after Exit"
            if isinstance(action, Spawn):
                waiting += self.spawn(action)
            elif isinstance(action, Signal):
                assert action.pid in self.alive, f"{action} for a process that is gone"
                self.told[action.pid].append(action.signal)
            elif isinstance(action, StopListening):
                assert self.listening, "told twice to stop listening"
                self.listening = False
            elif isinstance(action, Announce):
                self.announced += 1
            elif isinstance(action, Log):
                self.log.append(action)
            else:
                assert not self.alive, "left before its workers"
                self.exit_code = action.code

    def spawn(self, action: Spawn) -> list[Action]:
        assert self.listening, "spawned while stopping"
        self.forks += 1
        if self.forks > self.forks_fail_after:
            return self.supervisor.spawn_failed(action.slot, "no more processes", self.now)
        self.last_pid += 1
        self.alive[self.last_pid] = action.slot
        self.told[self.last_pid] = []
        return self.supervisor.spawned(action.slot, self.last_pid, self.now)

    def report(self, pid: int, report: Report, text: str = "") -> None:
        self.perform(self.supervisor.reported(pid, report, text, self.now))

    def exit(self, pid: int, returncode: int, in_flight: int = 0) -> None:
        del self.alive[pid]
        self.perform(self.supervisor.exited(pid, returncode, self.now, in_flight))

    def stop(self) -> None:
        self.perform(self.supervisor.stop_requested(self.now))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.supervisor.tick(self.now))

    def pass_to_deadline(self) -> float:
        """Sleep as the master would; how long that was."""
        deadline = self.supervisor.next_deadline()
        assert deadline is not None
        slept = deadline - self.now
        self.pass_time(slept)
        return slept

    def in_slot(self, slot: int) -> list[int]:
        return [pid for pid, place in self.alive.items() if place == slot]

    def texts(self, level: int = ERROR) -> list[str]:
        return [entry.text for entry in self.log if entry.level >= level]


def booted(slots: int = 1) -> MadeUpFleet:
    fleet = MadeUpFleet(slots)
    for pid in list(fleet.alive):
        fleet.report(pid, Report.READY)
    assert fleet.supervisor.fleet is Fleet.RUNNING
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
    assert fleet.supervisor.next_deadline() is None, "an idle fleet needs no clock"


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
    fleet.report(old, Report.RETIRING)
    old, new = fleet.alive
    assert fleet.told[old] == []
    fleet.report(new, Report.READY)
    assert fleet.told[old] == [SIGTERM]
    fleet.exit(old, 0)
    assert list(fleet.alive) == [new]
    assert fleet.supervisor.next_deadline() is None


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
    assert fleet.pass_to_deadline() == TERM_TIMEOUT
    assert fleet.told[old] == [SIGTERM, SIGKILL]
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


def test_workers_are_killed_at_their_deadline_and_the_stop_is_then_not_clean() -> None:
    fleet = booted(2)
    first, second = fleet.alive
    fleet.stop()
    assert fleet.pass_to_deadline() == TERM_TIMEOUT
    assert fleet.told == {first: [SIGTERM, SIGKILL], second: [SIGTERM, SIGKILL]}
    assert fleet.supervisor.next_deadline() is None
    fleet.exit(first, -9)
    fleet.exit(second, -9)
    assert fleet.exit_code == 1


def test_cutting_a_stop_short_brings_the_deadline_nearer_but_never_puts_it_off() -> None:
    fleet = booted()
    fleet.stop()
    fleet.pass_time(1)
    fleet.stop()
    assert fleet.supervisor.next_deadline() == fleet.now + QUIT_TIMEOUT

    fleet = booted()
    fleet.stop()
    fleet.pass_time(TERM_TIMEOUT - 1)
    fleet.stop()
    assert fleet.supervisor.next_deadline() == fleet.now + 1


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
    assert fleet.pass_to_deadline() == QUIT_TIMEOUT
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


def test_exits_are_described_in_words() -> None:
    assert describe_exit(1) == "exited with code 1"
    assert describe_exit(-9) == "was killed by signal 9 (SIGKILL)"
    assert describe_exit(-40) == "was killed by signal 40 (real-time)"


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Workers boot, fail, retire, crash, obey or ignore; forks fail; users stop; time passes. What must hold, always holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = MadeUpFleet(3)
        self.states: dict[int, Worker] = {}  # as each worker would tell; absent: booting

    def legal(self, pid: int) -> list[Report]:
        """What this worker can say next. One that was told to go may say what it said anyway."""
        state = self.states.get(pid, Worker.BOOTING)
        return [report for (before, report) in WORKER if before is state]

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
        self.states[pid] = WORKER[self.states.get(pid, Worker.BOOTING), report]
        self.fleet.report(pid, report, "cause")

    @precondition(lambda self: self.fleet.alive)
    @rule(data=st.data(), returncode=st.sampled_from([0, 1, 3, -9, -11, -15]))
    def some_worker_exits(self, data: st.DataObject, returncode: int) -> None:
        self.fleet.exit(self.pick(data, list(self.fleet.alive)), returncode)

    @precondition(lambda self: not self.is_over)
    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 29.0, 31.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.fleet.pass_time(seconds)

    @precondition(lambda self: not self.is_over and self.fleet.supervisor.next_deadline() is not None)
    @rule()
    def master_wakes_at_the_deadline(self) -> None:
        assert self.fleet.pass_to_deadline() > 0, "a deadline that has passed would make the master spin"

    @precondition(lambda self: not self.is_over)
    @rule()
    def user_stops(self) -> None:
        self.fleet.stop()

    @rule(fail=st.booleans())
    def forks_begin_to_fail_or_work(self, fail: bool) -> None:
        self.fleet.forks_fail_after = 0 if fail else inf

    @invariant()
    def a_slot_has_one_worker_or_a_pair(self) -> None:
        told = {pid for pid, signals in self.fleet.told.items() if signals}
        for slot in range(self.fleet.slots):
            pids = self.fleet.in_slot(slot)
            assert len(pids) <= 2
            staying = [p for p in pids if p not in told and self.states.get(p) is not Worker.RETIRING]
            assert len(staying) <= 1, "two workers that both mean to stay"

    @invariant()
    def an_empty_slot_is_filled_in_bounded_time(self) -> None:
        if self.fleet.listening and not all(self.fleet.in_slot(slot) for slot in range(self.fleet.slots)):
            deadline = self.fleet.supervisor.next_deadline()
            assert deadline is not None
            assert 0 < deadline - self.fleet.now <= RESPAWN_DELAYS[-1]

    @invariant()
    def whoever_was_told_to_go_has_a_deadline(self) -> None:
        for pid in self.fleet.alive:
            if self.fleet.told[pid] and SIGKILL not in self.fleet.told[pid]:
                deadline = self.fleet.supervisor.next_deadline()
                assert deadline is not None
                assert deadline - self.fleet.now <= TERM_TIMEOUT

    @invariant()
    def signals_only_get_stronger(self) -> None:
        degrees = [SIGTERM, SIGQUIT, SIGKILL]
        for signals in self.fleet.told.values():
            order = [degrees.index(sent) for sent in signals]
            assert order == sorted(set(order))

    @invariant()
    def a_stop_reaches_everybody(self) -> None:
        if not self.fleet.listening:
            assert all(self.fleet.told[pid] for pid in self.fleet.alive)

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
            if self.is_over:
                break
            if self.fleet.supervisor.next_deadline() is not None:
                self.fleet.pass_to_deadline()
            for pid in [pid for pid in self.fleet.alive if SIGKILL in self.fleet.told[pid]]:
                self.fleet.exit(pid, -9)
        assert self.is_over, "the stop does not end"


AnyOrderOfEvents.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
