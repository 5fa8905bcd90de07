"""The lifespan: startup that succeeds, fails or is not supported, shutdown that always ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Literal

import pytest

import ladybug.asgi.lifespan as lifespan_room
from ladybug.asgi.lifespan import Lifespan
from ladybug.exceptions import StartupError
from tests.pair import Message, Records, captured_log

Mode = Literal["auto", "on", "off"]
MODES: list[Mode] = ["auto", "on"]


def run(main: Coroutine[Any, Any, None]) -> Records:
    """Run it and give back what was logged."""

    async def in_time() -> None:
        async with asyncio.timeout(5):
            await main

    with captured_log() as log:
        asyncio.run(in_time())
    return log


class App:
    """A lifespan application that answers as it is told to."""

    def __init__(self, startup: str = "complete", shutdown: str = "complete", text: str | None = None) -> None:
        self.answers = {"lifespan.startup": startup, "lifespan.shutdown": shutdown}
        self.text = text
        self.seen: list[str] = []
        self.scope: Message = {}

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        self.scope = scope
        scope["state"]["pool"] = "a pool"
        while True:
            kind = (await receive())["type"]
            self.seen.append(kind)
            answer = {"type": f"{kind}.{self.answers[kind]}"}
            if self.text is not None:
                answer["message"] = self.text
            await send(answer)
            if kind == "lifespan.shutdown" or self.answers[kind] == "failed":
                return


@pytest.mark.parametrize("mode", MODES)
def test_a_whole_life(mode: Mode) -> None:
    app = App()
    lifespan = Lifespan(app, mode, "3.0")

    async def main() -> None:
        await lifespan.startup()
        assert app.seen == ["lifespan.startup"]
        assert lifespan.state == {"pool": "a pool"}
        await lifespan.shutdown(1)
        assert app.seen == ["lifespan.startup", "lifespan.shutdown"]

    log = run(main())
    assert log.messages() == [], "each of many workers would say it"
    assert log.messages(logging.DEBUG) == ["Application startup complete.", "Application shutdown complete."]
    assert app.scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert set(app.scope) == {"type", "asgi", "state"}


def test_what_takes_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespan_room, "SLOW", 0.01)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            await asyncio.sleep(0.1)
            await send({"type": f"{kind}.complete"})

    async def main() -> None:
        lifespan = Lifespan(app, "on", "3.0")
        await lifespan.startup()
        await lifespan.shutdown(10)

    assert run(main()).messages() == ["Waiting for application startup.", "Waiting for application shutdown."]


def test_off_asks_nothing() -> None:
    app = App()

    async def main() -> None:
        lifespan = Lifespan(app, "off", "3.0")
        await lifespan.startup()
        await lifespan.shutdown(1)
        assert lifespan.state is None

    assert run(main()).messages() == []
    assert app.seen == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", ["no database", "", None])
def test_a_startup_that_fails(mode: Mode, text: str | None) -> None:
    app = App(startup="failed", text=text)

    async def main() -> None:
        lifespan = Lifespan(app, mode, "3.0")
        with pytest.raises(StartupError) as caught:
            await lifespan.startup()
        assert str(caught.value) == (
            "Application startup failed: no database" if text else "Application startup failed."
        )
        await lifespan.shutdown(1)

    assert run(main()).messages() == []
    assert app.seen == ["lifespan.startup"], "what failed to start has nothing to shut down"


@pytest.mark.parametrize("mode", MODES)
def test_a_startup_that_fails_and_raises_is_told_once(mode: Mode) -> None:
    """As Starlette does it: the message holds the traceback already."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the traceback"})
        raise ValueError("the error")

    async def main() -> None:
        lifespan = Lifespan(app, mode, "3.0")
        with pytest.raises(StartupError, match="the traceback"):
            await lifespan.startup()
        await lifespan.shutdown(1)

    assert run(main()).messages(logging.WARNING) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_startup_that_failed_is_not_waited_for(mode: Mode) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
        await asyncio.Event().wait()

    async def main() -> None:
        lifespan = Lifespan(app, mode, "3.0")
        with pytest.raises(StartupError):
            await lifespan.startup()
        await asyncio.wait_for(lifespan.shutdown(60), 1)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "its task is not left behind"

    run(main())


async def raises(scope: Message, receive: Any, send: Any) -> None:
    raise KeyError("path")


