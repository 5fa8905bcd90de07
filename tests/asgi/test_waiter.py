"""What receive() and send() wait for: woken now, woken by way of the loop, cancelled, and never in the way of others."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from ladybug.asgi.exchange import with_waiter
from ladybug.asgi.waiter import Waiter, past_event

COLOUR: ContextVar[str] = ContextVar("COLOUR", default="none")


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def new_waiter() -> Waiter:
    loop = asyncio.get_running_loop()
    return Waiter(loop, past_event(loop))


def test_it_goes_on_at_once_in_its_own_context() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter, seen, woken = new_waiter(), [], loop.create_future()

        async def wait() -> None:
            COLOUR.set("red")
            await waiter
            seen.append(COLOUR.get())

        def wake() -> None:  # from the loop, as the poller does
            waiter.wake_now()
            woken.set_result(list(seen))

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        loop.call_soon(wake, context=copy_context())
        assert await woken == ["red"], "the task went on inside wake_now()"
        await task

    run(main())


def test_inside_another_task_it_is_woken_by_the_loop_instead() -> None:
    async def main() -> None:
        waiter = new_waiter()
        task = asyncio.create_task(_await(waiter))
        await asyncio.sleep(0)
        waiter.wake_now()
        await asyncio.wait_for(task, 5)

    run(main())


@pytest.mark.parametrize("before", [True, False], ids=["woken before it is awaited", "after"])
def test_a_wake_up_is_never_lost(before: bool) -> None:
    async def main() -> None:
        waiter = new_waiter()
        if before:
            waiter.wake_soon()
        task = asyncio.create_task(_await(waiter))
        await asyncio.sleep(0)
        waiter.wake_soon()
        await asyncio.wait_for(task, 5)

    run(main())


def test_cancellation_keeps_its_message_and_a_later_wake_up_does_nothing() -> None:
    async def main() -> None:
        waiter = new_waiter()
        task = asyncio.create_task(_await(waiter))
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert waiter.done() and waiter.cancelled()
        waiter.wake_now()
        waiter.wake_soon()

    run(main())


def test_timeouts_and_shields_work_as_with_futures() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(new_waiter()), 0.01)
        async with asyncio.timeout(5):
            waiter = new_waiter()
            loop.call_soon(waiter.wake_soon)
            await asyncio.shield(_await(waiter))

    run(main())


def test_waiters_that_were_given_up_do_not_pile_up() -> None:
    async def main() -> None:
        waiters: list[Waiter] | None = None
        for _ in range(100):
            waiter = new_waiter()
            waiters = with_waiter(waiters, waiter)
            waiter.cancel()
        assert waiters is not None and len(waiters) == 1

    run(main())


async def _await(waiter: Waiter) -> None:
    await waiter
