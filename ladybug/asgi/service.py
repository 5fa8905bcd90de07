"""What all connections of one worker share, and what an exchange may ask of the connection beneath it.

Service is the native side of the settings: plain fields the hot path reads, and counters it writes (the scoreboard copies
them; nothing here is locked or shared between processes). Wire is the floor below as seen from here.
"""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr

from ladybug.asgi.response import HeadWriter
from ladybug.asgi.waiter import past_event
from ladybug.protocol.deflate import Agreement
from ladybug.protocol.http1 import HeadParser
from ladybug.protocol.limits import Limits


@mypyc_attr(native_class=True)
class AccessRecorder:
    """The access log, as exchanges see it."""

    def record(self, client: Any, method: str, target: bytes, http11: bool, status: int) -> None:
        """Remember one response; `client` is the scope's."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what is remembered."""
        raise NotImplementedError


@mypyc_attr(native_class=True)
@final
class WebSocketSettings:
    """What is agreed to with WebSocket clients.

    Attributes:
        max_size: bytes of a message, decompressed; 0: no limit.
        max_queue: messages received ahead of the application.
        ping_interval, ping_timeout: in ticks; 0: none.
        deflate: whether permessage-deflate is accepted when a client offers it.
    """

    def __init__(self, max_size: i64, max_queue: i64, ping_interval: i64, ping_timeout: i64, deflate: bool) -> None:
        self.max_size: Final[i64] = max_size
        self.max_queue: Final[i64] = max_queue
        self.ping_interval: Final[i64] = ping_interval
        self.ping_timeout: Final[i64] = ping_timeout
        self.deflate: Final = deflate


@mypyc_attr(native_class=True)
class Service:
    """One application, served by one worker.

    The cork: bytes written in one turn leave in one send. There is one writer, it belongs to one wire at a time, and
    whoever takes it over sends the owner's bytes first.
    """

    def __init__(self, app: Any, loop: Any, limits: Limits, head_writer: HeadWriter) -> None:
        self.app: Final = app
        self.loop: Final = loop
        self.limits: Final = limits
        self.parser: Final = HeadParser(limits)
        self.head_writer: Final = head_writer
        self.context: Final = copy_context()  # in which requests begin
        self.past: Final = past_event(loop)
        self.scope_template: dict[str, Any] = {}
        self.server: Any = None  # the address that stands in the template
        self.asgi: dict[str, str] = {}
        self.extensions: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None
        self.root_path = ""
        self.websocket: WebSocketSettings | None = None  # None: a handshake is a request like any other
        self.trust: Any = None  # a forwarded.Trust, or None: X-Forwarded-* fields are left alone
        self.limit_concurrency: i64 = 0  # 0: none
        self.limit_requests: i64 = 0  # 0: none
        self.draining = False  # responses say Connection: close
        # Counters, since the worker began or as of now.
        self.accepted: i64 = 0
        self.requests: i64 = 0
        self.connections: i64 = 0
        self.in_flight: i64 = 0
        # Exchanges whose application is suspended, so that they can be told to stop and are not lost to the collector.
        self.running: set[Any] = set()
        self.writer: Final = BytesWriter()
        self.cork_owner: Wire | None = None
        self.in_turn = False  # inside the poller's drain, which ends with end_turn()
        self.turn_end_scheduled = False
        self.sends_in_a_row: i64 = 0  # by applications on WebSockets, since the loop came round
        self.access: AccessRecorder | None = None
        self.on_request_limit: Callable[[], None] | None = None  # called once, with request number limit_requests
        self.on_quiet: Callable[[], None] | None = None  # called when a connection or the last call may have ended

    def end_turn_soon(self) -> None:
        """Call end_turn() when the loop comes round: for bytes and log lines written outside the poller's drain."""
        if not self.turn_end_scheduled:
            self.turn_end_scheduled = True
            self.loop.call_soon(self.end_turn)

    def end_turn(self) -> None:
        """Send what is corked, write what is logged."""
        self.turn_end_scheduled = False
        self.sends_in_a_row = 0
        if self.cork_owner is not None:
            self.cork_owner.flush()
        if self.access is not None:
            self.access.flush()


@mypyc_attr(native_class=True)
class Wire:
    """The connection, as its exchange sees it."""

    def __init__(self, service: Service) -> None:
        self.service: Final = service

    def cork(self) -> BytesWriter:
        """The writer, now this wire's: append to it, then flush(), or leave it to the end of the turn."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what is corked."""
        raise NotImplementedError

    def transmit_content(self, content: bytes, end: bytes) -> None:
        """Send what is corked, then a large piece of content and `end`, without copying it into the writer."""
        raise NotImplementedError

    def transmit_file(self, path: str, length: i64, chunked: bool) -> Any:
        """A coroutine that sends what is corked and the file; it returns how many bytes of the file were sent.

        At most `length` bytes (-1: all there are), as one chunk if `chunked`.
        """
        raise NotImplementedError

    def is_congested(self) -> bool:
        """Whether the client has so much unread that the application should wait."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """The application has taken body that was waiting: read on."""
        raise NotImplementedError

    def exchange_complete(self, persist: bool) -> None:
        """The response is complete: go on with the next request, or close when `persist` is False."""
        raise NotImplementedError

    def begin_frames(self, deflate: Agreement | None) -> None:
        """The WebSocket handshake is accepted: from now on both sides send frames."""
        raise NotImplementedError

    def begin_close(self) -> None:
        """Our close frame is written: the client has so long to answer with its own."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close so that the client sees an error, not an end."""
        raise NotImplementedError
