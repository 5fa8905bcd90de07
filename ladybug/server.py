"""One server in one event loop: application, lifespan, listeners, connections, and the graceful stop.

A worker process runs one; a program may run its own inside a loop that it owns (embedding). It takes no signal handlers.

The stop, in phases (each begins when the one before has nothing left to do, or its time is over):
1. responses say Connection: close, idle connections are closed; then what waits in the listeners' queues is taken, and
   the listeners are closed;
2. what runs may finish; WebSockets are closed with 1012; streams without a known end are told http.disconnect: those of an
   EventSource at once, the others when the time is nearly over. Not before: frameworks cancel a request that is told so, and a
   download would end as an error;
3. at timeout_graceful_shutdown, or when escalated, what still runs is cancelled;
4. lifespan shutdown, always, on a budget of its own.
"""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from ladybug import trace
from ladybug.accept import Acceptor
from ladybug.access_log import LoggingAccessLog, PlainAccessLog
from ladybug.asgi.exchange import Exchange
from ladybug.asgi.forwarded import Trust
from ladybug.asgi.lifespan import Lifespan
from ladybug.asgi.response import HeadWriter
from ladybug.asgi.scope import EXTENSIONS, SPEC_VERSION, scope_template
from ladybug.asgi.service import AccessRecorder, Service, WebSocketSettings
from ladybug.config import Config
from ladybug.deadlines import ticks
from ladybug.importer import ASGI2Adapter, load_app
from ladybug.link import LIFESPAN_SHUTDOWN
from ladybug.listeners import close_listeners, open_listeners, remove_path
from ladybug.log import access_wanted, level_prefix, plain_access, status_text
from ladybug.poller import Poller, make_poller
from ladybug.protocol.limits import Limits
from ladybug.serving_loop import ServingLoop, ServingSelector
from ladybug.transport import Timeouts, Transport

logger = logging.getLogger("ladybug.error")

# How long a refused client may go on sending before its connection is closed under it, in seconds.
LINGER = 5.0
# How long a connection that was busy a moment ago may take to send its next request to a server that stops, in seconds.
FAREWELL = 0.25
# How often is looked at what still runs, in seconds.
LOOK = 0.5
# Streams are asked to end so many seconds before the deadline, or when half of the time is over if it is short.
LAST_CALL = 5.0
# How long a stream that was asked to end may go on before its next send raises, in seconds: many send once a second, and
# ask before they do.
LEAVE_GRACE = 1.5
# How long applications get at the deadline, after being cancelled, in seconds.
CANCEL_GRACE = 1.0


