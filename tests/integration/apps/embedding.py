"""Programs that run the server inside their own event loop; started as `embedding.py <name>`, they print what they found.

Each checks from the inside what only the embedding program can see, and fails with an exception. The last line printed is
the program's result.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

# Behind what is installed: it is the installed server that is tested.
sys.path.append(str(Path(__file__).resolve().parents[3]))

import ladybug
from tests.integration.apps.kit import Message, Receive, Scope, Send, lifespan, read_body, respond

Program = Callable[[], Coroutine[Any, Any, object]]

seen: list[str] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes, and notes its lifespan."""
    if scope["type"] == "lifespan":

        async def noted(message: Message) -> None:
            seen.append(message["type"])
            await send(message)

        await lifespan(scope, receive, noted)
        return
    content = await read_body(receive)
    if scope["path"] == "/slow":
        seen.append("begun")
        await asyncio.sleep(0.3)
    if scope["path"] == "/endless":
        seen.append("begun")
        await asyncio.Event().wait()
    await respond(send, content or b"hello")


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is not there"})


def config(application: Any = app, **settings: Any) -> ladybug.Config:
    settings = {"host": "127.0.0.1", "port": 0, "access_log": False, **settings}
    if poller := os.environ.get("TEST_POLLER"):
        settings["poller"] = poller
    return ladybug.Config(application, **settings)


