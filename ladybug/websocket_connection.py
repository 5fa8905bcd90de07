"""A connection that speaks WebSocket: the shell around the protocol core, from the handshake on.

It takes the socket over from the Connection that read the handshake, with everything that connection knew of it, and with
the bytes that came behind the handshake. Its life is that of RFC 6455 sections 4 and 7, one state at a time:

    state        accepted  refused   deadline, and then          pong   client's close  our close  broken frame
    CONNECTING   OPEN      REFUSED   none                        -      -               -          -
    OPEN         -         -         ping_interval: PINGED       OPEN   CLOSED          CLOSING    FAILED
    PINGED       -         -         ping_timeout: FAILED (1011) OPEN   CLOSED          CLOSING    FAILED
    CLOSING      -         -         linger: FAILED              -      CLOSED          -          FAILED

    CONNECTING   the application has the handshake; nothing more is read until it has accepted
    OPEN         both sides send
    PINGED       the same, and a pong is awaited; while we do not read it may lie unread, and the deadline begins anew
    CLOSING      our close frame was the first, and the client's is awaited; all else it sends is dropped
    CLOSED       both close frames have passed: nothing more comes from a client that keeps to the protocol
    FAILED       "_Fail the WebSocket Connection_" (section 7.1.7), or the connection is lost, from any state
    REFUSED      an HTTP response was the answer

The last three are final. What then becomes of the socket (what is unsent goes out, LINGERING, CLOSED) is Transport's, and so is
the one deadline that goes before all others, timeout_send. Ordinary messages set and reset nothing.

Reading, then running: messages are fed to the exchange while all that is ready is read; run() lets the application go on
with them at the end of the turn, at once (Waiter.wake_now).
"""

import contextlib
import socket
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.awaitables import logger
from ladybug.asgi.scope import build_websocket_scope
from ladybug.asgi.service import WebSocketSettings
from ladybug.asgi.websocket import WebSocketExchange
from ladybug.deadlines import NEVER, milliseconds
from ladybug.protocol.deflate import Agreement, Inflater
from ladybug.protocol.fields import RequestHead
from ladybug.protocol.frames import (
    ABNORMAL_CLOSURE,
    CLOSE_FRAME,
    INTERNAL_ERROR,
    NO_STATUS_RCVD,
    PING_FRAME,
    PONG_FRAME,
    close_payload,
    write_head,
)
from ladybug.protocol.handshake import Handshake
from ladybug.protocol.websocket import BINARY, CLOSE, ERROR, NEED_DATA, PING, PONG, TEXT, WebSocket
from ladybug.transport import (
    ACTIVE,
    HIGH_WATER,
    LINGERING,
    READS_PER_TURN,
    Transport,
)

# One read. A message of 64 KiB comes with its head in one, which is 8 % faster than in two. Not so for HTTP: bodies that
# are handed on as they were read make the allocator pay for each odd size.
FRAME_READ: Final = 81920

# Events taken in one turn. Messages are bounded by the queue; of control frames 64 KiB hold ten thousand.
MOST_EVENTS: Final[i64] = 256

CONNECTING: Final[i64] = 0
OPEN: Final[i64] = 1
PINGED: Final[i64] = 2
CLOSING: Final[i64] = 3
CLOSED: Final[i64] = 4
FAILED: Final[i64] = 5
REFUSED: Final[i64] = 6

# tcp(7), Linux; where it is missing the system decides when it has repeated a ping in vain often enough.
TCP_USER_TIMEOUT: Final[int] = getattr(socket, "TCP_USER_TIMEOUT", 0)


