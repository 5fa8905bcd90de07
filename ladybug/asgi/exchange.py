"""What the application's calls have in common, whatever is said in them: the task, the waiting, the end.

    http.py         one request and its response
    websocket.py    one WebSocket, from its handshake to its close

Every exchange is a fresh object: an application may keep `send` for as long as it likes and will never write into
somebody else's response. send() acts when it is called and returns something to await (awaitables.py says why).
"""

import asyncio
from typing import Any, Final

from mypy_extensions import i64, mypyc_attr

from ladybug.asgi import awaitables
from ladybug.asgi.awaitables import ClientDisconnected
from ladybug.asgi.service import Service, Wire
from ladybug.asgi.waiter import Waiter

# A stream that never has to wait, out or in, yields to the loop once in so many sends or receives, so that it cannot have the
# worker to itself.
SENDS_PER_TURN: Final[i64] = 16
RECEIVES_PER_TURN: Final[i64] = 16

# Names of an uncompiled module are looked up in a dictionary at each use; these are not.
NEXT_MESSAGE: Final[Any] = awaitables.next_message
NEXT_MESSAGE_LATER: Final[Any] = awaitables.next_message_later
RUN_APP: Final[Any] = awaitables.run_app

# CPython 3.12 can start a task at once, inside the read callback; 3.11 takes the loop's way.
TASK: Final[Any] = asyncio.Task
EAGER: Final = hasattr(asyncio, "eager_task_factory")


@mypyc_attr(native_class=True)
class Exchange:
    """One call of the application.

    Attributes:
        wire: the connection; None once nothing can be sent any more.
        client: scope["client"], for the log.
        disconnected: receive() says that the client is gone.
        leaving: the server stops, and the application was asked to end.
        sends: how often it has sent.
    """

    def __init__(self, service: Service, wire: Wire) -> None:
        self.service: Final = service
        self.wire: Wire | None = wire
        self.client: Any = None
        self.disconnected = False
        self.leaving = False
        self.sends: i64 = 0
        self.waiters: list[Waiter] | None = None
        self.drain_waiters: list[Waiter] | None = None
        self.task: Any = None
        self.finished = False

    # -- The application's call ---------------------------------------------------------------------------------------

    def start(self, scope: dict[str, Any]) -> None:
        """Call the application; most return before this does."""
        service = self.service
        coroutine = RUN_APP(service.app, scope, self.receive, self.send, self)
        if EAGER:
            self.task = TASK(coroutine, loop=service.loop, eager_start=True)
        else:
            self.task = service.loop.create_task(coroutine)
        if self.finished:
            self.task = None
        else:
            service.running.add(self)

    def finish(self) -> None:
        """The application's call is over."""
        self.finished = True
        service = self.service
        service.in_flight -= 1
        if service.on_quiet is not None:
            service.on_quiet()
        if self.task is not None:
            self.task = None
            service.running.discard(self)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def receive(self) -> Any:
        """The application's `receive`."""
        raise NotImplementedError

    def send(self, message: Any) -> Any:
        """The application's `send`."""
        raise NotImplementedError

    def maybe_message(self) -> dict[str, Any] | None:
        """What receive() returns, or None when the application has to wait."""
        raise NotImplementedError

    def app_raised(self) -> None:
        """The application raised: answer for it."""
        raise NotImplementedError

    def app_returned(self) -> bool:
        """The application returned; True if it should not have yet, and the client was told so."""
        raise NotImplementedError

    def request_line(self) -> tuple[str, str]:
        """Method and target, for the log."""
        raise NotImplementedError

    # -- The graceful stop --------------------------------------------------------------------------------------------

    def may_leave(self, late: bool) -> bool:
        """Whether it is time to ask the application to end: when it is `late`, or at once."""
        raise NotImplementedError

    def leave(self) -> None:
        """Ask the application to end."""
        raise NotImplementedError

    def expel(self) -> None:
        """It was asked and has not."""
        raise NotImplementedError

    def give_up(self) -> None:
        """It was cancelled, and goes on: what it holds of the cancellation back, nobody waits for."""

    # -- Waiting ------------------------------------------------------------------------------------------------------

    def begin_wait(self) -> Waiter:
        """To be awaited: over when maybe_message() is worth another try. Each waiting receive() has its own."""
        waiter = Waiter(self.service.loop, self.service.past)
        self.waiters = with_waiter(self.waiters, waiter)
        return waiter

    def wake(self) -> None:
        waiters = self.waiters
        if waiters is not None:
            self.waiters = None
            for waiter in waiters:
                waiter.wake_soon()

    def begin_wait_drained(self) -> Waiter:
        """To be awaited: over when the client has taken most of what was written, or is gone."""
        waiter = Waiter(self.service.loop, self.service.past)
        self.drain_waiters = with_waiter(self.drain_waiters, waiter)
        return waiter

    def wake_drained(self) -> None:
        waiters = self.drain_waiters
        if waiters is not None:
            self.drain_waiters = None
            for waiter in waiters:
                waiter.wake_soon()

    def is_congested(self) -> bool:
        return self.wire is not None and self.wire.is_congested()

    def is_complete(self) -> bool:
        """Whether all was said, so that the wire is not missed."""
        raise NotImplementedError

    def check_connected(self) -> None:
        if self.wire is None and not self.is_complete():
            raise ClientDisconnected("The client disconnected while the response was being sent")


def with_waiter(waiters: list[Waiter] | None, waiter: Waiter) -> list[Waiter]:
    """One more. Those whose task was cancelled are dropped: an application may wait with a timeout, again and again."""
    if waiters is None:
        return [waiter]
    waiting = [other for other in waiters if not other.is_done]
    waiting.append(waiter)
    return waiting


def target_of(raw_path: bytes, query: bytes) -> bytes:
    """The request target in origin-form, as the log shows it."""
    return raw_path + b"?" + query if query else raw_path


def quoted(target: bytes) -> str:
    """The target as it came, which is visible ASCII; but a quotation mark must not end the quotation."""
    text = target.decode("latin-1")
    return text.replace('"', "%22") if '"' in text else text


def shown(client: Any) -> str:
    """The scope's client, behind a trusted proxy the one it speaks for; a unix socket's has no address."""
    return f"{client[0]}:{client[1]}" if client is not None else ""
