"""What the application and the server say to each other, logged: --log-level trace.

`Traced` stands around the application only where the logger "ladybug.asgi" is enabled for that level when the application
has been imported; otherwise nobody asks anything. The words are uvicorn's; contents and header fields are left out, because
they are large, and secret.
"""

import logging
from typing import Any

from ladybug.log import TRACE

logger = logging.getLogger("ladybug.asgi")

# Values of which only the size is shown, in this unit; and values that are not shown at all.
SIZES = {"body": "bytes", "bytes": "bytes", "text": "chars"}
HIDDEN = {"headers", "state"}


def is_wanted() -> bool:
    """Whether logging is set up so that what is traced would be seen."""
    return logger.isEnabledFor(TRACE)


class Traced:
    """An ASGI 3 application that logs what passes between `app` and whoever calls it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._calls = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self._calls += 1
        client = scope.get("client")
        name = f"{client[0]}:{client[1]} - ASGI [{self._calls}]" if client else f"ASGI [{self._calls}]"

        async def traced_receive() -> Any:
            message = await receive()
            logger.log(TRACE, "%s Receive %s", name, shown(message))
            return message

        async def traced_send(message: Any) -> None:
            logger.log(TRACE, "%s Send %s", name, shown(message))
            await send(message)

        logger.log(TRACE, "%s Started scope=%s", name, shown(scope))
        try:
            await self._app(scope, traced_receive, traced_send)
        except BaseException as error:
            logger.log(TRACE, "%s Raised %r", name, error)
            raise
        logger.log(TRACE, "%s Completed", name)


def shown(message: Any) -> Any:
    """The same without contents. Whatever an application takes for a message is shown as it is: it is refused later."""
    return {key: _shown(key, value) for key, value in message.items()} if isinstance(message, dict) else message


def _shown(key: str, value: Any) -> Any:
    if key in HIDDEN:
        return "<...>"
    return f"<{len(value)} {SIZES[key]}>" if key in SIZES and hasattr(value, "__len__") else value
