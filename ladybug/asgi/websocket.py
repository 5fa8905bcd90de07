"""One WebSocket, from its handshake to its close: the exchange between a connection and the application (ASGI
"WebSocket" specification).

    CONNECTING --websocket.accept--> OPEN --close, of either side--> CLOSED
        \\---websocket.http.response.start--> DENYING --> CLOSED
        \\---websocket.close (403), or the application ends (500)--> CLOSED

Receiving:  websocket.connect, then a message for each that the connection feeds in, then websocket.disconnect, from then on
            for ever. What the client sent before it went is delivered first.
Sending:    a message that the state does not expect raises in the application; once closed, by whichever side, all raise
            ClientDisconnected, an OSError.
"""

from collections import deque
from typing import Any, Final, final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi import awaitables
from ladybug.asgi.awaitables import ClientDisconnected, logger
from ladybug.asgi.done import DONE
from ladybug.asgi.exchange import NEXT_MESSAGE, Exchange, quoted, shown, target_of
from ladybug.asgi.http import LARGE, HttpExchange
from ladybug.asgi.response import CRLF
from ladybug.asgi.service import Service, WebSocketSettings, Wire
from ladybug.protocol.deflate import Agreement, Deflater, agree
from ladybug.protocol.fields import RequestHead
from ladybug.protocol.frames import (
    ABNORMAL_CLOSURE,
    BINARY_FRAME,
    CLOSE_FRAME,
    INTERNAL_ERROR,
    NORMAL_CLOSURE,
    SERVICE_RESTART,
    TEXT_FRAME,
    close_payload,
    is_close_code,
    write_head,
)
from ladybug.protocol.handshake import Handshake, accept_token

CONNECTING: Final[i64] = 0
DENYING: Final[i64] = 1
OPEN: Final[i64] = 2
CLOSED: Final[i64] = 3
EXPECTED: Final = [
    "websocket.accept, websocket.close or websocket.http.response.start",
    "websocket.http.response.body",
    "websocket.send or websocket.close",
]

# Received ahead of the application: this many bytes of messages, characters if they are text, are a full queue, however few
# they are.
QUEUE_SIZE: Final[i64] = 262144
# More than this in the cork is sent at once.
CORK_SIZE: Final[i64] = 65536
# An application that never has to wait yields to the loop once in so many sends, to whichever WebSockets: it may speak to a
# thousand. Not each of those by itself, which would all come to it at the same time.
SENDS_IN_A_ROW: Final[i64] = 64
# Shorter messages do not get smaller by compression.
DEFLATE_FROM: Final[i64] = 64

