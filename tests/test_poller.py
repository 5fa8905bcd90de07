"""Pollers: every readiness is told to the right connection, in batches, on any loop, and at no cost when nothing happens."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ladybug.connection import Connection
from ladybug.poller import NestedPoller, PortablePoller, SharedPoller, make_poller
from ladybug.serving_loop import ServingLoop
from tests.pair import (
    GET,
    STACKS,
    Client,
    Message,
    Puppet,
    Stack,
    echo,
    hello,
    new_service,
    on_every_stack,
    on_stacks,
    tcp_pair,
)

EPOLL_STACKS = [stack for stack in STACKS if stack.poller != "portable"]
SHARED = [stack for stack in STACKS if stack.poller == "shared"]


@on_every_stack
async def test_a_batch_is_served_whole(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        clients = [pair.other() for _ in range(300)]  # more than one batch holds
        for number, client in enumerate(clients):
            client.client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        for number, client in enumerate(clients):
            assert (await client.response()).content == b"/%d" % number


@pytest.mark.skipif(sys.version_info < (3, 12), reason="without eager tasks the loop begins them, after the turn")
@pytest.mark.parametrize(("size", "expected"), [(10, 10), (50_000, 3)], ids=["small", "large"])
@on_stacks(EPOLL_STACKS)
async def test_what_was_read_is_run_before_too_much_more_is_read(stack: Stack, size: int, expected: int) -> None:
    """Ten requests in one batch: how many of them had been read when the first was begun."""
    begun: list[int] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        begun.append(pair.service.requests)
        await echo(scope, receive, send)

    async with stack.pair(app) as pair:
        clients = [pair.other() for _ in range(10)]
        await pair.settle()
        for client in clients:
            client.client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        for client in clients:
            assert len((await client.response()).content) == size
    assert begun[0] == expected


class Uncopyable(dict[str, Any]):
    """Makes begin_exchange() raise; nothing inside the server does of itself."""

    def copy(self) -> dict[str, Any]:
        raise RuntimeError("no copy")


@on_every_stack
async def test_a_mistake_in_one_costs_the_others_nothing(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        others = [pair.other() for _ in range(5)]
        calls = []
        for other in others:
            await other.send(GET)
            calls.append(await puppet.call())
        pair.service.state = Uncopyable()
        await pair.send(GET)
        with pytest.raises(ConnectionResetError):
            await pair.rest()
        for call, other in zip(calls, others, strict=True):
            await call.answer(b"x")
            assert (await other.response()).content == b"x"
        assert pair.log.take() == ["Internal error; the connection is closed"]


@on_stacks(EPOLL_STACKS)
async def test_a_descriptor_that_somebody_else_holds_tells_nobody_of_its_events(stack: Stack) -> None:
    """A child that the application forked holds our connections too: closing ours does not end them for the kernel."""
    async with stack.pair(hello) as pair:
        old = pair.other()
        number = max(number for number, source in enumerate(pair.poller.sources) if source is not None)
        source = pair.poller.sources[number]
        assert isinstance(source, Connection)
        held = os.dup(number)
        try:
            source.close()
            sock, accepted = tcp_pair()
            with accepted:
                os.dup2(accepted.fileno(), number)
            pair.serve(socket.socket(fileno=number))
            new = Client(sock)
            pair.others.append(new)
            await pair.settle()
            old.reset()
            await pair.settle()
            await new.send(GET)
            assert (await new.response()).status == 200, "an innocent connection was closed"
        finally:
            os.close(held)


@on_every_stack
async def test_an_idle_connection_costs_nothing(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        for client in (pair, *(pair.other() for _ in range(10))):
            await client.send(GET)
            await client.response()
        before = time.process_time()
        await asyncio.sleep(0.5)  # nothing may happen: there is no event to wait for
        assert time.process_time() - before < 0.1


@on_every_stack
async def test_a_busy_connection_and_the_applications_own_business(stack: Stack) -> None:
    """The loop's own files, timers and threads go on while the poller has work."""
    async with stack.pair(hello) as pair:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            begin = pair.loop.time()
            timer = asyncio.ensure_future(asyncio.sleep(0.05))
            thread = asyncio.ensure_future(asyncio.to_thread(time.sleep, 0.05))
            for number in range(50):
                await pair.send(GET)
                await pair.loop.sock_sendall(ours, b"%02d" % number)
                assert await pair.loop.sock_recv(theirs, 100) == b"%02d" % number
                assert (await pair.response()).status == 200
            await asyncio.gather(timer, thread)
            assert 0.049 <= pair.loop.time() - begin < 5


@on_every_stack
async def test_applications_of_a_batch_see_the_same_loop(stack: Stack) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is loop
        await hello(scope, receive, send)

    loop = asyncio.get_running_loop()
    async with stack.pair(app) as pair:
        for _ in range(3):
            await pair.send(GET * 3)
            for _ in range(3):
                assert (await pair.response()).status == 200


@on_every_stack
async def test_a_closed_poller_is_forgotten_by_the_loop(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        pair.client.close()
        pair.connection.close()
        pair.poller.close()
        pair.poller.close()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            ours.send(b"x")
            assert await pair.loop.sock_recv(theirs, 100) == b"x"


@on_stacks(SHARED)
async def test_a_shared_poller_leaves_the_loop_as_it_was(stack: Stack) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ServingLoop)
    async with stack.pair(hello) as pair:
        await pair.send(GET)
        await pair.response()
        waiters: list[object] = [loop.serving_selector.poller]
    waiters.append(loop.serving_selector.poller)
    assert waiters == [pair.poller, None]
    # Processes are waited for through the loop's own files and threads.
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


@on_stacks(SHARED)
async def test_timers_of_a_shared_loop_are_neither_early_nor_spun_for(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        before = time.process_time()
        begin = pair.loop.time()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert pair.loop.time() - begin >= 0.2
        assert time.process_time() - before < 0.1


def test_which_poller_is_made() -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        service = new_service(hello)
        for kind, expected in (("portable", PortablePoller), ("epoll", NestedPoller), ("auto", NestedPoller)):
            poller = make_poller(service, kind, None)
            assert type(poller) is expected
            poller.close()
        if isinstance(loop, ServingLoop):
            poller = make_poller(service, "auto", loop.serving_selector)
            assert type(poller) is SharedPoller
            poller.close()

    if hasattr(select, "epoll"):
        with asyncio.Runner(loop_factory=ServingLoop) as runner:
            runner.run(main(runner.get_loop()))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@on_every_stack
async def test_clients_that_come_and_go_leave_nothing(stack: Stack) -> None:
    async with stack.pair(hello) as pair:
        before = descriptors()
        highest = len(pair.poller.sources)
        for number in range(200):
            client = Client(pair.other().client)
            if number % 2:
                await client.send(GET)
            if number % 4 == 1:
                await client.response()
            if number % 3:
                client.reset()
            else:
                client.client.close()
        await pair.until_true(lambda: pair.service.connections == 1)
        assert descriptors() == before
        assert len(pair.poller.sources) < highest + 100
