"""The application of the tests about how a server is run: says as whom, with what, and where.

With $GATE, its second worker starts up only when that file is there.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from setproctitle import getproctitle

from tests.integration.apps.kit import Receive, Scope, Send, key_of, respond_value

GATE = os.environ.get("GATE")
# Where this module was loaded from tells nothing; who imported it does.
IMPORTED_BY = os.getresuid()


async def who() -> object:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "imported by": IMPORTED_BY,
        "umask": umask,
    }


async def environment() -> object:
    return dict(os.environ)


async def files() -> object:
    """The descriptors that a program started now would inherit."""
    return [int(name) for name in os.listdir("/proc/self/fd") if _is_inheritable(int(name))]  # noqa: PTH208


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the one that listed them
        return False


def is_shut() -> bool:
    return GATE is not None and "worker 2" in getproctitle() and not Path(GATE).exists()


async def make(path: str) -> object:
    Path(path).write_text("made")  # noqa: ASYNC240
    return None


ROUTES = {"/who": who, "/environment": environment, "/files": files}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        while is_shut():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/block":
        time.sleep(600)  # noqa: ASYNC251 - that is the point
    elif scope["path"] == "/make":
        await respond_value(send, await make(key_of(scope)))
    else:
        await respond_value(send, await ROUTES[scope["path"]]())
