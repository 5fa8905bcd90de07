"""What the application awaits, and how its errors are told apart. (What these do in an exchange: test_http.py.)"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from ladybug.asgi import awaitables
from ladybug.asgi.awaitables import ClientDisconnected, caused_by_disconnect
from tests.pair import GET, Message, Puppet, Stack, on_every_stack

GONE = ClientDisconnected("gone")


def chained(outer: BaseException, inner: BaseException, *, cause: bool) -> BaseException:
    if cause:
        outer.__cause__ = inner
    else:
        outer.__context__ = inner
    return outer


def nested(depth: int, error: BaseException) -> BaseException:
    for number in range(depth):
        error = chained(RuntimeError(number), error, cause=True)
    return error


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (GONE, True),
        (OSError("disk"), False),
        (ValueError(), False),
        (asyncio.CancelledError(), False),
        (chained(RuntimeError(), GONE, cause=True), True),
        (chained(RuntimeError(), GONE, cause=False), True),
        (nested(5, GONE), True),
        (nested(5, ValueError()), False),
        # What a task group makes of it: an error only if something else went wrong too
        (ExceptionGroup("in tasks", [GONE]), True),
        (ExceptionGroup("in tasks", [GONE, ClientDisconnected("again")]), True),
        (ExceptionGroup("in tasks", [GONE, ValueError()]), False),
        (ExceptionGroup("in tasks", [ExceptionGroup("deeper", [GONE])]), True),
        (chained(RuntimeError(), ExceptionGroup("in tasks", [GONE]), cause=True), True),
    ],
    ids=repr,
)
def test_whether_a_disconnect_is_at_the_root(error: BaseException, gone: bool) -> None:
    assert caused_by_disconnect(error) is gone


def test_a_chain_that_bites_its_tail() -> None:
    error = ValueError()
    other = chained(RuntimeError(), error, cause=True)
    chained(error, other, cause=True)
    assert caused_by_disconnect(error) is False


def test_a_disconnect_is_an_os_error() -> None:
    """www specification since 2.4: "raise a server-specific subclass of OSError"."""
    assert issubclass(ClientDisconnected, OSError)


def test_they_are_coroutines_of_the_interpreter() -> None:
    """That is why they are here: the interpreter inlines no others."""
    for name in ("next_message", "drained", "run_app"):
        assert inspect.iscoroutinefunction(getattr(awaitables, name))
        assert getattr(awaitables, name).__code__.co_filename.endswith(".py")


@on_every_stack
async def test_one_task_for_each_request_with_a_context_of_its_own(stack: Stack) -> None:
    import contextvars

    number = contextvars.ContextVar("number", default=0)
    seen = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        seen.append((number.get(), asyncio.current_task()))
        number.set(number.get() + 1)
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        assert asyncio.current_task() is seen[-1][1]

    async with stack.pair(app) as pair:
        await pair.send(GET * 3)
        for _ in range(3):
            await pair.response()
    assert [value for value, _ in seen] == [0, 0, 0]
    tasks = [task for _, task in seen]
    assert None not in tasks and len(set(map(id, tasks))) == 3


@on_every_stack
async def test_an_application_may_use_timeouts_and_task_groups(stack: Stack) -> None:
    """They ask for the current task, at once, before anything has been awaited."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(
                send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            )
        async with asyncio.timeout(5):
            await send({"type": "http.response.body"})
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(1)
        except TimeoutError:
            return
        raise AssertionError("no timeout")

    async with stack.pair(app) as pair:
        for _ in range(3):
            await pair.send(GET)
            assert (await pair.response()).status == 200


@on_every_stack
async def test_a_disconnect_in_a_task_group_is_no_error(stack: Stack) -> None:
    puppet = Puppet()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await puppet(scope, receive, send)
        async with asyncio.TaskGroup() as group:
            group.create_task(stream(send))

    async def stream(send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async with stack.pair(app) as pair:
        await pair.send(GET)
        call = await puppet.call()
        pair.reset()
        await pair.until_true(lambda: pair.closed)
        call.returns()
        await pair.until_true(lambda: pair.service.in_flight == 0)
        assert pair.log.messages() == []
