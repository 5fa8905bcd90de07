"""Deadlines: never early, at most a tick late, and a timer only while there is something to time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladybug.deadlines import NEVER, TICK, Deadlines, milliseconds, next_due, ticks


class Timer:
    """What call_at() returns."""

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop's time, which passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def running(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.running() if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.now = max(self.now, timer.at)
            self.timers.remove(timer)
            timer.callback()
        self.now = max(self.now, end)


class Watch:
    """Deadlines on a clock, and when which of them came."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.expired: list[tuple[float, int]] = []
        self.deadlines = Deadlines(self.clock, self.expire)
        self.then: Callable[[int], Any] = lambda fd: None
        self.deadlines.keep_running()

    def expire(self, fd: int) -> None:
        self.expired.append((self.clock.now, fd))
        self.then(fd)

    def fds(self) -> list[int]:
        return [fd for _, fd in self.expired]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, NEVER),
        (0, NEVER),
        (-1, NEVER),
        (0.001, 2),
        (0.5, 2),
        (0.51, 3),
        (1, 3),
        (1.0, 3),
        (30, 61),
        (86400, 172801),
    ],
)
def test_ticks(seconds: float | None, expected: int) -> None:
    assert ticks(seconds) == expected


@pytest.mark.parametrize("seconds", [TICK, 2.0, 60.0])
def test_ticks_and_back(seconds: float) -> None:
    assert milliseconds(ticks(seconds)) == seconds * 1000


@given(st.floats(0.001, 20), st.floats(0, 3))
def test_never_early_and_at_most_a_tick_late(seconds: float, phase: float) -> None:
    """Late: by the rest of the tick it was set in, and by the rounding up to whole ticks."""
    watch = Watch()
    watch.clock.advance(phase)
    begin = watch.clock.now
    watch.deadlines.set(3, ticks(seconds))
    watch.clock.advance(40)
    ((end, fd),) = watch.expired
    assert fd == 3
    assert end - begin >= seconds - 1e-6
    assert end - begin <= seconds + 2 * TICK + 1e-6


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        pytest.param(0.0, 100.1, 100.5, id="never yet"),
        pytest.param(100.5, 100.5, 101.0, id="on time"),
        pytest.param(100.5, 100.499, 101.0, id="a little early: not once more for the same time"),
        pytest.param(100.5, 100.7, 101.0, id="late"),
        pytest.param(100.5, 160.7, 161.0, id="very late: once, and then as ever"),
        pytest.param(160.5, 100.2, 100.5, id="the clock is another's"),
    ],
)
def test_timers_keep_to_whole_multiples(last: float, now: float, expected: float) -> None:
    assert next_due(last, now, 0.5) == expected


def test_a_deadline_comes_once() -> None:
    watch = Watch()
    watch.deadlines.set(5, 2)
    watch.clock.advance(10)
    assert watch.fds() == [5]


def test_a_deadline_can_be_moved_and_taken_back() -> None:
    watch = Watch()
    watch.deadlines.set(5, 4)
    watch.deadlines.set(6, 4)
    watch.clock.advance(3 * TICK)
    watch.deadlines.set(5, 4)
    watch.deadlines.set(6, NEVER)
    watch.clock.advance(3 * TICK)
    assert watch.fds() == []
    watch.clock.advance(TICK)
    assert watch.fds() == [5]


def test_descriptors_of_any_number() -> None:
    watch = Watch()
    watch.deadlines.set(0, 2)
    watch.deadlines.set(70_000, 2)
    watch.clock.advance(1)
    assert watch.fds() == [0, 70_000]


def test_what_expires_may_set_others_and_itself() -> None:
    watch = Watch()

    def then(fd: int) -> None:
        if len(watch.expired) < 3:
            watch.deadlines.set(fd, 2)
            watch.deadlines.set(1000 + len(watch.expired), 2)

    watch.then = then
    watch.deadlines.set(1, 2)
    watch.clock.advance(4 * TICK)
    assert watch.fds() == [1, 1, 1001]


def test_what_expires_may_take_others_back() -> None:
    watch = Watch()
    watch.then = lambda fd: watch.deadlines.set(9, NEVER)
    watch.deadlines.set(3, 2)
    watch.deadlines.set(9, 2)
    watch.clock.advance(1)
    assert watch.fds() == [3]


def test_there_is_one_timer_and_none_when_stopped() -> None:
    watch = Watch()
    for _ in range(3):
        watch.deadlines.keep_running()
        watch.clock.advance(TICK)
        assert len(watch.clock.running()) == 1
    watch.deadlines.stop()
    watch.deadlines.stop()
    assert watch.clock.running() == []
    watch.deadlines.keep_running()
    assert len(watch.clock.running()) == 1


def test_the_last_to_expire_may_stop_the_timer() -> None:
    """When the only connection's deadline comes it is closed, and the worker is idle."""
    watch = Watch()
    watch.then = lambda fd: watch.deadlines.stop()
    watch.deadlines.set(3, 2)
    watch.clock.advance(5)
    assert watch.fds() == [3]
    assert watch.clock.running() == []


def test_a_blocked_worker_finds_its_clients_in_time() -> None:
    """Time is counted in sweeps: a minute in which nothing ran is one of them."""
    watch = Watch()
    watch.deadlines.set(3, 100)
    watch.clock.now += 60
    watch.clock.advance(0)
    assert watch.expired == []


def test_how_long_ago_a_deadline_was_set() -> None:
    watch = Watch()
    watch.deadlines.set(3, 100)
    assert watch.deadlines.elapsed(3, 100) == 0
    watch.clock.advance(7 * TICK)
    assert watch.deadlines.elapsed(3, 100) == 7
