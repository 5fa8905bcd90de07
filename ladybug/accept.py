"""Accepting connections: from a listener's queue to a Connection that the poller watches.

A worker takes what waits in its slot's listeners; when the process is out of descriptors it pauses, and the connections
stay in the queue, where nothing is lost.
"""

import errno
import socket
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.awaitables import logger
from ladybug.asgi.scope import Address
from ladybug.asgi.service import Service
from ladybug.connection import Connection
from ladybug.poller import READABLE, Poller, Source
from ladybug.transport import DONTWAIT, Timeouts, plain_host

# Accepted in one turn, at most; more wait in the queue until the connections at hand were served.
MOST_PER_TURN: Final[i64] = 64
# How long to wait after the system was out of something, in seconds.
PAUSE: Final = 0.5
# accept(2): what says "not now" rather than "never". ECONNABORTED and EPROTO concern one connection only.
EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@mypyc_attr(native_class=True)
@final
class Acceptor(Source):
    """Accepts from one listener.

    Args:
        listener: a listening, non-blocking socket; it is not closed here.
    """

    def __init__(self, service: Service, poller: Poller, timeouts: Timeouts, listener: socket.socket) -> None:
        self.service: Final = service
        self.poller: Final = poller
        self.timeouts: Final = timeouts
        self.listener: Final = listener
        self.fd: Final[i64] = listener.fileno()
        self.family: Final = int(listener.family)
        self.kind: Final = int(listener.type)
        self.local: Final = self.family not in (socket.AF_INET, socket.AF_INET6)
        self.server: Final = known_address(listener)
        # How many to try for in one turn: each try that finds the queue empty costs an exception, so this follows demand.
        self.burst: i64 = 1
        self.accepting = False
        self.resume_timer: Any = None
        # Bound once. _accept() is accept4 without the wrapping that socket.accept() adds around it.
        self.accept_next: Final[Any] = getattr(listener, "_accept")  # noqa: B009 - not in the stubs
        if not self.local:
            # Inherited by every connection: what is written is complete, waiting for more would only delay it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self) -> None:
        self.accepting = True
        self.poller.add_listener(self.fd, self)

    def stop(self) -> None:
        """Take no more connections; those in the queue stay there."""
        if self.resume_timer is not None:
            self.resume_timer.cancel()
            self.resume_timer = None
        if self.accepting:
            self.accepting = False
            self.poller.remove_listener(self.fd)

    def empty(self) -> None:
        """Take all that waits in the queue: closing the listener would reset it."""
        self.burst = MOST_PER_TURN
        before: i64 = -1
        while self.accepting and self.service.accepted != before:
            before = self.service.accepted
            self.on_ready(READABLE)
        self.poller.end_turn()

    def run(self) -> None:
        pass

    def on_deadline(self) -> None:
        pass  # listeners have none

    def on_fault(self) -> None:
        pass  # it concerned one connection

    def on_ready(self, mask: i64) -> None:
        if mask & READABLE == 0 or not self.accepting:
            return
        taken: i64 = 0
        while taken < self.burst:
            try:
                fd, address = self.accept_next()
            except (BlockingIOError, InterruptedError):
                self.burst = taken if taken > 0 else 1
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self.pause(error)
                return
            taken += 1
            self.service.accepted += 1
            self.take(fd, address)
        if self.burst < MOST_PER_TURN:
            self.burst += 1

    def take(self, fd: int, address: Any) -> None:
        client: Address | None = None
        if not self.local:
            client = (plain_host(address[0]), address[1])
        # SocketType is the C class beneath socket.socket: the same calls, less memory, quicker to make.
        sock = socket.SocketType(self.family, self.kind, 0, fd)
        if DONTWAIT == 0:
            sock.setblocking(False)
        Connection(self.service, self.poller, self.timeouts, sock, fd, client, self.server).begin()

    def adopt(self, fd: int) -> None:
        """Take a connection that another process has accepted from this listener. Not called within a turn."""
        sock = socket.SocketType(self.family, self.kind, 0, fd)
        try:
            address = sock.getpeername()
        except OSError:  # the client has gone since
            sock.close()
            return
        self.service.accepted += 1
        self.service.in_turn = True
        self.take(sock.detach(), address)
        self.poller.end_turn()

    def pause(self, error: OSError) -> None:
        logger.error("Cannot accept connections for now (%s); they wait in the queue", error.strerror)
        self.stop()
        self.resume_timer = self.service.loop.call_later(PAUSE, self.resume)

    def resume(self) -> None:
        self.resume_timer = None
        self.begin()


def known_address(listener: Any) -> Any:
    """The server's address as every connection of this listener has it; None when it differs from one to the next."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return (name.decode() if isinstance(name, bytes) else name, None)
    return None if name[0] in ("0.0.0.0", "::") else (name[0], name[1])
