"""One client's connection as far as it speaks HTTP/1.1: the shell around the protocol core. Reads as the life it leads.

    NEW ----first byte----> ACTIVE <-----> IDLE            (a request is being received or answered; between two)
      \\__________________________\\___________\\--> LINGERING --> CLOSED
                                                 (all is said; the client may still be sending, and would lose our last
                                                 words to a reset if we closed at once: RFC 9112 section 9.6)

Memory: a connection that idles is this object and a socket. The parser is made with the first byte; nothing is kept of
a request that is answered.
"""

import errno
import os
import socket
import stat
import time
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.awaitables import logger, yield_once
from ladybug.asgi.exchange import target_of
from ladybug.asgi.http import HttpExchange
from ladybug.asgi.scope import Address, build_scope
from ladybug.asgi.service import Service, WebSocketSettings
from ladybug.deadlines import NEVER
from ladybug.poller import READABLE, Poller
from ladybug.protocol import errors
from ladybug.protocol.errors import Refusal
from ladybug.protocol.fields import RequestHead
from ladybug.protocol.handshake import read_handshake, wants_websocket
from ladybug.protocol.http1 import COMPLETE, DATA, END, ERROR, HEAD, NEED_DATA, REQUEST, Http1
from ladybug.transport import (
    ACTIVE,
    CLOSED,
    DONTWAIT,
    HIGH_WATER,
    IDLE,
    LINGERING,
    NEW,
    READ_SIZE,
    READS_PER_TURN,
    Timeouts,
    Transport,
)
from ladybug.websocket_connection import WebSocketConnection

# The cork is sent when it holds this much, even if more of the batch is to come.
CORK_SIZE: Final[i64] = 65536
# Body that an application left unread: up to this it is read and dropped, so that the connection can go on.
DISCARD_SIZE: Final[i64] = 262144
# A connection that got its last answer within so many ticks may well have a request on the way.
RECENT: Final[i64] = 4
# What one client gets in a turn, of requests that are pipelined and answered at once: so many, or so many seconds and the
# request that was begun by then. 64 KiB hold 2,600 requests; the others would wait for all of them.
MOST_PIPELINED: Final[i64] = 64
SLICE: Final = 0.002
# A piece of a file sent in one go before others get their turn.
FILE_TURN: Final[i64] = 1048576

MSG_MORE: Final[int] = getattr(socket, "MSG_MORE", 0)
CLOCK: Final[Any] = time.monotonic


