"""The alarm: the end of a process that nobody has to run. The kernel keeps the time, and kills.

For what may hang when a process leaves: a loop that is blocked, a thread that does not end, an exit handler. Before it is
killed the process writes where its threads are, by handlers written in C (faulthandler), whatever it is doing: if there is
room, because nobody may be reading.
"""

import faulthandler
import os
import signal
import time

from ladybug.outlet import has_room, open_unblocked

STDERR = 2

_at: float | None = None  # when it goes off
_own: int | None = None  # descriptor that was opened for the stacks


def end_within(seconds: float, file: int | None = None) -> None:
    """Have this process killed by SIGALRM after `seconds`; an earlier end that was set before stays.

    file    descriptor for the stacks, or -1; by default stderr
    """
    global _at, _own
    at = time.monotonic() + seconds
    if _at is not None and _at <= at:
        return
    if _at is None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        stacks = STDERR if file is None or file < 0 else file
        _own = open_unblocked(stacks)
        if _own is not None or has_room(stacks, 0):
            faulthandler.register(signal.SIGALRM, stacks if _own is None else _own, chain=True)
    _at = at
    signal.setitimer(signal.ITIMER_REAL, seconds)


def call_off() -> None:
    """This process lives on."""
    global _at, _own
    if _at is not None:
        _at = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(signal.SIGALRM)
        if _own is not None:
            os.close(_own)
            _own = None