# Fields of the handshake's response that are the server's.
OURS: Final = frozenset(
    (
        *(b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol", b"sec-websocket-version"),
        *(b"upgrade", b"content-length"),
    )
)


@mypyc_attr(native_class=True)
@final
class WebSocketExchange(Exchange):
    """A WebSocket as the application sees it. Made by the connection once the handshake is read."""

    def __init__(
        self, service: Service, wire: Wire, head: RequestHead, handshake: Handshake, settings: WebSocketSettings
    ) -> None:
        super().__init__(service, wire)
        # What a send looks at stands together: who speaks to a thousand WebSockets finds none of it in the caches.
        self.state: i64 = CONNECTING
        self.deflater: Deflater | None = None
        self.raw_path: Final = head.raw_path
        self.query: Final = head.query
        self.settings: Final = settings
        self.handshake: Handshake | None = handshake  # until it is answered
        self.connect_delivered = False
        # Messages: most applications wait for the next one, so there is rarely a second.
        self.message: Any = None
        self.more_messages: deque[Any] | None = None
        self.queued: i64 = 0  # how many
        self.queued_size: i64 = 0
        self.code = ABNORMAL_CLOSURE  # what receive() says of the end
        self.reason = ""
        self.denial: HttpExchange | None = None

    def request_line(self) -> tuple[str, str]:
        return "WebSocket", target_of(self.raw_path, self.query).decode("latin-1")

    # -- From below -------------------------------------------------------------------------------------------------

    def feed(self, message: Any) -> None:
        """A message, as str or bytes. wake_now() is to follow."""
        if self.queued == 0:
            self.message = message
        else:
            if self.more_messages is None:
                self.more_messages = deque()
            self.more_messages.append(message)
        self.queued += 1
        self.queued_size += len(message)

    def is_full(self) -> bool:
        """Whether the application should take some messages before more are read."""
        return self.queued >= self.settings.max_queue or self.queued_size > QUEUE_SIZE

    def is_waiting(self) -> bool:
        waiters = self.waiters
        if waiters is not None:
            for waiter in waiters:
                if not waiter.is_done:
                    return True
        return False

    def wake_now(self) -> None:
        """Go on with the application if it waits for what was fed. Must be called where no task is running."""
        waiters = self.waiters
        if waiters is not None:
            self.waiters = None
            self.service.sends_in_a_row = 0
            for waiter in waiters:
                waiter.wake_now()

    def disconnect(self, code: int, reason: str) -> None:
        """It is over: no more in either direction, whoever wanted it so."""
        if not self.disconnected:
            self.disconnected = True
            self.code = code
            self.reason = reason
        self.state = CLOSED
        self.wire = None
        self.handshake = None
        self.deflater = None
        denial = self.denial
        if denial is not None:
            self.denial = None
            denial.disconnect()
        self.wake()
        self.wake_drained()

    def wake_drained(self) -> None:
        super().wake_drained()
        # While a denial is being sent, it is its own sends that wait.
        if self.denial is not None:
            self.denial.wake_drained()

    # -- The graceful stop ------------------------------------------------------------------------------------------

    def may_leave(self, late: bool) -> bool:
        return self.state == OPEN

    def leave(self) -> None:
        """1012 tells the client to come back: the server restarts."""
        self.leaving = True
        if self.wire is not None and self.state == OPEN:
            self._close(self.wire, SERVICE_RESTART, "")

    def expel(self) -> None:
        pass  # it was told, and its next send raises

    # -- receive() --------------------------------------------------------------------------------------------------

    def receive(self) -> Any:
        """The application's `receive`."""
        return NEXT_MESSAGE(self)

    def maybe_message(self) -> dict[str, Any] | None:
        if self.queued > 0 and self.connect_delivered:
            return self._next_queued()
        if not self.connect_delivered:
            self.connect_delivered = True
            return {"type": "websocket.connect"}
        if self.disconnected:
            return {"type": "websocket.disconnect", "code": self.code, "reason": self.reason}
        return None

    def _next_queued(self) -> dict[str, Any]:
        message = self.message
        was_full = self.is_full()
        self.queued -= 1
        if self.queued == 0:
            self.message = None
            self.more_messages = None
            self.queued_size = 0
        else:
            assert self.more_messages is not None
            self.message = self.more_messages.popleft()
            self.queued_size -= len(message)
        if was_full and self.wire is not None:
            self.wire.resume_reading()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    # -- send() -----------------------------------------------------------------------------------------------------

    def send(self, message: Any) -> Any:
        """The application's `send`.

        Raises: ClientDisconnected (an OSError) once the WebSocket is closed; RuntimeError for a message out of order;
        TypeError, ValueError or KeyError for one that is malformed, naming what is wrong.
        """
        if not isinstance(message, dict):
            raise TypeError(f"An ASGI message must be a dict, not {type(message).__name__}")
        kind = message.get("type")
        state = self.state
        wire = self.wire
        if wire is None or state == CLOSED:
            raise ClientDisconnected("The WebSocket is closed")
        if state == OPEN:
            if kind == "websocket.send":
                return self._send_message(wire, message)
            if kind == "websocket.close":
                self._send_close(wire, message)
                return DONE
        elif state == CONNECTING:
            if kind == "websocket.accept":
                self._accept(wire, message)
                return DONE
            if kind == "websocket.close":
                self._reject(wire)
                return DONE
            if kind == "websocket.http.response.start":
                return self._deny(wire, message)
        elif kind == "websocket.http.response.body" and self.denial is not None:
            return self.denial.send({**message, "type": "http.response.body"})
        raise RuntimeError(f"Expected the ASGI message {EXPECTED[state]}, but got {kind!r}")

    def _send_message(self, wire: Wire, message: dict[str, Any]) -> Any:
        text = message.get("text")
        given = message.get("bytes")
        content: bytes
        opcode: i64
        if text is None:
            opcode = BINARY_FRAME
            if isinstance(given, bytes):
                content = given
            elif isinstance(given, (bytearray, memoryview)):
                content = bytes(given)
            elif given is None:
                raise ValueError("websocket.send needs one of text and bytes")
            else:
                raise TypeError(f"websocket.send needs bytes as bytes, not {type(given).__name__}")
        elif given is not None:
            raise ValueError("websocket.send takes one of text and bytes, not both")
        elif isinstance(text, str):
            opcode = TEXT_FRAME
            content = text.encode()
        else:
            raise TypeError(f"websocket.send needs text as str, not {type(text).__name__}")
        compressed = False
        if self.deflater is not None and len(content) >= DEFLATE_FROM:
            content = self.deflater.deflate(content)
            compressed = True
        service = self.service
        writer = wire.cork()
        write_head(writer, opcode, len(content), compressed)
        if len(content) > LARGE:
            wire.transmit_content(content, b"")
        else:
            writer.write(content)
            if len(writer) > CORK_SIZE:
                wire.flush()
            elif not service.in_turn:
                service.end_turn_soon()
        if wire.is_congested():
            return awaitables.drained(self)
        service.sends_in_a_row += 1
        if service.sends_in_a_row >= SENDS_IN_A_ROW:
            service.sends_in_a_row = 0
            return awaitables.yield_once()
        return DONE

    def _send_close(self, wire: Wire, message: dict[str, Any]) -> None:
        code = message.get("code")
        if code is None:
            code = NORMAL_CLOSURE
        if not isinstance(code, int):
            raise TypeError(f"websocket.close needs an integer code, not {code!r}")
        if not is_close_code(code):
            raise ValueError(f"websocket.close cannot have the code {code} (RFC 6455 section 7.4)")
        reason = message.get("reason")
        if reason is None:
            reason = ""
        if not isinstance(reason, str):
            raise TypeError(f"websocket.close needs a reason as str, not {reason!r}")
        self._close(wire, code, reason)

    def _close(self, wire: Wire, code: int, reason: str) -> None:
        """Our close frame is the last that we send (RFC 6455 section 5.5.1); the client's is awaited below."""
        payload = close_payload(code, reason)
        writer = wire.cork()
        write_head(writer, CLOSE_FRAME, len(payload), False)
        writer.write(payload)
        self.disconnect(code, reason)
        wire.begin_close()

    # -- The handshake ------------------------------------------------------------------------------------------------

    def _accept(self, wire: Wire, message: dict[str, Any]) -> None:
        """RFC 6455 section 4.2.2: the server's half of the opening handshake."""
        handshake = self.handshake
        assert handshake is not None
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise TypeError(f"websocket.accept needs a subprotocol as str, not {subprotocol!r}")
        headers = list(message.get("headers") or ())
        agreement: Agreement | None = None
        if self.settings.deflate and handshake.extensions:
            agreement = agree(handshake.extensions)
        head_writer = self.service.head_writer
        writer = wire.cork()
        mark: i64 = len(writer)
        try:
            head_writer.write_start(writer, 101, headers)
            for pair in headers:
                name: bytes = bytes(pair[0]).lower()
                if name in OURS:
                    raise ValueError(f"The field {name.decode()} of a WebSocket handshake is the server's")
            writer.write(b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ")
            writer.write(accept_token(handshake.key))
            writer.write(CRLF)
            if subprotocol:
                # "the value chosen MUST be derived from the client's handshake": any other, and the client fails the connection
                if subprotocol not in handshake.subprotocols:
                    raise ValueError(f"The client offers {handshake.subprotocols}, not the subprotocol {subprotocol!r}")
                writer.write(b"sec-websocket-protocol: ")
                writer.write(subprotocol.encode("latin-1"))
                writer.write(CRLF)
            if agreement is not None:
                writer.write(b"sec-websocket-extensions: ")
                writer.write(agreement.field)
                writer.write(CRLF)
            writer.write(CRLF)
        except BaseException:
            writer.truncate(mark)
            raise
        self.handshake = None
        self.state = OPEN
        if agreement is not None:
            self.deflater = Deflater(agreement)
        self._record("[accepted]")
        if not self.service.in_turn:
            self.service.end_turn_soon()
        wire.begin_frames(agreement)

    def _reject(self, wire: Wire) -> None:
        """websocket.close instead of accept: "the server must close the connection with a HTTP 403 error"."""
        self._refuse(wire, 403, b"")

    def _refuse(self, wire: Wire, status: int, content: bytes) -> None:
        self._record(str(status))
        head_writer = self.service.head_writer
        writer = wire.cork()
        head_writer.write_start(
            writer,
            status,
            [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(content))],
        )
        writer.write(b"connection: close\r\n\r\n")
        writer.write(content)
        wire.exchange_complete(False)

    def _deny(self, wire: Wire, message: dict[str, Any]) -> Any:
        """The extension websocket.http.response: an HTTP response of the application's own, by the exchange for those."""
        head = RequestHead()
        head.method = "GET"
        head.http11 = True
        head.raw_path = self.raw_path
        head.query = self.query
        denial = HttpExchange(self.service, wire, head)
        denial.body_complete = True
        denial.client = self.client
        denial.is_denial = True
        sent = denial.send({**message, "type": "http.response.start"})
        self._record(str(denial.status))
        self.denial = denial
        self.state = DENYING
        return sent

    def _record(self, answer: str) -> None:
        """One line for each handshake, as uvicorn writes it: not by the access logger, whose records have five arguments."""
        if self.service.access is not None:
            target = quoted(target_of(self.raw_path, self.query))
            logger.info('%s - "WebSocket %s" %s', shown(self.client), target, answer)

    # -- The end of the call, for awaitables.py -----------------------------------------------------------------------

    def is_complete(self) -> bool:
        return self.denial is not None and self.denial.is_complete()

    def app_raised(self) -> None:
        wire = self.wire
        if wire is not None:
            if self.state == OPEN:
                self._close(wire, INTERNAL_ERROR, "")
            elif self.state == CONNECTING:
                self._refuse(wire, 500, b"Internal Server Error")
            elif self.denial is not None:
                self._cut_denial(wire, self.denial)
        self.finish()

    def app_returned(self) -> bool:
        wire = self.wire
        failed = False
        if wire is not None:
            if self.state == OPEN:
                # Nobody is left to talk to; that is no mistake.
                self._close(wire, NORMAL_CLOSURE, "")
            elif self.state == CONNECTING:
                failed = True
                self._refuse(wire, 500, b"Internal Server Error")
            elif self.denial is not None:
                failed = self._cut_denial(wire, self.denial)
        self.finish()
        return failed

    def _cut_denial(self, wire: Wire, denial: HttpExchange) -> bool:
        """The application's end found its denial complete or not; in the latter case the client must see it."""
        if denial.is_complete():
            return False
        denial.fail(wire)
        return True
