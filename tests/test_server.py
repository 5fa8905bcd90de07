"""Server in a loop of somebody else's: its start, its counters, and its stop in phases; lifespan shutdown always."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ladybug.config import Config
from ladybug.exceptions import StartupError
from ladybug.server import CANCEL_GRACE, LOOK, Server
from tests.pair import (
    GET,
    Client,
    Message,
    Puppet,
    Records,
    Stack,
    Truncated,
    captured_log,
    hello,
    on_every_stack,
    on_one_stack,
)

SHORT = 0.6  # seconds for a graceful stop that has to run out


class Life:
    """An application with a lifespan, around one without."""

    def __init__(self, http: Any) -> None:
        self.http = http
        self.events: list[str] = []
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.scopes.append(scope)
            await self.http(scope, receive, send)
            return
        while "shutdown" not in self.events:
            kind = (await receive())["type"]
            self.events.append(kind.removeprefix("lifespan."))
            scope["state"]["events"] = self.events
            await send({"type": f"{kind}.complete"})


class Serving:
    """A server, and its clients."""

    def __init__(self, server: Server, life: Life, log: Records) -> None:
        self.server = server
        self.life = life
        self.log = log
        self.clients: list[Client] = []

    def client(self) -> Client:
        sock = socket.create_connection(self.server.sockets[0].getsockname())
        sock.setblocking(False)
        self.clients.append(Client(sock))
        return self.clients[-1]

    async def request(self, raw: bytes = GET) -> Client:
        """A new connection's first request; its response is to be read."""
        client = self.client()
        await client.send(raw)
        return client

    async def stop(self) -> float:
        """Stop; how long it took."""
        begin = time.monotonic()
        await self.server.shutdown()
        return time.monotonic() - begin


def server_for(stack: Stack, app: Any, port: int = 0, **settings: Any) -> Server:
    return Server(Config(app, port=port, poller="portable" if stack.poller == "portable" else "epoll", **settings))


@contextlib.asynccontextmanager
async def serving(stack: Stack, http: Any, **settings: Any) -> AsyncIterator[Serving]:
    before = asyncio.all_tasks()
    life = Life(http)
    server = server_for(stack, life, **settings)
    with captured_log() as log:
        task = asyncio.ensure_future(server.serve())
        assert await server.started
        running = Serving(server, life, log)
        try:
            yield running
            server.shutdown()
            await task
        finally:
            task.cancel()
            for client in running.clients:
                client.client.close()
    assert life.events == ["startup", "shutdown"]
    assert asyncio.all_tasks() <= before, "nothing is left running"
    assert (server.connections, server.in_flight, server.sockets) == (0, 0, [])


@on_every_stack
async def test_it_serves_and_stops(stack: Stack) -> None:
    async with serving(stack, hello) as running:
        server = running.server
        assert (server.connections, server.in_flight, server.requests) == (0, 0, 0)
        address = server.sockets[0].getsockname()
        client = await running.request()
        assert (await client.response()).content == b"/"
        await client.send(GET * 2)
        await client.response()
        await client.response()
        assert (server.connections, server.in_flight, server.requests) == (1, 0, 3)
        assert running.life.events == ["startup"]
        assert running.life.scopes[0]["state"] == {"events": ["startup"]}
        client.client.close()
        await running.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        assert running.log.messages(logging.WARNING) == []


@on_every_stack
async def test_started_can_be_asked_and_awaited(stack: Stack) -> None:
    server = server_for(stack, Life(hello))
    assert not server.started
    task = asyncio.ensure_future(server.serve())
    assert await server.started.wait() is True
    assert await server.started is True
    assert server.started
    first, second = server.shutdown(), server.shutdown()
    await first
    await second
    await server.shutdown()
    assert task.done()
    await task


@on_every_stack
async def test_told_to_stop_before_it_serves(stack: Stack) -> None:
    life = Life(hello)
    server = server_for(stack, life)
    server.shutdown()
    await server.serve()
    assert life.events == ["startup", "shutdown"], "what was started is shut down"
    assert await server.started.wait() is False


@on_every_stack
async def test_the_end_of_a_server_that_never_served_is_not_waited_for(stack: Stack) -> None:
    life = Life(hello)
    server = server_for(stack, life)
    await asyncio.wait_for(server.shutdown(), 5)
    assert life.events == []
    await asyncio.wait_for(server.serve(), 5)
    assert life.events == ["startup", "shutdown"], "it was told before"


