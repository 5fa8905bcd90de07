"""The outlet: how the error log leaves the process without ever holding it up.

Whoever reads a pipe, a socket or a terminal may stop (a log shipper that is stuck, a log driver that blocks, Ctrl+S). Then
write(2) blocks for ever, and with it a master that was told to stop. So each record has a second to find room. One that does
not is dropped, and so is what follows, at once, until there is room again; then a line tells how many were lost. Files always
have room, and are written to as `logging` does.

O_NONBLOCK would be everybody's who shares the stream: it belongs to the open file, not to the descriptor. So a pipe or a
terminal is opened once more. Where that cannot be done (a socket, another's pipe, another system than Linux) poll(2) has to do:
it promises room for PIPE_BUF bytes, unless somebody else is quicker.

No asyncio: the master imports this room.
"""

import contextlib
import logging
import os
import select
import stat
import time
from io import TextIOWrapper
from typing import TextIO

# Seconds in which a record has to find room.
PATIENCE = 1.0


def has_room(fd: int, seconds: float) -> bool:
    """Whether `fd` takes PIPE_BUF bytes, or an error, within so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(max(0.0, seconds * 1000)))


def open_unblocked(fd: int) -> int | None:
    """A new descriptor of the same pipe or terminal, which never blocks; None where there is no such thing, or no need."""
    with contextlib.suppress(OSError):
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return None


class Outlet(logging.StreamHandler[TextIO]):
    """A StreamHandler that rather loses a record than waits for long."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._pid = os.getpid()
        self._lost = 0
        self._is_torn = False  # the first of the lost ones was begun

    def emit(self, record: logging.LogRecord) -> None:
        stream = self.stream
        try:
            # A class of the program's own may do anything with what is written to it.
            if type(stream) is not TextIOWrapper or stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                super().emit(record)
            else:
                self._send_or_lose(stream, record)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def _send_or_lose(self, stream: TextIOWrapper, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            # Forked: what was lost before, the other process tells.
            self._pid, self._lost, self._is_torn = os.getpid(), 0, False
        if self._lost:
            if _send(stream, self._encode(stream, self._notice()), 0):
                self._lost += 1
                return
            self._lost, self._is_torn = 0, False
        data = self._encode(stream, record)
        if rest := _send(stream, data, PATIENCE):
            self._lost, self._is_torn = 1, len(rest) < len(data)

    def _notice(self) -> logging.LogRecord:
        text = "Records of this log that were lost, because nobody read it: %d"
        return logging.LogRecord("ladybug.error", logging.WARNING, __file__, 0, text, (self._lost,), None)

    def _encode(self, stream: TextIOWrapper, record: logging.LogRecord) -> bytes:
        begin = self.terminator if self._is_torn else ""
        return f"{begin}{self.format(record)}{self.terminator}".encode(stream.encoding, stream.errors or "strict")


def _send(stream: TextIOWrapper, data: bytes, seconds: float) -> bytes:
    """Write what finds room within so many seconds; the rest. Raises OSError."""
    until = time.monotonic() + seconds
    fd = stream.fileno()
    own = open_unblocked(fd)
    try:
        while data and has_room(fd, until - time.monotonic()):
            with contextlib.suppress(BlockingIOError):  # somebody else was quicker
                stream.flush()  # what the program has printed comes first
                data = data[os.write(fd if own is None else own, data[: select.PIPE_BUF]) :]
    finally:
        if own is not None:
            os.close(own)
    return data
