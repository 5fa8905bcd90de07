"""Preload: which fork server workers are forked of, while fork servers come and go (--preload).

    candidate   boots: imports the application. As soon as it is ready it is the current one
    current     is asked for workers
    previous    was the current one before a reload, and is again if that is abandoned

Rules:
- Whoever wants a worker asks `source`, and asks again while there is none. It raises what has become of a candidate that was
  waited for, once: the supervisor says so, and gives a reload up.
- The first is started when somebody asks. One that dies is replaced at once; less and less often, like a worker, if it goes
  on dying young.
- The code that a reload wants is a new fork server's. The one before it is kept until the reload is over, so that after one
  that is abandoned everything is as it was.
- Who is not needed any more is killed (see fork_server.py), and is on a list until it has been reaped.

No asyncio: the master imports this room.
"""

import logging
import signal
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

from ladybug.link import BadLink, Kind
from ladybug.supervisor import ABORT, RESPAWN_DELAYS, YOUNG, describe_exit

if TYPE_CHECKING:
    from ladybug.fork_server import ForkServer

logger = logging.getLogger("ladybug.error")


class Unanswered(OSError):
    """A fork server does not do what it is told. It may have forked a worker: that leaves when its lifeline ends."""


class NotLoaded(Exception):
    """There is no fork server: `what` has failed, and `why`; of a message that came from there `why` is enough."""

    def __init__(self, what: str, why: str, *, is_message: bool = False) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why
        self.is_message = is_message


