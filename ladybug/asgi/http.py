"""One request and its response: the exchange between a connection and the application (ASGI "HTTP" specification).

Receiving:  the connection feeds body pieces in; receive() hands them on, then waits for the end and says http.disconnect.
Sending:    START --http.response.start--> BODY --http.response.body (last)--> [TRAILERS -->] COMPLETE
            A message that the state does not expect raises in the application; after COMPLETE all are ignored, as the
            specification says; once the client is gone they raise ClientDisconnected, an OSError.
"""

from collections import deque
from typing import Any, Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr

from ladybug.asgi import awaitables
from ladybug.asgi.awaitables import ClientDisconnected
from ladybug.asgi.done import DONE
from ladybug.asgi.exchange import (
    NEXT_MESSAGE,
    NEXT_MESSAGE_LATER,
    RECEIVES_PER_TURN,
    SENDS_PER_TURN,
    Exchange,
    target_of,
)
from ladybug.asgi.response import CRLF, HeadWriter
from ladybug.asgi.service import Service, Wire
from ladybug.asgi.waiter import Waiter
from ladybug.protocol.fields import Field, RequestHead

START: Final[i64] = 0
BODY: Final[i64] = 1
TRAILERS: Final[i64] = 2
COMPLETE: Final[i64] = 3
STATE_NAMES: Final = ["http.response.start", "http.response.body", "http.response.trailers", "nothing more"]

# How the response's content is framed (RFC 9112 section 6).
BY_LENGTH: Final[i64] = 0
BY_CHUNKS: Final[i64] = 1
BY_CLOSE: Final[i64] = 2
NO_CONTENT: Final[i64] = 3  # HEAD, 204, 304: whatever the application sends stays here

# Above this a piece of content goes to the kernel from where it lies: a copy would cost more than a second buffer does.
LARGE: Final[i64] = 16384

LAST_CHUNK: Final = b"0\r\n\r\n"


