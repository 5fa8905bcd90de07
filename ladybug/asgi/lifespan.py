"""The lifespan protocol (ASGI lifespan specification 2.0): startup before the first connection, shutdown after the last.

One call of the application, in a task of its own, for the whole life of the worker. Not compiled: it runs once.
"""

import asyncio
import logging
import traceback
from typing import Any, Literal

from ladybug.exceptions import StartupError

logger = logging.getLogger("ladybug.error")

# Seconds after which users are told what they wait for.
SLOW = 1.0


class Lifespan:
    """Runs the application's lifespan.

    Args:
        app: the ASGI 3 callable.
        mode: "on" demands that the application handles lifespan, "auto" does without if it raises, "off" never asks.
        asgi_version: what the scope says, "3.0" or "2.0".

    Attributes:
        state: what startup has put into scope["state"], for every request's scope; None when there is no lifespan.
    """

    def __init__(self, app: Any, mode: Literal["auto", "on", "off"], asgi_version: str) -> None:
        self.app = app
        self.mode = mode
        self.asgi_version = asgi_version
        self.state: dict[str, Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answers: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._question = ""  # that has no answer yet
        self._has_started = False
        self._error: BaseException | None = None

    async def startup(self) -> None:
        """Tell the application to start and wait until it has. Raises StartupError with the cause."""
        if self.mode == "off":
            return
        state: dict[str, Any] = {}
        scope = {"type": "lifespan", "asgi": {"version": self.asgi_version, "spec_version": "2.0"}, "state": state}
        self._task = asyncio.get_running_loop().create_task(self._run(scope), name="ladybug-lifespan")
        kind, text = await self._ask("lifespan.startup")
        if kind == "lifespan.startup.complete":
            self.state = state
            logger.debug("Application startup complete.")
        elif kind == "lifespan.startup.failed":
            self.abandon()
            raise StartupError(f"Application startup failed{': ' + text if text else '.'}")
        else:
            self._startup_refused()

    def _startup_refused(self) -> None:
        """The call ended, by return or exception, without an answer."""
        error = self._error
        self._task = None
        if self.mode == "auto" and (error is None or isinstance(error, Exception)):
            # Most applications that raise mean that they have none. One that has may have failed: so it is told.
            level = logging.DEBUG if error is None else logging.INFO
            logger.log(level, "ASGI 'lifespan' protocol appears unsupported%s", f": {error!r}" if error else ".")
            if error is not None:
                logger.debug("The application raised for the lifespan scope", exc_info=error)
            return
        if error is None:
            raise StartupError(
                "Application startup failed: the application returned without answering lifespan.startup."
                " Use --lifespan off if it has no lifespan."
            )
        text = "".join(traceback.format_exception(error)).rstrip()
        raise StartupError(f"Application startup failed: {error!r}\n{text}")

    async def shutdown(self, budget: float) -> None:
        """Tell the application to shut down and wait at most `budget` seconds. Failures are logged, never raised."""
        task = self._task
        if task is None:
            return
        kind = ""
        if not task.done():
            try:
                async with asyncio.timeout(budget):
                    kind, text = await self._ask("lifespan.shutdown")
            except TimeoutError:
                logger.error("Application shutdown did not finish within %g s: going on without it.", budget)
                task.cancel()
                return
            if kind == "lifespan.shutdown.failed":
                logger.error("Application shutdown failed%s", f": {text}" if text else ".")
            elif kind == "lifespan.shutdown.complete":
                logger.debug("Application shutdown complete.")
        if self._error is not None and kind != "lifespan.shutdown.failed":
            logger.error("Exception in the application's lifespan", exc_info=self._error)

    def abandon(self) -> None:
        """Startup failed, or is not waited for any longer: there is nothing to shut down in order."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self, question: str) -> tuple[str, str]:
        """Send one message and wait for its answer, or for ("", "") when the call ends without one."""
        self._question = question
        self._messages.put_nowait({"type": question})
        # Several workers start and stop at once: what is quick is not worth their lines.
        slow = asyncio.get_running_loop().call_later(
            SLOW, logger.info, "Waiting for application %s.", question.removeprefix("lifespan.")
        )
        try:
            return await self._answers.get()
        finally:
            slow.cancel()

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self.app(scope, self._messages.get, self._send)
        except BaseException as error:
            self._error = error
            if isinstance(error, Exception) and self._has_started and not self._question:
                logger.error("The application's lifespan has ended before its shutdown", exc_info=error)
                self._error = None  # told
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            self._answers.put_nowait(("", ""))

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        question = self._question
        if not question or kind not in (f"{question}.complete", f"{question}.failed"):
            raise RuntimeError(f"Expected an answer to {question or 'the next lifespan event'}, but got {kind!r}")
        self._question = ""
        self._has_started = kind == "lifespan.startup.complete"
        self._answers.put_nowait((kind, message.get("message", "")))
