"""Event loops: which one, and how to make it.

`auto` is decided in `auto_loop` and nowhere else. The master and `--version` ask for the name; the factory is made in the
worker, where asyncio and the importer (which brings `inspect`) may be imported.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from ladybug.exceptions import StartupError

if TYPE_CHECKING:
    import asyncio

    from ladybug.config import Config


def auto_loop() -> Literal["asyncio", "uvloop"]:
    """The loop that --loop auto takes: uvloop where it is installed. It is looked for, not imported."""
    return "asyncio" if find_spec("uvloop") is None else "uvloop"


def loop_name(setting: str) -> str:
    """What the setting `loop` comes to: asyncio, uvloop or module:factory."""
    return auto_loop() if setting == "auto" else setting


def loop_factory(config: "Config") -> "Callable[[], asyncio.AbstractEventLoop]":
    """What makes the worker's event loop, for `asyncio.Runner(loop_factory=...)`. Raises StartupError."""
    name = loop_name(config.loop)
    if name == "asyncio":
        return _asyncio()
    if name == "uvloop":
        return _uvloop()
    return _imported(name, config.app_dir)


def _asyncio() -> "Callable[[], asyncio.AbstractEventLoop]":
    """asyncio's loop; where there is epoll, the one that shares it with the server."""
    import select

    if not hasattr(select, "epoll"):
        import asyncio

        return asyncio.SelectorEventLoop
    from ladybug.serving_loop import ServingLoop

    return ServingLoop


def _uvloop() -> "Callable[[], asyncio.AbstractEventLoop]":
    try:
        import uvloop
    except ImportError as error:
        do = 'Install it (pip install "ladybug-asgi[standard]") or use --loop asyncio.'
        if error.name != "uvloop":  # it is there, and something that it needs is not, or may not be read by this user
            do = f"Can this user read {sys.prefix} and {sys.base_prefix}?"
        raise StartupError(f"--loop uvloop: {error}. {do}") from error
    return uvloop.new_event_loop


def _imported(name: str, app_dir: str | None) -> "Callable[[], asyncio.AbstractEventLoop]":
    from ladybug.importer import import_attribute, put_first_in_path

    if app_dir is not None:
        put_first_in_path(app_dir)  # it may stand beside the application, which is imported later
    factory = import_attribute(name, "--loop")
    if not callable(factory):
        raise StartupError(f"--loop {name}: this is {factory!r}, not a function that makes an event loop.")

    def new_event_loop() -> "asyncio.AbstractEventLoop":
        import asyncio

        loop: object = factory()
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise StartupError(f"--loop {name}: the factory returned {loop!r}, which is not an event loop.")
        return loop

    return new_event_loop