@mypyc_attr(native_class=True)
@final
class WebSocketConnection(Transport):
    """Takes over from `before`; start() is to follow.

    Args:
        early: bytes that came behind the handshake.
    """

    def __init__(
        self,
        before: Transport,
        head: RequestHead,
        handshake: Handshake,
        settings: WebSocketSettings,
        early: bytes,
    ) -> None:
        super().__init__(
            before.service, before.poller, before.timeouts, before.socket, before.fd, before.client, before.server
        )
        self.state = ACTIVE
        self.settings: Final = settings
        self.early = early
        self.phase: i64 = CONNECTING
        self.parser: WebSocket | None = None  # made when the application accepts
        self.pings: i64 = 0  # as many were sent
        self.run_planned = False
        self.deferred = False  # frames wait whose turn comes after the others'
        self.scope: dict[str, Any] | None = build_websocket_scope(
            before.service, head, before.client, before.local_address(), handshake.subprotocols
        )
        self.exchange: Final = WebSocketExchange(before.service, self, head, handshake, settings)
        self.exchange.client = self.scope["client"]
        before.hand_over(self)

    def start(self) -> None:
        """Have the application called at the end of this turn."""
        self.service.in_flight += 1
        self.set_deadline(NEVER)
        self.plan_run()

    def plan_run(self) -> None:
        if not self.run_planned:
            self.run_planned = True
            self.poller.run_soon(self)

    def run(self) -> None:
        """Call the application, or let it go on with what was fed to it."""
        self.run_planned = False
        scope = self.scope
        if scope is not None:
            self.scope = None
            self.exchange.start(scope)
            self.watch()
        else:
            self.exchange.wake_now()
        if self.service.cork_owner is self:
            self.flush()
        parser = self.parser
        # Not here and now: a client that never stops sending would have the turn for ever.
        if parser is not None and (self.readable or parser.has_input() or parser.is_failed()) and self.wants_input():
            self.go_on_later()

    # -- Reading ----------------------------------------------------------------------------------------------------

    def wants_input(self) -> bool:
        phase = self.phase
        if self.deferred:
            return False
        if phase == OPEN or phase == PINGED:
            if self.exchange.is_full():
                return False
        elif phase != CLOSING:
            return False
        # A client that sends on without taking what we send (pongs, if nothing else) is not listened to until it does.
        return self.unsent <= HIGH_WATER

    def read(self) -> None:
        # What was read before comes first: a queue that is full again and again must not let the rest of it grow.
        if self.parser is not None and self.parser.has_input() and not self.deferred:
            self.advance()
        reads: i64 = 0
        while self.readable and self.wants_input():
            if reads == READS_PER_TURN:
                self.go_on_later()
                return
            reads += 1
            data = self.receive(FRAME_READ)
            if data is None:
                return
            size: i64 = len(data)
            if size == 0:
                self.readable = False
                self.peer_closed = True
                self.lose()
                return
            if size < FRAME_READ and not self.peer_closed:
                self.readable = False
            parser = self.parser
            assert parser is not None
            parser.receive_data(data)
            self.advance()
        if self.readable and self.state == ACTIVE and not self.deferred:
            if self.peer_closed and self.phase == CONNECTING:
                self.lose()
            else:
                self.pause_reading()

    def advance(self) -> None:
        parser = self.parser
        if parser is None:
            return
        exchange = self.exchange
        self.deferred = False
        events: i64 = 0
        while self.wants_input():
            if events == MOST_EVENTS:
                self.deferred = True
                self.go_on_later()
                break
            events += 1
            event = parser.next_event()
            if event == NEED_DATA:
                break
            if event == CLOSE:
                self._on_close(parser.code, parser.reason)
            elif event == ERROR:
                # The application may answer first what came before in the same piece; the parser will say it again.
                if exchange.queued > 0 and exchange.is_waiting():
                    break
                self.fail(parser.code, parser.reason)
            elif self.phase == CLOSING:
                # Section 5.5.1: "The application MUST NOT send any more data frames after sending a Close frame", and who
                # still listens for the client's waits for nothing else.
                continue
            elif event == TEXT:
                exchange.feed(parser.text)
            elif event == BINARY:
                exchange.feed(parser.content)
            elif event == PING:
                # Section 5.5.2: "an endpoint MUST send a Pong frame in response, unless it already received a Close frame"
                self.write_frame(PONG_FRAME, parser.content)
            elif event == PONG:
                self._on_pong(parser.content)
        if exchange.queued > 0 and exchange.is_waiting():
            self.plan_run()

    def resume_reading(self) -> None:
        """The application has taken messages from a full queue. It is running now: read on when it is not."""
        if self.phase == PINGED:  # the pong could not be read till now: its time begins
            self.set_deadline(self.settings.ping_timeout)
        self.go_on_reading()
        self.go_on_later()

    def write_frame(self, opcode: i64, payload: bytes) -> None:
        writer = self.cork()
        write_head(writer, opcode, len(payload), False)
        writer.write(payload)

    # -- What the application decides -------------------------------------------------------------------------------

    def begin_frames(self, deflate: Agreement | None) -> None:
        self.phase = OPEN
        self.parser = parser = WebSocket(self.settings.max_size, Inflater(deflate) if deflate is not None else None)
        # First of all: anything else that is read comes behind it.
        parser.receive_data(self.early)
        self.early = b""
        self.set_deadline(self.settings.ping_interval)
        self.go_on_reading()
        # What came early, and what comes now, is read behind the application's back only when it is not running.
        self.go_on_later()

    def begin_close(self) -> None:
        self.phase = CLOSING
        self.flush()
        if self.state == ACTIVE:
            self.set_deadline(self.timeouts.linger)
            if self.readable or self.paused:
                self.go_on_reading()
                self.go_on_later()

    def exchange_complete(self, persist: bool) -> None:
        """The handshake is refused, and its HTTP response written."""
        self.phase = REFUSED
        self.flush()
        self.finish()
        self.exchange.disconnect(ABNORMAL_CLOSURE, "")

    # -- Deadlines --------------------------------------------------------------------------------------------------

    def deadline(self) -> i64:
        """How long, in ticks, what the state waits for may take."""
        phase = self.phase
        if phase == OPEN:
            return self.settings.ping_interval
        if phase == PINGED:
            return self.settings.ping_timeout
        if phase == CLOSING:
            return self.timeouts.linger
        return NEVER

    def on_deadline(self) -> None:
        phase = self.phase
        if self.blocked:
            self.abort()
        elif self.state == LINGERING:
            self.close()
        elif phase == OPEN:
            self.pings += 1
            if self.settings.ping_timeout != NEVER:
                self.phase = PINGED
            self._ping()
        elif not self.is_late():
            return
        elif phase == PINGED:
            if self.exchange.is_full():
                # We do not read: the pong may stand behind messages that the application has not taken, and that is not the
                # client's fault. Whether it is still there, its system must say.
                self._bound_silence()
                self._ping()
            else:
                logger.debug("%s: no pong came in time", self.peer())
                self.fail(INTERNAL_ERROR, "keepalive ping timeout")
        elif phase == CLOSING:
            self.phase = FAILED
            self.linger()  # section 7.1.1 has the server close first
        owner = self.service.cork_owner
        if owner is not None:
            owner.flush()

    def _ping(self) -> None:
        self.write_frame(PING_FRAME, b"%d" % self.pings)
        # Before the flush, which may be the end of the connection, and then its descriptor is another's.
        self.set_deadline(self.deadline())
        self.flush()

    def _bound_silence(self) -> None:
        """Have the kernel give the connection up when the client's system has acknowledged nothing for timeout_send.

        A ping that it has taken, and cannot send, is out of our sight, and TCP would repeat it for a quarter of an hour. The
        poller tells of the end, or the next ping meets it where a poller does not watch what nobody reads.
        """
        if TCP_USER_TIMEOUT != 0 and self.timeouts.send != NEVER:
            with contextlib.suppress(OSError):  # a unix socket, whose other end cannot vanish unseen
                self.socket.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds(self.timeouts.send))

    def _on_pong(self, content: bytes) -> None:
        if self.phase == PINGED and content == b"%d" % self.pings:
            self.phase = OPEN
            self.set_deadline(self.settings.ping_interval)

    # -- The end ------------------------------------------------------------------------------------------------------

    def _on_close(self, code: int, reason: str) -> None:
        """RFC 6455 section 5.5.1: "If an endpoint receives a Close frame and did not previously send a Close frame, the
        endpoint MUST send a Close frame in response ... it typically echos the status code it received"."""
        if self.phase != CLOSING:
            self.write_frame(CLOSE_FRAME, close_payload(code, "") if code != NO_STATUS_RCVD else b"")
        self.phase = CLOSED
        self.exchange.disconnect(code, reason)
        self.flush()
        self.finish()

    def fail(self, code: int, reason: str) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 section 7.1.7): say why, and close."""
        if self.phase != CLOSING:
            self.write_frame(CLOSE_FRAME, close_payload(code, reason))
        self.phase = FAILED
        self.exchange.disconnect(ABNORMAL_CLOSURE if code == INTERNAL_ERROR else code, reason)
        self.flush()
        self.finish()

    def drain(self) -> None:
        """The worker stops. Open WebSockets are told later (Exchange.leave), so that applications can end them first."""

    def input_is_over(self) -> bool:
        return self.peer_closed or (not self.readable and (self.phase == CLOSED or self.phase == REFUSED))

    def forget_input(self) -> None:
        self.parser = None
        self.early = b""

    def on_room(self) -> None:
        self.exchange.wake_drained()

    def on_sent(self) -> None:
        self.set_deadline(self.deadline())
        self.exchange.wake_drained()
        self.go_on_reading()
        self.go_on_later()

    def on_lost(self) -> None:
        self.phase = FAILED
        exchange = self.exchange
        # Section 7.1.5: without a close frame "_The WebSocket Connection Close Code_ is considered to be 1006".
        exchange.disconnect(ABNORMAL_CLOSURE, "")
        if self.scope is not None:  # its application was not called yet, and will not be
            self.scope = None
            exchange.finish()