async def request(port: int, path: str = "/", host: str = "127.0.0.1") -> bytes:
    """The body of a response, asked for through this very loop."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    return body


def port_of(server: ladybug.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.005)


async def refused(port: int) -> bool:
    try:
        await request(port)
    except ConnectionRefusedError:
        return True
    return False


# -- the programs


async def serve_and_shut_down() -> object:
    server = ladybug.Server(config())
    assert not server.started
    assert server.sockets == []
    task = asyncio.create_task(server.serve())
    await server.started
    assert server.started
    assert seen == ["lifespan.startup.complete"]
    port = port_of(server)
    assert await request(port) == b"hello"
    await server.shutdown()
    await task
    assert seen == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    return await refused(port)


async def started_can_be_waited_for() -> object:
    server = ladybug.Server(config())
    waiters = [asyncio.create_task(server.started.wait()) for _ in range(3)]
    task = asyncio.create_task(server.serve())
    await asyncio.gather(*waiters)
    assert await request(port_of(server)) == b"hello"
    server.shutdown()
    await task
    return "waited"


async def no_signal_handlers_are_taken() -> object:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE]
    before = [signal.getsignal(number) for number in numbers]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    server = ladybug.Server(config())
    task = asyncio.create_task(server.serve())
    await server.started
    assert [signal.getsignal(number) for number in numbers] == before
    await request(port_of(server))
    assert [signal.getsignal(number) for number in numbers] == before
    server.shutdown()
    await task
    return [signal.getsignal(number) for number in numbers] == before


async def shutdown_may_be_asked_for_again_and_again() -> object:
    server = ladybug.Server(config())
    task = asyncio.create_task(server.serve())
    await server.started
    server.shutdown()
    server.shutdown()
    await asyncio.gather(server.shutdown(), server.shutdown())
    await task
    await server.shutdown()
    return seen.count("lifespan.shutdown.complete")


async def shutdown_before_it_started() -> object:
    server = ladybug.Server(config())
    server.shutdown()
    await asyncio.wait_for(server.serve(), 10)
    return seen.count("lifespan.startup.complete") == seen.count("lifespan.shutdown.complete")


async def shutdown_waits_for_requests() -> object:
    server = ladybug.Server(config())
    task = asyncio.create_task(server.serve())
    await server.started
    asking = asyncio.create_task(request(port_of(server), "/slow"))
    await until(lambda: "begun" in seen)
    await server.shutdown()
    await task
    assert seen[-1] == "lifespan.shutdown.complete"
    return await asking


async def escalate_cuts_requests_short() -> object:
    server = ladybug.Server(config(timeout_graceful_shutdown=60))
    task = asyncio.create_task(server.serve())
    await server.started
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: "begun" in seen)
    server.shutdown()
    await asyncio.sleep(0)
    server.escalate()
    await asyncio.wait_for(task, 10)
    assert not (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    return seen[-1]


async def the_counters_count() -> object:
    server = ladybug.Server(config())
    task = asyncio.create_task(server.serve())
    await server.started
    assert (server.connections, server.in_flight, server.requests) == (0, 0, 0)
    port = port_of(server)
    for _ in range(3):
        await request(port)
    assert server.requests == 3
    asking = asyncio.create_task(request(port, "/slow"))
    await until(lambda: "begun" in seen)
    assert (server.connections, server.in_flight, server.requests) == (1, 1, 4)
    await asking
    await until(lambda: (server.connections, server.in_flight) == (0, 0))
    server.shutdown()
    await task
    return server.requests


async def two_servers_share_a_loop() -> object:
    servers = [ladybug.Server(config()), ladybug.Server(config())]
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    for server in servers:
        await server.started
    ports = [port_of(server) for server in servers]
    assert ports[0] != ports[1]
    assert await asyncio.gather(*(request(port) for port in ports * 5)) == [b"hello"] * 10
    servers[0].shutdown()
    await tasks[0]
    assert await request(ports[1]) == b"hello"
    servers[1].shutdown()
    await tasks[1]
    return len(seen)


async def one_server_after_the_other() -> object:
    for _ in range(3):
        server = ladybug.Server(config())
        task = asyncio.create_task(server.serve())
        await server.started
        assert await request(port_of(server)) == b"hello"
        await server.shutdown()
        await task
    return seen.count("lifespan.shutdown.complete")


async def a_server_on_given_sockets() -> object:
    given = socket.create_server(("127.0.0.1", 0))
    port = given.getsockname()[1]
    server = ladybug.Server(config(port=1))
    task = asyncio.create_task(server.serve([given]))
    await server.started
    assert port_of(server) == port
    assert await request(port) == b"hello"
    server.shutdown()
    await task
    assert given.fileno() == -1, "closed, or connections would go on queueing for a server that is gone"
    return "served"


async def every_address_of_a_name_is_bound() -> object:
    server = ladybug.Server(config(host="localhost"))
    task = asyncio.create_task(server.serve())
    await server.started
    bound = {(sock.getsockname()[0], sock.getsockname()[1]) for sock in server.sockets}
    assert len({port for _, port in bound}) == 1, "one port for all addresses of a name"
    for host, port in bound:
        assert await request(port, host=host) == b"hello"
    server.shutdown()
    await task
    return "127.0.0.1" in {host for host, _ in bound}


async def failures_are_raised() -> object:
    found = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for settings in (
            {"application": failing},
            {"application": "no_such_module:app"},
            {"application": "tests.integration.apps.embedding:no_such_name"},
            {"port": taken.getsockname()[1]},
        ):
            server = ladybug.Server(config(**settings))
            waiter = asyncio.create_task(server.started.wait())
            try:
                await server.serve()
            except ladybug.StartupError as error:
                found.append(str(error))
            assert not server.started
            await asyncio.wait_for(waiter, 5)
            assert server.sockets == []
    for message, expected in zip(found, ("database", "no_such_module", "no_such_name", "in use"), strict=True):
        assert expected in message, message
    return len(found)


async def wrong_settings_are_raised() -> object:
    found = 0
    for settings in (
        {"workers": -1},
        {"port": 65536},
        {"loop": "nonsense"},
        {"log_level": "loud"},
        {"lifespan": "maybe"},
    ):
        try:
            config(**settings)
        except ladybug.ConfigError:
            found += 1
    try:
        config(no_such_setting=1)
    except (TypeError, ladybug.ConfigError):
        found += 1
    return found


async def a_cancelled_serve_cleans_up() -> object:
    server = ladybug.Server(config())
    task = asyncio.create_task(server.serve())
    await server.started
    port = port_of(server)
    assert await request(port) == b"hello"
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert await refused(port)
    return seen[-1]


async def an_application_may_stop_its_server() -> object:
    server: ladybug.Server

    async def stopping(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            server.shutdown()
        await app(scope, receive, send)

    server = ladybug.Server(config(stopping))
    task = asyncio.create_task(server.serve())
    await server.started
    assert await request(port_of(server)) == b"hello"
    await task
    return seen[-1]


async def a_subclass_may_be_served() -> object:
    """Frameworks wrap the server to know when it listens."""

    class Told(ladybug.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            seen.append("told")
            await super().serve(sockets)

    server = Told(config())
    task = asyncio.create_task(server.serve())
    await server.started
    assert await request(port_of(server)) == b"hello"
    await server.shutdown()
    await task
    return seen[0]


async def nothing_is_left_in_the_loop() -> object:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    await asyncio.sleep(0)
    before: tuple[int, int] | None = None
    for _ in range(3):
        server = ladybug.Server(config())
        task = asyncio.create_task(server.serve())
        await server.started
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await request(port_of(server))
        await server.shutdown()
        await task
        writer.close()
        del server, task, writer
        await asyncio.sleep(0.01)
        now = (descriptors(), len(asyncio.all_tasks()))
        assert before is None or now == before, f"{before} became {now}"
        before = now
    return "nothing"


# -- programs that are no coroutine


def in_a_thread() -> object:
    """A loop in a thread that is not the main one: tests of applications do this."""
    ready: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, ladybug.Server]] = concurrent.futures.Future()

    async def serve() -> None:
        server = ladybug.Server(config())
        task = asyncio.create_task(server.serve())
        await server.started
        ready.set_result((asyncio.get_running_loop(), server))
        await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, server = ready.result(10)
    answer = asyncio.run(request(port_of(server)))
    loop.call_soon_threadsafe(server.shutdown)
    thread.join(10)
    assert not thread.is_alive()
    return answer


def a_daemon_thread_runs() -> object:
    """`ladybug.run` in a thread: signals stay the program's own, at whose end it ends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=ladybug.run, args=(app,), kwargs={"fd": listener.detach()}, daemon=True)
    thread.start()
    answer = asyncio.run(request(port))
    assert thread.is_alive()
    assert [signal.getsignal(number) for number in numbers] == before
    return answer


