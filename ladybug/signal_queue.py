"""Signals as bytes in a pipe: for a process that sleeps in poll(2), and must lose none between two instructions.

Python writes the number of each signal that has a handler into the wakeup fd, at once and in C. The handlers themselves do
nothing.
"""

import os
import signal
from types import FrameType
from typing import Any


class SignalQueue:
    """In the order they came: `fd` for poll, `read` for the numbers."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._before: dict[signal.Signals, Any] = {}
        self._fd_before = -1
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)

    def take(self) -> None:
        """From now on the signals come here. Raises ValueError outside the main thread."""
        self._fd_before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.signal(number, _do_nothing)

    def read(self) -> bytes:
        """The numbers of the signals that have come since the last time; other numbers than ours may be among them."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""

    def give_back(self) -> None:
        """Let the signals be as they were before `take`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._close()

    def forget(self) -> None:
        """In a forked child: the queue is the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._close()

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self._write_fd)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass
