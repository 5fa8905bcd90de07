"""What the application awaits, as coroutines the interpreter itself runs. Never compiled.

From CPython 3.12 on, awaiting an exact coroutine of the interpreter is inlined, while any other awaitable that returns a
value pays for a StopIteration; so these few lines are faster here than in the compiled rooms they serve (what returns no
value is another matter: done.py). Also here because a native class cannot derive from OSError.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ladybug.asgi.exchange import Exchange

logger = logging.getLogger("ladybug.error")


class ClientDisconnected(OSError):
    """Raised by send() once the client is gone, as the ASGI specification asks since version 2.4 (of the www spec)."""


async def next_message(exchange: "Exchange") -> dict[str, Any]:
    """A receive(). The message is taken when this is run, not when it is made: what is never awaited loses none."""
    while (message := exchange.maybe_message()) is None:
        await exchange.begin_wait()
    return message


async def next_message_later(exchange: "Exchange") -> dict[str, Any]:
    """The same, for an application that never had to wait: let the others have the loop first."""
    await yield_once()
    return await next_message(exchange)


async def drained(exchange: "Exchange") -> None:
    """A send() that has to wait until the client has taken most of what is already written."""
    while exchange.is_congested():
        await exchange.begin_wait_drained()
    exchange.check_connected()


async def yield_once() -> None:
    """A send() of a stream that never has to wait: let the others have the loop now and then."""
    await asyncio.sleep(0)


async def run_app(app: Any, scope: dict[str, Any], receive: Any, send: Any, exchange: "Exchange") -> None:
    """One call of the application, from scope to the end of the exchange; the body of its task."""
    try:
        await app(scope, receive, send)
    except BaseException as error:
        exchange.app_raised()
        report(error, exchange)
        # Even sys.exit() in an application ends one request, not the server. These three are not the application's.
        if isinstance(error, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)):
            raise
    else:
        if exchange.app_returned():
            logger.error("ASGI application returned without completing its response to %s %s", *exchange.request_line())


def report(error: BaseException, exchange: "Exchange") -> None:
    """Log what an application raised; that its client went away is not worth an error."""
    if caused_by_disconnect(error):
        logger.debug("The client of %s %s disconnected", *exchange.request_line())
    elif isinstance(error, asyncio.CancelledError):
        logger.error("Request %s %s was cancelled before its application returned", *exchange.request_line())
    else:
        logger.error("Exception in ASGI application", exc_info=error)


def caused_by_disconnect(error: BaseException | None, depth: int = 8) -> bool:
    """Whether a ClientDisconnected is at the root of `error`: of all its parts, if it is a group. Chains can be endless."""
    if error is None or depth == 0:
        return False
    if isinstance(error, ClientDisconnected):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(caused_by_disconnect(part, depth - 1) for part in error.exceptions)
    return caused_by_disconnect(error.__cause__ or error.__context__, depth - 1)
