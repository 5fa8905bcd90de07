"""Deadlines of all connections: numbers in one array, swept by one coarse timer. No timer object per connection.

Time is counted in ticks of the sweep, not read from a clock: setting a deadline costs a store, and a worker that was
blocked for a minute does not find all its clients late when it comes back. A deadline is met up to one tick late, never
early. The timer runs only while connections exist, so an idle worker uses no CPU.
"""

import math
from collections.abc import Callable
from typing import Any, Final, final

from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

TICK: Final = 0.5  # seconds; as the heartbeat (worker.BEAT), with which the sweeps share their wake-ups
NEVER: Final[i64] = 0


def ticks(seconds: float | None) -> i64:
    """How many ticks a timeout lasts: rounded up, plus the one already under way. None and 0 mean no timeout."""
    if seconds is None or seconds <= 0:
        return NEVER
    whole: i64 = math.ceil(seconds / TICK)
    return whole + 1


def milliseconds(ticks: i64) -> int:
    """The timeout that ticks() has made `ticks` of."""
    return int(int(ticks - 1) * TICK * 1000)


def next_due(last: float, now: float, period: float) -> float:
    """When a timer that was due at `last` (0: never yet) is due again: at whole multiples of `period`, so that timers whose
    periods are multiples of each other wake the process together. What was missed is not made up for."""
    due = last + period
    # Timers fire a little early or late; anything else is another time.
    return due if now < due < now + 1.5 * period else math.floor(now / period) * period + period


@mypyc_attr(native_class=True)
@final
class Deadlines:
    """One deadline per file descriptor.

    Args:
        loop: whose call_later runs the sweep.
        expired: called with the number of each descriptor whose deadline has come; it may set others.
    """

    def __init__(self, loop: Any, expired: Callable[[int], None]) -> None:
        self.loop: Final = loop
        self.expired: Final = expired
        self.now: i64 = 1
        self.at: vec[i64] = vec[i64]()
        self.timer: Any = None
        self.due = 0.0  # when it is to fire

    def set(self, fd: i64, ticks: i64) -> None:
        """Expire `ticks` from now; NEVER for no deadline."""
        while fd >= len(self.at):
            self.at = append(self.at, NEVER)
        self.at[fd] = self.now + ticks if ticks != NEVER else NEVER

    def elapsed(self, fd: i64, ticks: i64) -> i64:
        """How many ticks ago the deadline of `fd` was set, if it was set to `ticks`."""
        return self.now + ticks - self.at[fd]

    def keep_running(self) -> None:
        """Sweep from now on, until stop()."""
        if self.timer is None:
            self._set_timer()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _set_timer(self) -> None:
        self.due = next_due(self.due, self.loop.time(), TICK)
        self.timer = self.loop.call_at(self.due, self.sweep)

    def sweep(self) -> None:
        self._set_timer()
        self.now += 1
        now = self.now
        fd: i64 = 0
        while fd < len(self.at):
            at: i64 = self.at[fd]
            if at != NEVER and at <= now:
                self.at[fd] = NEVER
                self.expired(int(fd))
            fd += 1
