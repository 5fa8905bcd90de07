"""A client's socket, from accept to close: reading, writing, ending. What is said over it is its subclasses' business.

    connection.py             HTTP/1.1: requests and responses, one after the other
    websocket_connection.py   WebSocket: takes the socket of a Connection over whose request asked for it

The life of a write. An exchange writes into the worker's cork; flush() hands that to transmit(); what the kernel does not
take waits in the outbox, whose size is what is_congested() tells applications about; on_writable() empties it.

The life of an end. finish() closes when all is sent; by way of linger() if the client may still be sending, because a
close over unread input answers with a reset, which destroys our last words; abort() resets on purpose.
"""

import contextlib
import socket
import struct
from collections import deque
from typing import Any, Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.scope import Address
from ladybug.asgi.service import Service, Wire
from ladybug.poller import BROKEN, PEER_CLOSED, READABLE, WRITABLE, Poller, Source

# What a transport is doing. Up to IDLE the names are HTTP's.
NEW: Final[i64] = 0
ACTIVE: Final[i64] = 1
IDLE: Final[i64] = 2
LINGERING: Final[i64] = 3
CLOSED: Final[i64] = 4

# One read. More than 64 KiB would be mapped and unmapped by the allocator each time.
READ_SIZE: Final = 65536
# Reads of one connection in one turn; the rest waits until the others have had theirs.
READS_PER_TURN: Final[i64] = 4
# Body read ahead of the application, at most; and response the client has not taken before send() waits, resumed below.
HIGH_WATER: Final[i64] = 65536
LOW_WATER: Final[i64] = 16384
# Read and dropped from a client that does not stop sending after all is said.
LINGER_SIZE: Final[i64] = 67108864

# Not on every system; where it is missing the sockets are non-blocking from the start.
DONTWAIT: Final[int] = getattr(socket, "MSG_DONTWAIT", 0)
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, zero seconds


@mypyc_attr(native_class=True)
@final
class Timeouts:
    """In ticks of the sweep (deadlines.py); 0 means none."""

    def __init__(self, head: i64, body: i64, keep_alive: i64, send: i64, linger: i64, farewell: i64) -> None:
        self.head: Final[i64] = head
        self.body: Final[i64] = body
        self.keep_alive: Final[i64] = keep_alive
        self.send: Final[i64] = send
        self.linger: Final[i64] = linger
        self.farewell: Final[i64] = farewell