@mypyc_attr(native_class=True)
@final
class Connection(Transport):
    """A connection; made by the acceptor, which then calls begin()."""

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
        super().__init__(service, poller, timeouts, sock, fd, client, server)
        self.parser: Http1 | None = None
        self.exchange: HttpExchange | None = None
        self.scope: dict[str, Any] | None = None  # of an exchange that is yet to be started
        self.buffered: i64 = 0  # bytes of body read ahead of the application
        self.advancing = False
        self.running = False
        self.deferred = False  # requests are pipelined behind one whose turn is over
        self.head_started = False

    def begin(self) -> None:
        """The connection is accepted, and most clients have sent their request by now: read before anything else.

        One that is answered and closed at once was never registered with the kernel. Registering tells of what came
        in between, so nothing is missed.
        """
        self.service.connections += 1
        self.poller.add(self.fd, self)
        self.poller.deadlines.set(self.fd, self.timeouts.farewell if self.service.draining else self.timeouts.head)
        self.on_ready(READABLE)
        if self.scope is None:  # else when its application has run
            self.watch()

    # -- From the poller --------------------------------------------------------------------------------------------

    def on_deadline(self) -> None:
        """What the connection waited for did not come in time."""
        if self.blocked:
            self.abort()
        elif self.state != LINGERING and not self.is_late():
            return
        elif self.state == IDLE or self.state == LINGERING or (self.state == NEW and self.service.draining):
            self.close()
        elif self.parser is None:
            # Not a byte came (a browser's spare connection, a probe): there is no request that a 408 could answer.
            self.close()
        elif self.exchange is not None:
            # RFC 9110 section 15.5.9; the client stopped in the middle of its body.
            self.refuse(errors.REQUEST_TIMEOUT, self.exchange.method == "HEAD")
        elif self.parser.state != HEAD:
            self.close()  # its request is answered; what is missing is a body that nobody wants
        else:
            self.refuse(errors.REQUEST_TIMEOUT, self.parser.begins_head_request())
        owner = self.service.cork_owner
        if owner is not None:
            owner.flush()

    def on_fault(self) -> None:
        self.advancing = False
        self.running = False
        self.abort()

    # -- Reading ----------------------------------------------------------------------------------------------------

    def wants_input(self) -> bool:
        exchange = self.exchange
        if exchange is None:
            # A client that asks on without taking its answers is not listened to until it has.
            return self.state != CLOSED and not self.deferred and not self.close_when_sent and self.unsent <= HIGH_WATER
        # While a response is pending nothing of the next request is read: pipelining costs the client, not the server.
        return not exchange.body_complete and self.buffered < HIGH_WATER

    def read(self) -> None:
        """Read while there is something to read and somebody to read it for."""
        reads: i64 = 0
        while self.readable and self.wants_input():
            if reads == READS_PER_TURN:
                self.go_on_later()
                return
            reads += 1
            data = self.receive(READ_SIZE)
            if data is None:
                return
            size: i64 = len(data)
            if size == 0:
                self.on_end_of_input()
                return
            if size < READ_SIZE and not self.peer_closed:
                self.readable = False
            parser = self.parser
            if parser is None:
                parser = Http1(self.service.parser)
                self.parser = parser
            parser.receive_data(data)
            self.advance()
        exchange = self.exchange
        if exchange is None:
            return
        if not exchange.body_complete and not self.wants_input():
            # The next move is the application's: the client is not late.
            self.set_deadline(NEVER)
        if self.readable:
            self._watch_for_end(exchange)

    def _watch_for_end(self, exchange: HttpExchange) -> None:
        """Input waits while a response is pending: not to be read yet, unless it is the end."""
        if not self.peer_closed:
            if self.paused or self.poller.tells_end:
                return
            # A level-triggered poller says "readable" for the end as well, and would go on saying it.
            try:
                peeked: bytes = self.socket.recv(1, socket.MSG_PEEK | DONTWAIT)
            except (BlockingIOError, InterruptedError):
                self.readable = False
                return
            except OSError:
                self.lose()
                return
            if peeked:
                self.pause_reading()
                return
            self.peer_closed = True
        self.pause_reading()
        if exchange.body_complete and not exchange.disconnected:
            exchange.half_close()

    def resume_reading(self) -> None:
        """The application has taken what was read ahead."""
        self.buffered = 0
        self.go_on_reading()
        if self.readable and not self.advancing and self.wants_input():
            self.read()
        exchange = self.exchange
        if exchange is not None and self.wants_input():
            self._await_body(exchange)

    def _await_body(self, exchange: HttpExchange) -> None:
        """The next move is the client's: it has so long for the next byte of its body. Not while it waits for our 100."""
        if not exchange.body_complete and not exchange.expect_continue:
            self.set_deadline(self.timeouts.body)

    def on_end_of_input(self) -> None:
        self.peer_closed = True
        exchange = self.exchange
        parser = self.parser
        if exchange is None and parser is not None and parser.has_input():
            # Its turn had not come yet: what was asked before the end is answered first, and the end read once more.
            self.advance()
            exchange = self.exchange
            if exchange is not None:
                return
        self.readable = False
        if exchange is None:
            if self.blocked:
                self.close_when_sent = True
            else:
                self.close()
        elif not exchange.body_complete:
            # RFC 9112 section 8: an incomplete request; there is nobody to answer it to.
            self.lose()

    def advance(self) -> None:
        """Take the parser's events as far as they go: start exchanges, feed them their bodies."""
        parser = self.parser
        if parser is None or self.advancing:
            return
        self.advancing = True
        self.deferred = False
        while True:
            exchange = self.exchange
            if exchange is None:
                if self.close_when_sent or self.state >= LINGERING or self.unsent > HIGH_WATER:
                    break
                if parser.state != COMPLETE:
                    discarding = parser.state != HEAD
                    event = parser.next_event()
                    if event == REQUEST:
                        self.begin_exchange(parser)
                        continue
                    if event == NEED_DATA:
                        if not discarding:
                            self._await_request(parser)
                        break
                    if event == ERROR:
                        # The rest of a request that is answered already: there is nothing more to say to it.
                        if discarding:
                            self.linger()
                        else:
                            self._refuse_parsed(parser)
                        break
                    if event == DATA and not self._discard(parser):
                        break
                if parser.state == COMPLETE:
                    parser.start_next_cycle()
                continue
            if exchange.body_complete:
                break
            event = parser.next_event()
            if event == DATA:
                content = parser.content
                self.buffered += len(content)
                if parser.state == COMPLETE:
                    exchange.body_complete = True
                    self.set_deadline(NEVER)
                exchange.feed(content)
            elif event == END:
                self.set_deadline(NEVER)
                exchange.feed_end()
            elif event == ERROR:
                self._refuse_parsed(parser)
                break
            else:
                self._await_body(exchange)
                break
        self.advancing = False

    def _await_request(self, parser: Http1) -> None:
        self.go_on_reading()
        if parser.has_input():
            # The clock for a head runs from its first byte; more bytes do not set it back.
            if not self.head_started:
                self.head_started = True
                self.state = ACTIVE
                self.set_deadline(self.timeouts.head)
        elif self.state == ACTIVE:
            self.state = IDLE
            self.head_started = False  # it was an empty line
            self.set_deadline(self.timeouts.keep_alive)
            if self.service.draining:
                self.drain()

    def _discard(self, parser: Http1) -> bool:
        """Drop a piece of body nobody wants; False when there is too much of it, and the connection closes."""
        self.discarded += len(parser.content)
        if self.discarded > DISCARD_SIZE:
            self.linger()
            return False
        return True

    # -- Exchanges ----------------------------------------------------------------------------------------------------

    def begin_exchange(self, parser: Http1) -> None:
        service = self.service
        service.requests += 1
        self.state = ACTIVE
        self.head_started = False
        self.discarded = 0
        self.buffered = 0
        if service.requests == service.limit_requests and service.on_request_limit is not None:
            service.on_request_limit()
        head = service.parser.head
        if service.limit_concurrency > 0 and (
            service.connections > service.limit_concurrency or service.in_flight >= service.limit_concurrency
        ):
            self._refuse_busy(head)
            return
        if head.upgrade and service.websocket is not None and wants_websocket(head):
            self._begin_websocket(parser, head, service.websocket)
            return
        scope = build_scope(service, head, self.client, self.local_address())
        exchange = HttpExchange(service, self, head)
        if self.timeouts.keep_alive == NEVER:
            exchange.persist = False
        if parser.state == COMPLETE:
            exchange.body_complete = True
            exchange.expect_continue = False
            self.set_deadline(NEVER)
        elif exchange.expect_continue:
            self.set_deadline(NEVER)
        else:
            self.set_deadline(self.timeouts.body)
        exchange.client = scope["client"] if head.forwarded else self.client
        service.in_flight += 1
        self.exchange = exchange
        self.scope = scope
        if not self.running:
            self.poller.run_soon(self)

    def _begin_websocket(self, parser: Http1, head: RequestHead, settings: WebSocketSettings) -> None:
        """The request is an opening handshake (RFC 6455 section 4.2): another protocol takes the socket over."""
        handshake = read_handshake(head)
        if isinstance(handshake, Refusal):
            self.refuse(handshake, head.method == "HEAD")
        else:  # in a worker that leaves too: it is closed with 1012 as those are that were here before
            self.flush()
            if self.state != CLOSED:
                WebSocketConnection(self, head, handshake, settings, parser.take_rest()).start()

    def run(self) -> None:
        """Call the application for the request that was read, and for those pipelined behind it as they complete."""
        self.running = True
        self.advancing = True
        pipelined = self.has_input()
        until = CLOCK() + SLICE if pipelined else 0.0
        served: i64 = 0
        while True:
            exchange = self.exchange
            scope = self.scope
            self.scope = None
            if exchange is None or scope is None:
                break
            exchange.start(scope)
            if self.exchange is not None:
                break
            served += 1
            if pipelined and (served == MOST_PIPELINED or CLOCK() > until) and self.has_input():
                # The others have their turn, and the loop, before this client's next request.
                self.deferred = True
                self.go_on_later()
                break
            self.advancing = False
            self.advance()
            self.advancing = True
        self.running = False
        self.advancing = False
        if self.service.cork_owner is self:
            self.flush()
        if not self.watched:
            self.watch()
        if self.readable and self.state != CLOSED:
            self.read()

    def has_input(self) -> bool:
        """Whether bytes were read that nothing has been made of yet."""
        return self.parser is not None and self.parser.has_input()

    def exchange_complete(self, persist: bool) -> None:
        self.exchange = None
        parser = self.parser
        if parser is None:  # the client was lost while the end of the response was sent
            return
        if not persist or self.service.draining or parser.remaining > DISCARD_SIZE:
            self.flush()
            self.finish()
            return
        if parser.state != COMPLETE:
            self.set_deadline(self.timeouts.body)
        else:
            parser.start_next_cycle()
            if self.advancing and parser.has_input():
                # Pipelined requests are answered together, in one send at the end of the turn.
                if len(self.service.writer) > CORK_SIZE:
                    self.flush()
                return
            self.state = IDLE
            self.set_deadline(self.timeouts.keep_alive)
        self.flush()
        if self.state == CLOSED:  # the client was lost while it was sent
            return
        self.go_on_reading()
        if not self.advancing and (parser.has_input() or self.readable):
            # Not here and now: this is inside the application's send(), in the middle of its task.
            self.go_on_later()

    def refuse(self, refusal: Refusal, is_head: bool) -> None:
        """Answer what must not reach the application, or must not go on reaching it, and close.

        Args:
            is_head: it is a HEAD request: "the server MUST NOT send content in the response" (RFC 9110 section 9.3.2).
        """
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            begun = exchange.status != 0
            exchange.disconnect()
            if self.scope is not None:
                self.scope = None
                exchange.finish()
            if begun:
                self.abort()
                return
        if refusal.status == 408 or refusal.status == 503:
            logger.debug("%s: %s", self.peer(), refusal.reason)
        else:
            logger.warning("Invalid HTTP request received from %s: %s", self.peer() or "a local client", refusal.reason)
        content = refusal.reason.encode()
        head_writer = self.service.head_writer
        writer = self.cork()
        head_writer.write_start(
            writer,
            refusal.status,
            [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(content))],
        )
        for name, value in refusal.fields:
            writer.write(name + b": " + value + b"\r\n")
        writer.write(b"connection: close\r\n\r\n")
        if not is_head:
            writer.write(content)
        self.flush()
        self.finish()

    def _refuse_busy(self, head: RequestHead) -> None:
        service = self.service
        logger.warning("Exceeded the concurrency limit of %d.", service.limit_concurrency)
        if service.access is not None:
            service.access.record(self.client, head.method, target_of(head.raw_path, head.query), head.http11, 503)
        self.refuse(errors.SERVICE_UNAVAILABLE, head.method == "HEAD")

    def _refuse_parsed(self, parser: Http1) -> None:
        refusal = parser.refusal
        if refusal is not None:
            exchange = self.exchange
            self.refuse(refusal, parser.is_head or (exchange is not None and exchange.method == "HEAD"))

    def drain(self) -> None:
        """The worker stops. What runs is answered with Connection: close; a connection without a request is closed.

        But not at once if it was busy a moment ago, or is new: its next request may be on the way, and would be lost. It
        gets a moment to arrive.
        """
        if self.exchange is not None or self.blocked or (self.state != IDLE and self.state != NEW):
            return
        timeout = self.timeouts.keep_alive if self.state == IDLE else self.timeouts.head
        deadlines = self.poller.deadlines
        if timeout == NEVER or deadlines.elapsed(self.fd, timeout) <= RECENT:
            deadlines.set(self.fd, self.timeouts.farewell)
        else:
            self.close()

    # -- Writing ------------------------------------------------------------------------------------------------------

    def on_room(self) -> None:
        if self.exchange is not None:
            self.exchange.wake_drained()

    def on_sent(self) -> None:
        exchange = self.exchange
        if exchange is None:
            self._await_client()
            self.go_on_later()
            return
        self.set_deadline(NEVER)
        exchange.wake_drained()
        if self.wants_input():
            self._await_body(exchange)

    def _await_client(self) -> None:
        """The client has taken its responses: the clock for whatever else it owes begins."""
        parser = self.parser
        if self.state == IDLE:
            self.set_deadline(self.timeouts.keep_alive)
            if self.service.draining:
                self.drain()
        elif parser is not None and parser.state == HEAD:
            self.set_deadline(self.timeouts.head)
        else:
            self.set_deadline(self.timeouts.body)

    async def transmit_file(self, path: str, length: i64, chunked: bool) -> int:
        file = open_file(path)
        try:
            size: i64 = os.fstat(file.fileno()).st_size
            if length >= 0 and length < size:
                size = length
            if chunked and size > 0:
                self.cork().write(b"%x\r\n" % size)
            self.transmit(self.take_cork(), MSG_MORE if size > 0 else 0)
            if self.state == CLOSED:  # the client was lost while the head was sent
                return 0
            # A blocking descriptor would have sendfile wait in the kernel, and everybody with it.
            self.socket.setblocking(False)
            offset: i64 = 0
            turn: i64 = 0  # sent since the others had theirs
            exchange = self.exchange
            while offset < size and exchange is not None and self.exchange is exchange:
                if not self.blocked:
                    sent = self.send_file_piece(file.fileno(), offset, size - offset)
                    if sent < 0:
                        break
                    offset += sent
                    turn += sent
                    if turn >= FILE_TURN:  # the client is as fast as we are: the others have their turn
                        turn = 0
                        await yield_once()
                if self.blocked:
                    await exchange.begin_wait_drained()
            if chunked and offset < size and self.exchange is exchange:
                # The chunk's size was said already: whatever came next would be taken for a part of it.
                self.abort()
                raise RuntimeError(f"The file {path} is not as long as it was when its first byte was sent")
            return int(offset)
        finally:
            file.close()

    def send_file_piece(self, source: int, offset: i64, count: i64) -> i64:
        """One sendfile: the number of bytes sent, or -1 when nothing more can be. Sets `blocked` when room ran out."""
        sent: i64
        try:
            sent = os.sendfile(int(self.fd), source, int(offset), int(count if count < FILE_TURN else FILE_TURN))
        except (BlockingIOError, InterruptedError):
            self.await_room()
            return 0
        except OSError as error:
            if error.errno != errno.EINVAL:
                self.lose()
                return -1
            # Not every file can be sent from where it lies (some file systems, pipes): copy it through.
            data = os.pread(source, int(count if count < READ_SIZE else READ_SIZE), int(offset))
            self.transmit(data, 0)
            sent = len(data)
        return sent if sent > 0 else -1  # 0: the file has become shorter

    # -- The end ------------------------------------------------------------------------------------------------------

    def input_is_over(self) -> bool:
        parser = self.parser
        return parser is not None and parser.state == COMPLETE and (self.peer_closed or not self.readable)

    def forget_input(self) -> None:
        self.parser = None

    def on_lost(self) -> None:
        exchange = self.exchange
        self.exchange = None
        if exchange is not None:
            exchange.disconnect()
            if self.scope is not None:  # its application was not called yet, and will not be
                self.scope = None
                exchange.finish()


def open_file(path: str) -> Any:
    """A regular file, opened for reading. Raises OSError; for anything else too, which may have no size or no end."""
    # To open a pipe waits for its writer, and everybody would wait with it. What has been opened is asked what it is.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return os.fdopen(descriptor, "rb", buffering=0)
