"""What a suspended receive() or send() waits for: the small part of asyncio.Future that a task needs, and one thing more.

A future wakes its task by way of the loop. A waiter can also do it here and now (wake_now): from the poller's turn, where
no task is running, the message goes from the socket to the application without a callback scheduled, a trip through the
loop, or an object made for either.

The contract with asyncio.Task (Modules/_asynciomodule.c, "Check if `result` is FutureObj-compatible"; the same in
asyncio/tasks.py): the object that a coroutine yields has `_asyncio_future_blocking` set to True; the task clears it, asks
get_loop(), leaves its wake-up with add_done_callback(), and calls result() when that is called. To cancel the task is to
cancel() what it waits for.
"""

import asyncio
from typing import Any, final

from mypy_extensions import mypyc_attr


@mypyc_attr(native_class=True)
@final
class Waiter:
    """One wait of one task. Await it once; wake it, from wherever, any number of times.

    Args:
        past: a past_event() of this loop. Tasks are told of it in the waiter's place: asyncio reads the result of its own
            futures, while it would have to look up and call a method of anything else. That is a fourteenth of the
            instructions of a small WebSocket message.
    """

    def __init__(self, loop: Any, past: Any) -> None:
        self.loop = loop
        self.past = past
        self._asyncio_future_blocking = False
        self.callback: Any = None
        self.context: Any = None
        self.is_done = False
        self.is_cancelled = False
        self.message: Any = None  # of the cancellation

    def __await__(self) -> Any:
        if self.is_done:
            return iter(())
        self._asyncio_future_blocking = True
        # An iterator of C: yields the waiter to the task once, and ends without an exception being made.
        return iter((self,))

    def get_loop(self) -> Any:
        return self.loop

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        self.callback = callback
        self.context = context
        if self.is_done:
            self._call_soon()

    def done(self) -> bool:
        return self.is_done

    def cancelled(self) -> bool:
        return self.is_cancelled

    def result(self) -> None:
        """Only asked for when it was cancelled. anyio tells its own cancellations from others by the message."""
        raise asyncio.CancelledError() if self.message is None else asyncio.CancelledError(self.message)

    def cancel(self, msg: Any = None) -> bool:
        """By the task, when it is cancelled; False if it was woken already."""
        if self.is_done:
            return False
        self.is_done = True
        self.is_cancelled = True
        self.message = msg
        self._call_soon()
        return True

    def wake_soon(self) -> None:
        """Have the loop go on with the task: may be called inside another."""
        if not self.is_done:
            self.is_done = True
            self._call_soon()

    def wake_now(self) -> None:
        """Go on with the task until it waits again. Must be called where no task is running."""
        if self.is_done:
            return
        self.is_done = True
        callback = self.callback
        if callback is not None:
            context = self.context
            self.callback = None
            self.context = None
            try:
                context.run(callback, self.past)
            except RuntimeError:
                # A task is running after all: a mistake of ours, which must not cost this one its wake-up.
                self.loop.call_soon(callback, self.past, context=context)

    def _call_soon(self) -> None:
        callback = self.callback
        if callback is not None:
            self.callback = None
            self.loop.call_soon(callback, self if self.is_cancelled else self.past, context=self.context)
            self.context = None


def past_event(loop: Any) -> Any:
    """Something that has happened, as asyncio puts it: a future that is done."""
    future: Any = asyncio.Future(loop=loop)
    future.set_result(None)
    return future
