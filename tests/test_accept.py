"""Accepting: what waits in the queue, what a connection knows of its ends, and a process that is out of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ladybug.accept import MOST_PER_TURN, PAUSE, Acceptor, known_address
from ladybug.asgi.service import Service
from ladybug.connection import Connection
from tests.pair import (
    FAREWELL,
    GET,
    TIMEOUTS,
    Client,
    Message,
    Records,
    Stack,
    captured_log,
    hello,
    new_service,
    no_descriptors_left,
    on_every_stack,
)


class Door:
    """A listener with a real acceptor behind it."""

    def __init__(self, stack: Stack, listener: socket.socket, log: Records) -> None:
        self.scopes: list[Message] = []
        self.log = log
        self.listener = listener
        self.service: Service = new_service(self.app)
        self.poller = stack.new_poller(self.service)
        listener.setblocking(False)
        self.acceptor = Acceptor(self.service, self.poller, TIMEOUTS, listener)
        self.clients: list[Client] = []

    async def app(self, scope: Message, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await hello(scope, receive, send)

    def client(self, address: Any = None) -> Client:
        """A client that is connected, whether or not it was accepted already."""
        sock = socket.socket(self.listener.family)
        sock.connect(address or self.listener.getsockname())
        sock.setblocking(False)
        self.clients.append(Client(sock))
        return self.clients[-1]

    def connections(self) -> list[Connection]:
        return [source for source in self.poller.sources if isinstance(source, Connection)]

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def until_accepted(self, number: int) -> None:
        while self.service.accepted < number:
            await self.settle()


@contextlib.asynccontextmanager
async def door(stack: Stack, listener: socket.socket | None = None) -> AsyncIterator[Door]:
    if listener is None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    with captured_log() as log, listener:
        opened = Door(stack, listener, log)
        try:
            yield opened
        finally:
            opened.acceptor.stop()
            for client in opened.clients:
                client.client.close()
            for connection in opened.connections():
                connection.close()
            opened.poller.close()
        assert opened.service.connections == 0


@on_every_stack
async def test_a_request_that_is_there_already_is_answered(stack: Stack) -> None:
    """Nothing else happens after the accept that could set it going."""
    async with door(stack) as opened:
        client = opened.client()
        await client.send(GET)
        opened.acceptor.begin()
        assert (await client.response()).content == b"/"


@on_every_stack
async def test_a_request_that_comes_later_is_answered(stack: Stack) -> None:
    async with door(stack) as opened:
        opened.acceptor.begin()
        client = opened.client()
        await opened.until_accepted(1)
        await client.send(GET)
        assert (await client.response()).content == b"/"


@on_every_stack
async def test_a_long_queue_is_worked_off(stack: Stack) -> None:
    count = 3 * MOST_PER_TURN + 7
    async with door(stack) as opened:
        clients = [opened.client() for _ in range(count)]
        for client in clients:
            await client.send(GET)
        opened.acceptor.begin()
        for client in clients:
            assert (await client.response()).status == 200
        assert opened.service.connections == count
        assert opened.acceptor.burst <= MOST_PER_TURN


@on_every_stack
async def test_a_number_used_again_belongs_to_the_new_connection(stack: Stack) -> None:
    """The old one ends and the new one comes in the same turn: the kernel gives it the same descriptor."""
    async with door(stack) as opened:
        opened.acceptor.begin()
        old = opened.client()
        await opened.until_accepted(1)
        for number in range(30):
            if number % 2:
                old.reset()
            else:
                old.client.close()
            new = opened.client()
            await new.send(GET)
            assert (await new.response()).status == 200
            assert len(opened.connections()) == 1
            old = new


@on_every_stack
async def test_those_who_are_served_are_not_held_up_by_those_who_come(stack: Stack) -> None:
    """A turn takes a bounded number of connections, and of new ones only after the old ones were served."""
    async with door(stack) as opened:
        opened.acceptor.begin()
        old = opened.client()
        await opened.until_accepted(1)
        for _ in range(200):
            opened.client()
        await old.send(GET)
        await old.response()
        assert opened.service.accepted < 200


@on_every_stack
async def test_what_a_connection_knows_of_its_ends(stack: Stack) -> None:
    async with door(stack) as opened:
        opened.acceptor.begin()
        client = opened.client()
        await client.send(GET)
        await client.response()
        (scope,) = opened.scopes
        assert scope["client"] == client.client.getsockname()
        assert scope["server"] == opened.listener.getsockname()
        (connection,) = opened.connections()
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@on_every_stack
async def test_the_address_behind_a_wildcard(stack: Stack) -> None:
    listener = socket.create_server(("0.0.0.0", 0))
    async with door(stack, listener) as opened:
        opened.acceptor.begin()
        for host in ("127.0.0.1", "127.0.0.2"):
            client = opened.client((host, listener.getsockname()[1]))
            await client.send(GET)
            await client.response()
            assert opened.scopes[-1]["server"] == (host, listener.getsockname()[1])


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@on_every_stack
async def test_a_dual_stack_listener(stack: Stack) -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    async with door(stack, listener) as opened:
        opened.acceptor.begin()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            client = Client(sock)
            await client.send(GET)
            await client.response()
            assert opened.scopes[-1]["client"] == sock.getsockname()
            assert opened.scopes[-1]["server"] == ("127.0.0.1", port)
        client = opened.client(("::1", port))
        await client.send(GET)
        await client.response()
        assert opened.scopes[-1]["client"] == client.client.getsockname()[:2]
        assert opened.scopes[-1]["server"] == ("::1", port)


@on_every_stack
async def test_a_unix_socket(stack: Stack, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    async with door(stack, listener) as opened:
        opened.acceptor.begin()
        client = opened.client()
        await client.send(GET)
        await client.response()
        assert (opened.scopes[-1]["client"], opened.scopes[-1]["server"]) == (None, (str(tmp_path / "s"), None))


def test_which_addresses_are_known_beforehand(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert known_address(tcp) == tcp.getsockname()
    with socket.create_server(("0.0.0.0", 0)) as wildcard:
        assert known_address(wildcard) is None
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        assert known_address(unix) == (str(tmp_path / "s"), None)
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(b"\0ladybug-test-%d" % os.getpid())
        assert known_address(abstract) == (f"\0ladybug-test-{os.getpid()}", None)


# -- The stop -------------------------------------------------------------------------------------------------------------


@on_every_stack
async def test_after_the_stop_connections_stay_in_the_queue(stack: Stack) -> None:
    async with door(stack) as opened:
        opened.acceptor.begin()
        opened.acceptor.stop()
        opened.acceptor.stop()
        client = opened.client()
        await client.send(GET)
        await opened.settle()
        assert opened.service.accepted == 0
        opened.acceptor.begin()
        assert (await client.response()).status == 200


@on_every_stack
async def test_a_queue_can_be_emptied_at_once(stack: Stack) -> None:
    async with door(stack) as opened:
        opened.acceptor.begin()
        clients = [opened.client() for _ in range(2 * MOST_PER_TURN + 3)]
        for client in clients:
            await client.send(GET)
        opened.service.draining = True
        opened.acceptor.empty()
        assert opened.service.accepted == len(clients)
        opened.acceptor.stop()
        for client in clients:
            assert (await client.response()).values(b"connection") == [b"close"]


@on_every_stack
async def test_who_comes_during_the_stop_and_says_nothing_is_let_go_soon(stack: Stack) -> None:
    async with door(stack) as opened:
        opened.service.draining = True
        opened.acceptor.begin()
        client = opened.client()
        await opened.until_accepted(1)
        for _ in range(FAREWELL + 1):
            opened.poller.deadlines.stop()
            opened.poller.deadlines.sweep()
        assert await client.rest() == b""


# -- Out of descriptors ---------------------------------------------------------------------------------------------------


@on_every_stack
async def test_out_of_descriptors_is_a_pause(stack: Stack) -> None:
    async with door(stack) as opened:
        served = opened.client()
        opened.acceptor.begin()
        await opened.until_accepted(1)
        waiting = opened.client()
        await waiting.send(GET)
        with no_descriptors_left() as taken:
            while opened.acceptor.accepting:
                await opened.settle()
            (message,) = opened.log.take()
            assert message.startswith("Cannot accept connections for now (Too many open files)")
            before = time.process_time()
            await served.send(GET)
            assert (await served.response()).status == 200, "who is there is served"
            # One resume finds it no better; there is no event to wait for while nothing happens.
            await asyncio.sleep(PAUSE * 1.2)
            assert len(opened.log.take()) == 1
            assert time.process_time() - before < PAUSE / 2, "and nobody asks all the time"
            os.close(taken.pop())
            assert (await waiting.response()).status == 200


@on_every_stack
async def test_a_stop_during_the_pause_is_for_good(stack: Stack) -> None:
    async with door(stack) as opened:
        opened.acceptor.begin()
        opened.client()
        with no_descriptors_left():
            while opened.acceptor.accepting:
                await opened.settle()
            opened.acceptor.stop()
        assert opened.acceptor.resume_timer is None
        await asyncio.sleep(PAUSE * 1.2)  # nothing may happen: there is no event to wait for
        assert opened.service.accepted == 0


@on_every_stack
async def test_a_connection_that_somebody_else_accepted_is_served_as_our_own(stack: Stack) -> None:
    async with door(stack) as opened:
        client = opened.client()
        opened.listener.setblocking(True)
        accepted, _ = opened.listener.accept()
        await client.send(GET)
        opened.acceptor.adopt(accepted.detach())
        assert (await client.response()).content == b"/"
        (scope,) = opened.scopes
        assert scope["client"] == client.client.getsockname()
        assert scope["server"] == client.client.getpeername()
        assert opened.service.accepted == opened.service.connections == 1


@on_every_stack
async def test_a_connection_whose_client_has_gone_is_not_adopted(stack: Stack) -> None:
    async with door(stack) as opened:
        client = opened.client()
        opened.listener.setblocking(True)
        accepted, _ = opened.listener.accept()
        client.reset()
        while True:  # until the reset has come
            try:
                accepted.getpeername()
            except OSError:
                break
            await opened.settle()
        fd = accepted.detach()
        opened.acceptor.adopt(fd)
        assert opened.service.connections == 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