@mypyc_attr(native_class=True)
class Transport(Wire, Source):
    """A socket and what waits to be written to it."""

    def __init__(
        self,
        service: Service,
        poller: Poller,
        timeouts: Timeouts,
        sock: Any,
        fd: i64,
        client: Address | None,
        server: Any,
    ) -> None:
        super().__init__(service)
        self.poller: Final = poller
        self.timeouts: Final = timeouts
        self.socket: Final = sock
        self.fd: Final[i64] = fd
        self.client: Final = client
        self.server: Any = server  # Address, None for "not asked yet", or a tuple (path, None)
        self.state: i64 = NEW
        self.outbox: deque[bytes] | None = None
        self.outbox_sent: i64 = 0  # bytes of its first piece that are sent
        self.blocked = False  # the kernel had no room; it will say when it has
        self.unsent: i64 = 0  # bytes in the outbox
        self.discarded: i64 = 0  # bytes read only to be dropped
        self.readable = True  # the socket may hold bytes; told once, so it must be remembered
        self.peer_closed = False  # the client will send no more
        self.watched = False  # registered with the poller
        self.paused = False  # the poller was asked not to tell of readability
        self.lined_up = False  # go_on_later() was called
        self.close_when_sent = False

    def watch(self) -> None:
        """Register with the poller, unless the connection is over already."""
        if self.watched or self.state == CLOSED:
            return
        self.watched = True
        self.poller.watch(self.fd)
        if self.paused:
            self.poller.pause_reading(self.fd)
        if self.blocked:
            self.poller.want_writable(self.fd, True)

    def hand_over(self, heir: "Transport") -> None:
        """Let `heir` carry on with this socket, another protocol's transport; this one is over, and never was closed."""
        heir.outbox = self.outbox
        heir.outbox_sent = self.outbox_sent
        heir.unsent = self.unsent
        heir.blocked = self.blocked
        heir.readable = self.readable
        heir.peer_closed = self.peer_closed
        heir.watched = self.watched
        heir.paused = self.paused
        self.poller.sources[self.fd] = heir
        self.state = CLOSED
        self.outbox = None
        self.unsent = 0
        self.forget_input()

    # -- For subclasses to fill in ----------------------------------------------------------------------------------

    def read(self) -> None:
        """Read while there is something to read and somebody to read it for."""
        raise NotImplementedError

    def advance(self) -> None:
        """Go on with what was read already."""
        raise NotImplementedError

    def on_room(self) -> None:
        """The client has taken most of what was written."""
        raise NotImplementedError

    def on_sent(self) -> None:
        """The client has taken all that was written: deadlines are the subclass's again."""
        raise NotImplementedError

    def on_lost(self) -> None:
        """The connection is closed under the exchange."""
        raise NotImplementedError

    def input_is_over(self) -> bool:
        """Whether nothing more can come from a client that keeps to the protocol."""
        raise NotImplementedError

    def forget_input(self) -> None:
        """Nothing that was read, or will be, is of interest any more."""
        raise NotImplementedError

    def wants_input(self) -> bool:
        """Whether what comes now is to be read now."""
        raise NotImplementedError

    def drain(self) -> None:
        """The worker stops: begin to end."""
        raise NotImplementedError

    # -- From the poller --------------------------------------------------------------------------------------------

    def on_ready(self, mask: i64) -> None:
        if mask == 0:
            self.lined_up = False
        if self.state == CLOSED:
            return
        if mask & BROKEN != 0:
            self.lose()
            return
        if mask & WRITABLE != 0 and self.blocked:
            self.on_writable()
        if mask & PEER_CLOSED != 0:
            self.peer_closed = True
        if mask & (READABLE | PEER_CLOSED) != 0:
            self.readable = True
        if self.state == LINGERING:
            self.read_away()
        else:
            if mask == 0:
                self.advance()
            self.read()
        owner = self.service.cork_owner
        if owner is not None:
            owner.flush()

    def on_fault(self) -> None:
        self.abort()

    # -- Reading ----------------------------------------------------------------------------------------------------

    def receive(self, size: object) -> bytes | None:
        """One recv: bytes, b"" at the end of input, None when there is nothing, or the connection was lost.

        Args:
            size: an int. A constant that is passed as an object is not made anew for every read.
        """
        try:
            data: bytes = self.socket.recv(size, DONTWAIT)
        except (BlockingIOError, InterruptedError):
            self.readable = False
            return None
        except OSError:
            self.lose()
            return None
        self.poller.received += len(data)
        return data

    def go_on_later(self) -> None:
        """Have another turn, with whatever is there by then, once the others have had theirs."""
        if not self.lined_up:
            self.lined_up = True
            self.poller.again(self)

    def is_late(self) -> bool:
        """At a deadline: whether the client has sent nothing. Some loops run their timers before they look what has come, and
        a process that had no processor for a while finds both at the same time: then it was not the client who was late."""
        if not self.wants_input():
            return True
        if not self.readable:
            try:
                self.readable = len(self.socket.recv(1, socket.MSG_PEEK | DONTWAIT)) > 0
            except OSError:
                return True
        if self.readable:
            self.poller.deadlines.set(self.fd, 1)
            self.go_on_later()
        return not self.readable

    def pause_reading(self) -> None:
        """What can be read is not wanted now. Only level-triggered pollers need to know."""
        if not self.paused:
            self.paused = True
            self.poller.pause_reading(self.fd)

    def go_on_reading(self) -> None:
        """The opposite of pause_reading()."""
        if self.paused:
            self.paused = False
            self.poller.resume_reading(self.fd)

    def set_deadline(self, ticks: i64) -> None:
        """The client has so long for what it owes. While it owes us the reading of what is written, nothing else counts."""
        if not self.blocked:
            self.poller.deadlines.set(self.fd, ticks)

    # -- Writing ------------------------------------------------------------------------------------------------------

    def cork(self) -> BytesWriter:
        service = self.service
        owner = service.cork_owner
        if owner is not self:
            if owner is not None:
                owner.flush()
            service.cork_owner = self
        return service.writer

    def flush(self) -> None:
        data = self.take_cork()
        if data:
            self.transmit(data, 0)

    def take_cork(self) -> bytes:
        """What is corked for this connection, to be sent now."""
        service = self.service
        if service.cork_owner is not self:
            return b""
        service.cork_owner = None
        writer = service.writer
        data = writer.getvalue()
        writer.truncate(0)
        return data

    def transmit(self, data: bytes, flags: int) -> None:
        """Give `data` to the kernel, or what it does not take to the outbox."""
        if self.state == CLOSED:
            return
        if self.unsent > 0:
            self.keep(data, 0)
            return
        sent: i64
        try:
            sent = self.socket.send(data, DONTWAIT | flags)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.lose()
            return
        if sent < len(data):
            self.keep(data, sent)

    def transmit_content(self, content: bytes, end: bytes) -> None:
        pieces = (self.take_cork(), content, end)
        if self.state == CLOSED:
            return
        sent: i64 = 0
        if self.unsent == 0:
            try:
                sent = self.socket.sendmsg(pieces, (), DONTWAIT)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.lose()
                return
        for piece in pieces:
            size: i64 = len(piece)
            if sent < size:
                self.keep(piece, sent)
                sent = 0
            else:
                sent -= size

    def keep(self, data: bytes, sent: i64) -> None:
        """Put what the kernel did not take of `data` into the outbox; it is not copied."""
        if self.outbox is None:
            self.outbox = deque()
            self.outbox_sent = sent
            self.await_room()
        self.outbox.append(data)
        self.unsent += len(data) - (sent if len(self.outbox) == 1 else 0)

    def await_room(self) -> None:
        self.blocked = True
        self.poller.want_writable(self.fd, True)
        self.poller.deadlines.set(self.fd, self.timeouts.send)

    def on_writable(self) -> None:
        """The kernel has room again: send on, in the same order."""
        outbox = self.outbox
        while outbox:
            data = outbox[0]
            left: i64 = len(data) - self.outbox_sent
            sent: i64
            try:
                sent = self.socket.send(memoryview(data)[self.outbox_sent :] if self.outbox_sent else data, DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.lose()
                return
            self.unsent -= sent
            # Progress: a client that takes a byte now and then is slow, one that takes none is gone.
            self.poller.deadlines.set(self.fd, self.timeouts.send)
            if sent < left:
                self.outbox_sent += sent
                if self.unsent <= LOW_WATER:
                    self.on_room()
                return
            self.outbox_sent = 0
            outbox.popleft()
        self.outbox = None
        self.stop_awaiting_room()
        if self.close_when_sent:
            self.finish()
        else:
            self.on_sent()

    def stop_awaiting_room(self) -> None:
        self.blocked = False
        self.poller.want_writable(self.fd, False)

    def is_congested(self) -> bool:
        return self.unsent > HIGH_WATER

    # -- The end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All is said. Close: as soon as it is sent, and so that the client gets to read it."""
        if self.state >= LINGERING:
            return
        if self.unsent > 0:
            self.close_when_sent = True
        elif self.input_is_over():
            self.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Close our half; read and drop what the client still sends, within bounds, until it closes the other."""
        self.forget_input()
        self.state = LINGERING
        self.close_when_sent = False
        self.discarded = 0
        if self.blocked:  # by a file that was given up; nothing of it waits
            self.stop_awaiting_room()
        self.set_deadline(self.timeouts.linger)
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.readable = True
        self.go_on_reading()
        self.go_on_later()

    def read_away(self) -> None:
        """While lingering: read what comes and drop it, until the client closes."""
        reads: i64 = 0
        while self.readable:
            if reads == READS_PER_TURN:
                self.go_on_later()
                return
            reads += 1
            data = self.receive(READ_SIZE)
            if data is None:
                return
            size: i64 = len(data)
            self.discarded += size
            if size == 0 or self.discarded > LINGER_SIZE:
                self.close()
                return
            if size < READ_SIZE and not self.peer_closed:
                self.readable = False

    def lose(self) -> None:
        """The client is gone: close, and tell the exchange."""
        self.close()
        self.on_lost()

    def abort(self) -> None:
        """Close with a reset, so that the client cannot take what it has for the whole."""
        if self.state != CLOSED:
            with contextlib.suppress(OSError):  # it may be gone already
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.lose()

    def close(self) -> None:
        if self.state == CLOSED:
            return
        self.state = CLOSED
        service = self.service
        if service.cork_owner is self:
            service.cork_owner = None
            service.writer.truncate(0)
        self.forget_input()
        self.outbox = None
        self.unsent = 0
        self.poller.remove(self.fd, self.watched)
        self.socket.close()
        service.connections -= 1
        if service.on_quiet is not None:
            service.on_quiet()

    # -- Who is there -------------------------------------------------------------------------------------------------

    def peer(self) -> str:
        """The client's address as the log shows it; a local client has none."""
        client = self.client
        return f"{client[0]}:{client[1]}" if client is not None else ""

    def local_address(self) -> Any:
        """The address the client connected to, for the scope."""
        if self.server is None:
            address = server_address(self.socket)
            last = self.service.server
            self.server = last if address == last else address
        return self.server


def server_address(sock: Any) -> Address:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return plain_host(name[0]), name[1]
    return str(name), None


def plain_host(host: str) -> str:
    """An IPv4 client of a dual-stack listener has an IPv4-mapped address (RFC 4291 section 2.5.5.2): show the IPv4 one."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host