class Preload:
    """All fork servers of a master.

    start       forks one; raises OSError
    boot        seconds that a candidate has; 0 is for ever
    """

    def __init__(self, start: "Callable[[], ForkServer]", boot: float) -> None:
        self._start = start
        self._boot = boot or inf
        self.current: ForkServer | None = None
        self.candidate: ForkServer | None = None
        self.previous: ForkServer | None = None
        self._leaving: list[ForkServer] = []
        self._is_outdated = False  # a reload wants newer code than the current one has
        self._is_wanted = False  # somebody waits for the candidate
        self._failure: NotLoaded | None = None  # of a candidate that was wanted, until somebody asks
        self._deadline = inf  # of the candidate
        self._kill_at = inf  # for those that were aborted
        self._start_at = inf  # of the next one, if nobody asks before
        self._died_young = 0  # how often in a row

    # -- what the master asks

    def source(self, now: float) -> "ForkServer | None":
        """Who is to fork a worker; None while it boots. Raises NotLoaded, and OSError if it cannot be forked."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self.current is not None and not self._is_outdated:
            return self.current
        if self.candidate is None:
            self._begin(now)
        self._is_wanted = True
        return None

    def interests(self) -> Iterator[int]:
        """Descriptors that are readable when there is something to hear."""
        if self.candidate is not None and not self.candidate.link.at_end:
            yield self.candidate.link.fd

    def next_deadline(self) -> float | None:
        """When `tick` has to be called."""
        at = min(self._deadline, self._kill_at, self._start_at)
        return at if at < inf else None

    def pids(self) -> list[int]:
        """Those that have to be reaped."""
        return [server.pid for server in self._all()]

    # -- what happens

    def hear(self, now: float) -> None:
        """Whatever the candidate says of itself."""
        candidate = self.candidate
        if candidate is None:
            return
        try:
            messages = candidate.link.receive()
        except BadLink as error:
            self._give_up(candidate, signal.SIGKILL)
            self._failed(f"{candidate.name} is killed", str(error), now)
            return
        for message in messages:
            if candidate is self.candidate:
                if message.kind is Kind.READY:
                    self._promote(candidate)
                else:
                    self._give_up(candidate, signal.SIGKILL)
                    self._failed(f"{candidate.name} could not start", message.text, now, is_message=True)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._kill_at <= now:
            self._kill_at = inf
            for server in self._leaving:
                server.kill(signal.SIGKILL)
        if self.candidate is not None and self._deadline <= now:
            candidate = self.candidate
            # It writes its stacks.
            self._give_up(candidate, signal.SIGABRT)
            self._kill_at = now + ABORT
            why = f"it has not started within {self._boot:g} s (--timeout-worker-boot)"
            self._failed(f"{candidate.name} is given up", why, now)
        if self._start_at <= now:
            self._start_at = inf
            try:
                self._begin(now)
            except OSError as error:
                self._failed("The fork server cannot be started", str(error), now)

    def exited(self, pid: int, returncode: int, now: float) -> None:
        """One of `pids` has been reaped."""
        server = next(server for server in self._all() if server.pid == pid)
        server.is_alive = False
        self.hear(now)  # its last words
        stacks = server.stacks.read()
        where = f"it was here\n{stacks}" if stacks else ""
        if server is self.candidate:
            self.candidate = None
            self._failed(f"{server.name} {describe_exit(returncode)} while it was booting", where, now)
        elif server is self.current:
            self.current = None
            if now - server.born >= YOUNG:
                self._died_young = 0
            told = f"{server.name} {describe_exit(returncode)}{self._put_off(now)}"
            logger.warning("%s: %s" if where else "%s%s", told, where)
        elif server is self.previous:
            self.previous = None
        else:
            self._leaving.remove(server)
            if where and returncode == -signal.SIGABRT:
                logger.error("%s is aborted: %s", server.name, where)
        server.forget()

    def lost(self, server: "ForkServer") -> None:
        """It does not answer: it is of no use to anybody."""
        if server is self.current:
            self.current = None
            self._give_up(server, signal.SIGKILL)

    # -- what the supervisor wants

    def renew(self, now: float) -> None:
        """A reload begins, perhaps not for the first time: what is there now is imported."""
        self._is_outdated = True
        self._failure = None
        self._died_young = 0
        self._start_at = inf
        if self.candidate is not None:
            self._give_up(self.candidate, signal.SIGKILL)
        try:
            self._begin(now)
        except OSError as error:
            self._failed("The fork server cannot be started", str(error), now)

    def reloaded(self, *, is_complete: bool) -> None:
        """It is over. If it was abandoned, who served before goes on, and so does what they were forked of."""
        previous, self.previous = self.previous, None
        if not is_complete:
            self._is_outdated = False
            self._failure = None
            if self.candidate is not None:
                self._give_up(self.candidate, signal.SIGKILL)
            if previous is not None:
                previous, self.current = self.current, previous
        if previous is not None:
            self._give_up(previous, signal.SIGKILL)

    def stop(self) -> None:
        """Nobody will be forked any more."""
        self._start_at = inf
        for server in (self.candidate, self.current, self.previous):
            if server is not None:
                self._give_up(server, signal.SIGKILL)
        self.current = self.previous = None
        for server in self._leaving:
            server.kill(signal.SIGKILL)

    def reopen_logs(self) -> None:
        """As everybody does."""
        for server in (self.candidate, self.current, self.previous):
            if server is not None:
                server.kill(signal.SIGUSR1)

    def forget(self) -> None:
        """In another process that the master has forked."""
        for server in self._all():
            server.forget()

    # -- inside

    def _begin(self, now: float) -> None:
        self.candidate = self._start()
        self._start_at = inf
        self._deadline = now + self._boot

    def _promote(self, candidate: "ForkServer") -> None:
        if self.current is not None:
            # Of several that one reload has begun with, the one before the first is worth to go back to.
            if self.previous is None:
                self.previous = self.current
            else:
                self._give_up(self.current, signal.SIGKILL)
        self.current, self.candidate = candidate, None
        self._deadline = inf
        self._is_outdated = self._is_wanted = False
        logger.debug("%s is ready", candidate.name)

    def _failed(self, what: str, why: str, now: float, *, is_message: bool = False) -> None:
        self._deadline = inf
        if self._is_wanted or self._is_outdated:
            self._failure = NotLoaded(what, why, is_message=is_message)
            self._is_wanted = False
        else:
            logger.error("%s%s: %s", what, self._put_off(now), why)

    def _put_off(self, now: float) -> str:
        """Set when there will be another one; the rest of the sentence that says so."""
        delay = RESPAWN_DELAYS[min(self._died_young, len(RESPAWN_DELAYS) - 1)]
        self._died_young += 1
        self._start_at = now + delay
        return f"; starting another in {delay:g} s" if delay else "; starting another"

    def _give_up(self, server: "ForkServer", number: signal.Signals) -> None:
        server.kill(number)
        self._leaving.append(server)
        if server is self.candidate:
            self.candidate = None
            self._deadline = inf

    def _all(self) -> "list[ForkServer]":
        known = (self.candidate, self.current, self.previous)
        return [*(server for server in known if server is not None), *self._leaving]
