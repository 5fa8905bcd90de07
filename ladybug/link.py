"""What a master and its workers have agreed on: the messages, the lifeline, and how long a stop may take.

Two pipes join a worker to its master, one for each direction:

    link       worker -> master   framed messages: READY, FAILED with its text, RETIRING, CLOSED
    lifeline   master -> worker   never carries a byte: it ends when the master does, however the master ended

The lifeline is watched twice. The event loop sees its end like that of any file. And because a loop can be blocked, the
kernel also sends SIGIO at that moment (O_ASYNC, fcntl(2)): the same promise as a parent-death signal, without the
ctypes (0.4 MiB in each worker) that prctl(2) would take, on BSD and macOS too, and true even if the process was forked by
a thread that has ended meanwhile.

The master may have rights that its workers have not, so it believes only what one of ours would say: `MasterLink.receive`
raises for anything else, and that process is killed.

Rules: no asyncio and nothing of the compiled rooms, because the master imports this. No end of a pipe is inheritable
over exec, so a program started by the application holds none of them.
"""

import contextlib
import enum
import fcntl
import os
import select
import signal
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ladybug.config import Config

# Seconds that lifespan shutdown may take, after the graceful timeout is over: closing pools and flushing buffers.
LIFESPAN_SHUTDOWN = 10.0
# Seconds between the moment when a worker should have gone by its own rules and the SIGKILL of its master.
KILL_MARGIN = 3.0
# Seconds after which a worker that nobody kills, because its master is gone or it has none, ends by its own alarm.
ALARM_MARGIN = 6.0

# What a worker has handlers for. It begins with them blocked, and lets them in when the handlers are in place.
OUR_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGIO, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU),
)

# A traceback of this many characters says what there is to say; its end is the part that matters.
MAX_TEXT = 32 * 1024


def longest_stop(config: "Config") -> float:
    """Seconds in which a worker that was told to stop gracefully has to be gone, if its loop runs."""
    return config.timeout_graceful_shutdown + LIFESPAN_SHUTDOWN


class Kind(enum.IntEnum):
    """What a worker tells its master."""

    READY = 1  # lifespan startup is complete, connections are accepted
    FAILED = 2  # it cannot start; the text says why, for the user
    RETIRING = 3  # it goes on serving, and asks for a successor; the text says why
    CLOSED = 4  # it drains, and has let go of its listeners


class Message(NamedTuple):
    kind: Kind
    text: str


class BadLink(Exception):
    """What came over a link is nothing that a process of ours says; the text says what."""


_HEAD = struct.Struct("=BI")  # kind, length of the text in bytes
# No character of UTF-8 is longer than this.
_MOST_BYTES = 4 * MAX_TEXT
# By the message before it, what may come.
_NEXT = {
    None: frozenset({Kind.READY, Kind.FAILED}),
    Kind.READY: frozenset({Kind.RETIRING, Kind.CLOSED}),
    Kind.FAILED: frozenset[Kind](),
    Kind.RETIRING: frozenset({Kind.CLOSED}),
    Kind.CLOSED: frozenset[Kind](),
}


class WorkerLink:
    """The worker's end. Writing never fails: a master that has gone is the lifeline's business."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, kind: Kind, text: str = "") -> None:
        """Send one message; blocks only while the master is 64 KiB behind."""
        payload = text[-MAX_TEXT:].encode("utf-8", "replace")
        frame = memoryview(_HEAD.pack(kind, len(payload)) + payload)
        try:
            while frame:
                frame = frame[os.write(self._fd, frame) :]
        except BrokenPipeError:
            pass

    def close(self) -> None:
        os.close(self._fd)


class MasterLink:
    """The master's end: `fd` for poll, `receive` for what has arrived. Never blocks."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.at_end = False
        self._received = bytearray()
        self._last: Kind | None = None

    def receive(self) -> list[Message]:
        """The messages that are complete by now. Sets `at_end` when the worker's end is closed.

        Reads no more than a pipe holds, 64 KiB, so that nobody can keep the master here. Raises BadLink, and is at its end
        then: nothing else is read.
        """
        if not self.at_end:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.fd, 65536)
                self._received += data
                self.at_end = not data
        messages = []
        while (message := self._next_message()) is not None:
            messages.append(message)
        return messages

    def close(self) -> None:
        os.close(self.fd)

    def _next_message(self) -> Message | None:
        if len(self._received) < _HEAD.size:
            return None
        kind, length = _HEAD.unpack_from(self._received)
        if kind not in _NEXT[self._last] or length > _MOST_BYTES:
            self._received.clear()
            self.at_end = True
            raise BadLink(f"it has sent a message that it may not send (kind {kind}, {length} bytes)")
        end = _HEAD.size + length
        if len(self._received) < end:
            return None
        text = self._received[_HEAD.size : end].decode("utf-8", "replace")
        del self._received[:end]
        self._last = Kind(kind)
        return Message(self._last, text)


def signal_at_end(lifeline: int) -> None:
    """Have the kernel send SIGIO to this process when the other end of the pipe `lifeline` is closed.

    The caller has a handler for SIGIO in place, and afterwards asks `has_ended`: a master that was gone before this
    call sends no signal any more.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)


def has_ended(lifeline: int) -> bool:
    """True if the other end of the pipe `lifeline` is closed."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    return bool(poll.poll(0))


def title(config: "Config", role: str, doing: str = "") -> str:
    """What ps shows: "ladybug: worker 2 [app:app] draining"."""
    app = config.app if isinstance(config.app, str) else type(config.app).__name__
    return f"ladybug: {role} [{app}] {doing}".rstrip()
