"""The application that writes nonsense wherever its worker can: what has gone wrong there must not reach the master."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from tests.integration.apps.kit import Receive, Scope, Send, respond_value


def spoil_scoreboard() -> None:
    """All records: each shared mapping without a name."""
    with Path("/proc/self/mem").open("wb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if match := re.match(r"(\w+)-(\w+) rw-s .* /dev/zero", line):
                start, end = (int(address, 16) for address in match.groups())
                memory.seek(start)
                memory.write(b"\xff" * (end - start))


def spoil_link() -> None:
    """Every pipe that is there to be written to, apart from the output."""
    for file in list(Path("/proc/self/fd").iterdir()):
        fd = int(file.name)
        if fd > 2 and file.is_fifo() and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            os.write(fd, b"\xff" * 100)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["path"] == "/scoreboard":
        spoil_scoreboard()
    elif scope["path"] == "/link":
        spoil_link()
    await respond_value(send, os.getpid())