async def raises_later(scope: Message, receive: Any, send: Any) -> None:
    await receive()
    raise KeyError("path")


async def returns(scope: Message, receive: Any, send: Any) -> None:
    pass


async def says_something_else(scope: Message, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})


async def answers_another_question(scope: Message, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


UNSUPPORTING = [raises, raises_later, returns, says_something_else, answers_another_question]


@pytest.mark.parametrize("app", UNSUPPORTING, ids=lambda app: app.__name__)
def test_auto_does_without_a_lifespan(app: Any) -> None:
    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        await lifespan.startup()
        assert lifespan.state is None
        await lifespan.shutdown(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    messages = run(main()).messages()
    if app is returns:
        assert messages == []
    else:
        (message,) = messages
        assert message.startswith("ASGI 'lifespan' protocol appears unsupported: ")


@pytest.mark.parametrize("app", UNSUPPORTING, ids=lambda app: app.__name__)
def test_on_insists(app: Any) -> None:
    async def main() -> None:
        lifespan = Lifespan(app, "on", "3.0")
        with pytest.raises(StartupError) as caught:
            await lifespan.startup()
        assert str(caught.value).startswith("Application startup failed: ")
        if app in (raises, raises_later):
            assert "KeyError: 'path'" in str(caught.value), "with its traceback"
        await lifespan.shutdown(1)

    assert run(main()).messages(logging.WARNING) == []


@pytest.mark.parametrize("text", ["the disk is full", "", None])
def test_a_shutdown_that_fails_is_logged(text: str | None) -> None:
    async def main() -> None:
        lifespan = Lifespan(App(shutdown="failed", text=text), "auto", "3.0")
        await lifespan.startup()
        await lifespan.shutdown(1)

    expected = "Application shutdown failed: the disk is full" if text else "Application shutdown failed."
    assert run(main()).messages(logging.WARNING) == [expected]


def test_a_shutdown_that_raises_is_logged() -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("too bad")

    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        await lifespan.startup()
        await lifespan.shutdown(1)

    log = run(main())
    assert log.messages(logging.WARNING) == ["Exception in the application's lifespan"]
    (record,) = [record for record in log.records if record.exc_info]
    assert record.exc_info is not None and isinstance(record.exc_info[1], ValueError)


def test_a_shutdown_that_does_not_end_is_given_up() -> None:
    cancelled = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        await lifespan.startup()
        await lifespan.shutdown(0.05)
        await asyncio.sleep(0)
        assert cancelled == [True]

    expected = "Application shutdown did not finish within 0.05 s: going on without it."
    assert run(main()).messages(logging.WARNING) == [expected]


def test_an_application_that_leaves_before_its_shutdown() -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        await lifespan.startup()
        await asyncio.sleep(0)
        await asyncio.wait_for(lifespan.shutdown(60), 1)

    assert run(main()).messages(logging.WARNING) == []


@pytest.mark.parametrize("turns", [0, 2])
def test_an_application_that_breaks_while_it_serves_is_told_of_at_once(turns: int) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        for _ in range(turns):
            await asyncio.sleep(0)
        raise ValueError("background")

    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        with captured_log() as log:
            await lifespan.startup()
            for _ in range(turns + 2):
                await asyncio.sleep(0)
            told = log.messages(logging.WARNING)
            assert told == ["The application's lifespan has ended before its shutdown"]
            await lifespan.shutdown(1)
            assert log.messages(logging.WARNING) == told

    run(main())


def test_an_answer_given_twice_is_refused_and_does_not_answer_the_next_question() -> None:
    errors = []
    finished = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": "lifespan.startup.complete"})
        except RuntimeError as error:
            errors.append(str(error))
        await receive()
        await asyncio.sleep(0.01)
        finished.append(True)
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        await lifespan.startup()
        await lifespan.shutdown(1)
        assert finished == [True]

    run(main())
    assert len(errors) == 1 and "lifespan.startup.complete" in errors[0]


def test_a_startup_that_is_not_waited_for_any_longer() -> None:
    cancelled = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        lifespan = Lifespan(app, "auto", "3.0")
        startup = asyncio.ensure_future(lifespan.startup())
        await asyncio.sleep(0.01)
        startup.cancel()
        lifespan.abandon()
        await asyncio.sleep(0.01)
        assert cancelled == [True]
        await asyncio.wait_for(lifespan.shutdown(60), 1)

    run(main())
