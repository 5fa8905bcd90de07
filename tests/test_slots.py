"""The tables of states, and what a slot says of itself."""

from __future__ import annotations

import pytest

from ladybug.slots import (
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
    Worker,
)

ORDER_OF_A_STOP = [
    Fleet.BOOTING,
    Fleet.RUNNING,
    Fleet.LEAVING,
    Fleet.STOPPING,
    Fleet.QUITTING,
    Fleet.KILLING,
    Fleet.OVER,
]


def slot_with(*states: Worker) -> Slot:
    slot = Slot(0, is_open=True)
    for pid, state in enumerate(states, start=100):
        process = Process(pid, slot, edition=0, deadline=0.0)
        process.state = state
        slot.workers.append(process)
    return slot


@pytest.mark.parametrize("fleet", list(Fleet))
@pytest.mark.parametrize("turn", [Turn.STOP, Turn.QUIT])
def test_a_stop_is_understood_in_every_state_of_the_fleet(fleet: Fleet, turn: Turn) -> None:
    assert (fleet, turn) in FLEET


def test_a_fleet_never_goes_back() -> None:
    for (before, _), after in FLEET.items():
        assert ORDER_OF_A_STOP.index(after) >= ORDER_OF_A_STOP.index(before)


def test_every_state_of_a_stop_has_a_word_for_the_workers_and_an_end() -> None:
    for fleet in ORDER_OF_A_STOP[2:-1]:
        assert TOLD[fleet] in ORDERS
        assert FLEET[fleet, Turn.EMPTY] is Fleet.OVER


def test_who_is_in_a_state_for_too_long_ends_up_killed_and_nowhere_twice() -> None:
    for state in OVERDUE:
        seen = [state]
        while seen[-1] in OVERDUE:
            seen.append(OVERDUE[seen[-1]])
            assert seen.count(seen[-1]) == 1
        assert seen[-1] is Worker.KILLED


def test_who_is_told_to_go_is_told_by_signals_that_only_get_stronger() -> None:
    assert sorted(SEVERITY, key=SEVERITY.__getitem__) == list(ORDERS)
    for before, after in OVERDUE.items():
        if before in ORDERS:
            assert SEVERITY[after] > SEVERITY[before]


def test_a_report_changes_nothing_any_more_for_who_was_told_to_go() -> None:
    told = {(state, report) for state in ORDERS for report in Report}
    # But for one that was ready before it heard that it need not be, and one that somebody else has told to go at once.
    changed = {key for key in told if REPORTED[key] is not key[0]}
    assert changed == {(Worker.UNWANTED, Report.READY), (Worker.LEAVING, Report.CLOSED)}
    assert not STAYS & set(ORDERS)


@pytest.mark.parametrize("state", list(Worker))
def test_a_worker_serves_from_its_readiness_until_it_is_told_to_go(state: Worker) -> None:
    assert bool(slot_with(state).serving) is (state in SERVES)


def test_an_heir_is_one_that_boots_beside_who_serves() -> None:
    assert not slot_with(Worker.SERVING).has_heir
    assert not slot_with(Worker.BOOTING).has_heir, "there is nobody to inherit from"
    assert not slot_with(Worker.DRAINING, Worker.BOOTING).has_heir
    assert slot_with(Worker.BLOCKED, Worker.BOOTING).has_heir
    spawning = slot_with(Worker.SERVING)
    spawning.is_spawning = True
    assert spawning.has_heir


def test_workers_are_counted_from_one() -> None:
    assert slot_with(Worker.SERVING).workers[0].name == "Worker 1 (pid 100)"
