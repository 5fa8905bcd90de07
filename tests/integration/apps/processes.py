"""The application of the process tests: boots as it is told, and leaves notes of what happened to it.

The directory in $CONTROL is the board between the test and every process: `boot` says how to behave at import, a note is an
empty file "<what>-<pid>". It works across processes, before there is a server and after it has gone.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from setproctitle import getproctitle

from tests.integration.apps.kit import Receive, Scope, Send, respond, respond_value

CONTROL = Path(os.environ["CONTROL"])
FOR_EVER = 600.0

# What a program prints about the signals it was started with.
SIGNALS_OF_A_PROGRAM = (
    "import signal; print(repr((signal.getsignal(signal.SIGINT) is signal.default_int_handler,"
    " signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))))"
)


def note(what: str) -> None:
    (CONTROL / f"{what}-{os.getpid()}").touch()


def how_to_boot() -> str:
    """The content of `boot`; "worker 2: segv" is meant for that worker alone."""
    file = CONTROL / "boot"
    order = file.read_text() if file.exists() else ""
    whom, colon, what = order.partition(": ")
    if colon:
        return what if whom in getproctitle() else ""
    return order


def boot() -> None:
    how = how_to_boot()
    note("importing")
    if how == "raise":
        raise RuntimeError("no database")
    if how == "exit":
        sys.exit("no configuration")
    if how == "vanish":
        os._exit(5)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "stop in the import system":
        # As if the signal had come there; the next line takes less than a millisecond of the processor's time.
        exec("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", {"__name__": "importlib._bootstrap"})
    if how in ("hang", "stop in the import system"):
        time.sleep(FOR_EVER)


boot()
atexit.register(note, "atexit")


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    how = how_to_boot()
    note("starting")
    if how == "refuse":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    if how == "hang in lifespan":
        await asyncio.sleep(FOR_EVER)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def wait(scope: Scope, send: Send) -> None:
    """Answer when the test says go."""
    note("waiting")
    try:
        while not (CONTROL / "go").exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note("cancelled")
        raise
    await respond_value(send, os.getpid())


async def block(scope: Scope, send: Send) -> None:
    """Block the loop in a system call."""
    note("blocking")
    time.sleep(FOR_EVER)  # noqa: ASYNC251 - that is the point


async def spin(scope: Scope, send: Send) -> None:
    """Block the loop in Python."""
    note("blocking")
    end = time.monotonic() + FOR_EVER
    while time.monotonic() < end:
        pass


async def leave(scope: Scope, send: Send) -> None:
    """Stop the event loop, with a thread left behind that does not end."""
    threading.Thread(target=time.sleep, args=(FOR_EVER,)).start()
    asyncio.get_running_loop().stop()


async def thread(scope: Scope, send: Send) -> None:
    """Leave a thread behind that does not end."""
    threading.Thread(target=time.sleep, args=(FOR_EVER,)).start()
    await respond_value(send, os.getpid())


def sleep_on() -> None:
    time.sleep(FOR_EVER)


async def linger(scope: Scope, send: Send) -> None:
    """Leave an exit handler behind that does not end."""
    atexit.register(sleep_on)
    await respond_value(send, os.getpid())


async def program(scope: Scope, send: Send) -> None:
    """Start a program, and say which signals it has."""
    output = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", SIGNALS_OF_A_PROGRAM])
    await respond(send, output.strip())


async def fork(scope: Scope, send: Send) -> None:
    """Fork as multiprocessing does, terminate the child, and say how it ended."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(FOR_EVER,))
    child.start()
    child.terminate()
    await asyncio.to_thread(child.join, 10)
    code = child.exitcode
    if code is None:
        child.kill()
    await respond_value(send, code)


async def child(scope: Scope, send: Send) -> None:
    """Fork a child that stays; its pid."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(FOR_EVER,), daemon=True)
    process.start()
    await respond_value(send, process.pid)


async def orphan(scope: Scope, send: Send) -> None:
    """Start a program whose parent ends first, and that ends when its input does; its pid."""
    shell = "cat <&3 >/dev/null 2>&1 & echo $!"
    read_fd, write_fd = os.pipe()
    output = subprocess.check_output(["sh", "-c", shell.replace("<&3", f"<&{read_fd}")], pass_fds=[read_fd])  # noqa: ASYNC221
    os.close(read_fd)
    os.close(write_fd)
    await respond(send, output.strip())


async def stream(scope: Scope, send: Send) -> None:
    """A response in twenty pieces."""
    headers = [(b"x-worker", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(20):
        await send({"type": "http.response.body", "body": b"%04d" % number, "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body"})


async def events(scope: Scope, send: Send) -> None:
    """A response without an end."""
    await send({"type": "http.response.start", "status": 200})
    note("streaming")
    while True:
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        await asyncio.sleep(0.05)


async def pause(scope: Scope, send: Send) -> None:
    """Block the loop for as many seconds as the query says."""
    note("blocking")
    time.sleep(float(scope["query_string"]))  # noqa: ASYNC251 - that is the point
    await respond_value(send, os.getpid())


async def environment(scope: Scope, send: Send) -> None:
    """A variable."""
    await respond_value(send, os.environ.get(scope["query_string"].decode()))


async def grow(scope: Scope, send: Send) -> None:
    """Hold 64 MiB more."""
    _held.append(b"x" * (64 << 20))
    await respond_value(send, os.getpid())


async def upload(receive: Receive, send: Send) -> None:
    """Read the body, and say who has and how much it was."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await respond_value(send, (os.getpid(), size))


async def websocket(receive: Receive, send: Send) -> None:
    """Send back what comes, until its end."""
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-worker", b"%d" % os.getpid())]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    note(f"closed by {message['code']}")


_held: list[bytes] = []

ROUTES = {
    "/stream": stream,
    "/events": events,
    "/pause": pause,
    "/environment": environment,
    "/grow": grow,
    "/wait": wait,
    "/block": block,
    "/spin": spin,
    "/leave": leave,
    "/thread": thread,
    "/linger": linger,
    "/program": program,
    "/fork": fork,
    "/child": child,
    "/orphan": orphan,
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    elif scope["path"] == "/upload":
        await upload(receive, send)
    elif scope["path"] in ROUTES:
        await ROUTES[scope["path"]](scope, send)
    else:
        await respond_value(send, os.getpid())
