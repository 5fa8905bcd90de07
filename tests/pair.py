"""A connection with both ends in this process: the real Connection, poller and exchange, and a client that sees every byte.

    @on_every_stack
    async def test_something(stack: Stack) -> None:
        async with stack.pair(app) as pair:
            await pair.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
            response = await pair.response()

Rules of this room:
- Nothing of the server is replaced. Only what lies outside it is ours: the application, the client, and the clock: time
  passes when elapse() says so.
- A pair that is left must leave nothing behind: no connection, no call in flight, no corked byte, no logged mistake that
  the test did not ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import logging
import os
import resource
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from ladybug.access_log import PlainAccessLog
from ladybug.asgi.response import HeadWriter
from ladybug.asgi.scope import EXTENSIONS, SPEC_VERSION, scope_template
from ladybug.asgi.service import Service
from ladybug.connection import Connection
from ladybug.poller import NestedPoller, Poller, PortablePoller, SharedPoller
from ladybug.protocol.limits import Limits
from ladybug.serving_loop import ServingLoop
from ladybug.transport import CLOSED, Timeouts, Transport

Message = dict[str, Any]
App = Callable[..., Awaitable[None]]

# Seconds any test may take: only ever spent by a failure.
DEADLINE = 15.0
# In ticks; all different, so that a test can tell which of them ran, and far too long to come by themselves.
HEAD, BODY, KEEP_ALIVE, SEND, LINGER, FAREWELL = 400, 600, 800, 1000, 200, 80
TIMEOUTS = Timeouts(HEAD, BODY, KEEP_ALIVE, SEND, LINGER, FAREWELL)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
# More than the kernel takes at once from a connection made with little_room.
LARGE = 4 << 20


@dataclass(frozen=True)
class Stack:
    """An event loop and a poller on it."""

    loop: str
    poller: str

    def __str__(self) -> str:
        return f"{self.loop}-{self.poller}"

    def new_loop(self) -> asyncio.AbstractEventLoop:
        if self.loop == "uvloop":
            return uvloop.new_event_loop()
        return ServingLoop() if self.poller == "shared" else asyncio.SelectorEventLoop()

    def new_poller(self, service: Service) -> Poller:
        if self.poller == "portable":
            return PortablePoller(service)
        if self.poller == "shared":
            loop = asyncio.get_running_loop()
            assert isinstance(loop, ServingLoop)
            return SharedPoller(service, loop.serving_selector)
        return NestedPoller(service)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(DEADLINE):
                await main

        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(in_time())

    @contextlib.asynccontextmanager
    async def pair(self, app: App, **settings: Any) -> AsyncIterator[Pair]:
        """A connected pair; see Pair for the settings."""
        with captured_log() as log:
            pair = Pair(self, app, log, **settings)
            try:
                yield pair
                await pair.leave()
            finally:
                pair.close()


_PORTABLE = [Stack("asyncio", "portable"), Stack("uvloop", "portable")]
_EPOLL = [Stack("asyncio", "nested"), Stack("asyncio", "shared"), Stack("uvloop", "nested")]
STACKS = _PORTABLE + (_EPOLL if hasattr(select, "epoll") else [])

Test = Callable[..., Coroutine[Any, Any, None]]


def on_stacks(stacks: list[Stack]) -> Callable[[Test], Callable[..., None]]:
    """Makes an async test with a `stack` a test for each of `stacks`."""

    def decorate(test: Test) -> Callable[..., None]:
        @functools.wraps(test)
        def run(stack: Stack, **others: Any) -> None:
            stack.run(test(stack=stack, **others))

        parametrized: Callable[..., None] = pytest.mark.parametrize("stack", stacks, ids=str)(run)
        return parametrized

    return decorate


on_every_stack = on_stacks(STACKS)
# For what only depends on the layers above the poller.
on_one_stack = on_stacks(STACKS[-1:])


class Records(logging.Handler):
    """What "ladybug.error" is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def messages(self, level: int = logging.INFO) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno >= level]

    def take(self, level: int = logging.INFO) -> list[str]:
        """The messages so far, which were expected."""
        messages = self.messages(level)
        self.records.clear()
        return messages