@mypyc_attr(native_class=True)
@final
class HttpExchange(Exchange):
    """A request being answered. Made by the connection once the head is parsed."""

    def __init__(self, service: Service, wire: Wire, head: RequestHead) -> None:
        super().__init__(service, wire)
        self.method: Final = head.method
        self.raw_path: Final = head.raw_path
        self.query: Final = head.query
        self.http11: Final = head.http11
        self.persist = head.persistent  # the connection may go on after this
        self.expect_continue = head.expect_continue
        self.fields: Final = head.headers
        # Request body
        self.received: deque[bytes] | None = None
        self.body_complete = False  # all of it was received
        self.body_delivered = False  # the application knows
        self.half_closed = False  # because the client has closed its half of the connection
        self.expelled = False  # send() raises, because the server stops and the application was told so
        self.overdue = False  # the server stops, and cannot wait for it any longer
        self.told = False  # the application was told http.disconnect before its response was complete
        self.receives: i64 = 0  # how often it has received
        self.is_denial = False  # it answers a WebSocket's handshake, and is logged as that (websocket.py)
        # Response
        self.state: i64 = START
        self.status: int = 0
        self.framing: i64 = BY_LENGTH
        self.length: i64 = -1  # content still to come, when framed by length
        self.is_events = False  # it is a stream of server-sent events, for an EventSource
        self.trailers = False  # the application has announced some
        self.trailers_wanted = False  # and the client will take them

    def request_line(self) -> tuple[str, str]:
        return self.method, target_of(self.raw_path, self.query).decode("latin-1")

    # -- The request, from below ------------------------------------------------------------------------------------

    def feed(self, content: bytes) -> None:
        """A piece of the body."""
        if self.received is None:
            self.received = deque()
        self.received.append(content)
        self.wake()

    def feed_end(self) -> None:
        self.body_complete = True
        self.wake()

    def disconnect(self) -> None:
        """The client is gone, or the server takes its leave: no more in either direction."""
        self.disconnected = True
        if self.wire is not None and self.state != START and self.state != COMPLETE:
            self._record_access(self.wire)
        self.wire = None
        self.wake()
        self.wake_drained()

    def half_close(self) -> None:
        """The client will send no more. It may only have closed its half and still read (RFC 9112 section 9.6), so the
        response goes on; but an application that asks is told that the client is gone, which is nearly always true."""
        self.half_closed = True
        self.disconnected = True
        self.wake()

    def may_leave(self, late: bool) -> bool:
        # What an EventSource reads does not end by itself, and comes back by itself (HTML Standard, section 9.2.3). It asks by
        # GET; events that answer a POST are the pieces of one answer, as language models give it. That, and any other
        # stream, may be a download, however long it pauses: it is to be finished.
        return self.is_stream() and (self.is_events or late)

    def leave(self) -> None:
        """Tell the application http.disconnect while its response may still be written: the graceful stop. Not before it
        has its request, all of it: what is under way is to be finished."""
        self.leaving = True
        self.wake()

    def expel(self) -> None:
        """The application was told to leave and has not: a stream that only sends hears of it as an error of its next send.
        One without a client is waited for no longer."""
        if self.is_stream():
            self.expelled = True
            if self.wire is None:
                self.cancel()

    def cancel(self) -> None:
        self.overdue = True
        super().cancel()

    def give_up(self) -> None:
        wire = self.wire
        if wire is not None and self.state != COMPLETE:
            self.fail(wire)

    def is_stream(self) -> bool:
        """Whether a response is under way whose end nobody but the application knows."""
        return self.state == BODY and (self.framing == BY_CHUNKS or self.framing == BY_CLOSE)

    # -- receive() --------------------------------------------------------------------------------------------------

    def receive(self) -> Any:
        """The application's `receive`: http.request until the body is complete, then http.disconnect."""
        # RFC 9110 section 10.1.1: 100 tells the client that the body is wanted, and now it is. Unless it has begun already.
        if self.expect_continue and self.wire is not None and self.state == START and not self.received:
            self.expect_continue = False
            self.wire.cork().write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wire.flush()
        self.receives += 1
        if self.receives % RECEIVES_PER_TURN == 0:
            return NEXT_MESSAGE_LATER(self)
        return NEXT_MESSAGE(self)

    def maybe_message(self) -> dict[str, Any] | None:
        """The next message, or None when the application has to wait."""
        received = self.received
        if received:
            content = received.popleft()
            more = len(received) > 0 or not self.body_complete
            if not more:
                self.body_delivered = True
            elif not received and self.wire is not None:
                self.wire.resume_reading()
                if self.received:
                    return {"type": "http.request", "body": content, "more_body": True}
                if self.body_complete:
                    more = False
                    self.body_delivered = True
            return {"type": "http.request", "body": content, "more_body": more}
        if self.body_complete and not self.body_delivered and self.state != COMPLETE:
            self.body_delivered = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.disconnected or self.state == COMPLETE or (self.leaving and self.body_delivered):
            self.told = self.state != COMPLETE
            return {"type": "http.disconnect"}
        return None

    def begin_wait(self) -> Waiter:
        waiter = super().begin_wait()
        if not self.body_complete and self.wire is not None:
            self.wire.resume_reading()
        return waiter

    # -- send() -----------------------------------------------------------------------------------------------------

    def send(self, message: Any) -> Any:
        """The application's `send`.

        Raises: ClientDisconnected (an OSError) when the client is gone; RuntimeError for a message out of order;
        TypeError, ValueError or KeyError for one that is malformed, naming what is wrong.
        """
        if not isinstance(message, dict):
            raise TypeError(f"An ASGI message must be a dict, not {type(message).__name__}")
        state = self.state
        if state == COMPLETE:
            return DONE
        given = message.get("type")
        kind = given if isinstance(given, str) else ""
        wire = self.wire
        # Also where the client has only closed its half of the connection: what the application was told must stay true.
        if wire is None or self.expelled or (self.told and self.half_closed):
            raise ClientDisconnected("The client has disconnected")
        if kind == "http.response.body":
            if state == BODY:
                return self._send_body(wire, message)
        elif kind == "http.response.start":
            if state == START:
                self._send_start(wire, message)
                return DONE
        elif kind == "http.response.pathsend":
            if state == BODY:
                return self._send_path(wire, message)
        elif kind == "http.response.trailers":
            if state == TRAILERS:
                self._send_trailers(wire, message)
                return DONE
        elif kind == "http.response.early_hint" and state <= BODY:
            self._send_early_hint(wire, message)
            return DONE
        raise RuntimeError(f"Expected the ASGI message {STATE_NAMES[state]}, but got {given!r}")

    def _send_start(self, wire: Wire, message: dict[str, Any]) -> None:
        status = message.get("status")
        if not isinstance(status, int):
            raise TypeError(f"http.response.start needs an integer status, not {status!r}")
        if not 200 <= status <= 999:
            raise ValueError(f"http.response.start cannot have the status {status}: a final response is 200 to 999")
        given = message.get("headers")
        headers: list[Any]
        if isinstance(given, list):
            headers = given
        elif given is None:
            headers = []
        else:
            headers = list(given)
        head_writer = self.service.head_writer
        writer = wire.cork()
        mark: i64 = len(writer)
        try:
            head_writer.write_start(writer, status, headers)
            # Most messages have nothing but type, status and headers; not asking saves a look-up.
            self._frame(head_writer, writer, status, len(message) > 3 and bool(message.get("trailers")))
        except BaseException:
            writer.truncate(mark)
            raise
        self.status = status
        self.state = BODY
        if self.is_stream() and self.method == "GET":
            self.is_events = announces_events(headers)
        if not self.service.in_turn:
            self.service.end_turn_soon()

    def _frame(self, head_writer: HeadWriter, writer: BytesWriter, status: int, trailers: bool) -> None:
        """Decide how the content is delimited and whether the connection persists, and end the head accordingly."""
        self.length = head_writer.content_length
        if head_writer.close or self.service.draining or (self.expect_continue and not self.body_complete):
            # The last: without a 100 the client may or may not send the body; nobody could tell what follows.
            self.persist = False
        if self.method == "HEAD" or status == 304 or status == 204:
            self.framing = NO_CONTENT
        elif status == 205:
            # RFC 9110 section 15.3.6: "a server MUST NOT generate content in a 205 response", and must say so.
            self.framing = NO_CONTENT
            writer.write(b"content-length: 0\r\n")
        elif self.length >= 0:
            self.framing = BY_LENGTH
        elif self.http11:
            self.framing = BY_CHUNKS
            if trailers:
                self.trailers = True
                self.trailers_wanted = takes_trailers(self.fields)
            writer.write(b"transfer-encoding: chunked\r\n")
        else:
            # RFC 9112 section 6.1: no Transfer-Encoding to a client that does not speak 1.1
            self.framing = BY_CLOSE
            self.persist = False
        if not self.persist:
            writer.write(b"connection: close\r\n\r\n")
        elif self.http11:
            writer.write(CRLF)
        else:
            writer.write(b"connection: keep-alive\r\n\r\n")

    def _send_body(self, wire: Wire, message: dict[str, Any]) -> Any:
        given = message.get("body", b"")
        content: bytes
        if isinstance(given, bytes):
            content = given
        elif isinstance(given, (bytearray, memoryview)):
            content = bytes(given)
        else:
            raise TypeError(f"http.response.body needs bytes, not {type(given).__name__}")
        more = bool(message.get("more_body"))
        size: i64 = len(content)
        framing = self.framing
        if framing == BY_LENGTH:
            if size > self.length:
                raise RuntimeError(
                    f"Response content is longer than its content-length, by {size - self.length} bytes or more"
                )
            if not more and size < self.length:
                raise RuntimeError(
                    f"Response content is shorter than its content-length, by {self.length - size} bytes"
                )
            self.length -= size
            if size > LARGE:
                wire.transmit_content(content, b"")
            elif size > 0:
                wire.cork().write(content)
        elif framing == BY_CHUNKS:
            last = not more and not self.trailers
            if size > 0:
                writer = wire.cork()
                writer.write(b"%x\r\n" % size)
                if size > LARGE:
                    wire.transmit_content(content, b"\r\n0\r\n\r\n" if last else CRLF)
                    last = False
                else:
                    writer.write(content)
                    writer.write(CRLF)
            if last:
                wire.cork().write(LAST_CHUNK)
        elif framing == BY_CLOSE:
            if size > LARGE:
                wire.transmit_content(content, b"")
            else:
                wire.cork().write(content)
        if not more:
            if self.trailers:
                wire.cork().write(b"0\r\n")
                self.state = TRAILERS
                wire.flush()
                return DONE
            self._complete(wire)
            return DONE
        self.sends += 1
        if size > 0:
            # At once, not at the end of the turn: the application may compute for long before it sends again.
            wire.flush()
        if wire.is_congested():
            return awaitables.drained(self)
        if self.sends % SENDS_PER_TURN == 0:
            return awaitables.yield_once()
        return DONE

    def _send_path(self, wire: Wire, message: dict[str, Any]) -> Any:
        path = message.get("path")
        if not isinstance(path, str):
            raise TypeError(f"http.response.pathsend needs a path as str, not {path!r}")
        if self.framing == NO_CONTENT:
            self._complete(wire)
            return DONE
        return self._transmit_path(wire, path)

    async def _transmit_path(self, wire: Wire, path: str) -> None:
        # Until the file is out, the state is BODY: an application that sends more meanwhile garbles only its own response.
        framing = self.framing
        if framing == BY_CHUNKS:
            # The size of a chunk must be known before it: take the file's, and say so.
            size: int = await wire.transmit_file(path, -1, True)
        else:
            size = await wire.transmit_file(path, self.length if framing == BY_LENGTH else -1, False)
        if self.wire is None:
            raise ClientDisconnected("The client disconnected while a file was being sent")
        if framing == BY_LENGTH:
            self.length -= size
            if self.length != 0:
                raise RuntimeError(f"The file {path} is not as long as the response's content-length says")
        elif framing == BY_CHUNKS:
            wire.cork().write(b"0\r\n" if size == 0 else b"\r\n0\r\n")
            if self.trailers:
                self.state = TRAILERS
                wire.flush()
                return
            wire.cork().write(CRLF)
        self._complete(wire)

    def _send_trailers(self, wire: Wire, message: dict[str, Any]) -> None:
        writer = wire.cork()
        mark: i64 = len(writer)
        try:
            self.service.head_writer.write_fields(writer, list(message.get("headers", ())))
        except BaseException:
            writer.truncate(mark)
            raise
        # ASGI, "HTTP Trailers": "The ASGI server will only send the trailing headers in case the client has sent the
        # TE: trailers header in the request." What it does not send it has checked.
        if not self.trailers_wanted:
            writer.truncate(mark)
        if message.get("more_trailers", False):
            wire.flush()
        else:
            writer.write(CRLF)
            self._complete(wire)

    def _send_early_hint(self, wire: Wire, message: dict[str, Any]) -> None:
        links = [(b"link", link) for link in message.get("links", ())]
        writer = wire.cork()
        mark: i64 = len(writer)
        try:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n")
            self.service.head_writer.write_fields(writer, links)
            writer.write(CRLF)
        except BaseException:
            writer.truncate(mark)
            raise
        # RFC 8297; RFC 9110 section 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client." ASGI, "Early Hints",
        # has them come after http.response.start, when ours has written the final head; but also: "The server may decide
        # to ignore this message".
        if not self.http11 or self.state != START:
            writer.truncate(mark)
        else:
            wire.flush()

    def _complete(self, wire: Wire) -> None:
        self._end()
        self._record_access(wire)
        wire.exchange_complete(self.persist)

    def _end(self) -> None:
        """Nothing more goes out; whoever still waits in receive() or send() goes on."""
        self.state = COMPLETE
        self.wire = None
        if self.waiters is not None:
            self.wake()
        if self.drain_waiters is not None:
            self.wake_drained()

    def _record_access(self, wire: Wire) -> None:
        access = self.service.access
        if access is not None and not self.is_denial:
            access.record(self.client, self.method, target_of(self.raw_path, self.query), self.http11, self.status)
            if not self.service.in_turn:
                self.service.end_turn_soon()

    # -- The end of the call, for awaitables.py -----------------------------------------------------------------------

    def is_complete(self) -> bool:
        return self.state == COMPLETE

    def app_raised(self) -> None:
        """The application raised: answer for it."""
        wire = self.wire
        if wire is not None and self.state != COMPLETE:
            self.fail(wire)
        self.finish()

    def app_returned(self) -> bool:
        """The application returned. If its response is incomplete, answer for it, and say whether that was a mistake: one
        that was told http.disconnect may return."""
        wire = self.wire
        failed = wire is not None and self.state != COMPLETE
        if wire is not None and failed:
            self.fail(wire)
        self.finish()
        return failed and not self.told

    def fail(self, wire: Wire) -> None:
        """An error if nothing was said yet; otherwise the client must see that the response is cut short."""
        if self.told and self.half_closed:
            if self.state != START:
                self._record_access(wire)
            self._end()
            wire.abort()
            return
        if self.state != START:
            self._end()
            self._record_access(wire)
            if (
                self.framing == NO_CONTENT
                or self.framing == BY_CLOSE
                or (self.framing == BY_LENGTH and self.length == 0)
            ):
                # What is there, or an orderly end, would look like a complete response.
                wire.abort()
            else:
                wire.flush()
                wire.exchange_complete(False)
            return
        self.persist = False
        # RFC 9110 section 15.6.5 speaks of gateways; nothing else tells "too late" from "wrong".
        content = b"Gateway Timeout" if self.overdue else b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(content))]
        writer = wire.cork()
        self.status = 504 if self.overdue else 500
        self.service.head_writer.write_start(writer, self.status, headers)
        self._frame(self.service.head_writer, writer, self.status, False)
        if self.framing != NO_CONTENT:
            writer.write(content)
        self._complete(wire)


def takes_trailers(fields: list[Field]) -> bool:
    """Whether the request's fields say TE: trailers (RFC 9110 section 10.1.4)."""
    return any(
        name == b"te" and b"trailers" in [coding.strip(b" \t").lower() for coding in value.split(b",")]
        for name, value in fields
    )


def announces_events(headers: list[Any]) -> bool:
    """Whether the content is text/event-stream, by header fields that were written already."""
    for pair in headers:
        if isinstance(pair, (tuple, list)) and bytes(pair[0]).lower() == b"content-type":
            return bytes(pair[1]).lower().startswith(b"text/event-stream")
    return False
