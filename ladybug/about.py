"""Facts about this installation, in the words that `--version` and the start of the server print.

Everything is found without importing asyncio, uvloop or the compiled rooms: the master says these lines too.
"""

import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ladybug import __version__
from ladybug.loops import auto_loop, loop_name

if TYPE_CHECKING:
    from ladybug.config import Config


def is_compiled() -> bool:
    """True if the hot path would load from an extension module (mypyc) and not from its source."""
    room = find_spec("ladybug.connection")
    return room is not None and room.origin is not None and not room.origin.endswith((".py", ".pyc"))


def version_line() -> str:
    """The answer to `ladybug --version`."""
    from platform import python_implementation, python_version

    compiled = "yes" if is_compiled() else "no"
    python = f"{python_implementation()} {python_version()}"
    return f"ladybug {__version__} (compiled: {compiled}, {python}, event loop: {auto_loop()})"


def announce(config: "Config", addresses: Sequence[str]) -> None:
    """Log where and how the server serves. Called once, by the master or by the only process.

    `addresses` as users type them: http://127.0.0.1:8000, unix:/run/app.sock.
    """
    logger = logging.getLogger("ladybug.error")
    for line in start_lines(config, addresses):
        logger.info(line)


def start_lines(config: "Config", addresses: Sequence[str]) -> list[str]:
    """What `announce` says."""
    app = config.app if isinstance(config.app, str) else type(config.app).__name__
    compiled = "compiled" if is_compiled() else "not compiled"
    python = ".".join(str(part) for part in sys.version_info[:3])
    return [
        f"Ladybug {__version__} serving {app} on {', '.join(addresses)}",
        f"{_processes(config)} · {loop_name(config.loop)} · {compiled} · Python {python}",
        "Press Ctrl+C to stop",
    ]


def _processes(config: "Config") -> str:
    if config.workers == 0 or not isinstance(config.app, str):
        return "in this process"
    return "1 worker" if config.workers == 1 else f"{config.workers} workers"
