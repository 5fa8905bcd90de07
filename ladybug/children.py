"""The master's children: what it holds of a worker, and who of its processes has ended.

Rules:
- Only our own processes are waited for; the program that called `ladybug.run` may have children too. As process 1 of a
  container we also reap the orphans that the kernel hands us.
- What the master has collected it never signals: the number may be somebody else's by then.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator

from ladybug.link import MasterLink
from ladybug.scoreboard import Record
from ladybug.stacks import Stacks

# For a child whose end somebody else has collected. As asyncio and the shell say "unknown".
LOST_RETURNCODE = 255


class Child:
    """A worker as the master holds it: its process, and the master's ends of what joins the two."""

    def __init__(self, pid: int, link: MasterLink, lifeline: int, record: Record, stacks: Stacks) -> None:
        self.pid = pid
        self.link = link
        self.lifeline = lifeline
        self.record = record
        self.stacks = stacks
        self.born = time.monotonic()
        self.is_alive = True  # until it is reaped

    def kill(self, number: signal.Signals) -> None:
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):  # the program that called `ladybug.run` may have reaped it
                os.kill(self.pid, number)

    def close(self) -> None:
        self.close_pipes()
        self.stacks.close()

    def close_pipes(self) -> None:
        """In the child itself: these ends are its master's."""
        self.link.close()
        os.close(self.lifeline)


def ended(children: Callable[[], list[int]]) -> Iterator[tuple[int, int]]:
    """Reap those of `children` that have ended: pid, and exit code or negative signal number."""
    if os.getpid() == 1:
        while (found := wait_for(-1)) is not None and found[0] != 0:
            # Asked each time: one that has ended was perhaps forked for the one before.
            if found[0] in children():
                yield found
        return
    for pid in children():
        found = wait_for(pid)
        if found is None:
            yield pid, LOST_RETURNCODE
        elif found[0] != 0:
            yield found


def ended_unnamed(records: list[Record], known: Collection[int]) -> Iterator[Record]:
    """Reap workers that nobody has named to us: those of `records`, which each has signed, that have ended.

    A fork server that was killed in the middle of an order names no worker, although it may have forked one that became our
    child. `known` are the children that are somebody else: what is written on a record is only somebody's word.
    """
    for record in records:
        pid = record.read().pid
        if pid > 0 and pid not in known and _has_gone(pid):
            yield record


def _has_gone(pid: int) -> bool:
    found = wait_for(pid)
    if found is not None:
        return found[0] == pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False  # another's child, which that one reaps


def wait_for(pid: int, options: int = os.WNOHANG) -> tuple[int, int] | None:
    """waitpid(2), without waiting: pid and returncode, (0, 0) if nothing has ended, None if there is no such child."""
    try:
        found, status = os.waitpid(pid, options)
    except ChildProcessError:
        return None
    return found, os.waitstatus_to_exitcode(status)