@contextlib.contextmanager
def captured_log() -> Iterator[Records]:
    logger = logging.getLogger("ladybug.error")
    records = Records()
    before = logger.level, logger.propagate
    logger.addHandler(records)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(records)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[list[int]]:
    """Until the block ends, or somebody closes one of the descriptors it is given."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 10, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield taken
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@dataclass
class Response:
    """A response as read from the wire."""

    status: int
    version: bytes
    headers: list[tuple[bytes, bytes]]
    content: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunks: int = 0

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Truncated(Exception):
    """The connection ended in the middle of a response; .content is what there was of it."""

    def __init__(self, content: bytes, reset: bool) -> None:
        super().__init__(len(content), reset)
        self.content = content
        self.reset = reset


class Client:
    """The client's end of a connection, which sees every byte.

    Args:
        sock: connected, non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self.client = sock
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.client, data)

    def send_end(self) -> None:
        """Close the client's half."""
        self.client.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go away as a crashed client does."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    async def fill(self) -> bool:
        """Read once; False at the end."""
        piece = await self.loop.sock_recv(self.client, 65536)
        self.received += piece
        return bool(piece)

    async def until(self, mark: bytes) -> bytes:
        """All up to and including `mark`."""
        while mark not in self.received:
            await self._fill_or_fail()
        return self._take(self.received.index(mark) + len(mark))

    async def exactly(self, size: int) -> bytes:
        while len(self.received) < size:
            await self._fill_or_fail()
        return self._take(size)

    async def rest(self) -> bytes:
        """All until the server closes; ConnectionResetError if it does so with a reset."""
        while await self.fill():
            pass
        return self._take(len(self.received))

    async def response(self, method: str = "GET") -> Response:
        """The next response, read as RFC 9112 section 6.3 has it. Raises Truncated."""
        response = parse_response_head(await self.until(b"\r\n\r\n"))
        codings, lengths = response.values(b"transfer-encoding"), response.values(b"content-length")
        assert len(codings) + len(lengths) <= 1, response.headers
        if method == "HEAD" or response.status < 200 or response.status in (204, 304):
            return response
        if codings:
            assert codings == [b"chunked"]
            await self._chunked(response)
        elif lengths:
            response.content = await self.exactly(int(lengths[0]))
        else:
            try:
                response.content = await self.rest()
            except ConnectionResetError as error:
                raise Truncated(self.received, True) from error
        return response

    async def _chunked(self, response: Response) -> None:
        try:
            while size := int(await self.until(b"\r\n"), 16):
                response.chunks += 1
                response.content += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
        except Truncated as error:
            error.content = response.content + error.content
            raise
        while (line := await self.until(b"\r\n")) != b"\r\n":
            name, _, value = line[:-2].partition(b": ")
            response.trailers.append((name, value))

    async def _fill_or_fail(self) -> None:
        try:
            filled = await self.fill()
        except ConnectionResetError as error:
            raise Truncated(self.received, True) from error
        if not filled:
            raise Truncated(self.received, False)

    def _take(self, size: int) -> bytes:
        taken, self.received = self.received[:size], self.received[size:]
        return taken


