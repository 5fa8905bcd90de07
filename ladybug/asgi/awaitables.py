"""What the application awaits, as coroutines the interpreter itself runs. Never compiled.

From CPython 3.12 on, awaiting an exact coroutine of the interpreter is inlined, while any other awaitable that returns a
value pays for a StopIteration; so these few lines are faster here than in the compiled rooms they serve. It is also the
one place where an exception class must derive from OSError, which a native class cannot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ladybug.asgi.http import HttpExchange

logger = logging.getLogger("ladybug.error")


class ClientDisconnected(OSError):
    """Raised by send() once the client is gone, as the ASGI specification asks since version 2.4 (of the www spec)."""


class Done:
    """A send() that has happened already: one shared object, an awaitable that never suspends.

    It also passes for a coroutine, because applications write asyncio.create_task(send(...)).
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return NOTHING_TO_AWAIT  # type: ignore[no-any-return]

    def send(self, value: None) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass


# An exhausted C iterator ends at once, for ever, and without creating an exception.
NOTHING_TO_AWAIT: Any = iter(())
next(NOTHING_TO_AWAIT, None)
DONE: Any = Done()


async def ready(message: dict[str, Any]) -> dict[str, Any]:
    """A receive() whose message is there already."""
    return message


async def next_message(exchange: "HttpExchange") -> dict[str, Any]:
    """A receive() that has to wait: for more of the body, or for the end of the client or of the response."""
    while (message := exchange.maybe_message()) is None:
        await exchange.begin_wait()
    return message


async def drained(exchange: "HttpExchange") -> None:
    """A send() that has to wait until the client has taken most of what is already written."""
    while exchange.is_congested():
        await exchange.begin_wait_drained()
    exchange.check_connected()


async def yield_once() -> None:
    """A send() of a stream that never has to wait: let the others have the loop now and then."""
    await asyncio.sleep(0)


async def run_app(app: Any, scope: dict[str, Any], exchange: "HttpExchange") -> None:
    """One call of the application, from scope to the end of the exchange; the body of its task."""
    try:
        result: Awaitable[None] = app(scope, exchange.receive_callable, exchange.send_callable)
        await result
    except BaseException as error:
        if exchange.app_raised() and not caused_by_disconnect(error):
            if isinstance(error, asyncio.CancelledError):
                logger.error("Request %s %s was cancelled before its response was complete", *exchange.request_line())
            else:
                logger.error("Exception in ASGI application", exc_info=error)
        exchange.finish()
        if not isinstance(error, Exception):
            raise
    else:
        if exchange.app_returned():
            logger.error("ASGI application returned without completing its response to %s %s", *exchange.request_line())
        exchange.finish()


def caused_by_disconnect(error: BaseException) -> bool:
    """Whether an application failed only because its client went away: not worth an error in the log."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, ClientDisconnected):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