@on_one_stack
async def test_the_end_of_a_server_whose_task_has_not_begun_is_waited_for(stack: Stack) -> None:
    class Own(Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            await super().serve(sockets)

    for kind in (Server, Own):
        life = Life(hello)
        server = kind(Config(life, port=0))
        task = asyncio.ensure_future(server.serve())
        await asyncio.wait_for(server.shutdown(), 5)
        assert life.events == ["startup", "shutdown"]
        await task


@on_one_stack
async def test_a_server_that_is_cancelled_before_it_begins_can_be_shut_down(stack: Stack) -> None:
    life = Life(hello)
    server = server_for(stack, life)
    task = asyncio.ensure_future(server.serve())
    task.cancel()
    await asyncio.wait_for(server.shutdown(), 5)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert life.events == []


def test_a_server_without_a_config_is_a_mistake_at_once() -> None:
    with pytest.raises(TypeError, match=r"^Server takes a Config, not function: Server\(Config\(app\)\)$"):
        Server(hello)  # type: ignore[arg-type]  # and type checkers know


@on_every_stack
async def test_sockets_of_somebody_else(stack: Stack) -> None:
    server = server_for(stack, Life(hello))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.ensure_future(server.serve([listener]))
        await server.started
        assert server.sockets == [listener]
        with socket.create_connection(listener.getsockname()) as sock:
            sock.setblocking(False)
            client = Client(sock)
            await client.send(GET)
            assert (await client.response()).status == 200
        await server.shutdown()
        await task


@on_one_stack
async def test_two_servers_in_one_loop(stack: Stack) -> None:
    async with serving(stack, hello) as one, serving(stack, hello) as two:
        for running in (one, two, one, two):
            client = await running.request()
            assert (await client.response()).status == 200
            client.client.close()
        await one.stop()
        client = await two.request()
        assert (await client.response()).status == 200


# -- Starts that fail -----------------------------------------------------------------------------------------------------


@on_every_stack
async def test_a_lifespan_that_fails(stack: Stack) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ValueError("no database")

    with captured_log() as log:
        server = server_for(stack, app)
        with pytest.raises(StartupError, match="no database"):
            await server.serve()
        assert await server.started.wait() is False
        assert not server.started
        assert log.messages(logging.WARNING) == [], "the error says it all"


@on_every_stack
async def test_an_application_that_cannot_be_imported(stack: Stack) -> None:
    with pytest.raises(StartupError, match="no_such_module"):
        await server_for(stack, "no_such_module:app").serve()


@on_every_stack
async def test_a_port_in_use_is_told_and_the_lifespan_is_shut_down(stack: Stack) -> None:
    life = Life(hello)
    with socket.create_server(("127.0.0.1", 0)) as taken, captured_log():
        server = server_for(stack, life, taken.getsockname()[1])
        with pytest.raises(StartupError, match="in use"):
            await server.serve()
    assert life.events == ["startup", "shutdown"]


# -- The stop -------------------------------------------------------------------------------------------------------------


@on_one_stack
async def test_idle_and_silent_connections_do_not_hold_up_the_stop(stack: Stack) -> None:
    async with serving(stack, hello) as running:
        idle = await running.request()
        await idle.response()
        silent = running.client()
        assert await running.stop() < 2
        assert await idle.rest() == b""
        assert await silent.rest() == b""


@on_one_stack
async def test_a_server_that_will_leave_serves_on_and_closes_each_connection(stack: Stack) -> None:
    async with serving(stack, hello) as running:
        idle = await running.request()
        await idle.response()
        running.server.leave()
        await idle.send(GET)
        for client in (idle, await running.request()):
            response = await client.response()
            assert response.status == 200
            assert await client.rest() == b"", "it is closed"
        assert not running.server.should_exit


@on_one_stack
async def test_what_is_in_flight_is_finished(stack: Stack) -> None:
    puppet = Puppet()
    async with serving(stack, puppet) as running:
        client = await running.request()
        call = await puppet.call()
        stopping = asyncio.ensure_future(running.stop())
        await asyncio.sleep(0.7)  # the phase in which idle connections are let go has to pass
        assert not stopping.done()
        assert running.life.events == ["startup"], "the lifespan lasts as long as there are requests"
        assert (running.server.connections, running.server.in_flight) == (1, 1)
        await call.answer(b"x")
        response = await client.response()
        assert (response.content, response.values(b"connection")) == (b"x", [b"close"])
        await stopping
        assert running.log.messages(logging.WARNING) == []


@on_every_stack
async def test_who_waits_in_the_queue_is_answered(stack: Stack) -> None:
    """The listener is closed with the stop; its queue must not be lost with it."""
    async with serving(stack, hello) as running:
        clients = [await running.request() for _ in range(50)]
        running.server.shutdown()
        for client in clients:
            assert (await client.response()).status == 200


@on_one_stack
async def test_a_body_that_is_under_way_may_arrive(stack: Stack) -> None:
    puppet = Puppet()
    async with serving(stack, puppet) as running:
        client = await running.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        call = await puppet.call()
        assert (await call.receive())["body"] == b"ab"
        stopping = asyncio.ensure_future(running.stop())
        await asyncio.sleep(1.2)
        await client.send(b"cd")
        assert await call.receive() == {"type": "http.request", "body": b"cd", "more_body": False}
        await call.answer(b"x")
        assert (await client.response()).content == b"x"
        await stopping


@on_one_stack
async def test_a_stream_is_asked_to_end_when_its_time_is_nearly_over(stack: Stack) -> None:
    puppet = Puppet()
    async with serving(stack, puppet, timeout_graceful_shutdown=3) as running:
        client = await running.request()
        call = await puppet.call()
        await call.receive()
        await call.start()
        await call.body(b"x", True)
        stopping = asyncio.ensure_future(running.stop())
        assert await call.receive() == {"type": "http.disconnect"}
        await call.body(b"bye")
        call.returns()
        assert (await client.response()).content == b"xbye"
        assert 1.5 <= await stopping < 5
        assert running.log.messages(logging.WARNING) == ["GET / is told to end: the graceful timeout is nearly over"]


@on_one_stack
async def test_a_stream_that_pauses_is_left_to_finish(stack: Stack) -> None:
    puppet = Puppet()
    async with serving(stack, puppet, timeout_graceful_shutdown=600) as running:
        client = await running.request()
        call = await puppet.call()
        await call.receive()
        await call.start()
        await call.body(b"x", True)
        stopping = asyncio.ensure_future(running.stop())
        leaving = asyncio.ensure_future(call.receive())
        # Several looks at what still runs.
        assert await asyncio.wait([leaving], timeout=4 * LOOK) == (set(), {leaving})
        await call.body(b"y")
        call.returns()
        assert (await client.response()).content == b"xy"
        assert await stopping < 10
        assert running.log.messages(logging.WARNING) == []


@on_one_stack
async def test_an_event_source_is_asked_to_end_although_it_flows_and_a_download_is_not(stack: Stack) -> None:
    puppet = Puppet()
    events = b"Text/Event-Stream; charset=utf-8"
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    # Half of the time is more than this test has.
    async with serving(stack, puppet, timeout_graceful_shutdown=600) as running:
        clients, calls = [], []
        for request, kind in ((GET, events), (GET, b"text/csv"), (post, events)):
            clients.append(await running.request(request))
            call = await puppet.call()
            await call.receive()
            await call.start(headers=[(b"Content-Type", kind)])
            await call.body(b"x", True)
            calls.append(call)
        told, *never_told = [asyncio.ensure_future(call.receive()) for call in calls]
        stopping = asyncio.ensure_future(running.stop())
        while not told.done():
            for call in calls:
                await call.body(b"x", True)
            await asyncio.sleep(0.05)
        assert told.result() == {"type": "http.disconnect"}
        await calls[0].body(b"bye")
        calls[0].returns()
        assert (await clients[0].response()).content.endswith(b"xbye")
        for _ in range(20):
            for call in calls[1:]:
                await call.body(b"x", True)
            await asyncio.sleep(0.05)
        assert not any(task.done() for task in never_told)
        for call, client in zip(calls[1:], clients[1:], strict=True):
            await call.body(b"end")
            call.returns()
            assert (await client.response()).content.endswith(b"xend")
        await stopping
        assert running.log.messages(logging.WARNING) == []


async def until_called(server: Server) -> None:
    while not server.in_flight:  # noqa: ASYNC110 - the application tells nobody
        await asyncio.sleep(0)


async def streams(scope: Message, receive: Any, send: Any) -> None:
    """A stream that never asks whether anybody listens."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.01)


async def hangs(scope: Message, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("app", [streams, hangs], ids=lambda app: app.__name__)
@on_one_stack
async def test_what_does_not_end_is_ended(stack: Stack, app: Any) -> None:
    """Not sooner than it may take, not much later, and the client sees that it is no complete response."""
    async with serving(stack, app, timeout_graceful_shutdown=SHORT) as running:
        client = await running.request()
        await until_called(running.server)
        reading = asyncio.ensure_future(client.response())
        assert await running.stop() < SHORT + CANCEL_GRACE + 2
        if app is hangs:
            assert (await reading).status == 504
        else:
            with pytest.raises(Truncated):
                await reading


@on_one_stack
async def test_what_refuses_to_be_cancelled_is_left_behind(stack: Stack) -> None:
    tasks = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(tasks) > 1:
                    raise
                tasks.append(None)

    life = Life(app)
    server = server_for(stack, life, timeout_graceful_shutdown=SHORT)
    with captured_log():
        task = asyncio.ensure_future(server.serve())
        await server.started
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            sock.setblocking(False)
            client = Client(sock)
            await client.send(GET)
            await until_called(server)
            begin = time.monotonic()
            await server.shutdown()
            assert time.monotonic() - begin < SHORT + CANCEL_GRACE + 2
            assert life.events == ["startup", "shutdown"]
            assert (await client.response()).status == 504
        await task
        assert tasks[0] is not None
        tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]


@on_one_stack
async def test_escalating_cuts_the_stop_short(stack: Stack) -> None:
    async with serving(stack, hangs) as running:
        client = await running.request()
        await until_called(running.server)
        stopping = asyncio.ensure_future(running.stop())
        await asyncio.sleep(0)
        running.server.escalate()
        running.server.escalate()
        assert await stopping < 5
        assert (await client.response()).status == 504
        messages = running.log.messages(logging.WARNING)
        assert any(message.startswith("Cancelling what did not finish in time (requests: 1)") for message in messages)


@on_every_stack
async def test_escalating_at_once_stops_too(stack: Stack) -> None:
    async with serving(stack, hello) as running:
        running.server.escalate()
        await running.server.shutdown()


@on_every_stack
async def test_a_lifespan_shutdown_that_hangs_is_given_up(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladybug.server.LIFESPAN_SHUTDOWN", 0.1)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.Event().wait()

    with captured_log() as log:
        server = server_for(stack, app)
        task = asyncio.ensure_future(server.serve())
        await server.started
        await asyncio.wait_for(server.shutdown(), 5)
        await task
        assert log.messages(logging.ERROR) == ["Application shutdown did not finish within 0.1 s: going on without it."]


@on_every_stack
async def test_serve_may_be_cancelled(stack: Stack) -> None:
    """As asyncio.run() does on Ctrl-C: everything ends, and the lifespan in order."""
    puppet = Puppet()
    life = Life(puppet)
    server = server_for(stack, life)
    with captured_log():
        task = asyncio.ensure_future(server.serve())
        await server.started
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            sock.setblocking(False)
            client = Client(sock)
            await client.send(GET)
            call = await puppet.call()
            await call.receive()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await call.receive() == {"type": "http.disconnect"}
            call.returns()
            with pytest.raises(ConnectionResetError):
                await client.rest()
        await asyncio.sleep(0)
    assert life.events == ["startup", "shutdown"]
    assert server.connections == 0


# -- The limit of requests ------------------------------------------------------------------------------------------------


@on_every_stack
async def test_the_request_limit_stops_the_server(stack: Stack) -> None:
    async with serving(stack, hello, limit_max_requests=3) as running:
        client = await running.request()
        await client.response()
        await client.send(GET * 2)
        await client.response()
        assert not running.server.should_exit or running.server.requests >= 3
        await asyncio.wait_for(running.server.shutdown(), 5)
        assert running.server.should_exit


@on_one_stack
async def test_a_request_limit_of_0_is_none(stack: Stack) -> None:
    async with serving(stack, hello, limit_max_requests=0, limit_max_requests_jitter=1) as running:
        client = await running.request(GET * 4)
        for _ in range(4):
            assert (await client.response()).status == 200
        assert not running.server.should_exit


@on_one_stack
async def test_the_request_limit_is_told_to_who_wants_to_know(stack: Stack) -> None:
    told = []
    async with serving(stack, hello, limit_max_requests=2) as running:
        running.server.on_retire = lambda: told.append(running.server.requests)
        client = await running.request(GET * 4)
        for _ in range(4):
            assert (await client.response()).status == 200
        assert told == [2]
        assert not running.server.should_exit


@on_one_stack
async def test_should_exit_is_uvicorns_way_to_ask(stack: Stack) -> None:
    async with serving(stack, hello) as running:
        assert running.server.should_exit is False
        running.server.should_exit = False
        assert running.server.should_exit is False
        running.server.should_exit = True
        assert running.server.should_exit is True


@on_every_stack
async def test_another_thread_may_ask_too(stack: Stack) -> None:
    server = server_for(stack, Life(hello))
    task = asyncio.ensure_future(server.serve())
    await server.started
    threading.Thread(target=setattr, args=(server, "should_exit", True)).start()
    await asyncio.wait_for(task, 5)
    assert server.should_exit
    server.should_exit = True
