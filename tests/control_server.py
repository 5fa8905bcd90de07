"""A master, as far as its control socket can tell: it polls in a thread, and its clock goes when it is told to."""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import Self

from ladybug.control import ControlServer
from tests.pair import DEADLINE


class Master:
    """A process that polls, as far as the control socket can tell."""

    def __init__(self, server: ControlServer) -> None:
        self.server = server
        self.late = 0.0  # seconds that its clock is ahead
        self.wakeups = 0
        self._wake, self._awake = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            poll = select.poll()
            poll.register(self._awake, select.POLLIN)
            for fd, events in self.server.interests():
                poll.register(fd, events)
            ready = {fd for fd, _ in poll.poll()}
            self.wakeups += 1
            if self._awake.fileno() in ready and self._awake.recv(1) == b"q":
                return
            self.server.serve(time.monotonic() + self.late)

    def pass_time(self, seconds: float) -> None:
        self.late += seconds
        self._wake.send(b"t")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self._wake.send(b"q")
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.server.close()
        self._wake.close()
        self._awake.close()
