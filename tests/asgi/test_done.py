"""DONE, what most send() calls return: awaited, wrapped in tasks, never waited for."""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
from typing import Any

import anyio
import pytest

from ladybug.asgi.done import DONE

done: Any = DONE


def test_awaiting_it_is_over_at_once_and_as_often_as_one_likes() -> None:
    async def main() -> None:
        turn = asyncio.Event()
        asyncio.get_running_loop().call_soon(turn.set)
        for _ in range(3):
            assert await done is None
        assert not turn.is_set(), "the loop did not come round"

    asyncio.run(main())


def test_it_passes_for_a_coroutine() -> None:
    async def main() -> None:
        assert await asyncio.create_task(done) is None
        assert await asyncio.ensure_future(done) is None
        assert await asyncio.wait_for(done, 1) is None
        assert list(await asyncio.gather(done, asyncio.sleep(0, 5))) == [None, 5]
        assert await asyncio.shield(done) is None
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(done) for _ in range(3)]
        assert [task.result() for task in tasks] == [None] * 3

    asyncio.run(main())
    assert asyncio.iscoroutine(done)
    assert inspect.isawaitable(done)
    assert isinstance(done, collections.abc.Coroutine)


def test_it_may_be_sent_to_thrown_into_and_closed() -> None:
    with pytest.raises(StopIteration):
        done.send(None)
    with pytest.raises(KeyError):
        done.throw(KeyError("x"))
    with pytest.raises(ValueError, match="y"):
        done.throw(ValueError, ValueError("y"), None)
    assert done.close() is None


def test_a_task_of_it_can_be_cancelled() -> None:
    async def main() -> None:
        task = asyncio.create_task(done)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await done is None

    asyncio.run(main())


def test_an_anyio_task_group_can_start_it() -> None:
    def send(message: dict[str, Any]) -> Any:
        return done

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(send, {"type": "http.response.body"})

    anyio.run(main)
