"""The application of the tests about workers that stand still: blocks its event loop until a file is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.integration.apps.kit import Receive, Scope, Send, key_of, lifespan, respond_value


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    if scope["path"] == "/block":
        directory = Path(key_of(scope))
        (directory / f"blocked-{os.getpid()}").touch()
        while not (directory / "go").exists():
            time.sleep(0.01)  # noqa: ASYNC251 - that is the point
    await respond_value(send, {"pid": os.getpid(), "client": scope["client"], "server": scope["server"]})