def a_thread_runs_to_its_end() -> object:
    """`ladybug.run` by name in a thread returns when the server ends by itself."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = {"fd": listener.detach(), "workers": 0, "limit_max_requests": 1}
    thread = threading.Thread(target=ladybug.run, args=("tests.integration.apps.http1:app",), kwargs=settings)
    thread.start()
    answer = asyncio.run(request(port, "/hello"))
    thread.join(10)
    assert not thread.is_alive()
    return answer


def importing_costs_nothing() -> object:
    code = "import sys, ladybug; print([name for name in ('asyncio', 'ssl', 'logging') if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run_here() -> None:
    """`ladybug.run` with an application object; returns when a signal stops it."""
    ladybug.run(app, port=0, workers=0)
    print(f"RESULT {seen[-1]!r}", flush=True)  # noqa: T201


def run_by_name() -> None:
    """`ladybug.run` with an import string and a worker."""
    ladybug.run("tests.integration.apps.http1:app", port=0, workers=1)
    print("RESULT 'returned'", flush=True)  # noqa: T201


def run_and_fail() -> None:
    ladybug.run(failing, port=0, workers=0)


def main(name: str) -> None:
    program = globals()[name]
    if name.startswith("run_"):
        program()
        return
    if not asyncio.iscoroutinefunction(program):
        result = program()
    elif os.environ.get("TEST_LOOP") == "uvloop":
        import uvloop

        result = uvloop.run(program())
    else:
        result = asyncio.run(program())
    print(f"RESULT {result!r}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