class Started:
    """Whether the server accepts connections: `if server.started`, `await server.started`, `await server.started.wait()`.

    Waiting ends with the server as well: a server that could not start raises its error in serve(), not here.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._value = False

    def __bool__(self) -> bool:
        return self._value

    def __await__(self) -> Generator[Any, None, bool]:
        return self.wait().__await__()

    async def wait(self) -> bool:
        """Wait until the server accepts connections, or never will; returns which."""
        await self._event.wait()
        return self._value

    def set(self, value: bool) -> None:
        self._value = value
        self._event.set()


class Server:
    """An ASGI server for one application.

    Args:
        config: the settings. Anything else is a TypeError.
        app: the application, if it is loaded already; otherwise config.app is imported.

    Attributes:
        sockets: the listening sockets, while it serves.
        started: see Started.
        on_started: called once when it is about to take the first connection: nothing of the application's comes between.
        on_retire: called once when limit_max_requests is reached; None: the server stops by itself.
        on_closing, on_closed: called once in a graceful stop, before and after the listeners are closed here; adopt() is
            possible until then.
    """

    def __init__(self, config: Config, *, app: Any = None) -> None:
        if not isinstance(config, Config):
            raise TypeError(f"Server takes a Config, not {type(config).__name__}: Server(Config(app))")
        self.config = config
        self.sockets: list[socket.socket] = []
        self.started = Started()
        self.on_started: Callable[[], None] | None = None
        self.on_retire: Callable[[], None] | None = None
        self.on_closing: Callable[[], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self._app = app
        self._service: Service | None = None
        self._poller: Poller | None = None
        self._acceptors: list[Acceptor] = []
        self._is_leaving = False
        self._stop = asyncio.Event()
        self._escalate = asyncio.Event()
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # from when serve() has begun

    # -- What a program asks ------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._service.connections if self._service is not None else 0

    @property
    def in_flight(self) -> int:
        """Calls of the application that have not returned."""
        return self._service.in_flight if self._service is not None else 0

    @property
    def requests(self) -> int:
        """Requests taken since the server began."""
        return self._service.requests if self._service is not None else 0

    def leave(self) -> None:
        """Go on serving and accepting, but close each connection after one response: a stop is near."""
        self._is_leaving = True
        if self._service is not None:
            self._service.draining = True

    def shutdown(self) -> "ServerEnd":
        """Begin the graceful stop; may be called again without effect. Await the result to wait for its end.

        A server that does not serve yet will stop as soon as it does; there is no end to wait for. Another thread sets
        `should_exit`.
        """
        self._stop.set()
        return ServerEnd(self._wait_ended)

    def adopt(self, bind: int, fd: int) -> None:
        """Serve a connection that another process has accepted from a listener like sockets[bind]; owns `fd` from now on."""
        if bind < len(self._acceptors):
            self._acceptors[bind].adopt(fd)
        else:
            os.close(fd)

    def forget(self) -> None:
        """In a process that the application has forked: the connections are its parent's, who closes them when they end."""
        if self._poller is not None:
            for connection in self._open_connections():
                connection.socket.close()

    def escalate(self) -> None:
        """Cut a graceful stop short: cancel what runs. Lifespan shutdown still takes place."""
        self._stop.set()
        self._escalate.set()

    @property
    def should_exit(self) -> bool:
        """uvicorn's way to ask for and begin a graceful stop; from any thread."""
        return self._stop.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        loop = self._loop
        if value and (loop is None or asyncio._get_running_loop() is loop):
            self._stop.set()
        elif value and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop.set)

    # -- The life of a server -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Import the application, unless it is there already; serve() does it for whoever did not. Raises StartupError."""
        if self._app is None:
            self._app = load_app(self.config)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until shutdown() and all that it entails is over.

        Args:
            sockets: listening sockets to use; they are closed when the stop begins. None: open what config says.

        Raises StartupError when the application cannot be imported or started, or an address cannot be bound.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._serve(sockets)
        finally:
            if not self.started:
                self.started.set(False)
            self._ended.set()

    async def _wait_ended(self) -> None:
        """Wait until serve() is over; not at all where nobody has called it."""
        if self._loop is None:
            await asyncio.sleep(0)  # a task that was made for it before begins
        if self._loop is not None:
            await self._ended.wait()

    async def _serve(self, sockets: list[socket.socket] | None) -> None:
        self.load()
        app = self._app
        version = "2.0" if isinstance(app, ASGI2Adapter) else "3.0"
        if trace.is_wanted():
            app = trace.Traced(app)
        lifespan = Lifespan(app, self.config.lifespan, version)
        try:
            if not await self._start(lifespan):
                return
            own = open_listeners(self.config, 1) if sockets is None else None
            try:
                self._open(app, version, lifespan, own[0] if own is not None else sockets or [])
                await self._stop.wait()
                await self._drain()
            finally:
                self._close()
                if own is not None:
                    close_listeners(own)
                    remove_path(self.config)
        finally:
            await lifespan.shutdown(LIFESPAN_SHUTDOWN)

    async def _start(self, lifespan: Lifespan) -> bool:
        """Lifespan startup; False when the server was told to stop meanwhile."""
        startup = asyncio.ensure_future(lifespan.startup())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((startup, stop), return_when=asyncio.FIRST_COMPLETED)
            if not startup.done():
                # Told to stop while it starts: what it has begun gets its shutdown only if it can still finish.
                escalated = asyncio.ensure_future(self._escalate.wait())
                await asyncio.wait(
                    (startup, escalated),
                    timeout=self.config.timeout_graceful_shutdown,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                escalated.cancel()
        finally:
            stop.cancel()
        if not startup.done():
            startup.cancel()
            lifespan.abandon()
            return False
        startup.result()
        return not self._stop.is_set()

    def _open(self, app: Any, version: str, lifespan: Lifespan, listeners: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        config = self.config
        limits = Limits(
            config.limit_request_line,
            config.limit_request_fields,
            config.limit_request_fields_size,
            -1 if config.limit_request_body is None else config.limit_request_body,
        )
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in config.headers]
        service = Service(app, loop, limits, HeadWriter(headers, config.server_header, config.date_header))
        service.scope_template = scope_template(config.root_path)
        service.asgi = {"version": version, "spec_version": SPEC_VERSION}
        service.extensions = {name: {} for name in EXTENSIONS}
        service.state = lifespan.state
        service.root_path = config.root_path
        service.trust = Trust(config.forwarded_allow_ips) if config.proxy_headers else None
        service.limit_concurrency = config.limit_concurrency or 0
        if config.limit_max_requests:
            service.limit_requests = config.limit_max_requests + random.randint(0, config.limit_max_requests_jitter)
            service.on_request_limit = self._retire
        service.draining = self._is_leaving
        service.access = access_recorder() if config.access_log else None
        if config.ws != "none":
            service.websocket = WebSocketSettings(
                config.ws_max_size,
                config.ws_max_queue,
                ticks(config.ws_ping_interval),
                ticks(config.ws_ping_timeout),
                config.ws_per_message_deflate,
            )
        timeouts = Timeouts(
            ticks(config.timeout_request_head),
            ticks(config.timeout_request_body),
            ticks(config.timeout_keep_alive),
            ticks(config.timeout_send),
            ticks(LINGER),
            ticks(FAREWELL),
        )
        poller = make_poller(service, config.poller, free_selector(loop))
        self._service, self._poller, self.sockets = service, poller, list(listeners)
        for listener in listeners:
            listener.setblocking(False)
            acceptor = Acceptor(service, poller, timeouts, listener)
            self._acceptors.append(acceptor)
            acceptor.begin()
        self.started.set(True)
        if self.on_started is not None:
            self.on_started()

    def _retire(self) -> None:
        if self.on_retire is not None:
            self.on_retire()
        else:
            logger.info("limit_max_requests is reached: stopping.")
            self.shutdown()

    # -- The stop -----------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        service, poller = self._service, self._poller
        assert service is not None and poller is not None
        await self._in_turn(self._begin_drain)
        quiet = await self._settle(2 * FAREWELL)
        await self._in_turn(self._close_listeners)
        if self.on_closed is not None:
            self.on_closed()
        if quiet and await self._settle(2 * FAREWELL if service.connections else 0):
            return
        logger.info(
            "Waiting for what runs to finish (connections: %d, requests: %d).", service.connections, service.in_flight
        )
        if await self._finish():
            return
        running = self._running()
        if running:
            logger.error("Cancelling what did not finish in time (requests: %d).", len(running))
        for exchange in running:
            if not exchange.leaving and exchange.may_leave(True):
                exchange.leave()  # a stop that was cut short has not come to that yet
            exchange.cancel()
        self._escalate.clear()
        if not await self._settle(CANCEL_GRACE):
            for exchange in self._running():
                exchange.give_up()
            await self._settle(FAREWELL)
        for connection in self._open_connections():
            connection.abort()

    async def _in_turn(self, step: Callable[[], None]) -> None:
        """Take a step in which connections may be served: from the loop, because this is a task, and serving a connection
        goes on with the application's (Waiter.wake_now)."""
        assert self._service is not None
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def take() -> None:
            try:
                step()
            except BaseException as error:
                over.set_exception(error)
            else:
                over.set_result(None)

        loop.call_soon(take, context=self._service.context)
        await over

    def _begin_drain(self) -> None:
        service, poller = self._service, self._poller
        assert service is not None and poller is not None
        poller.drain()  # what has arrived by now was sent to a server that was not stopping
        service.draining = True
        for connection in self._open_connections():
            connection.drain()
        for acceptor in self._acceptors:
            acceptor.empty()

    async def _finish(self) -> bool:
        """Let what runs finish within timeout_graceful_shutdown, and end streams; whether all of it did."""
        clock = asyncio.get_running_loop().time
        begin = clock()
        end = begin + self.config.timeout_graceful_shutdown
        last_call = max(end - LAST_CALL, (begin + end) / 2)
        asked: dict[Exchange, float] = {}
        while not await self._settle(min(LOOK, end - clock())):
            now = clock()
            if now >= end or self._escalate.is_set():
                return False
            for exchange in self._running():
                if exchange.leaving:
                    if now - asked[exchange] >= LEAVE_GRACE:
                        exchange.expel()
                elif exchange.may_leave(now >= last_call):
                    if now >= last_call:
                        logger.warning(
                            "%s %s is told to end: the graceful timeout is nearly over", *exchange.request_line()
                        )
                    exchange.leave()
                    asked[exchange] = now
        return True

    async def _settle(self, seconds: float) -> bool:
        """Wait until nothing is under way, at most so long or until escalated; whether that is so."""
        service = self._service
        assert service is not None
        quiet = asyncio.Event()

        def look() -> None:
            if service.connections == 0 and service.in_flight == 0:
                quiet.set()

        service.on_quiet = look
        look()
        if not quiet.is_set() and seconds > 0:
            waits = [asyncio.ensure_future(quiet.wait()), asyncio.ensure_future(self._escalate.wait())]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        service.on_quiet = None
        return quiet.is_set()

    def _open_connections(self) -> list[Transport]:
        assert self._poller is not None
        return [source for source in self._poller.sources if isinstance(source, Transport)]

    def _running(self) -> list[Exchange]:
        """Exchanges whose application has not returned; their connections may have gone on without them."""
        assert self._service is not None
        return list(self._service.running)

    def _close_listeners(self) -> None:
        if self.on_closing is not None:
            self.on_closing()
        for acceptor in self._acceptors:
            acceptor.empty()
            acceptor.stop()
        self._acceptors = []
        for listener in self.sockets:
            listener.close()
        self.sockets = []

    def _close(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        self._acceptors = []
        if self._poller is not None:
            for connection in self._open_connections():
                connection.abort()
            self._poller.close()
        if self._service is not None:
            self._service.end_turn()


class ServerEnd:
    """Awaitable: the end of serve(), at once if that was never called. Not awaiting it is no mistake."""

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._wait().__await__()


def access_recorder() -> AccessRecorder | None:
    """How to write the access log, as the logger is set up now: after the application's import and startup."""
    access = logging.getLogger("ladybug.access")
    if not access_wanted(access):
        return None
    plain = plain_access(access)
    if plain is None or plain.use_colors:
        return LoggingAccessLog()
    prefix = level_prefix(logging.INFO, "INFO", False)
    return PlainAccessLog(plain.stream, prefix, [status_text(status, False) for status in range(1000)])


def free_selector(loop: asyncio.AbstractEventLoop) -> ServingSelector | None:
    """The loop's selector, if it can share its epoll and does not do so with another server already."""
    if isinstance(loop, ServingLoop) and loop.serving_selector.poller is None:
        return loop.serving_selector
    return None
