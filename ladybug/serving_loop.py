"""Stock asyncio with one epoll for everything: the application's files and the server's connections.

Nested in a loop, the poller costs a system call per wake-up: the loop's wait, then its own. Here the loop's selector is
the poller: one wait, what belongs to the server is served on the spot, and only the rest is handed to asyncio. With one
request at a time that is an eighth more of them; under load it makes no difference.

Not compiled: a native class cannot derive from the loop's, and what runs per event is the poller's.
"""

import asyncio
import math
import selectors
from typing import Protocol


class Waiter(Protocol):
    """What the selector asks of a poller."""

    def wait(self, timeout: float) -> list[tuple[int, int]] | None:
        """Wait at most `timeout` seconds (-1: for ever), serve what is the server's, return what is not, or None."""


class ServingSelector(selectors.EpollSelector):
    """An EpollSelector that lets a poller do the waiting, once there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.poller: Waiter | None = None

    @property
    def epoll(self) -> object:
        """The select.epoll beneath."""
        return self._selector  # type: ignore[attr-defined]  # not in the stubs; there since Python 3.4

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        poller = self.poller
        if poller is None:
            return super().select(timeout)
        if timeout is None:
            timeout = -1
        elif timeout > 0:
            # epoll counts in milliseconds: round up, or a timer would be looked at before its time, again and again.
            timeout = math.ceil(timeout * 1e3) * 1e-3
        foreign = poller.wait(timeout)
        if foreign is None:
            return []
        ready = []
        keys = self.get_map()
        for fd, mask in foreign:
            key = keys.get(fd)
            if key is not None:
                events = (selectors.EVENT_WRITE if mask & ~1 else 0) | (selectors.EVENT_READ if mask & ~4 else 0)
                ready.append((key, events & key.events))
        return ready


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop for Linux, made so that a server in it can share its epoll."""

    def __init__(self) -> None:
        self.serving_selector = ServingSelector()
        super().__init__(self.serving_selector)
