"""Outcome: what has become of a command that a server has begun to obey (`ladybug ctl ... --wait`).

The server answers at once and says nothing more; its master waits for nobody. So whoever wants to know looks at the status,
several times a second, until it shows the end. For each command a `Judge` says what that is:

    judge(status)       None: not yet; a text: done, for the user. Raises Failed, with the reason
    judge(None)         the same, when nobody answers at the socket any more
"""

import contextlib
import os
import time
from collections.abc import Callable
from math import inf

from ladybug.control import Refused, Status, ask, running

# Seconds between two looks.
LOOK = 0.1
# Seconds for a master to end that has closed its control socket: nothing is left for it to do.
LAST_WORDS = 5.0
# States of a server that will not do anything else any more.
ENDS = ("leaving", "stopping", "quitting", "killing", "over")


class Failed(Exception):
    """What was begun has not worked, or it cannot be said any more that it has; a sentence."""


class TooLate(Exception):
    """It is not over in the time given."""


Judge = Callable[[Status | None], str | None]


def await_outcome(path: str, judge: Judge, timeout: float = inf) -> str:
    """Look at the server whose control socket is at `path` until `judge` knows; its text. Raises Failed, TooLate, and OSError
    if the server does not answer.

    timeout     seconds
    """
    end = time.monotonic() + timeout
    while True:
        status: Status | None = None
        is_known = True
        try:
            status = ask(path, "status")  # type: ignore[assignment]  # as the protocol says
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except TimeoutError:
            raise
        except (OSError, Refused):
            is_known = False  # it has gone in the middle of it: look again
        if is_known and (text := judge(status)) is not None:
            return text
        if time.monotonic() >= end:
            raise TooLate
        time.sleep(min(LOOK, max(0.0, end - time.monotonic())))


def of_reload(status: Status | None) -> str | None:
    """All workers are of the new code."""
    if status is None or status["state"] in ENDS:
        raise Failed("The server is stopping, or has gone: the reload was not complete.")
    if "reload" in status["under_way"]:
        return None
    if status["message"]:
        raise Failed(status["message"])
    return "Reloaded."


def of_scale(workers: int) -> Judge:
    """There are so many slots, and somebody serves in each."""

    def judge(status: Status | None) -> str | None:
        if status is None or status["state"] in ENDS:
            raise Failed("The server is stopping, or has gone.")
        if status["workers"] != workers:
            raise Failed(status["message"] or f"Somebody else wants {status['workers']} workers.")
        for slot in status["slots"]:
            if slot["trouble"]:
                raise Failed(slot["trouble"])
        is_done = len(status["slots"]) == workers and all(slot["receiving"] for slot in status["slots"])
        return f"{workers} {'worker serves' if workers == 1 else 'workers serve'}." if is_done else None

    return judge


def of_upgrade(before: Status) -> Judge:
    """Another master serves."""

    def judge(status: Status | None) -> str | None:
        if status is None:
            # It was quick to leave. Its successor's socket has a path of its own, unless one was given.
            status = _successor_of(before)
            if status is None:
                raise Failed("The server has gone.")
        if status["pid"] != before["pid"]:
            return f"The new master (pid {status['pid']}) serves."
        if "upgrade" in status["under_way"]:
            return None
        if status["message"]:
            raise Failed(status["message"])
        return "The new master serves."

    return judge


def of_stop(before: Status) -> Judge:
    """The server has gone."""

    def judge(status: Status | None) -> str | None:
        if status is not None and status["pid"] == before["pid"]:
            return None
        _await_end(before["pid"])
        return "Stopped."

    return judge


def _successor_of(before: Status) -> Status | None:
    """The server that serves where another one did."""
    for path in running():
        with contextlib.suppress(OSError, Refused):
            found: Status = ask(path, "status")  # type: ignore[assignment]
            if found["addresses"] == before["addresses"] and found["pid"] != before["pid"]:
                return found
    return None


def _await_end(pid: int) -> None:
    """Until there is no such process; it may be in another container, so not for long."""
    end = time.monotonic() + LAST_WORDS
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(LOOK / 10)
