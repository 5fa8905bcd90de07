"""The access log: the same lines whichever way they take, and nothing a client sends can forge one."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ladybug.access_log import PIPE_BUF, LoggingAccessLog, PlainAccessLog
from ladybug.log import ACCESS_FORMAT, AccessFormatter, level_prefix, status_text
from tests.pair import GET, Message, Puppet, Records, Stack, hello, on_every_stack

PREFIX = level_prefix(logging.INFO, "INFO", False)
STATUSES = [status_text(status, False) for status in range(1000)]

RESPONSES: list[tuple[Any, str, bytes, bool, int]] = [
    (("127.0.0.1", 1234), "GET", b"/", True, 200),
    (("::1", 0), "POST", b"/a%20b?c=d&e", False, 404),
    (None, "OPTIONS", b"*", True, 204),
    (("10.0.0.1", 65535), "GET", b'/"quoted" or <not>', True, 500),
    (("10.0.0.1", 1), "GET", b"/" + bytes(range(0x21, 0x7F)), True, 299),
    (("10.0.0.1", 1), "GET", b"/", True, 999),
]


class Stream(io.StringIO):
    """Remembers how it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("ladybug.access")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: f"{response[1]} {response[4]}")
def test_both_ways_lead_to_the_same_line(response: tuple[Any, ...], logger: logging.Logger) -> None:
    plain, logged = Stream(), Stream()
    handler = logging.StreamHandler(logged)
    handler.setFormatter(AccessFormatter(ACCESS_FORMAT, use_colors=False))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False

    quick, slow = PlainAccessLog(plain, PREFIX, STATUSES), LoggingAccessLog()
    quick.record(*response)
    slow.record(*response)
    assert plain.getvalue() == "", "lines are written once in a turn"
    quick.flush()
    slow.flush()
    assert plain.getvalue() == logged.getvalue() != ""


def test_records_have_the_five_arguments_of_uvicorns(logger: logging.Logger) -> None:
    told = Records()
    logger.handlers[:] = [told]
    logger.setLevel(logging.INFO)
    LoggingAccessLog().record(("127.0.0.1", 1234), "GET", b"/a?b", True, 200)
    (record,) = told.records
    assert record.args == ("127.0.0.1:1234", "GET", "/a?b", "1.1", 200)
    assert record.getMessage() == '127.0.0.1:1234 - "GET /a?b HTTP/1.1" 200'
    assert record.levelno == logging.INFO


def test_lines_of_one_turn_are_written_together() -> None:
    stream = Stream()
    log = PlainAccessLog(stream, PREFIX, STATUSES)
    for _ in range(3):
        for response in RESPONSES:
            log.record(*response)
        log.flush()
        log.flush()
    assert len(stream.writes) == 3
    assert len(stream.getvalue().splitlines()) == 3 * len(RESPONSES)


def test_lines_are_never_torn_apart() -> None:
    """Workers share a pipe: what is written at once is whole lines, and no more than a pipe takes as one, if it can be."""
    stream = Stream()
    log = PlainAccessLog(stream, PREFIX, STATUSES)
    targets = [b"/" + b"x" * size for size in (10, 3000, 2000, 5000, PIPE_BUF, 1, 1, 4000, 16000, 1)]
    for target in targets * 3:
        log.record(None, "GET", target, True, 200)
    log.flush()
    for text in stream.writes:
        assert text.endswith("\n")
        assert len(text) <= PIPE_BUF or text.count("\n") == 1
    lines = stream.getvalue().splitlines()
    assert [len(re.findall("x*", line.partition("/")[2])[0]) for line in lines] == [len(t) - 1 for t in targets] * 3


@pytest.mark.parametrize("error", [OSError("full"), BrokenPipeError(), ValueError("closed")], ids=repr)
def test_a_stream_that_fails_costs_lines_only(error: Exception) -> None:
    class Failing(Stream):
        fails = True

        def write(self, text: str) -> int:
            if self.fails:
                raise error
            return super().write(text)

    stream = Failing()
    log = PlainAccessLog(stream, PREFIX, STATUSES)
    log.record(*RESPONSES[0])
    log.flush()
    stream.fails = False
    log.record(*RESPONSES[1])
    log.flush()
    assert len(stream.getvalue().splitlines()) == 1


LINE = re.compile(r'INFO: *127\.0\.0\.1:\d+ - "([A-Z]+) ([!#-~]+) HTTP/1\.[01]" (\d{3})( [A-Za-z ]*)?')


@pytest.mark.parametrize(
    "target",
    [
        b'/" 200 OK" "GET /',
        b"/%0d%0aINFO:     1.2.3.4:5 - %22GET / HTTP/1.1%22 200",
        b"/\x1b[31m",
        b"/a\tb",
        b"/\xc3\xa4",
        b"/'%s%d%(x)s{}",
        b"/\\n",
    ],
)
@on_every_stack
async def test_no_target_forges_a_line(stack: Stack, target: bytes) -> None:
    async with stack.pair(hello) as pair:
        await pair.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        status = (await pair.response()).status
        lines = pair.access_lines()
        if status == 400:
            assert lines == []
            assert len(pair.log.take()) == 1
        else:
            (line,) = lines
            assert LINE.fullmatch(line), line


@on_every_stack
async def test_one_line_for_each_response_that_was_begun(stack: Stack) -> None:
    puppet = Puppet()
    async with stack.pair(puppet) as pair:
        await pair.send(GET * 2)
        await (await puppet.call()).answer()
        call = await puppet.call()
        await call.start(404)
        await call.body(b"x", True)
        await pair.settle()
        assert len(pair.access_lines()) == 1
        await call.body()
        call.returns()
        await pair.settle()
        assert [line.rpartition(" ")[2] for line in pair.access_lines()] == ["200", "404"]


@on_every_stack
async def test_lines_come_out_without_another_request(stack: Stack) -> None:
    """What an application finishes outside the poller's turn is written when the loop comes round."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        import asyncio

        await asyncio.sleep(0.001)
        await hello(scope, receive, send)

    async with stack.pair(app) as pair:
        await pair.send(GET)
        await pair.response()
        await pair.settle()
        assert len(pair.access.getvalue().splitlines()) == 1