class Pair(Client):
    """Both ends of one connection.

    Args:
        little_room: whether the kernel's buffers are as small as it allows, so that a few hundred KiB fill them.
        limits, timeouts: those of the service; the defaults, and TIMEOUTS.
    """

    def __init__(
        self,
        stack: Stack,
        app: App,
        log: Records,
        *,
        little_room: bool = False,
        limits: Limits | None = None,
        timeouts: Timeouts = TIMEOUTS,
        headers: HeadWriter | None = None,
    ) -> None:
        client, accepted = tcp_pair(little_room)
        super().__init__(client)
        self.log = log
        self.access = io.StringIO()
        self.service = new_service(app, limits, headers)
        self.service.access = PlainAccessLog(self.access, "INFO:", [str(status) for status in range(1000)])
        self.poller = stack.new_poller(self.service)
        self.timeouts = timeouts
        self.others: list[Client] = []
        self.connection = self.serve(accepted)

    def serve(self, accepted: socket.socket) -> Connection:
        connection = Connection(
            self.service,
            self.poller,
            self.timeouts,
            accepted,
            accepted.fileno(),
            accepted.getpeername(),
            accepted.getsockname(),
        )
        connection.begin()
        self.poller.deadlines.stop()  # time passes when elapse() says so
        return connection

    def other(self) -> Client:
        """The client of another connection to the same service."""
        client, accepted = tcp_pair()
        self.serve(accepted)
        self.others.append(Client(client))
        return self.others[-1]

    # -- Time and quiet -------------------------------------------------------------------------------------------------

    async def elapse(self, ticks: int) -> None:
        """Let so many ticks of the sweep pass, and what they cause happen."""
        deadlines = self.poller.deadlines
        for _ in range(ticks):
            if self.poller.count > 0:
                deadlines.sweep()
                deadlines.stop()
            await asyncio.sleep(0)
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that only waits for its turn of the loop."""
        for _ in range(10):
            await asyncio.sleep(0)
        # A loop that sleeps would be woken by the kernel: let it look once.
        await asyncio.sleep(0.001)
        for _ in range(5):
            await asyncio.sleep(0)

    async def until_true(self, condition: Callable[[], object]) -> None:
        """Wait for something inside the server that tells nobody."""
        while not condition():
            await self.settle()

    def access_lines(self) -> list[str]:
        self.service.end_turn()
        return self.access.getvalue().splitlines()

    @property
    def closed(self) -> bool:
        return self.connection.state == CLOSED

    # -- The end --------------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """The client goes; everything must be gone after it."""
        for client in (self, *self.others):
            client.client.close()
        await self.until_true(lambda: self.service.connections == 0 and self.service.in_flight == 0)
        await self.settle()
        service = self.service
        assert service.running == set()
        assert len(service.writer) == 0
        assert service.cork_owner is None
        assert all(source is None for source in self.poller.sources)
        assert self.poller.count == 0
        assert self.poller.deadlines.timer is None, "an idle worker must not tick"
        assert self.log.messages(logging.ERROR) == []

    def close(self) -> None:
        """Let go of everything, after a failure too."""
        for client in (self, *self.others):
            client.client.close()
        for exchange in list(self.service.running):
            exchange.cancel()
        for source in list(self.poller.sources):
            if isinstance(source, Transport):
                source.close()
        self.poller.close()


def new_service(app: App, limits: Limits | None = None, headers: HeadWriter | None = None) -> Service:
    """A Service as Server makes it from the default settings, on the running loop."""
    service = Service(app, asyncio.get_running_loop(), limits or Limits(), headers or HeadWriter([], True, True))
    service.scope_template = scope_template("")
    service.asgi = {"version": "3.0", "spec_version": SPEC_VERSION}
    service.extensions = {name: {} for name in EXTENSIONS}
    return service


def tcp_pair(little_room: bool = False) -> tuple[socket.socket, socket.socket]:
    """A connected client, and the server's end of it."""
    with socket.socket() as listener:
        client = socket.socket()
        if little_room:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        client.setblocking(False)
        accepted, _ = listener.accept()
        for end in (client, accepted):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setblocking(True)  # as the acceptor leaves it
        return client, accepted


def parse_response_head(raw: bytes) -> Response:
    """Strictly: what is not a head fails the test."""
    lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    version, status, *_ = lines[0].split(b" ", 2)
    assert version == b"HTTP/1.1" and len(status) == 3, lines[0]
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b": ")
        assert colon and name == name.strip() and not set(value) & {0, 10, 13}, line
        headers.append((name.lower(), value))
    return Response(int(status), version, headers)


# -- Applications ---------------------------------------------------------------------------------------------------------


class Call:
    """One call of a Puppet: what it was given, for the test to use."""

    def __init__(self, scope: Message, receive: Any, send: Any) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, status: int = 200, headers: Any = (), **others: Any) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers), **others})

    async def body(self, body: bytes = b"", more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, body: bytes = b"") -> None:
        """A whole response, and the end of the call."""
        await self.start(headers=[(b"content-length", b"%d" % len(body))])
        await self.body(body)
        self.returns()

    def returns(self) -> None:
        if not self.end.done():
            self.end.set_result(None)

    def raises(self, error: BaseException) -> None:
        self.end.set_exception(error)


class Puppet:
    """An application that leaves everything to the test: each call waits until the test has it return or raise."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        call = Call(scope, receive, send)
        self.calls.put_nowait(call)
        await call.end

    async def call(self) -> Call:
        return await self.calls.get()


async def hello(scope: Message, receive: Any, send: Any) -> None:
    """Answers with the path, and reads nothing."""
    content = scope["path"].encode()
    headers = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def echo(scope: Message, receive: Any, send: Any) -> None:
    """Answers with the request's content."""
    content = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        content += message["body"]
        if not message["more_body"]:
            break
    headers = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
