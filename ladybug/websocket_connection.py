"""A connection that speaks WebSocket: the shell around the protocol core, from the handshake on.

    ACTIVE --both close frames, or a failure--> LINGERING --> CLOSED

It takes the socket over from the Connection that read the handshake, with everything that connection knew of it, and with
the bytes that came behind the handshake. Until the application accepts, nothing more is read.

Reading, then running: messages are fed to the exchange while all that is ready is read; run() lets the application go on
with them at the end of the turn, at once (Waiter.wake_now).

Deadlines, in the order of their right: the client takes what is written (timeout_send); it answers our close frame; it
answers our ping; the next ping is due. Nothing is set or reset by ordinary messages.
"""

from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.awaitables import logger
from ladybug.asgi.scope import build_websocket_scope
from ladybug.asgi.service import WebSocketSettings
from ladybug.asgi.websocket import WebSocketExchange
from ladybug.deadlines import NEVER
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
        self.parser: WebSocket | None = None  # made when the application accepts
        self.pinging = False  # a ping is out, and its pong is awaited
        self.pings: i64 = 0
        self.closing = False  # our close frame is written
        self.close_received = False  # the client's has come
        self.run_planned = False
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
            self.poller.again(self)

    # -- Reading ----------------------------------------------------------------------------------------------------

    def wants_input(self) -> bool:
        # A client that sends on without taking what we send (pongs, if nothing else) is not listened to until it does.
        return (
            self.parser is not None
            and self.state == ACTIVE
            and not self.close_when_sent
            # Behind our close frame only the client's is of interest: nothing more is queued.
            and (self.closing or not self.exchange.is_full())
            and self.unsent <= HIGH_WATER
        )

    def read(self) -> None:
        # What was read before comes first: a queue that is full again and again must not let the rest of it grow.
        if self.parser is not None and self.parser.has_input():
            self.advance()
        reads: i64 = 0
        while self.readable and self.wants_input():
            if reads == READS_PER_TURN:
                self.poller.again(self)
                return
            reads += 1
            data = self.receive(FRAME_READ)
            if data is None:
                return
            size: i64 = len(data)
            if size == 0:
                # RFC 6455 section 7.1.5: without a close frame "The WebSocket Connection Close Code is considered to be 1006".
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
        if self.readable and self.state == ACTIVE:
            if self.peer_closed and self.parser is None:
                self.lose()  # before the handshake was answered
            else:
                self.pause_reading()

    def advance(self) -> None:
        parser = self.parser
        if parser is None:
            return
        exchange = self.exchange
        while self.state == ACTIVE and (self.closing or not exchange.is_full()) and self.unsent <= HIGH_WATER:
            event = parser.next_event()
            if event == NEED_DATA:
                break
            if event == TEXT:
                if not self.closing:
                    exchange.feed(parser.text)
            elif event == BINARY:
                if not self.closing:
                    exchange.feed(parser.content)
            elif event == PING:
                # RFC 6455 section 5.5.2: "an endpoint MUST send a Pong frame in response, unless it already received a
                # Close frame"; and after our own close frame we send no more.
                if not self.closing:
                    self.write_frame(PONG_FRAME, parser.content)
            elif event == PONG:
                self._on_pong(parser.content)
            elif event == CLOSE:
                self._on_close(parser.code, parser.reason)
            elif event == ERROR:
                # The application may answer first what came before in the same piece; the parser will say it again.
                if exchange.queued > 0 and exchange.is_waiting():
                    break
                self.fail(parser.code, parser.reason)
        if exchange.queued > 0 and exchange.is_waiting():
            self.plan_run()

    def resume_reading(self) -> None:
        """The application has taken messages from a full queue. It is running now: read on when it is not."""
        self.go_on_reading()
        self.poller.again(self)

    def write_frame(self, opcode: i64, payload: bytes) -> None:
        writer = self.cork()
        write_head(writer, opcode, len(payload), False)
        writer.write(payload)

    # -- What the application decides -------------------------------------------------------------------------------

    def begin_frames(self, deflate: Agreement | None) -> None:
        self.parser = parser = WebSocket(self.settings.max_size, Inflater(deflate) if deflate is not None else None)
        # First of all: anything else that is read comes behind it.
        parser.receive_data(self.early)
        self.early = b""
        self.set_deadline(self.settings.ping_interval)
        self.go_on_reading()
        # What came early, and what comes now, is read behind the application's back only when it is not running.
        self.poller.again(self)

    def begin_close(self) -> None:
        self.closing = True
        self.flush()
        if self.state == ACTIVE:
            self.set_deadline(self.timeouts.linger)
            if self.readable or self.paused:
                self.go_on_reading()
                self.poller.again(self)

    def exchange_complete(self, persist: bool) -> None:
        """The handshake is refused, and its HTTP response written."""
        self.flush()
        self.finish()
        self.exchange.disconnect(ABNORMAL_CLOSURE, "")

    # -- Deadlines --------------------------------------------------------------------------------------------------

    def on_deadline(self) -> None:
        settings = self.settings
        if self.blocked:
            self.abort()
        elif self.state == LINGERING:
            self.close()
        elif self.parser is None:
            pass  # the handshake is not answered: the next move is the application's
        elif self.closing:
            self.linger()  # it never answered our close frame; RFC 6455 section 7.1.1 has the server close first
        elif not self.pinging or self.exchange.is_full():
            # The latter: the pong may stand behind messages that the application has not taken, and that is not the client's
            # fault. Asked again, for who is gone is noticed by writing, where a poller does not watch what nobody reads.
            if not self.pinging:
                self.pings += 1
                self.pinging = settings.ping_timeout != NEVER
            self.write_frame(PING_FRAME, b"%d" % self.pings)
            # Before the flush, which may be the end of the connection, and then its descriptor is another's.
            self.set_deadline(settings.ping_timeout if self.pinging else settings.ping_interval)
            self.flush()
        else:
            logger.debug("%s: no pong came in time", self.peer())
            self.fail(INTERNAL_ERROR, "keepalive ping timeout")
        owner = self.service.cork_owner
        if owner is not None:
            owner.flush()

    def _on_pong(self, content: bytes) -> None:
        if self.pinging and content == b"%d" % self.pings:
            self.pinging = False
            if not self.closing:
                self.set_deadline(self.settings.ping_interval)

    # -- The end ------------------------------------------------------------------------------------------------------

    def _on_close(self, code: int, reason: str) -> None:
        """RFC 6455 section 5.5.1: "If an endpoint receives a Close frame and did not previously send a Close frame, the
        endpoint MUST send a Close frame in response ... it typically echos the status code it received"."""
        self.close_received = True
        if not self.closing:
            self.closing = True
            self.write_frame(CLOSE_FRAME, close_payload(code, "") if code != NO_STATUS_RCVD else b"")
        self.flush()
        self.exchange.disconnect(code, reason)
        self.finish()

    def fail(self, code: int, reason: str) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 section 7.1.7): say why, and close."""
        if not self.closing:
            self.closing = True
            self.write_frame(CLOSE_FRAME, close_payload(code, reason))
        self.flush()
        if self.state == ACTIVE:
            self.exchange.disconnect(ABNORMAL_CLOSURE if code == INTERNAL_ERROR else code, reason)
            self.finish()

    def drain(self) -> None:
        """The worker stops. Open WebSockets are told later (Exchange.leave), so that applications can end them first."""

    def input_is_over(self) -> bool:
        # Not when we fail the connection: the client is in the midst of what we refuse, and must get to read why.
        return self.peer_closed or (not self.readable and (self.parser is None or self.close_received))

    def forget_input(self) -> None:
        self.parser = None
        self.early = b""

    def on_room(self) -> None:
        self.exchange.wake_drained()

    def on_sent(self) -> None:
        if self.closing:
            self.set_deadline(self.timeouts.linger)
        elif self.pinging:
            self.set_deadline(self.settings.ping_timeout)
        else:
            self.set_deadline(self.settings.ping_interval if self.parser is not None else NEVER)
        self.exchange.wake_drained()
        self.go_on_reading()
        self.poller.again(self)

    def on_lost(self) -> None:
        exchange = self.exchange
        exchange.disconnect(ABNORMAL_CLOSURE, "")
        if self.scope is not None:  # its application was not called yet, and will not be
            self.scope = None
            exchange.finish()
